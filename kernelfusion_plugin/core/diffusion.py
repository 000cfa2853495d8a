"""Diffusion building blocks: schedule, q_sample, v <-> x0 <-> eps, ancestral and DDIM steps.

Notation: x_t = √ᾱ_t · x0 + √(1 - ᾱ_t) · eps with t = 0 … T - 1 (the paper counts 1 … T); t = -1 stands for clean
images, ᾱ = 1. Sources: Ho et al. 2020 (DDPM), Song et al. 2021 (DDIM), Salimans & Ho 2022 (v).
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor


class Prior(Protocol):
    """What a solver needs of a prior: its schedule, and x0_hat = E[x0 | x_t]."""

    schedule: Schedule

    def predict_x0(self, x_t: Tensor, t: int) -> Tensor: ...


class Schedule:
    """Linear variance schedule beta_1 … beta_T and the quantities derived from it.

    Args:
        steps: T.
        beta_start, beta_end: first and last beta; DDPM's 1e-4 and 0.02.

    The table is stored in float64; :meth:`alpha_bar` converts it to the required dtype.
    """

    def __init__(self, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> None:
        if steps < 1 or not 0 < beta_start <= beta_end < 1:
            raise ValueError('the schedule needs steps >= 1 and 0 < beta_start <= beta_end < 1, got '
                             f'{steps}, {beta_start}, {beta_end}')
        self.steps = steps
        betas = torch.linspace(beta_start, beta_end, steps, dtype=torch.float64)
        self.alphas_cumprod = torch.cumprod(1 - betas, dim=0)
        self._tables: dict[tuple[torch.device, torch.dtype], Tensor] = {}  # cached, as copies synchronise a GPU

    def alpha_bar(self, t: int | Tensor, like: Tensor) -> Tensor:
        """ᾱ_t, broadcastable to ``like`` (B, C, H, W); 1 at t = -1.

        For a tensor t (B,): (B, 1, 1, 1) on the device of ``like``. For an int: a scalar on the CPU, which does not
        synchronise a GPU.
        """
        if not isinstance(t, Tensor):
            return self._table(torch.device('cpu'), like.dtype)[t]
        return self._table(like.device, like.dtype)[t.to(like.device)].reshape(-1, *[1] * (like.ndim - 1))

    def _table(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """ᾱ_0 … ᾱ_{T-1} followed by 1, so that index -1 gives 1."""
        if (device, dtype) not in self._tables:
            table = torch.cat([self.alphas_cumprod, self.alphas_cumprod.new_ones(1)])
            self._tables[device, dtype] = table.to(device, dtype)
        return self._tables[device, dtype]

    def q_sample(self, x0: Tensor, t: int | Tensor, eps: Tensor | float) -> Tensor:
        """x_t = √ᾱ_t · x0 + √(1 - ᾱ_t) · eps; eps = 0 gives its mean."""
        a = self.alpha_bar(t, x0)
        return a.sqrt() * x0 + (1 - a).sqrt() * eps

    def noise_level(self, t: int) -> float:
        """√((1 - ᾱ_t) / ᾱ_t): standard deviation of the noise in x_t / √ᾱ_t = x0 + noise."""
        a = float(self.alphas_cumprod[t])
        return math.sqrt((1 - a) / a)

    def velocity(self, x0: Tensor, eps: Tensor, t: int | Tensor) -> Tensor:
        """v_t = √ᾱ_t · eps - √(1 - ᾱ_t) · x0."""
        a = self.alpha_bar(t, x0)
        return a.sqrt() * eps - (1 - a).sqrt() * x0

    def x0_from_v(self, x_t: Tensor, v: Tensor, t: int | Tensor) -> Tensor:
        """x0 = √ᾱ_t · x_t - √(1 - ᾱ_t) · v."""
        a = self.alpha_bar(t, x_t)
        return a.sqrt() * x_t - (1 - a).sqrt() * v

    def eps_from_x0(self, x_t: Tensor, x0: Tensor, t: int | Tensor) -> Tensor:
        """eps = (x_t - √ᾱ_t · x0) / √(1 - ᾱ_t)."""
        a = self.alpha_bar(t, x_t)
        return (x_t - a.sqrt() * x0) / (1 - a).sqrt()

    def x0_from_eps(self, x_t: Tensor, eps: Tensor, t: int | Tensor) -> Tensor:
        """x0 = (x_t - √(1 - ᾱ_t) · eps) / √ᾱ_t."""
        a = self.alpha_bar(t, x_t)
        return (x_t - (1 - a).sqrt() * eps) / a.sqrt()

    def posterior(self, x_t: Tensor, x0: Tensor, t: int | Tensor, t_next: int | Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of q(x_s | x_t, x0), s = ``t_next`` < t (Ho et al., Eqs. 6 and 7).

        With a = ᾱ_t / ᾱ_s: mean = √ᾱ_s (1 - a) / (1 - ᾱ_t) · x0 + √a (1 - ᾱ_s) / (1 - ᾱ_t) · x_t and
        variance (1 - a)(1 - ᾱ_s) / (1 - ᾱ_t). At s = -1 these are x0 and 0.
        """
        a_t, a_s = self.alpha_bar(t, x_t), self.alpha_bar(t_next, x_t)
        a = a_t / a_s
        mean = (a_s.sqrt() * (1 - a) * x0 + a.sqrt() * (1 - a_s) * x_t) / (1 - a_t)
        return mean, (1 - a) * (1 - a_s) / (1 - a_t)

    def posterior_step(self, x_t: Tensor, x0: Tensor, t: int, t_next: int, noise: Tensor,
                       sigma_scale: float = 1.0, variance: Tensor | None = None) -> Tensor:
        """Ancestral step: a sample from :meth:`posterior`, with the standard deviation times ``sigma_scale``.

        Args:
            variance: replaces the posterior's variance, e.g. :meth:`learned_variance`.
        """
        mean, own = self.posterior(x_t, x0, t, t_next)
        return mean + sigma_scale * (own if variance is None else variance).sqrt() * noise

    def learned_variance(self, v: Tensor, t: int | Tensor, t_next: int | Tensor) -> Tensor:
        """Variance of a step, log-linearly interpolated between the posterior's and beta by a network's output ``v``.

        log σ² = u log β + (1 - u) log β̃, u = (v + 1) / 2, β = 1 - ᾱ_t / ᾱ_s (Nichol & Dhariwal 2021, Eq. 15). At
        s = -1 the posterior's variance β̃ is 0; that of the step from t = 1 to 0 is used instead.
        """
        a_t, a_s = self.alpha_bar(t, v), self.alpha_bar(t_next, v)
        first, last = self.alpha_bar(min(1, self.steps - 1), v), self.alpha_bar(0, v)
        beta = 1 - a_t / a_s
        lower = beta * (1 - a_s) / (1 - a_t)
        lower = torch.where(a_s < 1, lower, (1 - first / last) * (1 - last) / (1 - first))
        u = (v + 1) / 2
        return (u * beta.log() + (1 - u) * lower.log()).exp()

    def ddim_step(self, x_t: Tensor, x0: Tensor, t: int, t_next: int, noise: Tensor, eta: float = 0.0) -> Tensor:
        """x_s = √ᾱ_s · x0 + √(1 - ᾱ_s - σ²) · eps + σ · noise (Song et al., Eq. 12).

        σ is eta times the ancestral one: eta = 0 is deterministic, eta = 1 is :meth:`posterior_step`.
        """
        a_t, a_s = self.alpha_bar(t, x_t), self.alpha_bar(t_next, x_t)
        sigma = eta * ((1 - a_t / a_s) * (1 - a_s) / (1 - a_t)).sqrt()
        eps = self.eps_from_x0(x_t, x0, t)
        return a_s.sqrt() * x0 + (1 - a_s - sigma ** 2).clamp_min(0).sqrt() * eps + sigma * noise


def noise_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """ε ~ N(0, I) of x's shape and dtype, drawn on the generator's device and moved to x's."""
    return torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype).to(x.device)


def timesteps(start: int, count: int, power: float = 1.0) -> list[int]:
    """``count`` distinct decreasing indices that begin with ``start``, followed by -1.

    Index i is about start · (1 - i / count)^power: evenly spaced for power 1, denser at low levels for greater powers.
    """
    if not 1 <= count <= start + 1:
        raise ValueError(f'cannot place {count} steps between t = {start} and 0: ask for 1 to {start + 1}')
    if power == 1:
        return [start - i * (start + 1) // count for i in range(count)] + [-1]
    levels = [min(start - i, round(start * (1 - i / count) ** power)) for i in range(count)]
    for i in reversed(range(count)):  # the lowest may coincide: make each level at least one above the next
        levels[i] = max(levels[i], levels[i + 1] + 1 if i + 1 < count else 0)
    return levels + [-1]
