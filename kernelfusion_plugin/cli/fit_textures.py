"""``kernelfusion fit-textures``: the texture prior, fitted anew to pictures that ``textures`` generates."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click
import numpy as np
import torch
from tqdm import tqdm

from ..atomic import write_atomically
from ..core.nets.texture_unet import TextureUNet
from ..core.texture_prior import TRAINING, fit_texture_prior, load_texture_net
from ..textures import generate_pictures


@click.command()
@click.argument('out', type=click.Path(path_type=Path))
@click.option('--pictures', default=2000, show_default=True, help='How many to generate; 2000 take 0.6 GB.')
@click.option('--steps', default=TRAINING.steps, show_default=True)
@click.option('--lr', default=TRAINING.lr, show_default=True)
@click.option('--start', type=click.Path(exists=True, path_type=Path), help='Weights to go on from.')
@click.option('--seed', default=0, show_default=True)
def command(out: Path, pictures: int, steps: int, lr: float, start: Path | None, seed: int) -> None:
    """Fit the texture prior anew, to pictures generated here, and write its weights to OUT.

    They are used with ``--set texture_weights=OUT`` of ``kernelfusion restore``, ``kernelfusion: texture_weights: OUT``
    in an option file.
    """
    torch.manual_seed(seed)
    net = load_texture_net(str(start)) if start else TextureUNet()
    bar = tqdm(generate_pictures(seed, pictures), 'pictures', pictures, mininterval=5)
    stack = np.stack(list(bar))
    config = dataclasses.replace(TRAINING, steps=steps, lr=lr)
    generator = torch.Generator().manual_seed(seed)
    loss = 0.0
    with tqdm(total=steps, desc='fit', mininterval=5) as bar:
        for state in fit_texture_prior(net, stack, config, generator):
            loss += (state.loss - loss) / min(state.step, 200)
            bar.update()
            bar.set_postfix(loss=f'{loss:.4f}', refresh=False)
            if state.step % 1000 == 0 or state.step == state.total:
                save(state.net, out)


def save(net: torch.nn.Module, path: Path) -> None:
    """The weights in float16."""
    weights = {name: value.half() for name, value in net.state_dict().items()}
    write_atomically(path, lambda file: torch.save(weights, file))
