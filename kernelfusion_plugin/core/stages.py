"""The stages of a search for the kernel, from coarse to fine: sketch, coarse and fine stage."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from .degradation import Degradation
from .em_config import UNCERTAINTIES, EmConfig
from .noise import CLEAN, Noise, Sigma


@dataclass(frozen=True)
class Stage:
    """One scale of the search for the kernel.

    Attributes:
        degradation: the forward model at this scale, its kernel grid wider than the one asked for.
        sigmas: noise assumed in y; one EM pass for each.
        smoothness: weight of the kernel's roughness in the M step.
        extra: pixels on each side by which the kernel's grid is wider than the one asked for.
        uncertainty: factor on what the prior leaves open; None: it follows from the kernel's area.
        uncertainties: those to be tried; empty: the one that the stage before has found is used.
        outlier: residual (range [-1, 1]) above which an LR pixel counts less; 0: all count alike.
        memory: weight of the last pass's normal equations in those of the next.
        kernel_floor: of the kernel that the stage ends with.
        whole_shifts: between passes the kernel is centred by whole pixels; otherwise to a fraction of one.
    """

    degradation: Degradation
    sigmas: list[Sigma]
    smoothness: float
    extra: int = 0
    uncertainty: float | None = 0.0
    uncertainties: tuple[float | None, ...] = (0.0,)
    outlier: float = 0.0
    memory: float = 0.0
    kernel_floor: float = 0.0
    whole_shifts: bool = False


def attempts(config: EmConfig) -> tuple[bool, ...]:
    """The attempts of a search: for each, whether the kernel's area decides how much y leaves open."""
    return (False, True) if config.uncertainty is None else (False,)


def most_passes(config: EmConfig, sketch: bool = True) -> dict[str, int]:
    """The most EM passes that a search can take, by stage; without the ``sketch`` where the search is given a start."""
    passes: dict[str, int] = {}
    for by_area in attempts(config):
        for name, count, tried in _outline(config, by_area)[0 if sketch else 1:]:
            passes[name] = passes.get(name, 0) + count * max(1, len(tried))
    return passes


def kernel_stages(full: Degradation, config: EmConfig, noise: Noise = CLEAN, by_area: bool = False) -> list[Stage]:
    """Sketch, coarse and fine stage of an attempt; those without passes are left out.

    Args:
        full: the forward model at the full scale.
        config: see :class:`EmConfig`.
        noise: assumed in y; it is added to the sigma of every pass.
        by_area: the kernel's area decides how much y leaves open.
    """
    stages = []
    for name, passes, tried in _outline(config, by_area):
        scale = {'sketch': 1, 'coarse': min(2, full.scale), 'fine': full.scale}[name]
        first, last = (getattr(config, f'{name}_noise_{end}') for end in ('start', 'end'))
        sigmas = [noise.added_to(sigma) for sigma in geometric(first, last, passes)]
        grid = scaled(full, scale, config.support)
        extra = int(grid.kernel_size - full.kernel_size * scale / full.scale) // 2
        smoothness = config.smoothness * (scale / full.scale) ** 4  # with fewer pixels less of it smooths as much
        stage = Stage(grid, sigmas, smoothness, extra, uncertainties=tried)
        if name == 'fine':
            outlier = noise.added_to(config.outlier).luma if config.outlier else 0.0
            stage = replace(stage, outlier=outlier, memory=config.memory, kernel_floor=config.kernel_floor,
                            whole_shifts=True)
        stages.append(stage)
    return stages


def _outline(config: EmConfig, by_area: bool) -> list[tuple[str, int, tuple[float | None, ...]]]:
    """(name, passes, uncertainties to try) of each stage; the first after the sketch chooses for those that follow."""
    sketch, tried = (0.0,), UNCERTAINTIES
    if by_area:
        sketch = tried = (None,)
    elif config.uncertainty is not None:
        tried = (config.uncertainty,)
    outline = [('sketch', config.sketch_passes, sketch)]
    for name, passes in (('coarse', config.coarse_passes), ('fine', config.fine_passes)):
        if passes:
            outline.append((name, passes, tried))
            tried = ()
    return outline


def scaled(full: Degradation, scale: int, support: float) -> Degradation:
    """The forward model at another scale; its kernel grid is ``support`` times as wide, and a pixel more on each side.

    Its centre lies on the LR pixel's centre; at the full scale it lies where ``full`` has it, so that the kernel can be
    cut to the size asked for.
    """
    if scale == full.scale:
        return Degradation(scale, full.kernel_size + 2 * math.ceil((support - 1) * full.kernel_size / 2 - 1e-9),
                           full.border)
    size = full.kernel_size * scale / full.scale
    size = max(size * support, size + 2) if support > 1 else size
    return Degradation(scale, scale + 2 * math.ceil((size - scale) / 2 - 1e-9), full.border)


def geometric(first: float, last: float, count: int) -> list[float]:
    """``count`` values from ``first`` to ``last``, each the same multiple of the one before."""
    return [first * (last / first) ** (i / max(1, count - 1)) for i in range(count)]
