"""The texture prior: a diffusion net fitted once, by us, to generated pictures; it ships with the package.

It says what sharp pictures look like, whichever they are. PD, fitted to y, cannot: y is blurred, and so are the
patches it prefers. Finding the kernel with it is where KernelFusion's claim "no assumption but y's own patches" is
given up (the authors name such a start as future work, Sec. 6); ``em.kernel_prior: internal`` keeps to the claim.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Generator as Iter
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from .diffusion import Schedule
from .nets.patch_net import RECEPTIVE_FIELD
from .nets.texture_unet import TextureUNet
from .orientations import oriented
from .patch_prior import PatchPrior, PriorConfig, PriorState, fit_prior
from .tensor_files import load_tensors
from .tiles import Tiles

WEIGHTS = 'texture_prior.pt'  # in kernelfusion_plugin/weights; float16
T_MAX = 400  # it was fitted to the levels below this

# The settings of the training command (``kernelfusion fit-textures``).
TRAINING = PriorConfig(steps=12_000, crop=96, batch=8, lr=1e-3, lr_end=1e-5, t_max=T_MAX, ema=0.999, max_grad_norm=1.0)


@dataclass(frozen=True)
class TuningConfig:
    """Phase 1 of ``em`` with ``final_prior: tuned``: the texture prior is trained on, with y's crops.

    Attributes:
        steps: gradient steps.
        crop: side of the random crops in pixels; smaller images are taken whole.
        batch: crops per step.
        turns: whether each crop is turned and mirrored at random.
        lr: Adam's learning rate at the start; it falls to 0 as a cosine.
        ema: decay of the weights' moving average, whose result is used; 0 for none.
    """

    steps: int = 300
    crop: int = 64
    batch: int = 4
    turns: bool = True
    lr: float = 4e-4
    ema: float = 0.99

    def __post_init__(self) -> None:
        for name in ('steps', 'batch', 'lr'):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f'tuning.{name} must be positive and finite, got {getattr(self, name)}')
        if self.crop < RECEPTIVE_FIELD:
            raise ValueError(f'tuning.crop must be at least {RECEPTIVE_FIELD}, got {self.crop}')
        if not 0 <= self.ema < 1:
            raise ValueError(f'tuning.ema must be in [0, 1), got {self.ema}')

    def training(self, t_max: int, precision: str) -> PriorConfig:
        """These settings as those of any training, on the levels below ``t_max``."""
        return PriorConfig(steps=self.steps, crop=self.crop, batch=self.batch, turns=self.turns, lr=self.lr,
                           ema=self.ema, t_max=t_max, timesteps=TRAINING.timesteps,
                           max_grad_norm=TRAINING.max_grad_norm, precision=precision)


def load_texture_prior(device: torch.device | str = 'cpu', precision: str = 'auto', tiles: Tiles | None = None,
                       weights: str | None = None) -> PatchPrior:
    """The texture prior on a device; ``precision`` as in :class:`PriorConfig`, ``weights`` as :func:`load_texture_net`.
    """
    return PatchPrior(load_texture_net(weights).to(device, memory_format=torch.channels_last),
                      Schedule(TRAINING.timesteps), precision, tiles)


def load_texture_net(weights: str | None = None) -> TextureUNet:
    """The network on the CPU, ready to be trained on.

    Args:
        weights: a file of ``kernelfusion fit-textures``; None: that which ships with the package.

    Raises:
        ValueError: there is no such file, or it holds something else; in one line.
    """
    with torch.random.fork_rng(devices=[]):  # the weights it is born with are drawn from the global state
        net = TextureUNet()
    if weights is None:
        net.load_state_dict(_shipped())
        return net
    state = load_tensors(weights, 'weights of the texture prior')
    try:
        net.load_state_dict({name: value.float() for name, value in state.items()})
    except (AttributeError, RuntimeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f'{weights}: not weights of the texture prior: {reason}') from error
    if not all(value.isfinite().all() for value in net.parameters()):
        raise ValueError(f'{weights}: weights of the texture prior that are not finite: fit them anew at a lower rate')
    return net


def weights_digest(weights: str | None = None) -> str:
    """sha256 of the file that :func:`load_texture_net` reads."""
    shipped = resources.files('kernelfusion_plugin') / 'weights' / WEIGHTS
    return hashlib.sha256((shipped if weights is None else Path(weights)).read_bytes()).hexdigest()


@cache
def _shipped() -> dict[str, Tensor]:
    with resources.as_file(resources.files('kernelfusion_plugin') / 'weights' / WEIGHTS) as path:
        state = torch.load(path, map_location='cpu', weights_only=True)
    return {name: value.float() for name, value in state.items()}


def fit_texture_prior(net: TextureUNet, pictures: np.ndarray, config: PriorConfig,
                      generator: Generator) -> Iter[PriorState, None, None]:
    """Fit ``net`` to uint8 pictures (N, H, W, 3), each crop turned, mirrored and faded at random."""
    return fit_prior(net, lambda: _draw(pictures, config, generator), Schedule(config.timesteps), config, generator)


def _draw(pictures: np.ndarray, config: PriorConfig, generator: Generator) -> Tensor:
    """A batch (B, 3, crop, crop) in [-1, 1]."""
    def below(limit: int) -> int:
        return int(torch.randint(limit, (1,), generator=generator))

    crops = []
    for _ in range(config.batch):
        picture = pictures[below(len(pictures))]
        top, left = (below(side - config.crop + 1) for side in picture.shape[:2])
        crop = torch.from_numpy(picture[top:top + config.crop, left:left + config.crop]).permute(2, 0, 1)
        crop = oriented(crop.float() / 127.5 - 1, below(4) + 4 * below(2))
        grey, fade = crop.mean(0, keepdim=True), (0.0, 0.4, 0.4, 1.0, 1.0, 1.0)[below(6)]  # photographs are paler
        crops.append(grey + fade * (crop - grey))
    return torch.stack(crops)
