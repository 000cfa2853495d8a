"""What a solver of Phase 2 yields after every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Phase2State:
    """The estimate after one step of Phase 2; tensors are detached.

    Attributes:
        step, total: number of this step, 1 … ``total``.
        t: diffusion time that the step worked at, 0 … T - 1.
        x0_hat: HR estimate on the degradation's canvas, (B, 3, H, W) in about [-1, 1];
            ``degradation.crop`` cuts the picture out of it.
        kernel: (K, K), sums to 1, as drawn (``degradation.forward`` correlates with it).
        losses: parts of the loss by name, all >= 0.
        kernels: (R, C, K, K), where each region of the picture has its own; else None.
        surprise: of the kernel, once it has been found: how unlikely y is under it (:func:`~.restarts.surprise`).
        snapshot: returns what the solver's ``resume`` takes, to continue after this step as if it had never stopped;
            the generator's state must be kept with it. Call it before the next step: the tensors are the solver's own.
    """

    step: int
    total: int
    t: int
    x0_hat: Tensor
    kernel: Tensor
    losses: dict[str, float]
    snapshot: Callable[[], dict[str, Any]] = dict
    kernels: Tensor | None = None
    surprise: float | None = None
