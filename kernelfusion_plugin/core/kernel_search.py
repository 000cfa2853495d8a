"""The kernel from coarse to fine, on the most informative piece of y: sketch, coarse and fine stage."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Generator, Tensor

from .degradation import Degradation, resample_kernel, to_canvas
from .diffusion import Prior, timesteps
from .em_config import LEAST_PIECE, UNCERTAINTIES, EmConfig
from .em_steps import Stage, area, em_passes, find_place, lr_mse
from .frame import Frame
from .kernel_align import normalise, shift
from .kernels import gaussian
from .likelihood import nll
from .noise import CLEAN, Noise
from .state import EmPlace

WIDE = 5.0  # LR pixels: area of a kernel from which on a second attempt is made
CLEARLY = 0.1  # by so much likelier must y be for that one to be taken; under three shakes it gained at most 0.005
MUCH_JPEG = 0.015  # error of luma from which on the kernel is centred by em.jpeg_centre_power


def most_passes(config: EmConfig, sketch: bool = True) -> dict[str, int]:
    """The most EM passes of :func:`find_kernel`, by stage; without the ``sketch`` where it is given its start."""
    passes: dict[str, int] = {}
    for by_area in attempts(config):
        for name, count, tried in _outline(config, by_area)[0 if sketch else 1:]:
            passes[name] = passes.get(name, 0) + count * max(1, len(tried))
    return passes


def attempts(config: EmConfig) -> tuple[bool, ...]:
    """The attempts of a search: of each, whether the kernel's area decides how much y leaves open."""
    return (False, True) if config.uncertainty is None else (False,)


def find_kernel(y: Tensor, prior: Prior, degradation: Degradation, config: EmConfig, generator: Generator,
                noise: Noise = CLEAN, place: EmPlace | None = None, start: Tensor | None = None,
                frame: Frame | None = None) -> Iterator[tuple[int, Tensor, Tensor, float]]:
    """All stages on the most informative piece of y, from ``place`` on; yields (t, x0, k, residual) after every step.

    Wide kernels may come out broken up or too narrow (docs/tried.md). So if the one found has an area of :data:`WIDE`
    or more, all is done anew with as much left open as goes with the kernel's area (:func:`~.em_steps.left_open`), and
    the second kernel is taken if it makes y likelier by :data:`CLEARLY`.

    With a kernel ``start`` (K, K) it begins from that one, at the coarse stage. ``frame`` is y's, where there is one.
    x0 (on the whole canvas, bicubic around the piece; renewed after every pass) and k are carried over to the full
    scale.
    """
    place = EmPlace() if place is None else place
    config, noise = adapted(config, noise)
    walk = _Walk.on(y, prior, degradation, config, generator, place, frame)
    for by_area in attempts(config)[place.attempt:]:
        stages = kernel_stages(degradation, config, noise, frame, by_area)[0 if start is None else 1:]
        if by_area and (not stages or area(place.found, degradation.scale) < WIDE):
            place.step += config.steps * sum(len(stage.sigmas) for stage in stages)  # they count as done
            place.attempt += 1
            break
        before = None if start is None else (start, degradation)
        for number in range(place.stage, len(stages)):
            if number:
                before = place.kernel, stages[number - 1].degradation
            if place.start is None:
                place.start = walk.first_kernel(stages[number].degradation, before)
            yield from walk.stage(stages[number])
            place.end_stage()
        place.end_attempt(walk.carried(place.kernel, stages[-1].degradation) if stages else start, CLEARLY)


