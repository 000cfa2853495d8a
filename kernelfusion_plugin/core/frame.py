"""What black beyond y's frame tells of the kernel.

A shift between x and k cannot be seen inside y. But where the picture was continued with black, as ``F.conv2d``'s
padding does, the LR pixels of y's rim have lost as much of their light as of the kernel's weight falls beyond the
frame. So their light tells where the kernel lies, and how much of it there is at each side: the frame is an edge in all
four directions, of which the picture itself may have none. Photographs have no such frame, and their kernels no true
place; but a side that is dark by itself may pass for black, most often in small pieces.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .degradation import Degradation

FADED = 0.85  # of the light; photographs keep more, on average of their sides
BLACK = 0.8  # of the light: one side alone that has kept less is taken for black
DARK = 0.004  # half a level of 8 bits, of a range of 2, lest black have no logarithm
ALIKE = 12  # pixels beside each other that tell no more than one
SHAPE_ERROR = 0.03  # of the light kept, as the kernel is not as sharp as the true one
COUNTS = 300  # the kernel is taken for a histogram of so many photons
LEAST = 0.3  # of the light is left at a frame, under a kernel that is centred: what is darker is a picture's own border
MOST = 0.93  # of the light, where the other two sides have lost much: what is brighter may have no black beyond
BLUR = 0.5  # LR pixels over which light begins at the frame, lest that cut edges into the kernel
REACH = 1.5  # LR pixels that the kernel may be farther from its place than the guess
ROUNDS = 12  # of Newton's method
SWEEPS = 2  # over both axes


@dataclass(frozen=True, eq=False)
class Frame:
    """The light that y's rim has kept, float64 on the CPU.

    Attributes:
        kept: (2, 2·r), part of the light, for the r outermost rows at the first side, from without inwards, and at the
            last; then for columns.
        precision: (2, 2·r, 2·r), for rows and columns, the inverse covariance of the relative errors.
        rims: LR pixels that the black reaches into at the top, the bottom, the left and the right: at all sides where
            there is a frame that tells of one axis at least, else at those that are black.
        tells: whether the rows' light can be taken for what a kernel has left, and whether the columns' can. Where a
            picture was cut out of one with a frame it mostly cannot: one of the two sides has lost nothing.
    """

    kept: Tensor
    precision: Tensor
    rims: tuple[int, int, int, int]
    tells: tuple[bool, bool]

    @property
    def rim(self) -> int:
        """LR pixels at each side that were measured."""
        return self.kept.shape[-1] // 2

    @classmethod
    def of(cls, y: Tensor, degradation: Degradation) -> Frame | None:
        """Measured on y (1, 3, h, w) in [-1, 1]; None where no side fades to black, or ``degradation`` knows why.

        What the light would be without the frame is taken from the row next to the rim; the farther from it, the less
        certain that is, as in a random walk.
        """
        reach = math.ceil(degradation.margin[1] / degradation.scale)
        rim = min(reach, min(y.shape[-2:]) // 8)
        if degradation.border != 'valid' or not rim:
            return None
        light = y.detach().double().cpu().mean((0, 1)) + 1 + DARK  # black is -1
        away = torch.arange(rim, 0, -1, dtype=torch.float64)
        walk = torch.minimum(away[:, None], away) / rim
        kept, precision = [], []
        for rows in (light, light.T):
            ratios, errors = zip(*(brightness(side[:rim], side[rim]) for side in (rows, rows.flip(0))))
            blocks = [error[0] ** 2 * walk + SHAPE_ERROR ** 2 * torch.eye(rim, dtype=torch.float64) for error in errors]
            kept.append(torch.cat(ratios))
            precision.append(torch.linalg.inv(torch.block_diag(*blocks)))
        kept = torch.stack(kept)
        outermost = kept[:, ::rim]
        framed = bool(outermost.mean() < FADED) and any(plausible(sides, FADED, 0.02) for sides in outermost)
        tells = tuple(framed and rim == reach and plausible(sides, MOST, 0.05) for sides in outermost)
        rims = tuple(rim if any(tells) or dark else 0 for dark in (outermost < BLACK).flatten().tolist())
        return cls(kept, torch.stack(precision), rims, tells) if any(rims) else None

    def fit(self, kernel: Tensor, grid: Degradation, guess: tuple[float, float],
            error: float) -> tuple[Tensor, tuple[float, float]]:
        """The kernel with its parts weighed anew, and the shift (dy, dx) that will bring it to its place.

        In turn for each axis that it can tell of it takes the move d and the weights λ that minimise

            eᵀPe + 2 N Σ p log(p / m) + 2 log(1 + (d - guess + Σ (p - m) u)² / error²),
            p(u) = m(u) exp(Σ λ_i φ_i(u)) / Σ …,  e_i = Σ p(u) φ_i(u + d) / kept_i - 1.

        m is the kernel's marginal under the other axis' weights, P the precision, N = :data:`COUNTS`. Parts of the
        kernel that are there get brighter or fainter, none is made up. The guess, a centre of mass, moves with the
        weights of both axes, and is left for good reasons only (Cauchy's distribution).

        Args:
            kernel: (K, K) on ``grid``, of sum 1.
            guess: (dy, dx) in pixels of the grid.
            error: its error in LR pixels, > 0.
        """
        k = kernel.detach().double().cpu()
        u = torch.arange(len(k), dtype=torch.float64)
        weights, way = [torch.ones_like(u), torch.ones_like(u)], list(guess)
        for axis in (0, 1) * SWEEPS:
            marginal = k.movedim(axis, 0) @ weights[1 - axis]
            marginal = marginal / marginal.sum()
            way[axis] = guess[axis] - float((marginal - k.sum(1 - axis) / k.sum()) @ u)
            if self.tells[axis]:
                way[axis], weighed = self._fit_axis(axis, marginal, grid, way[axis], error * grid.scale)
                weights[axis] = weighed / marginal.clamp_min(1e-300)
        k = weights[0][:, None] * k * weights[1]
        return (k / k.sum()).to(kernel), tuple(way)

    def _fit_axis(self, axis: int, marginal: Tensor, grid: Degradation, guess: float,
                  error: float) -> tuple[float, Tensor]:
        """Move and weighed marginal (K,): the best of coarse moves around the guess, then of fine ones around that."""
        move, reach = guess, REACH * grid.scale
        u = torch.arange(len(marginal), dtype=torch.float64)
        for _ in range(2):
            moves = move + torch.linspace(-reach, reach, 31, dtype=torch.float64)
            seen = within(grid, moves, self.rim)
            p, misfit = self._weigh(axis, marginal, seen)
            off = moves - guess + (p - marginal) @ u
            best = int((misfit + 2 * (off / error).square().log1p()).argmin())
            move, reach = float(moves[best]), reach / 15
        return move, p[best]

    def _weigh(self, axis: int, m: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """p (N, K) and the least of eᵀPe + 2 N Σ p log(p / m) for each of ``seen`` (N, 2·r, K).

        By Gauss and Newton's method; no λ goes beyond 4.
        """
        kept, P = self.kept[axis], self.precision[axis]
        weights = seen.new_zeros(seen.shape[:2])
        for count in range(ROUNDS + 1):
            p = m * torch.einsum('nr,nrk->nk', weights, seen).exp()
            p = p / p.sum(1, keepdim=True)
            mean = torch.einsum('nk,nrk->nr', p, seen)
            off = mean / kept - 1
            if count == ROUNDS:
                break
            apart = seen - mean[..., None]
            covariance = torch.einsum('nk,nrk,nqk->nrq', p, apart, apart)
            slope = covariance / kept[:, None]
            gradient = slope.mT @ (off @ P)[..., None] + COUNTS * covariance @ weights[..., None]
            hessian = slope.mT @ P @ slope + COUNTS * covariance + 1e-6 * torch.eye(len(kept), dtype=torch.float64)
            step = min(1.0, 0.3 + 0.1 * count)
            weights = (weights - step * torch.linalg.solve(hessian, gradient)[..., 0]).clamp(-4, 4)
        divergence = (p * (p.clamp_min(1e-300) / m.clamp_min(1e-300)).log()).sum(1)
        return p, torch.einsum('nr,rq,nq->n', off, P, off) + 2 * COUNTS * divergence


def plausible(kept: Tensor, most: float, slack: float) -> bool:
    """Whether a centred kernel, and not the picture, has left so much of the light (2) at two opposite sides.

    :data:`LEAST` at least, on average less than ``most``; and one side loses about as much as the other, 0.3 times as
    much at least, with ``slack`` for what the picture itself does there. Black bars, and corners of pictures that have
    a frame, are told so.
    """
    lost = 1 - kept
    return bool(kept.min() > LEAST and kept.mean() < most and lost.min() > 0.3 * lost.max() - slack)


def brightness(rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """How many times as bright ``rows`` (n, w) are as ``others`` (w) beside them, and the relative error of that: (n).

    The median over the pixels, each weighed by its light (the geometric mean of the two): a wire or a window that ends
    between the two rows counts little, and what is dark can tell nothing. The error is a median's, from the quartiles.
    """
    ratio, order = (rows / others).log().sort(-1)
    weight = (rows * others).sqrt().gather(-1, order).cumsum(-1)
    at = torch.searchsorted(weight, weight[..., -1:] * torch.tensor([0.25, 0.5, 0.75], dtype=weight.dtype))
    low, median, high = ratio.gather(-1, at.clamp_max(ratio.shape[-1] - 1)).unbind(-1)
    deviation = (high - low) / 1.349
    return median.exp(), 1.253 * deviation * math.sqrt(ALIKE / ratio.shape[-1])


def within(grid: Degradation, moves: Tensor, rim: int) -> Tensor:
    """φ (N, 2·rim, K): what part of each pixel's light reaches the ``rim`` outermost LR rows of either side.

    Window pixel u of LR row i lies at u - margin + s·i, counted from the frame, and d farther where the kernel is moved
    by d. There light begins, over :data:`BLUR` LR pixels, one pixel of the grid at least, as for bilinear moves.
    """
    u = torch.arange(grid.kernel_size, dtype=torch.float64) + 0.5
    inwards = grid.scale * torch.arange(rim)[:, None]
    first = u + moves[:, None, None] - grid.margin[0] + inwards
    last = grid.kernel_size - u - moves[:, None, None] - grid.margin[1] + inwards
    return (torch.cat([first, last], dim=1) / max(BLUR * grid.scale, 1) + 0.5).clamp(0, 1)
