"""The texture prior: a diffusion net that we trained on generated pictures and ship with the package.

It models sharp pictures in general. PD, fitted to y, cannot: y is blurred, and so are the patches it prefers. Finding
the kernel with the texture prior gives up KernelFusion's premise "no assumption but y's own patches" (the authors
mention such an initialisation as future work, Sec. 6); ``em.kernel_prior: internal`` adheres to it.
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
from .seeds import own_random_state
from .tensor_files import load_tensors
from .tiles import Tiles

WEIGHTS = 'texture_prior.pt'  # in kernelfusion_plugin/weights; float16
T_MAX = 400  # it was trained on levels below this

# Settings of ``kernelfusion fit-textures``.
TRAINING = PriorConfig(steps=12_000, crop=96, batch=8, lr=1e-3, lr_end=1e-5, t_max=T_MAX, ema=0.999, max_grad_norm=1.0)


@dataclass(frozen=True)
class TuningConfig:
    """Settings for fine-tuning the texture prior on crops of y (Phase 1 of ``em`` with ``final_prior: tuned``).

    Attributes:
        steps: gradient steps.
        crop: side of the random crops in pixels; smaller images are used whole.
        batch: crops per step.
        turns: whether to rotate and mirror each crop at random.
        lr: Adam's initial learning rate, cosine-annealed to 0.
        ema: decay of the weights' moving average, which is then the trained net; 0: none.
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
        """These settings as a :class:`PriorConfig` for levels below ``t_max``."""
        return PriorConfig(steps=self.steps, crop=self.crop, batch=self.batch, turns=self.turns, lr=self.lr,
                           ema=self.ema, t_max=t_max, timesteps=TRAINING.timesteps,
                           max_grad_norm=TRAINING.max_grad_norm, precision=precision)


def load_texture_prior(device: torch.device | str = 'cpu', precision: str = 'auto', tiles: Tiles | None = None,
                       weights: str | None = None) -> PatchPrior:
    """The texture prior on a device; for ``precision`` see :class:`PriorConfig`, for ``weights``
    :func:`load_texture_net`.
    """
    return PatchPrior(load_texture_net(weights).to(device, memory_format=torch.channels_last),
                      Schedule(TRAINING.timesteps), precision, tiles)


def load_texture_net(weights: str | None = None) -> TextureUNet:
    """The network on the CPU, not frozen.

    Args:
        weights: a file written by ``kernelfusion fit-textures``; None: the shipped weights.

    Raises:
        ValueError: there is no such file, or it contains something else; a one-line message.
    """
    with own_random_state():
        net = TextureUNet()
    if weights is None:
        net.load_state_dict(_shipped())
        return net
    state = load_tensors(weights, 'weights of the texture prior')
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f'{weights}: not weights of the texture prior: it must hold a dict of tensors')
    try:
        net.load_state_dict({name: value.float() for name, value in state.items()})
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f'{weights}: not weights of the texture prior: {reason}') from error
    if not all(value.isfinite().all() for value in net.parameters()):
        raise ValueError(f'{weights}: the weights are not finite: train the texture prior again at a lower rate')
    return net


def weights_digest(weights: str | None = None) -> str:
    """SHA-256 of the file that :func:`load_texture_net` reads."""
    shipped = resources.files('kernelfusion_plugin') / 'weights' / WEIGHTS
    return hashlib.sha256((shipped if weights is None else Path(weights)).read_bytes()).hexdigest()


@cache
def _shipped() -> dict[str, Tensor]:
    with resources.as_file(resources.files('kernelfusion_plugin') / 'weights' / WEIGHTS) as path:
        state = torch.load(path, map_location='cpu', weights_only=True)
    return {name: value.float() for name, value in state.items()}


def fit_texture_prior(net: TextureUNet, pictures: np.ndarray, config: PriorConfig,
                      generator: Generator) -> Iter[PriorState, None, None]:
    """Train ``net`` on uint8 pictures (N, H, W, 3), each crop rotated, mirrored and desaturated at random."""
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