@dataclass
class _Walk:
    """What the stages of a search share, and how each is done."""

    piece: Tensor  # of y, that the kernel is found on
    at: tuple[int, int]  # the LR pixel at its top left
    canvas: Tensor  # all of y, enlarged
    prior: Prior
    full: Degradation
    config: EmConfig
    generator: Generator
    place: EmPlace
    frame: Frame | None

    @classmethod
    def on(cls, y: Tensor, prior: Prior, full: Degradation, config: EmConfig, generator: Generator, place: EmPlace,
           frame: Frame | None) -> _Walk:
        """One on the most informative piece of y."""
        piece, at = cut_piece(y, config.kernel_side, unsure_rims(y, frame, config))
        return cls(piece, at, to_canvas(y, full), prior, full, config, generator, place, frame)

    def first_kernel(self, grid: Degradation, before: tuple[Tensor, Degradation] | None) -> Tensor:
        """What a stage on ``grid`` begins with: the kernel ``before``, given with its grid, or a Gaussian."""
        if before is None:
            return gaussian(grid.kernel_size, sigmas=self.config.start_width * grid.scale).to(self.piece)
        return shift(*find_place(resample_kernel(*before, grid), grid, self.config, self.frame))

    def stage(self, stage: Stage) -> Iterator[tuple[int, Tensor, Tensor, float]]:
        """All trials of a stage; yields (t, x0, k, residual) as :func:`find_kernel`."""
        picture, last, grid = self.canvas, None, stage.degradation
        for t, x, fitted in self._trials(stage):
            if self.place.steps == 0:  # a pass has ended
                picture = paste(x[:1], grid, self.canvas, self.full, self.at)
            if fitted is not last:
                last, carried = fitted, self.carried(fitted, grid)
            yield t, picture, carried, lr_mse(grid, x, fitted, self.piece)

    def carried(self, kernel: Tensor, grid: Degradation) -> Tensor:
        """:func:`carry_over` of a kernel on ``grid``."""
        return carry_over(kernel, grid, self.full, self.config, self.frame)

    def _trials(self, stage: Stage) -> Iterator[tuple[int, Tensor, Tensor]]:
        """The passes with each of its uncertainties, as long as that makes y likelier; ``place`` keeps the best."""
        place, config = self.place, self.config
        several = self.piece.expand(config.draws, -1, -1, -1)
        tried = stage.uncertainties or (place.uncertainty,)
        level = timesteps(config.t_start, config.steps, config.t_power)[-1 - config.kernel_levels:][0]
        while place.trial < len(tried):
            if place.x is None:
                place.kernel = place.start
            one = replace(stage, uncertainty=tried[place.trial])
            yield from em_passes(several, place.kernel, self.prior, one, config, self.generator, place)
            found = nll(self.piece, place.x, place.kernel, self.prior, stage.degradation, level, self.generator)
            if not place.end_trial(found, tried[place.trial]):
                place.step += config.steps * len(stage.sigmas) * (len(tried) - place.trial)  # others count as done
                break


def adapted(config: EmConfig, noise: Noise) -> tuple[EmConfig, Noise]:
    """The settings of a search and the noise that it assumes, adapted to what JPEG has left in y.

    JPEG takes a kernel's weak parts with it: they come out fainter still, and have to count more for its centre.
    """
    share = min(1.0, noise.jpeg / MUCH_JPEG)
    power = config.centre_power + share * (config.jpeg_centre_power - config.centre_power)
    return replace(config, centre_power=power), noise.times(1.0, config.search_jpeg)


