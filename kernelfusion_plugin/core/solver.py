"""The interface of Phase 2 solvers: a :class:`Solver` works on a :class:`Problem`. Implementations: ``solvers``."""

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
SUM_ERROR = 1e-2  # tolerance for a kernel's sum, for rounding errors


@dataclass(frozen=True)
class Problem:
    """The input of Phase 2.

    Attributes:
        y: LR image (1, 3, h, w) in [-1, 1].
        config: the run's configuration.
        degradation: the forward model.
        priors: those of Phase 1 by phase, and ``textures`` if the solver uses it.
        generator: source of all noise, on y's device.
        build: build(purpose, factory) makes a network on y's device; the purpose seeds its weights.
        factories: factories that replace the solver's own networks, by name; None: the solver's own.
        kernel: the known kernel (K, K), or one per region (R, C, K, K).
        resume: a state's ``snapshot()``, to continue after that step.
        recompute: whether to recompute activations for gradients instead of storing them.
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
    """A method for Phase 2. Only ``training`` and ``solve`` must be implemented."""

    settings: type | None = None  # of a solver outside of this package: frozen dataclass of ``KernelFusionConfig.own``
    takes_kernels = False  # whether it accepts known kernels
    takes_regions = False  # whether it can find one kernel per region

    @abstractmethod
    def training(self, config: KernelFusionConfig, kernel_known: bool = False) -> dict[str, PriorConfig]:
        """Training settings of the networks that Phase 1 fits to y, by phase, in order.

        ``prior`` is PD, ``half`` PD of y at half size, ``tuned`` the texture prior, trained further on y.
        """

    @abstractmethod
    def solve(self, problem: Problem) -> Iterator[Phase2State]:
        """Estimate picture and kernel; yields a state after every step, of which the last is the result."""

    def uses_textures(self, config: KernelFusionConfig) -> bool:
        """Whether the texture prior is used, as shipped or tuned to y."""
        return False

    def check(self, size: tuple[int, int], config: KernelFusionConfig, kernel_known: bool) -> None:  # noqa: B027
        """Raise ValueError (one line) if the settings do not suit a y of ``size`` (h, w)."""

    def starts(self, config: KernelFusionConfig) -> dict[str, list[str]]:
        """Names of the solver's settings that are levels, and for each the priors (``prior``, ``textures``) that must
        have been trained on it.
        """
        return {}

    def networks(self, factories: Mapping[str, Factory | None]) -> dict[str, Factory]:
        """Factories of the solver's own networks to include in the memory plan, by name.

        Each takes only a picture (B, 3, H, W), and runs in the ``precision`` of the solver's settings, if there is one.
        """
        return {}

    def memory(self, canvas: tuple[int, int], config: KernelFusionConfig, cost: Cost,
               kernel_known: bool) -> Iterator[tuple[int, bool, float]]:
        """Candidates (side of the priors' tiles, recompute, bytes of Phase 2) for a canvas (H, W), best first."""
        for tile, need in inference_memory(canvas, cost):
            yield tile, False, need


def check_found(state: Phase2State | None, problem: Problem) -> None:
    """Check that the last state is a finite picture of the right size with a kernel that sums to 1.

    Raises:
        ValueError: it is not; a one-line message that names the solver.
    """
    config, found = problem.config, None
    size, shape = (config.kernel_size,) * 2, (1, 3, *(config.scale * n for n in problem.y.shape[-2:]))
    if state is None:
        found = 'made no step' + (': it was resumed after its last' if problem.resume is not None else '')
    elif state.kernel.shape != size:
        found = f'found a kernel of shape {tuple(state.kernel.shape)}, not {size}'
    elif not abs(float(state.kernel.sum()) - 1) < SUM_ERROR:
        found = f'found a kernel whose sum is {float(state.kernel.sum()):.4g}, not 1'
    elif problem.degradation.crop(state.x0_hat).shape != shape:
        found = f'made a picture of shape {tuple(problem.degradation.crop(state.x0_hat).shape)}, not {shape}'
    elif not state.x0_hat.isfinite().all():
        found = 'made a picture with non-finite values'
    if found:
        raise ValueError(f'solver {config.solver!r} {found}')


def inference_memory(canvas: tuple[int, int], cost: Cost, pictures: int = 1) -> Iterator[tuple[int, float]]:
    """(tile side, bytes) of the most demanding network when ``pictures`` of a canvas (H, W) go through it."""
    each = {name: cost.inference(name, pictures) for name in cost.nets}
    for tile in SIDES:
        yield tile, max((each[name] * cost.on_tile(name, canvas, tile) for name in each), default=0.0)
