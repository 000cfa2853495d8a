"""How a run stays within the memory of its device, decided before it starts.

em: networks see large pictures in tiles; all that still grows with the picture is a dozen images of its size. joint:
its U-Net has batch norm, whose statistics cover the whole picture, so it cannot be tiled; but what its gradient needs
can be recomputed instead of kept.

The plan follows from size, options and device alone, never from what happens to be free: a result must not depend on
that. If memory runs out all the same, tiles are halved, see :class:`.tiles.Tiles`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .config import KernelFusionConfig
from .degradation import BAND_BYTES, Degradation
from .memory import bytes_per_pixel, capacity
from .patch_prior import PriorConfig, autocast
from .quadratic import WINDOW_BYTES
from .solvers import SOLVERS
from .tiles import Tiles

GIGABYTE = 10 ** 9
SHARE = 0.9  # of a device's memory; the rest is reserved for gaps between allocations
PROCESS = int(0.9 * GIGABYTE)  # CPU: Python and its libraries; GPU: PyTorch's context and workspace
HOLES = 1.3  # CPU: factor for freed blocks that are kept but too small for the next allocation
IMAGES = 12  # alive at once, each of the canvas's size; measured in em's final passes: 8 to 11
COPIES = 4  # of each parameter in training: gradient, Adam's two moments, the moving average


@dataclass(frozen=True)
class Plan:
    """How to run, and how much memory that takes.

    Attributes:
        tile: side of the tiles in which networks see large pictures.
        recompute: ``joint`` computes what its gradient needs a second time instead of keeping it.
        need: bytes on the device, overestimated rather than underestimated.
    """

    tile: int
    recompute: bool
    need: int

    @property
    def tiles(self) -> Tiles:
        """Tiles for the run's priors to share."""
        return Tiles(self.tile, self.recompute)


def make_plan(size: tuple[int, int], config: KernelFusionConfig, device: torch.device, nets: Mapping[str, nn.Module],
              training: Mapping[str, PriorConfig], kernel_known: bool = False) -> Plan:
    """The largest tiles that memory allows, and ``joint`` without recomputation if it fits.

    Args:
        size: of y, (h, w).
        nets: on the device: the priors' networks by phase, ``textures`` among them, and the solver's own, such as
            ``refine`` of ``joint``; they are run on small pictures, and cannot be used afterwards.
        training: how Phase 1 trains the networks of its phases.
        kernel_known: the kernel need not be found.

    Raises:
        ValueError: even the most economical plan needs more memory than there is; in one line that says what to do.
    """
    canvas = Degradation(config.scale, config.kernel_size, config.border).hr_size(size)
    cost, holes = Cost(nets, device, config, {*training, 'textures'}), HOLES if device.type == 'cpu' else 1.0
    rest = (cost.images(canvas) + 4 * (WINDOW_BYTES + BAND_BYTES)
            + COPIES * 4 * sum(weight.numel() for net in nets.values() for weight in net.parameters()))
    phase1 = max((how.batch * min(how.crop, size[0]) * min(how.crop, size[1]) * cost.training(phase)
                  for phase, how in training.items()), default=0)
    limit = config.memory_limit * GIGABYTE if config.memory_limit else SHARE * capacity(device)
    for tile, recompute, phase2 in SOLVERS[config.solver].memory(canvas, config, cost, kernel_known):
        plan = Plan(tile, recompute, int(PROCESS + holes * (rest + max(phase1, phase2))))
        if plan.need <= limit:
            return plan
    raise ValueError(_refusal(plan.need, limit, canvas, config, device))


class Cost:
    """Bytes per pixel that networks take.

    Args:
        nets, device, config: as for :func:`make_plan`.
        priors: names of the networks that belong to priors; the others are the solver's own.
    """

    def __init__(self, nets: Mapping[str, nn.Module], device: torch.device, config: KernelFusionConfig,
                 priors: Collection[str]) -> None:
        self.nets, self.device, self.config, self.priors = nets, device, config, priors

    @staticmethod
    def images(canvas: tuple[int, int]) -> int:
        """Total bytes, not per pixel, of the estimates (1, 3, H, W) and their intermediates that are alive at once."""
        return IMAGES * 12 * canvas[0] * canvas[1]

    def inference(self, name: str, pictures: int = 1) -> float:
        """For a prior's network when ``pictures`` go through it at once, without a gradient."""
        tried = min(pictures, 2)  # two take other code paths than one; more than two take the same
        with torch.no_grad():
            return bytes_per_pixel(lambda x: self._run(name, x), self.device, tried) * pictures / tried

    def training(self, name: str) -> float:
        """For a network with gradients: what its forward pass keeps. The backward pass adds next to nothing."""
        with torch.enable_grad():
            return bytes_per_pixel(lambda x: self._run(name, x), self.device)

    def _run(self, name: str, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        prior = name in self.priors
        settings = self.config.prior if prior else self.config.phase2
        level = (torch.zeros(len(x), dtype=torch.int64, device=x.device),) if prior else ()
        with autocast(self.device, getattr(settings, 'precision', 'fp32')):
            return self.nets[name](x, *level)

    def on_tile(self, name: str, canvas: tuple[int, int], tile: int) -> int:
        """Pixels in the largest piece of a canvas that goes through a prior's network at once."""
        margin = Tiles(tile).margin(self.nets[name])
        height, width = (n if margin is None else min(n, tile + 2 * margin) for n in canvas)
        return height * width


def _refusal(need: int, limit: float, canvas: tuple[int, int], config: KernelFusionConfig, device: torch.device) -> str:
    of = 'memory_limit' if config.memory_limit else f'{SHARE:.0%} of what {device} has'
    other = [way for way, given in (('solver em', config.solver != 'em'), ('device cpu', device.type != 'cpu'),
                                    ('fewer em.draws', config.solver == 'em' and config.em.draws > 1)) if given]
    return (f'a result of {canvas[1]} x {canvas[0]} pixels needs about {need / GIGABYTE:.1f} GB of memory with solver '
            f'{config.solver}, and {of} is {limit / GIGABYTE:.1f} GB: take '
            + ' or '.join([*other, 'a smaller picture or scale']))
