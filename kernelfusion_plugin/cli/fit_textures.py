"""``kernelfusion fit-textures``: the texture prior, fitted anew to pictures that ``textures`` generates."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import click
import numpy as np
import torch
from tqdm import tqdm

from ..atomic import ready_folder, write_atomically
from ..core.nets.texture_unet import TextureUNet
from ..core.texture_prior import TRAINING, fit_texture_prior, load_texture_net
from ..textures import generate_pictures
from .paths import UserPath

SAVE = 1000  # steps from one writing of the weights to the next


@click.command()
@click.argument('out', type=UserPath(dir_okay=False))
@click.option('--pictures', default=2000, show_default=True, type=click.IntRange(1),
              help='How many to generate; 2000 take 0.6 GB.')
@click.option('--steps', default=TRAINING.steps, show_default=True, type=click.IntRange(1))
@click.option('--lr', default=TRAINING.lr, show_default=True)
@click.option('--start', type=UserPath(exists=True), help='Weights to go on from.')
@click.option('--seed', default=0, show_default=True)
def command(out: Path, pictures: int, steps: int, lr: float, start: Path | None, seed: int) -> None:
    """Fit the texture prior anew, to pictures generated here, and write its weights to OUT.

    They are used with ``--set texture_weights=OUT`` of ``kernelfusion restore``, ``kernelfusion: texture_weights: OUT``
    in an option file.
    """
    if not 0 < lr < math.inf:
        raise ValueError(f'--lr must be positive and finite, got {lr}')
    ready_folder(out.parent, str(out))
    config = dataclasses.replace(TRAINING, steps=steps, lr=lr, lr_end=min(TRAINING.lr_end, lr))
    torch.manual_seed(seed)
    net = load_texture_net(str(start)) if start else TextureUNet()
    bar = tqdm(generate_pictures(seed, pictures), 'pictures', pictures, mininterval=5)
    stack = np.stack(list(bar))
    generator = torch.Generator().manual_seed(seed)
    loss, saved = 0.0, 0
    with tqdm(total=steps, desc='fit', mininterval=5) as bar:
        for state in fit_texture_prior(net, stack, config, generator):
            if not math.isfinite(state.loss):
                raise ValueError(f'--lr {lr}: the loss is not finite any more at step {state.step}, and '
                                 f'{f"{out} holds the weights of step {saved}" if saved else "nothing is written"}: '
                                 'a smaller rate may help')
            loss += (state.loss - loss) / min(state.step, 200)
            bar.update()
            bar.set_postfix(loss=f'{loss:.4f}', refresh=False)
            if state.step % SAVE == 0 or state.step == state.total:
                save(state.net, out)
                saved = state.step


def save(net: torch.nn.Module, path: Path) -> None:
    """The weights in float16.

    Raises:
        ValueError: they are no finite numbers there.
    """
    weights = {name: value.half() for name, value in net.state_dict().items()}
    if not all(value.isfinite().all() for value in weights.values()):
        raise ValueError(f'{path}: is not written: the weights are not finite any more; a smaller --lr may help')
    write_atomically(path, lambda file: torch.save(weights, file))
