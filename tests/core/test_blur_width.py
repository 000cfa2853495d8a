"""Whether a blur fits into the kernel's grid, told before the search."""

import math

import pytest
import torch
import torch.nn.functional as F

from kernelfusion_plugin.core.blur_width import LEAST_SIDE, blur_spread, seems_wider, spread
from kernelfusion_plugin.core.config import KernelFusionConfig
from kernelfusion_plugin.core.degradation import synthesise
from kernelfusion_plugin.core.kernels import gaussian, motion
from kernelfusion_plugin.core.texture_prior import load_texture_prior
from kernelfusion_plugin.demo import degrade, load_photo
from kernelfusion_plugin.report import to_tensor


@pytest.mark.parametrize('theta', [0.0, 0.6, 1.5, 2.5])
def test_the_spread_is_along_the_longest_direction(theta):
    k = gaussian(48, sigmas=(4.0, 1.5), theta=theta, centre=(22.0, 24.5))
    assert spread(k) == pytest.approx(4.0, abs=0.01)
    assert spread(3 * k) == pytest.approx(spread(k))
    line = torch.zeros(24, 24)
    line.fill_diagonal_(1.0)
    assert spread(line) == pytest.approx(math.sqrt((24 ** 2 - 1) / 12 * 2))


def spoilt(k):
    """The middle of a photograph, blurred by k and made small by 4."""
    pytest.importorskip('skimage')
    return to_tensor(degrade(load_photo('coffee'), k)[1])


def test_a_blur_that_fits_is_told_from_one_that_is_too_wide():
    prior, config = load_texture_prior(), KernelFusionConfig()
    assert not seems_wider(spoilt(motion(24, 1)), prior, config)
    wide = spoilt(motion(72, 3))
    assert seems_wider(wide, prior, config)
    assert not seems_wider(wide, prior, KernelFusionConfig(kernel_size=48))  # a grid that holds it


def test_made_small_a_wide_blur_fits():
    pytest.importorskip('skimage')
    prior, config = load_texture_prior(), KernelFusionConfig()
    y = to_tensor(degrade(load_photo('astronaut'), motion(36, 3), scale=2, max_lr=240)[1])
    assert seems_wider(y, prior, config)
    assert not seems_wider(F.avg_pool2d(y[..., :236, :236], 2), prior, config)


def test_a_black_frame_does_not_count():
    """A picture that was blurred with black beyond its frame shows how far the blur reaches, not how wide it is."""
    pytest.importorskip('skimage')
    x = torch.from_numpy(load_photo('rocket')).permute(2, 0, 1)[None, ..., :424, :640]
    pale = (x.double() / 2 + 127).round().clamp(0, 255)
    y = (synthesise(pale.byte(), motion(24, 3), 4, 'zeros').double() / 127.5 - 1)
    assert not seems_wider(y, load_texture_prior(), KernelFusionConfig())


def test_the_settings_of_the_search_have_no_part_in_it():
    """It is a hint, with limits that were found under the default ones: it must not end a run that could be done."""
    y = spoilt(motion(24, 1))[..., :80, :80]
    assert blur_spread(y, load_texture_prior(), KernelFusionConfig.from_dict({
        'prior': {'timesteps': 2000, 't_max': 1500},
        'em': {'kernel_prior': 'internal', 'final_prior': 'internal', 't_start': 1200, 'steps': 600, 'sketch_passes': 1}
    })) == blur_spread(y, load_texture_prior(), KernelFusionConfig())


def test_it_is_repeatable_and_leaves_random_numbers_alone():
    prior, config, y = load_texture_prior(), KernelFusionConfig(), spoilt(motion(24, 1))
    before = torch.get_rng_state()
    first = blur_spread(y, prior, config)
    assert blur_spread(y, prior, config) == first
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_is_said_of_small_and_of_empty_pictures():
    prior, config = load_texture_prior(), KernelFusionConfig()
    generator = torch.Generator().manual_seed(0)
    for size in ((LEAST_SIDE - 1, 200), (70, 70)):
        small = torch.rand(1, 3, *size, generator=generator) * 2 - 1
        assert blur_spread(small, prior, config) is None and not seems_wider(small, prior, config)
    for noise in (0.0, 0.01, 0.05):
        empty = (noise * torch.randn(1, 3, 90, 90, generator=generator)).clamp(-1, 1)
        assert blur_spread(empty, prior, config) is None


def test_other_scales():
    pytest.importorskip('skimage')
    x = torch.from_numpy(load_photo('coffee')).permute(2, 0, 1)[None, ..., :240, :300]
    y = synthesise(x, motion(12, 1), 2, 'reflect').double() / 127.5 - 1
    assert not seems_wider(y, load_texture_prior(), KernelFusionConfig(scale=2))
