"""What a solver of Phase 2 is: a :class:`Solver`, which is given a :class:`Problem`. ``solvers`` lists them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .degradation import Degradation
from .patch_prior import PatchPrior, PriorConfig
from .state import Phase2State
from .tiles import SIDES

if TYPE_CHECKING:
    from .config import KernelFusionConfig
    from .plan import Cost

Factory = Callable[[], nn.Module]
SUM_ERROR = 1e-2  # of a kernel's sum, from rounding


@dataclass(frozen=True)
class Problem:
    """What Phase 2 begins with.

    Attributes:
        y: LR image (1, 3, h, w) in [-1, 1].
        config: of the run.
        degradation: the forward model.
        priors: of Phase 1 by phase, and ``textures`` where the solver uses it.
        generator: of all noise; on y's device.
        build: build(purpose, factory) makes a network on y's device; the purpose seeds its weights.
        factories: of networks to use in place of the solver's own, by name; None: its own.
        kernel: the known kernel (K, K), or one for each region (R, C, K, K).
        resume: a state's ``snapshot()``, to continue after that step.
        recompute: whether what a gradient needs is computed twice instead of being stored.
    """

    y: Tensor
    config: KernelFusionConfig
    degradation: Degradation
    priors: Mapping[str, PatchPrior]
    generator: torch.Generator
    build: Callable[[str, Factory], nn.Module]
    factories: Mapping[str, Factory | None]
    kernel: Tensor | None = None
    resume: Mapping[str, Any] | None = None
    recompute: bool = False


class Solver(ABC):
    """What a run asks of a solver; what few solvers need has a default."""

    takes_kernels = False  # known ones
    takes_regions = False  # each of which has a kernel of its own

    @abstractmethod
    def training(self, config: KernelFusionConfig, kernel_known: bool = False) -> dict[str, PriorConfig]:
        """The networks that Phase 1 fits to y and how, by phase, in order.

        ``prior`` is PD, ``half`` PD of y at half size, ``tuned`` the texture prior, trained further on y.
        """

    @abstractmethod
    def solve(self, problem: Problem) -> Iterator[Phase2State]:
        """Estimate picture and kernel; yields after every step, the last state is the result."""

    def uses_textures(self, config: KernelFusionConfig) -> bool:
        """Whether the texture prior takes part, as it is or tuned to y."""
        return False

    def check(self, size: tuple[int, int], config: KernelFusionConfig, kernel_known: bool) -> None:  # noqa: B027
        """Raise a ValueError of one line for settings that do not suit a y of ``size`` (h, w)."""

    def starts(self, config: KernelFusionConfig) -> dict[str, list[str]]:
        """The solver's settings that are levels, and the priors that must have been trained on each: ``prior``,
        ``textures``.
        """
        return {}

    def networks(self, factories: Mapping[str, Factory | None]) -> dict[str, Factory]:
        """The solver's own networks whose memory counts, by name; each takes a picture (B, 3, H, W) alone.

        They run in the ``precision`` of the solver's settings, if these have one.
        """
        return {}

    def memory(self, canvas: tuple[int, int], config: KernelFusionConfig, cost: Cost,
               kernel_known: bool) -> Iterator[tuple[int, bool, float]]:
        """(side of the priors' tiles, recompute, bytes of Phase 2) on a canvas (H, W), the best first."""
        for tile, need in inference_memory(canvas, cost):
            yield tile, False, need


def check_found(state: Phase2State | None, problem: Problem) -> None:
    """Refuse a last state that is not a finite picture of the right size with a kernel that sums to 1.

    Raises:
        ValueError: naming the solver; in one line.
    """
    config, found = problem.config, None
    size, shape = (config.kernel_size,) * 2, (1, 3, *(config.scale * n for n in problem.y.shape[-2:]))
    if state is None:
        found = 'made no step' + (', as it goes on behind its last' if problem.resume is not None else '')
    elif state.kernel.shape != size:
        found = f'found a kernel of {tuple(state.kernel.shape)}, not {size}'
    elif not abs(float(state.kernel.sum()) - 1) < SUM_ERROR:
        found = f'found a kernel whose sum is {float(state.kernel.sum()):.4g}, not 1'
    elif problem.degradation.crop(state.x0_hat).shape != shape:
        found = f'made a picture of {tuple(problem.degradation.crop(state.x0_hat).shape)}, not {shape}'
    elif not state.x0_hat.isfinite().all():
        found = 'made a picture with values that are not finite'
    if found:
        raise ValueError(f'solver {config.solver!r} {found}')


def inference_memory(canvas: tuple[int, int], cost: Cost, pictures: int = 1) -> Iterator[tuple[int, float]]:
    """(side of tiles, bytes) of the network that takes most, where ``pictures`` of a canvas (H, W) go through it."""
    each = {name: cost.inference(name, pictures) for name in cost.nets}
    for tile in SIDES:
        yield tile, max((each[name] * cost.on_tile(name, canvas, tile) for name in each), default=0.0)
