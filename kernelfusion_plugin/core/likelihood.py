"""How likely y is, given a picture and a kernel: a measure of both that needs no ground truth."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from .degradation import Degradation
from .diffusion import Prior, noise_like
from .overexposure import Highlights
from .quadratic import covariance_lags

REACH = 24  # LR pixels up to which autocorrelations are followed
FLOOR = 1e-5  # variance that the prior does not answer for, such as rounding to 8 bits (range [-1, 1])


@torch.no_grad()
def nll(y: Tensor, x: Tensor, kernel: Tensor, prior: Prior, degradation: Degradation, t: int,
        generator: Generator, white: float | None = None) -> float:
    """Negative log-likelihood of y, given x noised to level t: the mean of p / q + log q (Whittle 1953).

    p is the power spectrum of r = y - (x0_hat * k)↓s, where x0_hat = E[x | x_t] has not seen y. What r should be like
    is known: q is the spectrum of (e * k)↓s plus :data:`FLOOR`; e is what the prior leaves open, of covariance
    Cov(x | x_t). Noise in y is left out, as fine texture would pass for it: where there is much, kernels that let much
    through are preferred.

    Under any kernel a picture can be made that explains y, but what the prior makes of that picture may not. The more
    of the picture a kernel hides, the smaller is the residual itself; the less it hides, the smaller is its ratio to q;
    the likelihood weighs the two, frequency by frequency.

    Args:
        y: (1, C, h, w) in [-1, 1].
        x: (N, C, H, W) on the degradation's canvas, an estimate that explains y under ``kernel``, or several.
        kernel: (K, K).
        white: the value from which on those of y were cut off (:func:`~.overexposure.white_level`); None: none were.

    Returns:
        A number that is comparable between estimates of one y at one scale and one level; the lower, the likelier.
    """
    highlights = Highlights.of(y, white, degradation)
    x, beyond = highlights.split(x)
    eps = noise_like(x, generator)
    x0_hat = prior.predict_x0(prior.schedule.q_sample(x, t, eps), t)
    lags = covariance_lags(eps, x0_hat - x, prior.schedule.noise_level(t))
    reach = min(REACH, *(n // 2 for n in y.shape[-2:]))
    expected = _spectrum(_degraded_lags(lags, kernel), reach, degradation.scale).clamp_min(0) + FLOOR
    seen = degradation.forward(x0_hat + beyond, kernel)
    counting = highlights.counting(y, seen)
    residual = seen - y if counting is None else (seen - y) * counting
    found = _spectrum(_own_lags(residual), reach).clamp_min(0)
    return float((found / expected + expected.log()).mean())


def _own_lags(r: Tensor) -> Tensor:
    """Autocorrelation (h, w) of r (1, C, h, w) on a torus; faded out at the borders, as a jump has a spectrum too."""
    fade = _taper(r.shape[-2]).to(r)[:, None] * _taper(r.shape[-1]).to(r)
    power = torch.fft.rfft2(r * fade).abs().square().mean((0, 1))
    return torch.fft.irfft2(power, s=r.shape[-2:]) / fade.square().sum()


def _taper(length: int) -> Tensor:
    """1, with the rise of half a cosine over the first eighth, and its fall over the last (Tukey 1967)."""
    rise = torch.hann_window(2 * (length // 8) + 2)[1:length // 8 + 1]
    return torch.cat([rise, torch.ones(length - 2 * len(rise)), rise.flip(0)])


def _degraded_lags(lags: Tensor, kernel: Tensor) -> Tensor:
    """Autocorrelation (H, W) of e * k from that of e, on a torus."""
    spectrum = torch.fft.rfft2(lags) * torch.fft.rfft2(kernel, s=lags.shape).abs().square()
    return torch.fft.irfft2(spectrum, s=lags.shape)


def _spectrum(lags: Tensor, reach: int, step: int = 1) -> Tensor:
    """Power spectrum (2·reach, 2·reach) of a process of autocorrelation ``lags``, decimated by ``step``.

    Blackman & Tukey (1958): the transform of the lags up to ``reach``, under Hann's window.
    """
    index = torch.arange(-reach, reach, device=lags.device) * step
    near = lags[index[:, None] % lags.shape[0], index % lags.shape[1]]
    window = torch.hann_window(2 * reach, device=lags.device)
    return torch.fft.fft2(torch.fft.ifftshift(near * window[:, None] * window)).real
