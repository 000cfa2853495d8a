"""A search for the kernel, from coarse to fine, on the most informative piece of y.

A search makes one or two attempts; an attempt goes through the stages; a stage makes a trial with each uncertainty; a
trial is the stage's EM passes (``em_steps``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from .degradation import Degradation, resample_kernel, to_canvas
from .em_config import EmConfig
from .em_state import EmPlace, EmProblem, EmStep
from .em_steps import area, em_passes, find_place, lr_mse
from .frame import Frame
from .kernel_align import normalise, shift
from .kernels import gaussian
from .likelihood import nll
from .piece import cut_piece, on_piece, paste, unsure_rims
from .stages import Stage, attempts, kernel_stages, scaled

WIDE = 5.0  # LR pixels: area of a kernel from which on a second attempt is made
CLEARLY = 0.1  # by how much likelier that must make y to be taken; under three shakes it gained at most 0.005
MUCH_JPEG = 0.015  # error of luma from which on em's settings for JPEG apply in full


def find_kernel(problem: EmProblem, place: EmPlace, start: Tensor | None = None) -> Iterator[EmStep]:
    """All attempts of a search, from ``place`` on; ``place.found`` is then the kernel (K, K).

    Wide kernels may come out broken up or too narrow (docs/tried.md). So if the one found has an area of :data:`WIDE`
    or more, all is repeated with as much left open as goes with the kernel's area (:func:`~.em_steps.left_open`), and
    the second kernel is taken if it makes y likelier by :data:`CLEARLY`.

    Args:
        problem: at the full scale, y of batch size 1.
        place: is kept up to date.
        start: a kernel (K, K) to begin from, at the coarse stage; None: the sketch begins from a Gaussian.

    Yields:
        pictures on the whole canvas: bicubic, with the estimate of the piece put in after each pass; and kernels
        brought to the full scale.
    """
    search = _Search.of(adapted(problem), place, start)
    full, config = search.problem.degradation, search.problem.config
    for by_area in attempts(config)[place.attempt:]:
        stages = kernel_stages(full, config, search.problem.noise, by_area)[0 if start is None else 1:]
        if by_area and (not stages or area(place.found, full.scale) < WIDE):
            place.step += config.steps * sum(len(stage.sigmas) for stage in stages)  # they count as done
            break
        yield from search.attempt(stages)
        place.end_attempt(search.carried(place.kernel, stages[-1].degradation) if stages else start, CLEARLY)


def adapted(problem: EmProblem) -> EmProblem:
    """The settings of a search and the noise that it assumes, adapted to what JPEG has left in y.

    JPEG removes a kernel's weak parts: they come out fainter still, have to count more for its centre and to be made up
    for by more.
    """
    config, noise = problem.config, problem.noise
    share = min(1.0, noise.jpeg / MUCH_JPEG)
    powers = {'centre_power': config.centre_power + share * (config.jpeg_centre_power - config.centre_power),
              'density_power': config.density_power + share * (config.jpeg_density_power - config.density_power)}
    return replace(problem, config=replace(config, **powers), noise=noise.times(1.0, config.search_jpeg))


@dataclass(frozen=True, eq=False)
class _Search:
    """What the attempts and stages of a search share, and how each is done."""

    problem: EmProblem  # at the full scale
    piece: EmProblem  # of y, which the kernel is found on; as many of it as there are draws
    at: tuple[int, int]  # the LR pixel at its top left
    canvas: Tensor  # all of y, enlarged
    place: EmPlace
    start: Tensor | None  # (K, K); None: a Gaussian

    @classmethod
    def of(cls, problem: EmProblem, place: EmPlace, start: Tensor | None) -> _Search:
        """On the most informative piece of y."""
        y, config = problem.y, problem.config
        piece, at = cut_piece(y, config.kernel_side, unsure_rims(y, problem.frame, config), problem.white)
        several = on_piece(problem, piece.expand(config.draws, -1, -1, -1))
        return cls(problem, several, at, to_canvas(y, problem.degradation), place, start)

    def attempt(self, stages: list[Stage]) -> Iterator[EmStep]:
        """The stages, each from the kernel of the one before; ``place.kernel`` is then the last stage's."""
        place = self.place
        for number in range(place.stage, len(stages)):
            if place.start is None:
                place.start = self.first_kernel(stages, number)
            yield from self.stage(stages[number])
            place.end_stage()

    def first_kernel(self, stages: list[Stage], number: int) -> Tensor:
        """What a stage begins with, on its grid: the kernel of the stage before, or of the search's start."""
        grid, config = stages[number].degradation, self.problem.config
        if number:
            kernel, before = self.place.kernel, stages[number - 1].degradation
        elif self.start is not None:
            kernel, before = self.start, self.problem.degradation
        else:
            return gaussian(grid.kernel_size, sigmas=config.start_width * grid.scale).to(self.canvas)
        return shift(*find_place(resample_kernel(kernel, before, grid), grid, config, self.problem.frame))

    def stage(self, stage: Stage) -> Iterator[EmStep]:
        """All trials of a stage, at the full scale."""
        picture, last, grid = self.canvas, None, stage.degradation
        for t, x, kernel in self.trials(stage):
            if self.place.steps == 0:  # a pass has ended
                picture = paste(x[:1], grid, self.canvas, self.problem.degradation, self.at)
            if kernel is not last:
                last, carried = kernel, self.carried(kernel, grid)
            yield EmStep(t, picture, carried, lr_mse(grid, x, kernel, self.piece.y, self.piece.white))

    def trials(self, stage: Stage) -> Iterator[tuple[int, Tensor, Tensor]]:
        """The passes with each of the stage's uncertainties, as long as that makes y likelier; (t, x0, k) of each step.

        ``place`` keeps the best.
        """
        place, config, piece = self.place, self.problem.config, self.piece
        tried = stage.uncertainties or (place.uncertainty,)
        while place.trial < len(tried):
            if place.x is None:
                place.kernel = place.start
            yield from em_passes(piece, replace(stage, uncertainty=tried[place.trial]), place)
            found = nll(piece.y[:1], place.x, place.kernel, piece.prior, stage.degradation, config.m_levels[0],
                        piece.generator, piece.white)
            if not place.end_trial(found, tried[place.trial]):
                place.step += config.steps * len(stage.sigmas) * (len(tried) - place.trial)  # the rest counts as done
                break

    def carried(self, kernel: Tensor, grid: Degradation) -> Tensor:
        """:func:`carry_over` of a kernel on ``grid``."""
        return carry_over(kernel, grid, self.problem.degradation, self.problem.config, self.problem.frame)


def carry_over(kernel: Tensor, grid: Degradation, degradation: Degradation, config: EmConfig,
               frame: Frame | None = None) -> Tensor:
    """The kernel of a stage, found on ``grid``, on that of the full scale: brought to its place and cut to (K, K)."""
    wide = scaled(degradation, degradation.scale, config.support)
    extra = (wide.kernel_size - degradation.kernel_size) // 2
    k = shift(*find_place(resample_kernel(kernel, grid, wide), wide, config, frame))
    return normalise(k[extra:extra + degradation.kernel_size, extra:extra + degradation.kernel_size])
