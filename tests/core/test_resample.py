"""Kernels carried from one scale's grid to another's: what a tap covers relative to the LR pixel stays."""

import pytest
import torch

from kernelfusion_plugin.core.degradation import Degradation, resample_kernel
from kernelfusion_plugin.core.kernel_align import centre_of_mass
from kernelfusion_plugin.core.kernels import gaussian, l_shape, motion

GRIDS = [(2, 12), (2, 16), (2, 15), (3, 18), (3, 20), (4, 24), (4, 31), (4, 32)]


def lr_position(degradation, pixels):
    """Distance from the LR pixel's centre in LR pixels: tap j meets HR pixel s·i + j - margin."""
    s = degradation.scale
    return (pixels - degradation.margin[0] - (s - 1) / 2) / s


def offset(degradation, k):
    return lr_position(degradation, centre_of_mass(k.double()))


@pytest.mark.parametrize('border', ['valid', 'reflect'])
@pytest.mark.parametrize(('s', 'size'), GRIDS)
def test_the_same_grid_changes_nothing(s, size, border):
    k = torch.rand(size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    degradation = Degradation(s, size, border)
    torch.testing.assert_close(resample_kernel(k, degradation, degradation), k / k.sum(), rtol=1e-12, atol=0)


@pytest.mark.parametrize('source', GRIDS)
@pytest.mark.parametrize('target', GRIDS)
def test_sum_sign_shape_and_dtype(source, target):
    k = motion(source[1], 1)
    out = resample_kernel(k, Degradation(*source), Degradation(*target))
    assert out.shape == (target[1], target[1]) and out.dtype == torch.float32
    assert float(out.sum()) == pytest.approx(1, abs=1e-6) and out.min() >= 0


@pytest.mark.parametrize('target', [(4, 24), (4, 31), (4, 32), (4, 33), (6, 36)])
@pytest.mark.parametrize('source', [(2, 16), (2, 15), (2, 22)])
def test_a_point_stays_where_it_is_relative_to_the_lr_pixel(source, target):
    """At integer ratios linear interpolation keeps the first moment, of every tap that the target has room for."""
    source, target = Degradation(*source), Degradation(*target)
    middle = source.kernel_size // 2
    for row, col in [(middle, middle), (middle - 3, middle + 2), (middle + 3, middle - 4)]:
        k = torch.zeros(source.kernel_size, source.kernel_size, dtype=torch.float64)
        k[row, col] = 1
        expected = lr_position(source, torch.tensor([row, col], dtype=torch.float64))
        torch.testing.assert_close(offset(target, resample_kernel(k, source, target)), expected, rtol=0, atol=1e-12)


def test_by_hand():
    """Scale 1 to 2: a tap at LR distance 0 becomes taps at ±1/4 of weight 3/4 and ±3/4 of weight 1/4."""
    k = torch.zeros(3, 3)
    k[1, 1] = 1
    line = torch.tensor([0, 1, 3, 3, 1, 0]) / 8  # K - s = 4: margin 2, LR centre at 2.5
    torch.testing.assert_close(resample_kernel(k, Degradation(1, 3), Degradation(2, 6)), line[:, None] * line)
    line = torch.tensor([1, 3, 3, 1, 0]) / 8  # K - s = 3: margin 1, LR centre at 1.5, not in the middle
    torch.testing.assert_close(resample_kernel(k, Degradation(1, 3), Degradation(2, 5)), line[:, None] * line)


@pytest.mark.parametrize(('source', 'target'), [((2, 24), (4, 31)), ((2, 24), (4, 24)), ((2, 24), (3, 18)),
                                                ((2, 23), (3, 26)), ((3, 30), (4, 27))])
def test_the_centre_of_mass_stays(source, target):
    source, target = Degradation(*source), Degradation(*target)
    middle = (source.kernel_size - 1) / 2
    k = gaussian(source.kernel_size, sigmas=(1.2, 1.9), theta=0.6, centre=(middle + 0.7, middle - 1.1)).double()
    torch.testing.assert_close(offset(target, resample_kernel(k, source, target)), offset(source, k), rtol=0, atol=0.01)


@pytest.mark.parametrize('target', [(4, 24), (4, 31)])
def test_a_kernel_drawn_on_both_grids_agrees(target):
    """A Gaussian of 0.9 LR pixels: carried over from scale 2 it is the one drawn at scale 4."""
    coarse, fine = Degradation(2, 16), Degradation(*target)
    # bilinear interpolation from unit spacing widens a little, by a variance of 1/8 to 1/4 of a coarse pixel²
    drawn = [gaussian(d.kernel_size, sigmas=0.9 * d.scale, centre=(d.margin[0] + (d.scale - 1) / 2,) * 2)
             for d in (coarse, fine)]
    carried = resample_kernel(drawn[0], coarse, fine)
    assert (carried - drawn[1]).abs().max() < 0.06 * drawn[1].max()


@pytest.mark.parametrize(('source', 'target'), [((3, 24), (2, 20)), ((4, 32), (2, 20)), ((6, 48), (2, 20)),
                                                ((8, 64), (2, 20)), ((8, 64), (3, 30)), ((4, 32), (1, 11))])
def test_on_a_coarser_grid_no_tap_is_lost(source, target):
    """Each tap of the source counts alike: the mean over a coarse tap's area is what that sees of it."""
    source, target = Degradation(*source), Degradation(*target)
    k = torch.zeros(source.kernel_size, source.kernel_size, dtype=torch.float64)
    middle, parts = source.kernel_size // 2, []
    for row in range(middle - source.scale, middle + source.scale):
        k.zero_()[row, middle] = 1
        parts.append(resample_kernel(k, source, target))
        torch.testing.assert_close(offset(target, parts[-1])[0], lr_position(source, torch.tensor(float(row)).double()),
                                   rtol=0, atol=0.5 / target.scale)  # a tap within another is its whole area
    k.zero_()[middle - source.scale:middle + source.scale, middle] = 1
    torch.testing.assert_close(resample_kernel(k, source, target), sum(parts) / len(parts), rtol=1e-9, atol=1e-12)


def test_a_kernel_beyond_the_grid_is_refused():
    k = torch.zeros(30, 30)
    k[0, 0] = 1
    with pytest.raises(ValueError, match='positive sum'):
        resample_kernel(k, Degradation(3, 30), Degradation(3, 9))


def test_forward_models_agree_on_a_smooth_scene():
    """The same scene sampled twice as finely, seen through the carried-over kernel, gives the same LR image."""
    def scene(degradation, n):
        size = degradation.hr_size((n, n))[0]
        at = (torch.arange(size, dtype=torch.float64) - degradation.margin[0] + 0.5) / degradation.scale  # LR pixels
        return (torch.sin(at[:, None] / 3) * torch.cos(at / 4 + 0.3))[None, None]

    coarse, k = Degradation(2, 16), l_shape(16, 10, 3).double()
    for fine in (Degradation(4, 36), Degradation(4, 31), Degradation(6, 51)):
        y, again = (d.forward(scene(d, 12), kernel)
                    for d, kernel in ((coarse, k), (fine, resample_kernel(k, coarse, fine))))
        assert (y - again).abs().max() < 0.02
        assert (y - again).abs().max() < 0.1 * y.std()
