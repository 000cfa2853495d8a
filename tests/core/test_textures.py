"""The generated pictures: the same for a seed, and of the spectrum that they are said to have."""

import numpy as np
import pytest

from kernelfusion_plugin import textures
from kernelfusion_plugin.textures import generate_pictures, power_law_noise, texture


def picture(seed, size=64):
    return texture(np.random.default_rng(seed), size)


def test_a_picture_is_rgb_and_its_seeds():
    for size in (64, 37):
        first = picture(0, size)
        assert first.shape == (size, size, 3) and first.dtype == np.uint8
        assert np.array_equal(first, picture(0, size))
    assert not np.array_equal(picture(0), picture(1))


def test_the_global_random_state_is_left_alone():
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    picture(3)
    assert np.array_equal(before, np.random.get_state()[1])


def test_pictures_differ_and_have_edges_contrast_and_some_colour():
    pictures = np.stack([picture(seed) for seed in range(12)]).astype(float)
    for one in pictures:
        assert np.ptp(one) > 30 and one.std() > 5  # none is flat
        steps = np.abs(np.diff(one.mean(-1), axis=1))
        assert np.quantile(steps, 0.99) > 3 * np.median(steps) + 1  # few large steps, many small ones
    assert 40 < pictures.mean() < 215
    chroma = pictures.std(axis=-1).mean(axis=(1, 2))
    assert chroma.max() > 2 * chroma.min()


def test_the_spectrum_is_a_photographs():
    """Power falls like 1 / f² or a little faster."""
    assert -3.2 < slope(sum(power_spectrum(seed) for seed in range(12))) < -1.6


def power_spectrum(seed):
    grey = picture(seed, 128).astype(float).mean(-1)
    return np.abs(np.fft.rfft2(np.hanning(128)[:, None] * np.hanning(128) * (grey - grey.mean()))) ** 2


def slope(power):
    """Of log power over log frequency, from 1/32 to 1/4 cycles per pixel."""
    size = power.shape[0]
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    edges = np.geomspace(1 / 32, 1 / 4, 9)
    means = [power[(frequency >= a) & (frequency < b)].mean() for a, b in zip(edges, edges[1:])]
    return np.polyfit(np.log(np.sqrt(edges[1:] * edges[:-1])), np.log(means), 1)[0]


@pytest.mark.parametrize('exponent', [0, 0.6, 1, 2])
@pytest.mark.parametrize('size', [256, 255])
def test_power_law_noise_has_its_slope(exponent, size):
    noise = power_law_noise(np.random.default_rng(0), size, exponent)
    assert noise.shape == (size, size) and noise.dtype == np.float32
    assert noise.mean() == pytest.approx(0, abs=1e-3) and noise.std() == pytest.approx(1, abs=1e-3)
    assert slope(np.abs(np.fft.rfft2(noise)) ** 2) == pytest.approx(-2 * exponent, abs=0.1)


def test_generated_pictures_have_seeds_of_their_own():
    four = list(generate_pictures(7, 4, 32))
    assert len(four) == 4 and all(one.shape == (32, 32, 3) for one in four)
    assert not any(np.array_equal(four[i], four[j]) for i in range(4) for j in range(i))
    assert all(np.array_equal(a, b) for a, b in zip(four, generate_pictures(7, 2, 32)))  # not by what comes after
    assert not np.array_equal(four[0], next(generate_pictures(8, 1, 32)))


def test_edges_lie_between_pixels():
    """Shapes cover the pixels at their edges in part; drawn on the grid, they would make blocks likely."""
    parts = 0
    for seed in range(60):
        mask = textures._shape(np.random.default_rng(seed), 12.0)
        assert mask.dtype == np.uint8 and mask.shape[0] == mask.shape[1] and mask.max() > 0
        parts += ((mask > 0) & (mask < 255)).sum() / (mask > 0).sum()
    assert 0.1 < parts / 60 < 0.8


@pytest.mark.parametrize('period', [5.0, 7.3, 31.0])
def test_stripes_cover_their_share_of_a_picture(period):
    u = np.arange(40_000, dtype=np.float32)
    covered = textures._covered(0.3 * period / 2 - textures._folded(u, period, 0.17))
    assert covered.min() == 0 and covered.max() > 0.9
    assert covered.mean() == pytest.approx(0.3, abs=0.002)


def test_some_pictures_are_softer_than_others():
    """By the share of the gradients' power that lies in the upper half of the frequencies."""
    def sharpness(seed):
        frequency = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.rfftfreq(128))
        power = power_spectrum(seed) * frequency ** 2
        return 10 * np.log10(power[(frequency > 0.35) & (frequency < 0.5)].mean()
                             / power[(frequency > 0.04) & (frequency < 0.08)].mean())
    found = [sharpness(seed) for seed in range(30)]
    assert max(found) - min(found) > 8  # dB; six photographs: -10.7 to 0.5
    assert -14 < np.median(found) < -4
