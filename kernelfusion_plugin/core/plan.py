"""How a run stays within the memory of its device, settled before it starts.

em: networks see large pictures in tiles; what is left to grow with the picture is a dozen images of its size. joint:
its U-Net has batch norm, whose statistics are the whole picture's, so it cannot be cut into tiles; but what its
gradient needs can be computed a second time in place of being kept.

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
SHARE = 0.9  # of a device's memory: the rest is left to gaps between allocations
PROCESS = int(0.9 * GIGABYTE)  # the processor: Python and its libraries; a card: PyTorch's context and workspace
HOLES = 1.3  # the processor: times that, for freed memory that is kept but too small for what is asked for next
IMAGES = 12  # of a canvas's size that are alive at once; measured in em's final passes: 8 to 11
COPIES = 4  # of a parameter while it is trained: gradient, Adam's two moments, the moving average


@dataclass(frozen=True)
class Plan:
    """What to do, and what it takes.

    Attributes:
        tile: side of the tiles in which networks see large pictures.
        recompute: ``joint`` computes what its gradient needs twice, in place of keeping it.
        need: bytes on the device, rather too many than too few.
    """

    tile: int
    recompute: bool
    need: int

    @property
    def tiles(self) -> Tiles:
        """For the priors of the run to share."""
        return Tiles(self.tile, self.recompute)


def make_plan(size: tuple[int, int], config: KernelFusionConfig, device: torch.device, nets: Mapping[str, nn.Module],
              training: Mapping[str, PriorConfig], kernel_known: bool = False) -> Plan:
    """The largest tiles, and ``joint`` without recomputation, as far as memory allows.

    Args:
        size: of y, (h, w).
        nets: on the device: the priors' networks by phase, ``textures`` among them, and the solver's own, such as
            ``refine`` of ``joint``; they are tried on small pictures, and are of no use afterwards.
        training: how Phase 1 trains those of its phases.
        kernel_known: it need not be found.

    Raises:
        ValueError: the least that can be done needs more than there is; in one line with what to do.
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
    """Bytes that networks take per pixel.

    Args:
        nets, device, config: as :func:`make_plan`'s.
        priors: which of the networks are priors'; the others are the solver's own.
    """

    def __init__(self, nets: Mapping[str, nn.Module], device: torch.device, config: KernelFusionConfig,
                 priors: Collection[str]) -> None:
        self.nets, self.device, self.config, self.priors = nets, device, config, priors

    @staticmethod
    def images(canvas: tuple[int, int]) -> int:
        """In all, not per pixel: of the estimates (1, 3, H, W), and what they are made from, that live at once."""
        return IMAGES * 12 * canvas[0] * canvas[1]

    def inference(self, name: str, pictures: int = 1) -> float:
        """Of a prior's network when ``pictures`` go through it at once, without a gradient."""
        tried = min(pictures, 2)  # two take other ways than one, more than two the same
        with torch.no_grad():
            return bytes_per_pixel(lambda x: self._run(name, x), self.device, tried) * pictures / tried

    def training(self, name: str) -> float:
        """Of a network whose gradient is taken: what its forward pass keeps. The backward pass adds next to nothing."""
        with torch.enable_grad():
            return bytes_per_pixel(lambda x: self._run(name, x), self.device)

    def _run(self, name: str, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        prior = name in self.priors
        settings = self.config.prior if prior else getattr(self.config, self.config.solver, None)
        level = (torch.zeros(len(x), dtype=torch.int64, device=x.device),) if prior else ()
        with autocast(self.device, getattr(settings, 'precision', 'fp32')):
            return self.nets[name](x, *level)

    def on_tile(self, name: str, canvas: tuple[int, int], tile: int) -> int:
        """Pixels of the largest piece of a canvas that goes through a prior's network at once."""
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
