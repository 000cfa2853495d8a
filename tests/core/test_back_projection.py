"""Back-projection with the pseudo-inverse, beside the dense one in float64."""

import pytest
import torch

from kernelfusion_plugin.core.back_projection import back_project
from kernelfusion_plugin.core.degradation import Degradation, to_canvas, upscale_bicubic
from kernelfusion_plugin.core.kernels import motion


@pytest.mark.parametrize(('scale', 'size'), [(4, 24), (4, 31), (3, 9), (2, 12)])
def test_it_is_the_dense_pseudo_inverse(scale, size):
    y = torch.rand(1, 1, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    k = motion(size, 3).double()
    degradation = Degradation(scale, size)
    height, width = degradation.hr_size((6, 5))
    unit = torch.eye(height * width, dtype=torch.float64).reshape(-1, 1, height, width)
    A = degradation.forward(unit, k).reshape(height * width, -1).T
    x0 = to_canvas(y, degradation)
    x = x0 + (torch.linalg.pinv(A) @ (y - degradation.forward(x0, k)).flatten()).reshape(x0.shape)
    found = back_project(y, k, scale, ridge=1e-10, iterations=500)
    torch.testing.assert_close(found, degradation.crop(x), atol=2e-3, rtol=0)


def test_the_result_gives_y_again_and_is_nearer_the_truth():
    generator = torch.Generator().manual_seed(0)
    degradation, k = Degradation(4, 24), motion(24, 1)
    x_true = torch.rand(1, 3, *(-(-n // 6) for n in degradation.hr_size((24, 24))), generator=generator)
    x_true = x_true.repeat_interleave(6, -1).repeat_interleave(6, -2) * 2 - 1
    x_true = x_true[..., :degradation.hr_size((24, 24))[0], :degradation.hr_size((24, 24))[1]]
    y = degradation.forward(x_true, k)
    x, bicubic, frame = back_project(y, k, 4), upscale_bicubic(y, 4), degradation.crop(x_true)
    again = Degradation(4, 24, 'reflect').forward(x, k)
    assert (again - y)[..., 3:-3, 3:-3].abs().max() < 0.02
    assert (x - frame).square().mean() < 0.85 * (bicubic - frame).square().mean()
