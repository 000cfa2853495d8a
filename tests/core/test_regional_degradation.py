"""The forward model with a kernel per region, against its own transpose, the global one and a sum over all pixels."""

import pytest
import torch

from kernelfusion_plugin.core.degradation import BORDERS, Degradation
from kernelfusion_plugin.core.kernels import gaussian, motion
from kernelfusion_plugin.core.quadratic import data_step
from kernelfusion_plugin.core.regional_degradation import RegionalDegradation, fades

SIZE = (13, 17)
CASES = [(24, 4, (1, 2), 0.25), (11, 2, (2, 3), 0.5), (7, 3, (3, 2), 1.0), (9, 4, (2, 2), 0.0), (8, 4, (13, 17), 1.0)]


def problem(border, size, scale, grid, overlap):
    """(operator, global operator, kernels (R, C, K, K), x, y), all at random, in float64."""
    noise = torch.Generator().manual_seed(0)
    degradation = Degradation(scale, size, border)
    k = torch.rand(*grid, size, size, generator=noise, dtype=torch.float64)
    x = torch.randn(2, 3, *degradation.hr_size(SIZE), generator=noise, dtype=torch.float64)
    y = torch.randn(2, 3, *SIZE, generator=noise, dtype=torch.float64)
    return RegionalDegradation(degradation, SIZE, grid, overlap), degradation, k, x, y


@pytest.mark.parametrize('border', BORDERS)
@pytest.mark.parametrize('case', CASES, ids=str)
def test_forward_is_the_weighted_sum_and_adjoint_its_transpose(border, case):
    regional, degradation, k, x, y = problem(border, *case)
    expected = sum(down[:, None] * across * degradation.forward(x, k[i, j])
                   for i, down in enumerate(regional.fades[0]) for j, across in enumerate(regional.fades[1]))
    torch.testing.assert_close(regional.forward(x, k), expected, rtol=0, atol=1e-11)
    left, right = (regional.forward(x, k) * y).sum(), (x * regional.adjoint(y, k)).sum()
    assert float((left - right).abs()) < 1e-11 * float(x.norm() * y.norm() * k.sum((-2, -1)).max())
    torch.testing.assert_close(regional.normal_operator(k)(y), regional.forward(regional.adjoint(y, k), k))


@pytest.mark.parametrize('border', BORDERS)
@pytest.mark.parametrize('case', CASES, ids=str)
def test_equal_kernels_are_one(border, case):
    regional, degradation, k, x, y = problem(border, *case)
    same = k[:1, :1].expand_as(k)
    for a, b in ((regional.forward(x, same), degradation.forward(x, k[0, 0])),
                 (regional.adjoint(y, same), degradation.adjoint(y, k[0, 0])),
                 (regional.normal_operator(same)(y), degradation.normal_operator(k[0, 0])(y))):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-10)


def test_the_data_step_takes_it():
    """Against the normal equations of the whole matrix A, solved directly."""
    degradation, size = Degradation(2, 5), (6, 8)
    regional = RegionalDegradation(degradation, size, (1, 2), 0.5)
    k = torch.stack([motion(5, 1), gaussian(5, sigmas=1.0)])[None].double()
    height, width = degradation.hr_size(size)
    eye = torch.eye(height * width, dtype=torch.float64)
    A = regional.forward(eye.reshape(-1, 1, height, width), k).flatten(1).T
    noise = torch.Generator().manual_seed(0)
    y, x0 = (torch.randn(1, 1, *n, generator=noise, dtype=torch.float64) for n in (size, (height, width)))
    exact = torch.linalg.solve(A.T @ A + 0.1 * eye, A.T @ y.flatten() + 0.1 * x0.flatten())
    found = data_step(regional, k, y, x0, 0.1, iterations=60, tolerance=1e-10)
    torch.testing.assert_close(found.flatten(), exact, rtol=0, atol=1e-8)


@pytest.mark.parametrize(('length', 'count', 'overlap'), [(128, 2, 0.25), (17, 3, 1.0), (17, 3, 0.0), (5, 5, 0.5),
                                                          (7, 1, 1.0), (100, 7, 0.4)])
def test_windows_sum_to_one_and_fade_over_the_overlap_only(length, count, overlap):
    windows = fades(length, count, overlap)
    assert windows.shape == (count, length) and windows.min() >= 0 and windows.max() <= 1
    torch.testing.assert_close(windows.sum(0), torch.ones(length, dtype=torch.float64))
    torch.testing.assert_close(windows, windows.flip(0, 1))
    part, at = length / count, torch.arange(length) + 0.5
    for number, window in enumerate(windows):
        low, high = (border * part for border in (number, number + 1))
        reach = overlap * part / 2
        inside = (at >= (low + reach if number else 0)) & (at <= (high - reach if number + 1 < count else length))
        assert (window[inside] == 1).all()
        assert (window[(at < low - reach) | (at > high + reach)] == 0).all()


@pytest.mark.parametrize(('grid', 'overlap'), [((1, 18), 0.5), ((0, 1), 0.5), ((1, 2), -0.1), ((1, 2), 1.1)])
def test_bad_layouts_are_refused(grid, overlap):
    with pytest.raises(ValueError, match='region'):
        RegionalDegradation(Degradation(2, 8), SIZE, grid, overlap)
