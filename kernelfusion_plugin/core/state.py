"""What both solvers of Phase 2 yield after every step."""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    step: int
    total: int
    t: int
    x0_hat: Tensor
    kernel: Tensor
    losses: dict[str, float]
