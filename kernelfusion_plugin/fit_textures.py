"""``python -m kernelfusion_plugin.fit_textures``: fit the texture prior anew, to pictures generated here."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from .core.nets.texture_unet import TextureUNet
from .core.texture_prior import TRAINING, fit_texture_prior
from .report import write_atomically
from .textures import generate_pictures


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog='python -m kernelfusion_plugin.fit_textures', description=__doc__)
    parser.add_argument('out', type=Path, help='file to write, e.g. kernelfusion_plugin/weights/texture_prior.pt')
    parser.add_argument('--pictures', type=int, default=2000, help='how many to generate (default 2000, 0.6 GB)')
    parser.add_argument('--steps', type=int, default=TRAINING.steps)
    parser.add_argument('--lr', type=float, default=TRAINING.lr)
    parser.add_argument('--start', type=Path, help='weights to go on from')
    parser.add_argument('--seed', type=int, default=0)
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    net = TextureUNet()
    if options.start:
        net.load_state_dict(torch.load(options.start, map_location='cpu', weights_only=True))
    bar = tqdm(generate_pictures(options.seed, options.pictures), 'pictures', options.pictures, mininterval=5)
    pictures = np.stack(list(bar))
    config = dataclasses.replace(TRAINING, steps=options.steps, lr=options.lr)
    generator = torch.Generator().manual_seed(options.seed)
    loss = 0.0
    with tqdm(total=options.steps, desc='fit', mininterval=5) as bar:
        for state in fit_texture_prior(net, pictures, config, generator):
            loss += (state.loss - loss) / min(state.step, 200)
            bar.update()
            bar.set_postfix(loss=f'{loss:.4f}', refresh=False)
            if state.step % 1000 == 0 or state.step == state.total:
                save(state.net, options.out)


def save(net: torch.nn.Module, path: Path) -> None:
    """The weights in float16."""
    weights = {name: value.half() for name, value in net.state_dict().items()}
    write_atomically(path, lambda file: torch.save(weights, file))


if __name__ == '__main__':
    main()
