"""What black beyond y's frame tells about the kernel.

A shift between x and k cannot be seen inside y. But where the picture was continued with black, as ``F.conv2d``'s
padding does, each LR pixel of y's rim has lost as large a share of its light as of the kernel's weight falls beyond the
frame. So the light tells where the kernel lies, and how much of it there is on each side: the frame is an edge in all
four directions, of which the picture itself may have none. Photographs have no such frame, and their kernels no true
place; but a side that happens to be dark may pass for black, most often in small pieces.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .degradation import Degradation

FADED = 0.85  # of the light; photographs keep more, on average of their sides
BLACK = 0.8  # of the light: a single side that has kept less is taken for black
DARK = 0.004  # half a level of 8 bits, in a range of 2; added, as black would have no logarithm
ALIKE = 12  # neighbouring pixels that tell no more than one
SHAPE_ERROR = 0.03  # of the light kept, as the kernel is not as sharp as the true one
COUNTS = 300  # the kernel is treated as a histogram of this many photons
LEAST = 0.3  # of the light is left at a frame under a centred kernel: a darker side is the picture's own border
MOST = 0.93  # of the light, where the other two sides have lost much: a brighter side may have no black beyond it
BLUR = 0.5  # LR pixels over which light sets in at the frame; a sharp onset would cut edges into the kernel
REACH = 1.5  # LR pixels by which the kernel may be further from its place than the guess
ROUNDS = 12  # of Newton's method
SWEEPS = 2  # over both axes


@dataclass(frozen=True, eq=False)
class Frame:
    """The light that y's rim has kept, float64 on the CPU.

    Attributes:
        kept: (2, 2·r), share of the light, for rows then columns: the r outermost ones of the first side, from outside
            inwards, then of the last.
        precision: (2, 2·r, 2·r), for rows and columns, the inverse covariance of the relative errors.
        rims: LR pixels that the black reaches into at the top, the bottom, the left and the right: at all sides if
            the frame tells about at least one axis, else only at those that are black.
        tells: whether the rows' light can be what a kernel has left, and whether the columns' can. In a picture cropped
            from one with a frame it mostly cannot: one of the two sides has lost nothing.
    """

    kept: Tensor
    precision: Tensor
    rims: tuple[int, int, int, int]
    tells: tuple[bool, bool]

    @property
    def rim(self) -> int:
        """LR pixels measured at each side."""
        return self.kept.shape[-1] // 2

    @classmethod
    def of(cls, y: Tensor, degradation: Degradation) -> Frame | None:
        """Measured on y (1, 3, h, w) in [-1, 1]; None where no side fades to black, or ``degradation`` knows why.

        What the light would be without the frame is taken from the row next to the rim; the further away a row is, the
        less certain that is, as in a random walk.
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

        For each axis in turn that the frame tells about, it takes the move d and the weights λ that minimise

            eᵀPe + 2 N Σ p log(p / m) + 2 log(1 + (d - guess + Σ (p - m) u)² / error²),
            p(u) = m(u) exp(Σ λ_i φ_i(u)) / Σ …,  e_i = Σ p(u) φ_i(u + d) / kept_i - 1.

        m is the kernel's marginal under the other axis' weights, P the precision, N = :data:`COUNTS`. Existing parts of
        the kernel get brighter or fainter; no new ones appear. The guess, a centre of mass, moves with the weights of
        both axes, and is given up only for good reasons (Cauchy's distribution).

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
        """p (N, K) and the minimum of eᵀPe + 2 N Σ p log(p / m) for each of ``seen`` (N, 2·r, K).

        By the Gauss-Newton method; no |λ| exceeds 4.
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
    """Whether a centred kernel, and not the picture itself, can have left this much light (2) at two opposite sides.

    At least :data:`LEAST`, on average less than ``most``; and one side has lost about as much as the other, at least
    0.3 times as much, with ``slack`` for what the picture itself does there. This is how black bars, and corners of
    pictures that have a frame, are recognised.
    """
    lost = 1 - kept
    return bool(kept.min() > LEAST and kept.mean() < most and lost.min() > 0.3 * lost.max() - slack)


def brightness(rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Brightness of ``rows`` (n, w) relative to ``others`` (w) beside them, and the relative error of that: (n), (n).

    The median over the pixels, each weighted by its light (the geometric mean of the two): a wire or a window that ends
    between the two rows counts little, and dark pixels tell nothing. The error is that of a median, from the quartiles.
    """
    ratio, order = (rows / others).log().sort(-1)
    weight = (rows * others).sqrt().gather(-1, order).cumsum(-1)
    at = torch.searchsorted(weight, weight[..., -1:] * torch.tensor([0.25, 0.5, 0.75], dtype=weight.dtype))
    low, median, high = ratio.gather(-1, at.clamp_max(ratio.shape[-1] - 1)).unbind(-1)
    deviation = (high - low) / 1.349
    return median.exp(), 1.253 * deviation * math.sqrt(ALIKE / ratio.shape[-1])


def within(grid: Degradation, moves: Tensor, rim: int) -> Tensor:
    """φ (N, 2·rim, K): the share of each pixel's light that reaches the ``rim`` outermost LR rows of either side.

    Window pixel u of LR row i lies at u - margin + s·i, counted from the frame, and d further if the kernel is moved
    by d. At the frame light sets in over :data:`BLUR` LR pixels, but at least one pixel of the grid, as for bilinear
    moves.
    """
    u = torch.arange(grid.kernel_size, dtype=torch.float64) + 0.5
    inwards = grid.scale * torch.arange(rim)[:, None]
    first = u + moves[:, None, None] - grid.margin[0] + inwards
    last = grid.kernel_size - u - moves[:, None, None] - grid.margin[1] + inwards
    return (torch.cat([first, last], dim=1) / max(BLUR * grid.scale, 1) + 0.5).clamp(0, 1)