def kernel_stages(full: Degradation, config: EmConfig, noise: Noise = CLEAN, frame: Frame | None = None,
                  by_area: bool = False) -> list[Stage]:
    """Sketch, coarse and fine stage of an attempt, those without passes left out."""
    stages = []
    for name, passes, tried in _outline(config, by_area):
        scale = {'sketch': 1, 'coarse': min(2, full.scale), 'fine': full.scale}[name]
        first, last = (getattr(config, f'{name}_noise_{end}') for end in ('start', 'end'))
        sigmas = [noise.added_to(sigma) for sigma in geometric(first, last, passes)]
        grid = scaled(full, scale, config.support)
        extra = int(grid.kernel_size - full.kernel_size * scale / full.scale) // 2
        smoothness = config.smoothness * (scale / full.scale) ** 4  # a kernel of fewer pixels is as rough for less
        stage = Stage(grid, sigmas, smoothness, extra, uncertainties=tried, frame=frame)
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
    """The forward model at another scale, its kernel grid ``support`` times as wide, and by a pixel at each side.

    Its centre lies on the LR pixel's; at the full scale where ``full`` has it, so that a kernel can be cut to its size.
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


def unsure_rims(y: Tensor, frame: Frame | None, config: EmConfig) -> tuple[int, int, int, int]:
    """LR pixels at y's top, bottom, left and right that the kernel is not found on: ``em.rim``, or the black frame's.

    Data sets continue the picture beyond its frame, some with black (``F.conv2d``'s padding). Those edges would
    outweigh a small picture's own. A photograph has no such frame, and keeps its pixels, but for sides that are dark.
    """
    if config.rim is None:
        return frame.rims if frame else (0, 0, 0, 0)
    check_rim(tuple(y.shape[-2:]), config)
    return (config.rim,) * 4


def check_rim(size: tuple[int, int], config: EmConfig) -> None:
    """Refuse an ``em.rim`` that leaves too little of y, of ``size`` (h, w), to find a kernel on."""
    if not config.rim:
        return
    left = [n - 2 * config.rim for n in size]
    if min(left) < LEAST_PIECE:
        raise ValueError(f'em.rim = {config.rim} leaves {max(left[1], 0)} x {max(left[0], 0)} pixels of y, '
                         f'{size[1]} x {size[0]}: at least {LEAST_PIECE} x {LEAST_PIECE} are needed')


def informative_piece(y: Tensor, side: int,
                      rims: tuple[int, int, int, int] = (0, 0, 0, 0)) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the piece of at most ``side`` pixels square with the largest gradient energy.

    It keeps ``rims`` pixels away from y's top, bottom, left and right.
    """
    top, bottom, left, right = rims
    y = y[..., top:y.shape[-2] - bottom, left:y.shape[-1] - right]
    height, width = ((min(side, n) if side else n) for n in y.shape[-2:])
    grey = y.mean(1, keepdim=True)
    energy = F.pad(grey.diff(dim=-1) ** 2, (0, 1)) + F.pad(grey.diff(dim=-2) ** 2, (0, 0, 0, 1))
    energy = energy[0, 0].cpu().double()  # a GPU's running sums differ from time to time
    mass = F.pad(energy.cumsum(0).cumsum(1), (1, 0, 1, 0))  # integral image
    sums = mass[height:, width:] - mass[:-height, width:] - mass[height:, :-width] + mass[:-height, :-width]
    best = int(sums.argmax())
    return top + best // sums.shape[1], left + best % sums.shape[1], height, width


def cut_piece(y: Tensor, side: int, rims: tuple[int, int, int, int] = (0, 0, 0, 0)) -> tuple[Tensor, tuple[int, int]]:
    """:func:`informative_piece` cut out of y (a view), and the LR pixel (top, left) that it begins at."""
    top, left, height, width = informative_piece(y, side, rims)
    return y[..., top:top + height, left:left + width], (top, left)


def carry_over(kernel: Tensor, grid: Degradation, degradation: Degradation, config: EmConfig,
               frame: Frame | None = None) -> Tensor:
    """The kernel of a stage on the full scale's grid, brought to its place there, cut to K x K."""
    wide = scaled(degradation, degradation.scale, config.support)
    extra = (wide.kernel_size - degradation.kernel_size) // 2
    k = shift(*find_place(resample_kernel(kernel, grid, wide), wide, config, frame))
    return normalise(k[extra:extra + degradation.kernel_size, extra:extra + degradation.kernel_size])


def paste(x: Tensor, grid: Degradation, canvas: Tensor, degradation: Degradation, at: tuple[int, int]) -> Tensor:
    """``canvas`` with a stage's estimate x of the piece at LR pixel ``at`` put in, enlarged, for those who watch."""
    inside = grid.crop(x)
    s = degradation.scale
    size = [n // grid.scale * s for n in inside.shape[-2:]]
    before = degradation.margin[0] if degradation.border == 'valid' else 0
    top, left = (n * s + before for n in at)
    canvas = canvas.clone()
    canvas[..., top:top + size[0], left:left + size[1]] = F.interpolate(inside, size=size, mode='bicubic')
    return canvas
