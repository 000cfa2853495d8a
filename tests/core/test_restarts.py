"""Several searches for one kernel: each from other noise, and the likeliest of their kernels is taken."""

import dataclasses
import math

import pytest
import torch
from test_em import SMALL, given, problem, solve

from kernelfusion_plugin.core import restarts
from kernelfusion_plugin.core.em_steps import lr_mse
from kernelfusion_plugin.core.kernels import l_shape
from kernelfusion_plugin.core.noise import Noise
from kernelfusion_plugin.core.restarts import search_steps

THREE = dataclasses.replace(SMALL, searches=3, final_samples=0)


@pytest.fixture
def told(monkeypatch):
    """Kernels that were judged, in order; what is said of each is taken from ``told.says``."""
    class Told(list):
        says = ()

    judged = Told()
    monkeypatch.setattr(restarts, 'AREA_WEIGHT', 0.0)
    monkeypatch.setattr(restarts, 'mean_nll', lambda *args: judged.append(args[1]) or judged.says[len(judged) - 1])
    return judged


@pytest.mark.parametrize('says', [(1.0, 2.0, 3.0), (2.0, 1.0, 3.0), (3.0, 3.0, 1.0), (1.0, 1.0, 1.0)])
def test_the_likeliest_of_several_searches(says, told):
    y, _, prior, degradation = problem(4, l_shape())
    told.says = says
    states = solve(y, prior, degradation, THREE)
    search = search_steps(SMALL)
    ends = [state.kernel for state in states[search - 1:3 * search:search]]
    assert len(told) == 3 and all(torch.equal(a, b) for a, b in zip(told, ends))
    assert all(not torch.equal(a, b) for a, b in [(told[0], told[1]), (told[1], told[2])])  # from other noise
    best = says.index(min(says))
    assert {state.surprise for state in states[3 * search:]} == {says[best]}
    assert all(torch.equal(state.kernel, told[best]) for state in states[3 * search:])
    assert [state.step for state in states] == list(range(1, states[-1].total + 1))
    assert len(states) == 3 * search + THREE.final_steps


def test_the_first_search_is_that_of_a_run_with_one(told):
    y, _, prior, degradation = problem(4, l_shape())
    told.says = (1.0, 1.0, 2.0, 3.0)  # the first belongs to the run with one
    one = solve(y, prior, degradation, dataclasses.replace(THREE, searches=1))
    three = solve(y, prior, degradation, THREE)
    assert torch.equal(one[-1].kernel, three[-1].kernel) and torch.equal(one[-1].x0_hat, three[-1].x0_hat)


def test_several_searches_where_wide_kernels_get_a_second_attempt(told):
    """Attempts that are not made count as done in each search."""
    y, _, prior, degradation = problem(4, l_shape())
    config = dataclasses.replace(THREE, searches=2, uncertainty=None)
    told.says = (2.0, 1.0)
    states = solve(y, prior, degradation, config)
    assert states[-1].step == states[-1].total == 2 * search_steps(dataclasses.replace(config, searches=1)) + 3
    assert torch.equal(states[-1].kernel, told[1])


def test_the_true_kernel_is_likelier_than_a_wrong_one():
    k = l_shape()
    y, _, prior, degradation = problem(4, k)
    right, wrong = (restarts.surprise(given(y, prior, degradation), kernel) for kernel in (k, k.T.flip(0)))
    assert right < wrong


def test_a_kernel_is_judged_at_all_levels_of_a_pass_but_its_first(monkeypatch):
    """That one hides everything. The same noise goes to each kernel."""
    y, _, prior, degradation = problem(4, l_shape())
    said = []

    def nll(y, x, kernel, prior, degradation, t, generator, white):
        said.append((t, float(torch.rand((), generator=generator))))
        return float(t)

    monkeypatch.setattr(restarts, 'nll', nll)
    kernels = l_shape(), l_shape().T
    assert [restarts.mean_nll(given(y, prior, degradation), k, 5) for k in kernels] == [(118 + 48) / 2] * 2
    assert [t for t, _ in said] == [118, 48] * 2 and said[:2] == said[2:] and said[0][1] != said[1][1]


def test_the_picture_that_a_kernel_is_judged_by_does_not_follow_the_noise_in_y(monkeypatch):
    y, _, prior, degradation = problem(4, l_shape())
    pictures = []
    monkeypatch.setattr(restarts, 'nll', lambda y, x, *args: pictures.append(x) or 0.0)
    for noise in (Noise(), Noise(white=0.3)):
        restarts.mean_nll(given(y, prior, degradation, noise=noise), l_shape(), 0)
    clean, noisy = (lr_mse(degradation, x, l_shape(), y) for x in (pictures[0], pictures[-1]))
    assert noisy > 100 * clean


def test_a_wider_kernel_has_to_be_so_much_likelier(monkeypatch):
    """By 0.7 times what its area's logarithm is larger: of n pixels that count alike it is n, at x4 n / 16."""
    y, _, prior, degradation = problem(4, l_shape())
    monkeypatch.setattr(restarts, 'mean_nll', lambda *args: -7.0)
    dot, square = torch.zeros(2, 12, 12)
    dot[5, 5], square[4:8, 4:8] = 1, 1 / 16
    assert restarts.surprise(given(y, prior, degradation), square) == pytest.approx(-7)
    assert restarts.surprise(given(y, prior, degradation), dot) == pytest.approx(-7 - 0.7 * math.log(16))
