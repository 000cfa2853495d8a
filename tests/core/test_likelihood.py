"""How likely y is: held to simulated pictures and to the plain formula, on which the true kernel must win."""

import math

import pytest
import torch
from stationary import coloured, filtered

from kernelfusion_plugin.core import likelihood
from kernelfusion_plugin.core.degradation import Degradation
from kernelfusion_plugin.core.diffusion import Schedule
from kernelfusion_plugin.core.kernels import gaussian, l_shape
from kernelfusion_plugin.core.likelihood import FLOOR, nll

SIDE, SCALE, T = 256, 2, 72


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def power_law(side):
    f = torch.fft.fftfreq(side, dtype=torch.float64)
    return 0.3 / (0.01 + f[:, None] ** 2 + f ** 2) ** 1.3 / 100


class Wiener:
    """E[x | x_t] of a stationary Gaussian of the given power, on a torus."""

    def __init__(self, power):
        self.schedule, self.power = Schedule(), power

    def predict_x0(self, x_t, t):
        a = float(self.schedule.alphas_cumprod[t])
        return filtered(x_t, math.sqrt(a) * self.power / (a * self.power + 1 - a))


class Torus:
    """The degradation without borders: exactly that of the formulas, up to a shift."""

    def __init__(self, scale):
        self.scale = scale

    def forward(self, x, k):
        return filtered(x, on_torus(k, x.shape[-1]))[..., ::self.scale, ::self.scale]


def on_torus(kernel, side):
    """The kernel's transfer function on a side x side torus, in float64, as ``Degradation`` correlates with it."""
    return torch.fft.fft2(kernel.double(), s=(side, side)).conj()


@pytest.mark.parametrize('kernel', [l_shape(8, 6, 2), gaussian(12, sigmas=2.0)])
def test_the_expected_spectrum_is_that_of_what_the_operator_makes(kernel):
    """Of errors drawn with a known power, degraded by the operator itself: as expected, throughout.

    But where next to nothing is expected: there is what borders add.
    """
    power, degradation = power_law(SIDE), Degradation(SCALE, len(kernel), 'reflect')
    lags = torch.fft.ifft2(power).real
    expected = likelihood._spectrum(likelihood._degraded_lags(lags, kernel.double()), 16, SCALE)
    seen = torch.zeros_like(expected)
    for seed in range(12):
        r = degradation.forward(coloured(power, seed), kernel.double())
        seen += likelihood._spectrum(likelihood._own_lags(r), 16) / 12
    little = 1e-3 * expected.max()
    ratio = (seen + little) / (expected + little)
    assert 0.8 < ratio.min() and ratio.max() < 1.25 and ratio.mean() == pytest.approx(1, abs=0.03)


def test_the_plain_formula(monkeypatch):
    """mean p / q + log q with q folded from the exact spectra, p the periodogram, no windows, float64."""
    kernel, power, noise = gaussian(12, sigmas=1.5).double(), power_law(SIDE), 0.03
    floor = noise ** 2 + FLOOR
    monkeypatch.setattr(likelihood, 'FLOOR', floor)  # as high as the noise that is in y: windows leak less
    prior, degradation = Wiener(power), Torus(SCALE)
    x = coloured(power, 1)
    y = degradation.forward(x, kernel)
    y = y + noise * torch.randn(y.shape, dtype=y.dtype, generator=generator(2))
    a = float(prior.schedule.alphas_cumprod[T])
    eps = torch.randn(x.shape, dtype=x.dtype, generator=generator(3))
    left_open = on_torus(kernel, SIDE).abs().square() * power * (1 - a) / (a * power + 1 - a)
    half = SIDE // SCALE
    q = left_open.reshape(SCALE, half, SCALE, half).mean((0, 2)) + floor
    r = degradation.forward(prior.predict_x0(prior.schedule.q_sample(x, T, eps), T), kernel) - y
    p = torch.fft.fft2(r).abs().square().mean((0, 1)) / half ** 2
    got = nll(y, x, kernel, prior, degradation, T, generator(3))
    assert got == pytest.approx(float((p / q + q.log()).mean()), abs=0.02)


@pytest.mark.parametrize(('size', 'reach'), [((60, 80), 24), ((40, 30), 15)])
def test_lags_go_as_far_as_a_small_picture_has_pairs(size, reach, monkeypatch):
    degradation, asked, spectrum = Degradation(2, 12), [], likelihood._spectrum
    monkeypatch.setattr(likelihood, '_spectrum', lambda *args: asked.append(args[1]) or spectrum(*args))
    y, x = torch.zeros(1, 3, *size), torch.zeros(1, 3, *degradation.hr_size(size))
    nll(y, x, gaussian(12, sigmas=1.5), Wiener(torch.ones(x.shape[-2:])), degradation, T, generator())
    assert asked == [reach, reach]


@pytest.mark.parametrize('width', [1.2, 2.0])
def test_the_true_kernel_is_the_likeliest(width):
    """Each with the best linear estimate of the picture under it; neither a wider nor a narrower one does better."""
    power, degradation = power_law(SIDE), Torus(SCALE)
    prior = Wiener(power)
    y = degradation.forward(coloured(power, 1), gaussian(16, sigmas=width).double())
    scores = {}
    for factor in (0.6, 0.8, 1.0, 1.25, 1.6):
        kernel = gaussian(16, sigmas=factor * width).double()
        scores[factor] = nll(y, posterior_mean(y, kernel, power), kernel, prior, degradation, T, generator(3))
    assert min(scores, key=scores.get) == 1.0, scores
    assert min(scores[0.6], scores[1.6]) > scores[1.0] + 0.2


def posterior_mean(y, kernel, power, noise=3e-3):
    """E[x | y] of the stationary Gaussian under y = (x * k)↓s + n: aliases share what was seen of them."""
    response, half = on_torus(kernel, SIDE), SIDE // SCALE
    blurred = (response.abs().square() * power).reshape(SCALE, half, SCALE, half).mean((0, 2))
    seen = torch.fft.fft2(y) / (blurred + noise ** 2)
    return torch.fft.ifft2(response.conj() * power * seen.tile(SCALE, SCALE)).real
