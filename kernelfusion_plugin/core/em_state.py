"""What diffusion EM is given, where it stands between two steps, and what it yields after each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from .degradation import Degradation
from .diffusion import Prior
from .em_config import EmConfig
from .frame import Frame
from .noise import CLEAN, Noise


@dataclass(frozen=True, eq=False)
class EmProblem:
    """What x and k are estimated from, and how: what stays the same while :class:`EmPlace` moves on.

    A search works on a piece of y, a stage at its own scale: they replace ``y`` and ``degradation``.

    Attributes:
        y: LR image (B, 3, h, w) in [-1, 1].
        prior: the diffusion prior p(x).
        degradation: the forward model, y = (x * k)↓s + n.
        config: see :class:`~.em_config.EmConfig`.
        generator: of all noise; on y's device.
        noise: standard deviations of n, as assumed.
        frame: black around y; None where there is none, or where it is not to be used.
        white: the value from which on those of y were cut off (:func:`~.overexposure.white_level`); None: none were.
    """

    y: Tensor
    prior: Prior
    degradation: Degradation
    config: EmConfig
    generator: Generator
    noise: Noise = CLEAN
    frame: Frame | None = None
    white: float | None = None


class EmStep(NamedTuple):
    """The estimate after a step, at the full scale: what a search and the final passes yield.

    Attributes:
        t: diffusion time that the step worked at.
        x0_hat: on the degradation's canvas, (1, 3, H, W).
        kernel: (K, K), sums to 1; in the final passes as the degradation takes it.
        residual: :func:`~.em_steps.lr_mse` of picture and kernel at the scale that the step worked at.
    """

    t: int
    x0_hat: Tensor
    kernel: Tensor
    residual: float


@dataclass
class EmPlace:
    """Where diffusion EM stands between two steps: what the next one depends on besides problem and generator.

    em's loops begin where it says and keep it up to date, so one process can stop after any step and another continue.
    The loops, from the outside in: regions, searches, attempts, stages, trials, passes, steps; then the final samples,
    whose only loop inside is that of steps.

    Attributes:
        step: steps done in the whole run.
        searches: completed searches for this kernel.
        attempt: completed attempts of this search.
        stage: completed stages of this attempt.
        trial: completed trials of this stage.
        passes: completed passes of this trial, or final samples.
        steps: completed steps of this pass.
        x, x_t: the estimate of the current pass, and its noisy version if the next step continues from that; None: none
            yet.
        kernel: the latest, on this stage's grid.
        start: the kernel that each trial of this stage begins with; None: not yet made.
        uncertainty, nll, likeliest: of the best trial so far: its uncertainty, how unlikely y is under its kernel, and
            that kernel.
        remembered: normal equations (G, b) of the previous passes.
        found, found_nll: the kernel at the full scale, (K, K), of this search's best attempt so far, and its last
            stage's ``nll``.
        best: the kernel of the best search so far.
        surprise: how unlikely y is under that kernel (:func:`~.restarts.surprise`); None: not judged.
        before: sum of the completed final samples.
        kernels: (n, K, K), where regions have their own: the whole picture's, then those of the completed regions.
    """

    step: int = 0
    searches: int = 0
    attempt: int = 0
    stage: int = 0
    trial: int = 0
    passes: int = 0
    steps: int = 0
    x: Tensor | None = None
    x_t: Tensor | None = None
    kernel: Tensor | None = None
    start: Tensor | None = None
    uncertainty: float | None = None
    nll: float | None = None
    likeliest: Tensor | None = None
    remembered: tuple[Tensor | float, Tensor | float] = (0.0, 0.0)
    found: Tensor | None = None
    found_nll: float | None = None
    best: Tensor | None = None
    surprise: float | None = None
    before: Tensor | float = 0.0
    kernels: Tensor | None = None

    def end_pass(self) -> None:
        """The next pass begins with its first step."""
        self.passes, self.steps = self.passes + 1, 0

    def end_trial(self, nll: float, uncertainty: float | None) -> bool:
        """The next trial, or stage, begins with its first pass and no picture. True if this was the best so far."""
        better = self.trial == 0 or nll < self.nll
        if better:
            self.uncertainty, self.nll, self.likeliest = uncertainty, nll, self.kernel
        self.trial += 1
        self.passes = self.steps = 0
        self.x = self.x_t = None
        self.remembered = 0.0, 0.0
        return better

    def end_stage(self) -> None:
        """The next stage begins from nothing but the best trial's kernel and its uncertainty."""
        self.stage, self.trial, self.start, self.kernel = self.stage + 1, 0, None, self.likeliest

    def end_attempt(self, kernel: Tensor, margin: float) -> None:
        """The next attempt begins with its first stage. ``kernel`` is kept if the first, or likelier by ``margin``."""
        if self.attempt == 0 or self.nll < self.found_nll - margin:
            self.found, self.found_nll = kernel, self.nll
        self.attempt, self.stage = self.attempt + 1, 0

    def end_search(self, surprise: float | None) -> None:
        """The next search begins with its first attempt. ``found`` is kept if the first, or the likeliest so far."""
        if self.searches == 0 or surprise < self.surprise:
            self.best, self.surprise = self.found, surprise
        self.searches, self.attempt = self.searches + 1, 0

    def end_region(self, kernel: Tensor) -> None:
        """``kernel`` joins ``kernels``; the next region begins with its first search."""
        self.kernels = kernel[None] if self.kernels is None else torch.cat([self.kernels, kernel[None]])
        self.searches = 0

    def end_sample(self) -> None:
        """The next final sample begins with its first step and no picture."""
        self.before = self.before + self.x
        self.end_pass()
        self.x = self.x_t = None

    def snapshot(self) -> dict[str, Any]:
        """Fields by name, for :meth:`at`."""
        return dict(vars(self))

    @classmethod
    def at(cls, snapshot: Mapping[str, Any] | None, device: torch.device) -> EmPlace:
        """Where a snapshot was taken, tensors on ``device``; the beginning without one."""
        place = cls(**snapshot or {})
        for name, value in vars(place).items():
            if isinstance(value, Tensor):
                setattr(place, name, value.to(device))
        place.remembered = tuple(part.to(device) if isinstance(part, Tensor) else part for part in place.remembered)
        return place
