"""The eight orientations, and a prior that is asked in all of them."""

import dataclasses

import pytest
import torch
from test_em import SMALL

from kernelfusion_plugin.core.degradation import Degradation, to_canvas
from kernelfusion_plugin.core.diffusion import Schedule
from kernelfusion_plugin.core.em import solve_em
from kernelfusion_plugin.core.kernels import l_shape
from kernelfusion_plugin.core.orientations import COUNT, oriented, predict_turned, upright
from kernelfusion_plugin.core.patch_prior import random_crops

FULL = Degradation(2, 12)


def test_there_are_eight_and_each_is_undone():
    x = torch.arange(12.0).view(1, 1, 3, 4)
    seen = [oriented(x, number) for number in range(COUNT)]
    assert len({tuple(one.flatten().tolist()) for one in seen}) == COUNT
    for number, one in enumerate(seen):
        assert one.shape[-2:] == ((3, 4) if number % 2 == 0 else (4, 3))
        assert torch.equal(upright(one, number), x) and torch.equal(oriented(x, number + COUNT), one)


class Lit:
    """Adds light to what lies to the left, wherever that is: an error of one orientation."""

    schedule = Schedule()

    def __init__(self):
        self.sizes = []

    def predict_x0(self, x_t, t):
        self.sizes.append(tuple(x_t.shape[-2:]))
        return x_t + torch.linspace(1, 0, x_t.shape[-1])


def test_all_orientations_together_have_no_direction():
    prior, x, total = Lit(), torch.zeros(1, 3, 6, 9), 0
    for number in range(2 * COUNT):
        estimate = predict_turned(prior, x, 5, number)
        assert estimate.shape == x.shape and torch.equal(estimate, upright(oriented(x, number) + torch.linspace(
            1, 0, 9 if number % 2 == 0 else 6), number))
        total = total + estimate
    assert prior.sizes == [(6, 9), (9, 6)] * COUNT
    torch.testing.assert_close(total, torch.full_like(x, COUNT))


@pytest.mark.parametrize('samples', [0, 2])
def test_final_passes_turn_the_picture_and_the_search_does_not(samples):
    y = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    height, width = to_canvas(y, FULL).shape[-2:]
    for turns in (True, False):
        config = dataclasses.replace(SMALL, final_turns=turns, final_samples=samples, final_steps=3)
        final, search = Lit(), Lit()
        *_, last = solve_em(y, final, FULL, config, torch.Generator().manual_seed(0), kernel_prior=search)
        walk = [(height, width), (width, height) if turns else (height, width), (height, width)]
        assert final.sizes == walk * max(1, samples) and last.x0_hat.shape[-2:] == (height, width)
        assert all(a < b for a, b in search.sizes)


def test_one_step_is_the_same_either_way():
    """The first orientation is the picture's own."""
    y = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    results = []
    for turns in (True, False):
        config = dataclasses.replace(SMALL, final_turns=turns, final_samples=0, final_steps=1)
        *_, last = solve_em(y, Lit(), FULL, config, torch.Generator().manual_seed(0), l_shape(12, 8, 2))
        results.append(last.x0_hat)
    assert torch.equal(*results)


@pytest.mark.parametrize('size', [(8, 8), (4, 9)])
def test_crops_come_in_all_the_orientations_that_fit(size):
    y = torch.arange(float(size[0] * size[1])).view(1, 1, *size).expand(1, 3, *size)
    crops = random_crops(y, 8, 200, torch.Generator().manual_seed(0), turns=True)
    height, width = min(8, size[0]), min(8, size[1])
    seen = set()
    for crop in crops:
        found = [number for number in range(COUNT) if (turned := upright(crop, number)).shape[-2:] == (height, width)
                 and torch.equal(turned.diff(dim=-1), torch.ones(3, height, width - 1))
                 and torch.equal(turned.diff(dim=-2), torch.full((3, height - 1, width), float(size[1])))]
        seen.update(found)
        assert len(found) == 1
    assert seen == (set(range(8)) if height == width else {0, 2, 4, 6})
    plain = random_crops(y, 8, 3, torch.Generator().manual_seed(0))
    assert torch.equal(plain, random_crops(y, 8, 3, torch.Generator().manual_seed(0), turns=False))
    assert bool((plain.diff(dim=-1) == 1).all())


@pytest.mark.parametrize(('shape', 'size', 'turns'), [((30, 40), 12, False), ((30, 40), 12, True), ((10, 40), 12, True),
                                                      ((10, 11), 12, True)])
def test_crops_are_those_of_plain_slices(shape, size, turns):
    """To the bit, and in the memory layout of a batch put together from slices."""
    y = torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(1))
    found = random_crops(y, size, 5, torch.Generator().manual_seed(0), turns)
    generator = torch.Generator().manual_seed(0)
    height, width = min(size, shape[0]), min(size, shape[1])
    tops = torch.randint(shape[0] - height + 1, (5,), generator=generator).tolist()
    lefts = torch.randint(shape[1] - width + 1, (5,), generator=generator).tolist()
    crops = [y[..., i:i + height, j:j + width] for i, j in zip(tops, lefts)]
    if turns:
        step = 1 if height == width else 2
        numbers = torch.randint(8 // step, (5,), generator=generator).tolist()
        crops = [oriented(crop, step * number) for crop, number in zip(crops, numbers)]
    expected = torch.cat(crops)
    assert torch.equal(found, expected) and found.stride() == expected.stride()
