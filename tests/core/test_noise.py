"""The estimate of a picture's noise, on pictures whose noise is known."""

import math

import pytest
import torch

from kernelfusion_plugin.core.noise import DETAIL, white_noise


def smooth(height=128, width=160):
    """Waves and slopes, some colour, nothing beyond [-0.7, 0.7]."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing='ij')
    return torch.stack([0.6 * torch.sin(3 * x + 2 * y), 0.5 * x - 0.4 * y, 0.3 * torch.cos(4 * y)])[None]


def noise(y, sigma, seed=0):
    return sigma * torch.randn(y.shape, generator=torch.Generator().manual_seed(seed))


def measured(y):
    """The estimate before the detail of clean pictures, which the smooth ones here do not have, is taken off."""
    return math.hypot(white_noise(y), DETAIL)


def eight_bit(y):
    return ((y.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


@pytest.mark.parametrize('sigma', [0.02, 0.06], ids=['1 %', '3 %'])
@pytest.mark.parametrize('size', [(128, 160), (48, 49), (33, 200)])
def test_white_noise_is_measured(sigma, size):
    y = smooth(*size)
    y = y + noise(y, sigma)
    assert measured(y) == pytest.approx(sigma, rel=0.15)
    assert measured(eight_bit(y)) == pytest.approx(sigma, rel=0.15)
    assert white_noise(y) == pytest.approx(sigma, rel=0.3 if sigma < 0.03 else 0.15)


def test_slopes_and_edges_of_a_part_are_no_noise():
    y = smooth()
    y[..., 40:90, 60:130] = noise(y[..., 40:90, 60:130], 0.5)  # a fifth of the picture is wild
    assert white_noise(y) == 0
    assert measured(y + noise(y, 0.02, seed=1)) == pytest.approx(0.02, rel=0.15)


@pytest.mark.parametrize(('name', 'most'), [('rocket', 0), ('chelsea', 0), ('coffee', 0), ('astronaut', 0.004)])
def test_a_clean_photograph_has_next_to_none(name, most):
    skimage = pytest.importorskip('skimage.data')
    y = torch.from_numpy(getattr(skimage, name)().copy()).permute(2, 0, 1)[None] / 127.5 - 1
    assert 0 <= white_noise(y) <= most
    assert white_noise(eight_bit(y + noise(y, 0.06))) == pytest.approx(0.06, rel=0.15)


def test_rounding_to_8_bits_is_no_noise():
    assert white_noise(eight_bit(smooth())) == 0
    assert white_noise(eight_bit(smooth() + noise(smooth(), DETAIL / 2))) == 0


@pytest.mark.parametrize('sigma', [0.02, 0.06])
@pytest.mark.parametrize('share', [0.3, 0.6])
def test_clipped_noise_is_left_out(sigma, share):
    """Where white is overexposed noise is cut in half; the rest of the picture tells."""
    y = smooth()
    y[..., :int(share * 160)] = 1
    assert measured((y + noise(y, sigma)).clamp(-1, 1)) == pytest.approx(sigma, rel=0.15)


@pytest.mark.parametrize('level', [1.0, -1.0])
def test_clipping_all_over_makes_no_noise(level):
    y = torch.full((1, 3, 64, 64), level)
    assert white_noise(y) == 0
    assert white_noise((y + noise(y, 0.06)).clamp(-1, 1)) <= 0.06


@pytest.mark.parametrize('size', [(15, 15), (15, 300), (17, 16), (2, 2), (3, 5)])
def test_small_pictures(size):
    y = noise(torch.zeros(1, 3, *size), 0.05)
    assert 0 <= white_noise(y) < 0.12
    assert white_noise(torch.zeros(1, 3, *size)) == 0


def test_it_grows_with_the_contrast():
    y = smooth() + noise(smooth(), 0.06)
    assert measured(y / 2) == pytest.approx(measured(y) / 2, rel=0.02)
