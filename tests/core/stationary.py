"""Pictures of known power: stationary Gaussians on a torus, in float64."""

import torch


def filtered(x, response):
    """x with each frequency times ``response`` (n, n)."""
    return torch.fft.ifft2(torch.fft.fft2(x) * response).real


def coloured(spectrum, seed, count=3):
    """Pictures (1, count, n, n) of a stationary Gaussian with power ``spectrum`` (n, n)."""
    white = torch.randn(1, count, *spectrum.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return filtered(white, spectrum.sqrt())
