"""The texture prior: a diffusion net fitted once, by us, to generated pictures; it ships with the package.

It says what sharp pictures look like, whichever they are. PD, fitted to y, cannot: y is blurred, and so are the
patches it prefers. Finding the kernel with it is where KernelFusion's claim "no assumption but y's own patches" is
given up (the authors name such a start as future work, Sec. 6); ``em.kernel_prior: internal`` keeps to the claim.
"""

from __future__ import annotations

from collections.abc import Generator as Iter
from functools import cache
from importlib import resources

import numpy as np
import torch
from torch import Generator, Tensor

from .diffusion import Schedule
from .nets.texture_unet import TextureUNet
from .patch_prior import PatchPrior, PriorConfig, PriorState, fit_prior

WEIGHTS = 'texture_prior.pt'  # in kernelfusion_plugin/weights; float16
T_MAX = 400  # it was fitted to the levels below this

# The settings of the training command (``kernelfusion fit-textures``).
TRAINING = PriorConfig(steps=12_000, crop=96, batch=8, lr=1e-3, lr_end=1e-5, t_max=T_MAX, ema=0.999, max_grad_norm=1.0)


def load_texture_prior(device: torch.device | str = 'cpu', precision: str = 'auto') -> PatchPrior:
    """The prior that ships with the package, on a device; ``precision`` as in :class:`PriorConfig`."""
    with torch.random.fork_rng(devices=[]):  # the weights it is born with are drawn from the global state
        net = TextureUNet()
    net.load_state_dict(_weights())
    net.to(device, memory_format=torch.channels_last)
    return PatchPrior(net, Schedule(TRAINING.timesteps), precision)


@cache
def _weights() -> dict[str, Tensor]:
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
        crop = torch.rot90(crop.float() / 127.5 - 1, below(4), (1, 2))
        crop = crop.flip(2) if below(2) else crop
        grey, fade = crop.mean(0, keepdim=True), (0.0, 0.4, 0.4, 1.0, 1.0, 1.0)[below(6)]  # photographs are paler
        crops.append(grey + fade * (crop - grey))
    return torch.stack(crops)
