"""A function of finite reach, tile by tile, is the function itself."""

import pytest
import torch
import torch.nn.functional as F

from kernelfusion_plugin.core.tiles import tiled


def blur(x):
    """Reach 2, zeros beyond the picture; one channel more."""
    weight = torch.linspace(-1, 1, 4 * 3 * 25, dtype=x.dtype).reshape(4, 3, 5, 5)
    return F.conv2d(x, weight, padding=2)


def halves(x):
    """Down and up by 2, so shifts by 2 only: reach 3 to be safe."""
    return F.conv_transpose2d(F.conv2d(x, torch.ones(3, 3, 2, 2, dtype=x.dtype), stride=2),
                              torch.linspace(0, 1, 36, dtype=x.dtype).reshape(3, 3, 2, 2), stride=2)


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize('size', [(7, 7), (8, 20), (20, 8), (17, 31), (16, 24), (9, 1)])
def test_tiles_give_the_whole(size):
    x = random(2, 3, *size)
    torch.testing.assert_close(tiled(blur, x, 8, 2), blur(x))


@pytest.mark.parametrize(('tile', 'halo'), [(7, 3), (8, 4), (5, 1)])
def test_tiles_begin_at_multiples(tile, halo):
    x = random(1, 3, 22, 30)
    torch.testing.assert_close(tiled(halves, x, tile, halo, 2), halves(x))


def test_what_fits_is_done_in_one_go_and_no_piece_is_larger_than_it_may_be():
    seen = []
    tiled(lambda x: seen.append(x.shape[-2:]) or x, random(1, 3, 8, 8), 8, 3)
    assert [tuple(shape) for shape in seen] == [(8, 8)]
    seen.clear()
    tiled(lambda x: seen.append(x.shape[-2:]) or x, random(1, 3, 9, 100), 8, 3)
    assert len(seen) == 2 * 13 and max(max(shape) for shape in seen) <= 14


def test_too_small_a_halo_would_show():
    x = random(1, 3, 20, 20)
    assert not torch.allclose(tiled(blur, x, 8, 1), blur(x))


def test_an_enlarging_function_in_tiles():
    x = torch.rand(2, 3, 37, 50)

    def function(piece):
        blurred = torch.nn.functional.avg_pool2d(piece, 5, stride=1, padding=2, count_include_pad=False)
        return torch.nn.functional.interpolate(blurred, scale_factor=3, mode='nearest')

    whole = function(x)
    torch.testing.assert_close(tiled(function, x, 16, 2, scale=3), whole)
    torch.testing.assert_close(tiled(function, x, 16, 2, multiple=8, scale=3), whole)
