"""Diffusion EM with priors that know the answer: an oracle, and a Gaussian whose posterior is known in closed form."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from kernelfusion_plugin.core import em, em_steps, kernel_search, restarts, stages
from kernelfusion_plugin.core.colour import to_ycbcr
from kernelfusion_plugin.core.degradation import (
    BORDERS,
    Degradation,
    resample_kernel,
    to_canvas,
    upscale_bicubic,
)
from kernelfusion_plugin.core.diffusion import Schedule, timesteps
from kernelfusion_plugin.core.em import solve_em
from kernelfusion_plugin.core.em_config import EmConfig
from kernelfusion_plugin.core.em_state import EmPlace, EmProblem
from kernelfusion_plugin.core.em_steps import reverse_pass
from kernelfusion_plugin.core.frame import Frame
from kernelfusion_plugin.core.kernel_align import centre_of_mass, shift
from kernelfusion_plugin.core.kernel_search import find_kernel
from kernelfusion_plugin.core.kernels import gaussian, l_shape, motion
from kernelfusion_plugin.core.metrics import kernel_ncc, psnr_y
from kernelfusion_plugin.core.noise import Noise, Sigma
from kernelfusion_plugin.core.overexposure import Highlights
from kernelfusion_plugin.core.piece import informative_piece
from kernelfusion_plugin.core.quadratic import data_step, normal_equations, window_covariance
from kernelfusion_plugin.core.stages import kernel_stages, scaled
from kernelfusion_plugin.core.texture_prior import load_texture_prior

SMALL = EmConfig(sketch_passes=1, coarse_passes=2, fine_passes=1, steps=3, final_samples=1, final_steps=3,
                 noise_floor=0,  # the pictures here are too small for a flat part to measure noise in
                 rim=0, final_turns=False,  # the oracle knows what lies beyond the frame, but one orientation only
                 uncertainty=0,  # the oracle's answers hold noise, but it is no denoiser
                 density_power=1)  # kernels are then as the search has found them
SEARCH = 12  # steps of SMALL before the kernel is final
MARGIN = 7  # LR pixels of scene around the frame, more than any canvas needs


def blocks(size, seed=0, block=5):
    """A scene of flat random squares: sharp edges everywhere, so that blur tells itself."""
    count = -(-size // block)
    scene = torch.rand(1, 3, count, count, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8
    return scene.repeat_interleave(block, -1).repeat_interleave(block, -2)[..., :size, :size]


class OraclePrior:
    """Knows the scene at every scale: x0_hat is ``share`` of the truth on the canvas of x_t, the rest x_t itself.

    The canvas is that of the piece of n x n LR pixels at ``at`` in a picture of ``whole`` x ``whole``.
    """

    def __init__(self, degradations, n, share, whole=None, at=(0, 0)):
        self.schedule = Schedule()
        self.share = share
        self.calls = []  # (t, size)
        self.inputs = []  # x_t
        self.answers = []
        total = (whole or n) + 2 * MARGIN
        scene = blocks(total * max(d.scale for d in degradations))
        self.truths = {}
        for d in degradations:
            size = d.hr_size((n, n))[0]
            top, left = ((MARGIN + i) * d.scale - (d.margin[0] if d.border == 'valid' else 0) for i in at)
            sides = (total * d.scale,) * 2
            finer = scene if sides == scene.shape[-2:] else F.interpolate(scene, sides, mode='bicubic', antialias=True)
            self.truths[size] = finer[..., top:top + size, left:left + size]

    def predict_x0(self, x_t, t):
        self.calls.append((t, x_t.shape[-1]))
        self.inputs.append(x_t)
        guess = x_t / self.schedule.alpha_bar(t, x_t).sqrt()
        self.answers.append(self.share * self.truths[x_t.shape[-1]] + (1 - self.share) * guess)
        return self.answers[-1]


def grids(full, config=SMALL):
    """The forward models that the kernel is sought with, one per stage."""
    return [stage.degradation for stage in kernel_stages(full, config)]


def problem(scale, k, border='valid', n=20, share=0.7, config=SMALL):
    """(y, x, prior, full): a picture seen through k, and the prior that knows it at all scales."""
    full = Degradation(scale, len(k), border)
    prior = OraclePrior([full, *grids(full, config)], n, share)
    x = prior.truths[full.hr_size((n, n))[0]]
    return full.forward(x, k), x, prior, full


def given(y, prior, degradation, config=SMALL, **others):
    """The same as EM takes it, with noise from seed 0."""
    return EmProblem(y, prior, degradation, config, torch.Generator().manual_seed(0), **others)


def passes_from(start, stage, *problem):
    """(t, x0, k) of each step of a stage that begins with the kernel ``start``."""
    return list(em_steps.em_passes(given(*problem), stage, EmPlace(kernel=start)))


def solve(y, prior, degradation, config=SMALL, seed=0, kernel=None):
    return list(solve_em(y, prior, degradation, config, torch.Generator().manual_seed(seed), kernel))


@pytest.fixture
def unjudged(monkeypatch):
    """How likely a stage makes y is not asked for, which the prior is asked for too: its calls are counted."""
    monkeypatch.setattr(kernel_search, 'nll', lambda *args: 0.0)
    monkeypatch.setattr(restarts, 'mean_nll', lambda *args: 0.0)


def gain(y, x, estimate, degradation):
    """dB above bicubic."""
    x = degradation.crop(x)
    return psnr_y(degradation.crop(estimate), x) - psnr_y(upscale_bicubic(y, degradation.scale), x)


@pytest.mark.parametrize(('scale', 'k', 'ncc'), [
    (2, l_shape(12, 8, 2), 0.96), (2, motion(13, 4), 0.95), (3, l_shape(18, 12, 4), 0.96), (3, motion(19, 5), 0.94),
    (4, l_shape(24, 16, 4), 0.96), (4, motion(24, 3), 0.92), (4, motion(31, 2), 0.89)],
    ids=['l-x2', 'motion-x2-odd', 'l-x3', 'motion-x3-odd', 'l-x4', 'motion-x4', 'motion-x4-odd'])
def test_oracle_prior_leads_to_the_kernel_and_the_picture(scale, k, ncc):
    y, x, prior, degradation = problem(scale, k)
    states = solve(y, prior, degradation)
    start = gaussian(len(k), sigmas=SMALL.start_width * scale)
    assert kernel_ncc(start, k) < ncc - 0.08, 'the start is too good for this test'
    assert kernel_ncc(states[-1].kernel, k) > ncc
    assert gain(y, x, states[-1].x0_hat, degradation) > 6


@pytest.mark.parametrize('border', BORDERS)
@pytest.mark.parametrize(('scale', 'k'), [(2, l_shape(12, 8, 2)), (4, l_shape(25, 17, 4))], ids=['x2', 'x4-odd'])
def test_all_borders(border, scale, k):
    y, x, prior, degradation = problem(scale, k, border)
    states = solve(y, prior, degradation)
    assert kernel_ncc(states[-1].kernel, k) > 0.9
    assert gain(y, x, states[-1].x0_hat, degradation) > 6
    for state in states:
        assert state.x0_hat.shape == (1, 3, *degradation.hr_size((20, 20)))


@pytest.mark.usefixtures('unjudged')
@pytest.mark.parametrize(('scale', 'size'), [(2, 4), (2, 11), (3, 7), (3, 18), (4, 8), (4, 15), (4, 31), (5, 12),
                                             (7, 21)])
def test_states_count_the_steps(scale, size):
    degradation = Degradation(scale, size)
    config = EmConfig(sketch_passes=2, coarse_passes=1, fine_passes=1, steps=3, final_samples=2, final_steps=4,
                      cg_iterations=3, noise_floor=0, uncertainty=0, rim=0)
    y, _, prior, _ = problem(scale, gaussian(size, sigmas=size / 8), n=16, config=config)
    states = solve(y, prior, degradation, config)
    assert [state.step for state in states] == list(range(1, 21)) and {state.total for state in states} == {20}
    levels, final = timesteps(300, 3, config.t_power)[:-1], 2 * timesteps(200, 4, config.t_power)[:-1]
    assert [state.t for state in states] == 4 * levels + final
    assert [t for t, _ in prior.calls] == 4 * (levels + levels[-2:]) + final  # two more for the M step
    sketch, coarse, fine = grids(degradation, config)
    canvases = 10 * [sketch] + 5 * [coarse] + 5 * [fine] + 8 * [degradation]
    assert [size for _, size in prior.calls] == [d.hr_size((16, 16))[0] for d in canvases]
    for state in states:
        assert state.kernel.shape == (size, size) and state.kernel.min() >= 0
        assert float(state.kernel.sum()) == pytest.approx(1, abs=1e-5)
        assert state.x0_hat.shape == (1, 3, *degradation.hr_size((16, 16)))
        assert not state.x0_hat.requires_grad and not state.kernel.requires_grad
        assert state.losses.keys() == {'residual'} and 0 <= state.losses['residual'] < math.inf
    changes = [not torch.equal(b.kernel, a.kernel) for a, b in zip(states, states[1:])]
    assert all(changes[i] for i in (1, 4, 7, 10, 11))  # at the end of every pass, and before the final ones
    assert not any(changes[:1] + changes[3:4] + changes[12:])  # not within one, and not in the final ones


def test_the_residual_belongs_to_the_yielded_estimate():
    y, _, prior, degradation = problem(4, l_shape())
    last = solve(y, prior, degradation)[-1]
    again = (degradation.forward(last.x0_hat, last.kernel) - y).square().mean()
    assert last.losses['residual'] == pytest.approx(float(again), rel=1e-5)


@pytest.mark.parametrize(('scale', 'k'), [(3, l_shape(19, 13, 3)), (4, l_shape())])
def test_the_watched_picture_of_a_stage_shows_the_scene(scale, k):
    """What is yielded in between is a stage's estimate, enlarged in place: nearer to the truth than bicubic."""
    y, x, prior, degradation = problem(scale, k)
    states = solve(y, prior, degradation)
    assert torch.equal(states[1].x0_hat, to_canvas(y, degradation))  # until the first pass is done
    for step, least in ((3, 0.5), (9, 2), (SEARCH, 5)):
        assert gain(y, x, states[step - 1].x0_hat, degradation) > least


def test_the_known_kernel_is_kept_and_skips_the_search():
    k = motion(24, 3)
    y, x, prior, degradation = problem(4, k)
    states = solve(y, prior, degradation, kernel=k)
    assert [(state.step, state.total) for state in states] == [(1, 3), (2, 3), (3, 3)]
    assert {size for _, size in prior.calls} == {x.shape[-1]}
    assert all(torch.equal(state.kernel, k) for state in states)
    blind = solve(y, prior, degradation)[-1]
    assert gain(y, x, states[-1].x0_hat, degradation) > gain(y, x, blind.x0_hat, degradation)
    assert states[-1].losses['residual'] < 1e-4


def test_same_seed_same_result_and_the_global_state_is_left_alone():
    y, _, prior, degradation = problem(3, l_shape(18, 12, 4))
    before = torch.get_rng_state()
    first, second, third = (solve(y, prior, degradation, seed=seed)[-1] for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.x0_hat, second.x0_hat) and torch.equal(first.kernel, second.kernel)
    assert not torch.equal(first.x0_hat, third.x0_hat) and not torch.equal(first.kernel, third.kernel)


def test_the_kernel_comes_out_centred():
    """The truth is drawn off centre; its image is the centred kernel's, shifted, so the centred one is found."""
    k = torch.zeros(24, 24)
    k[2:14, 4:7] = 1 / 36  # a bar of 12 x 3, its centre 4 pixels up and 6.5 to the left
    y, _, prior, degradation = problem(4, k, share=1.0)
    found = solve(y, prior, degradation)[-1].kernel
    assert (centre_of_mass(found) - 11.5).abs().max() < 0.6
    bar = torch.zeros(24, 24)
    bar[6:18, 10:13] = 1 / 36
    assert kernel_ncc(found, bar) > 0.8 > kernel_ncc(found, k) + 0.4


@pytest.mark.parametrize('size', [24, 31])
@pytest.mark.parametrize('stage', [0, 1, 2])
def test_a_kernel_is_centred_on_its_way_to_the_full_scale(stage, size):
    """Also where K - s is odd, and the grid that the kernel is found on ends half a pixel off that of K x K.

    It is cut after that: what lay beyond K x K comes back.
    """
    full = Degradation(4, size)
    grid = grids(full)[stage]
    centred = gaussian(grid.kernel_size, sigmas=0.7 * grid.scale)
    for offset in (0, grid.scale, 2 * grid.scale):
        found = kernel_search.carry_over(centred.roll((offset, -offset), (0, 1)), grid, full, SMALL)
        assert kernel_ncc(found, kernel_search.carry_over(centred, grid, full, SMALL)) > 0.995
        assert found.shape == (size, size)
        assert (centre_of_mass(found) - (size - 1) / 2).abs().max() < 0.1


def test_kernel_and_picture_are_moved_against_each_other():
    k = motion(24, 3).roll((5, -3), (0, 1))
    x = blocks(80)
    way = tuple(round(d) for d in em_steps.find_place(k, Degradation(4, 24), SMALL)[1])
    moved, picture = shift(k, way), em_steps.moved(x, way)
    assert (centre_of_mass(moved) - 11.5).abs().max() < 1 < (centre_of_mass(k) - 11.5).abs().min()
    before, after = (F.conv2d(a[:, :1], b[None, None]) for a, b in ((x, k), (picture, moved)))
    inner = (..., slice(8, -8), slice(8, -8))  # what has come in at the other side is out of sight
    torch.testing.assert_close(after[inner], before[inner], rtol=0, atol=1e-3)
    centred = gaussian(24, sigmas=3.0)
    assert em_steps.find_place(centred, Degradation(4, 24), SMALL)[1] == pytest.approx((0, 0), abs=1e-4)
    assert torch.equal(em_steps.moved(x, (0.0, 0.0)), x)


@pytest.mark.usefixtures('unjudged')
@pytest.mark.parametrize(('levels', 'count'), [(1, 1), (3, 3), (9, 4)])
def test_the_kernel_is_fitted_once_a_pass_to_what_the_prior_makes_of_its_result(levels, count, monkeypatch):
    """Noised anew to the last levels; the result itself would confirm the kernel that it was made with."""
    config = EmConfig(rim=0, sketch_passes=2, coarse_passes=0, fine_passes=0, steps=4, kernel_levels=levels,
                      final_steps=1, uncertainty=0)
    y, _, prior, degradation = problem(2, l_shape(12, 8, 2), config=config)
    fits, fit = [], em_steps.fit_kernel
    monkeypatch.setattr(em_steps, 'fit_kernel', lambda *args: fits.append(args) or fit(*args))
    solve(y, prior, degradation, config)
    (grid,) = grids(degradation, config)
    times = timesteps(config.t_start, 4, config.t_power)[:-1]
    assert [t for t, _ in prior.calls[:-1]] == 2 * (times + times[-count:]) and len(fits) == 2
    for number, (G, b, *_) in enumerate(fits):
        first = (4 + count) * number + 4
        seen = [normal_equations(grid, x0_hat, y) for x0_hat in prior.answers[first:first + count]]
        torch.testing.assert_close(G, sum(G for G, _ in seen))
        torch.testing.assert_close(b, sum(b for _, b in seen))


@pytest.mark.usefixtures('unjudged')
def test_what_the_prior_leaves_open_counts_in_the_kernels_fit(monkeypatch):
    config = EmConfig(rim=0, sketch_passes=1, coarse_passes=1, fine_passes=0, steps=4, kernel_levels=2, final_steps=1,
                      uncertainty=1.5)
    y, _, prior, degradation = problem(2, l_shape(12, 8, 2), config=config)
    fits, fit, open_, covariance = [], em_steps.fit_kernel, [], em_steps.covariance_lags
    monkeypatch.setattr(em_steps, 'fit_kernel', lambda *args: fits.append(args) or fit(*args))
    monkeypatch.setattr(em_steps, 'covariance_lags',
                        lambda *args: open_.append((args, covariance(*args))) or open_[-1][1])
    solve(y, prior, degradation, config)
    (_, grid) = grids(degradation, config)
    answers = prior.answers[10:12]
    assert len(open_) == 2  # none in the sketch
    for (t, _), x_t, answer, ((noise, change, sigma), _) in zip(
            prior.calls[10:12], prior.inputs[10:12], answers, open_):
        a = float(prior.schedule.alphas_cumprod[t])
        assert sigma == pytest.approx(math.sqrt((1 - a) / a)) and noise.std() == pytest.approx(1, abs=0.1)
        torch.testing.assert_close((answer - change + sigma * noise) * math.sqrt(a), x_t)  # x, noised
    plain = sum(normal_equations(grid, answer, y)[0] for answer in answers)
    expected = plain + 1.5 * sum(window_covariance(lags, grid.kernel_size) for _, lags in open_)
    torch.testing.assert_close(fits[1][0], expected)
    assert (fits[1][0] - plain).diagonal().min() > 0


def test_the_kernel_goes_further_than_the_fit(monkeypatch):
    """k + 2 (fit - k), negative values cut off, sum 1; in the last pass the fit itself."""
    seen, fit = [], em_steps.fit_kernel
    monkeypatch.setattr(em_steps, 'fit_kernel', lambda *args: seen.append((args[2], fit(*args))) or seen[-1][1])
    config = EmConfig(rim=0, sketch_passes=3, coarse_passes=0, fine_passes=0, steps=3, over_relaxation=2.0)
    y, _, prior, degradation = problem(2, l_shape(12, 8, 2), config=config)
    (stage,) = kernel_stages(degradation, config)
    start = gaussian(stage.degradation.kernel_size, sigmas=1.5)
    walk = passes_from(start, stage, y, prior, degradation, config)
    (before, fitted), *_, (_, last) = seen
    fitted, last = (em_steps.without_haze(k, stage.extra) for k in (fitted, last))
    expected = (before + 2 * (fitted - before)).clamp_min(0)
    expected = em_steps.without_haze(expected / expected.sum(), stage.extra)
    _, way = em_steps.find_place(expected, stage.degradation, config)
    torch.testing.assert_close(walk[2][2], shift(expected, way))
    assert (expected - fitted).abs().sum() > 0.01 and torch.equal(walk[-1][2], last)


def test_between_passes_picture_and_kernel_are_moved_alike(monkeypatch):
    """The next pass begins with both, moved by the same way: y stays explained."""
    config = EmConfig(rim=0, sketch_passes=2, coarse_passes=0, fine_passes=0, steps=3, uncertainty=0)
    y, _, prior, degradation = problem(2, l_shape(12, 8, 2), config=config)
    (stage,) = kernel_stages(degradation, config)
    passes, reverse = [], em_steps.reverse_pass

    def noted(problem, kernel, sigma, levels, renoising, place):
        passes.append([(place.x, kernel)])
        for t, estimate in reverse(problem, kernel, sigma, levels, renoising, place):
            passes[-1].append((estimate, kernel))
            yield t, estimate

    asked = []
    monkeypatch.setattr(em_steps, 'reverse_pass', noted)
    monkeypatch.setattr(em_steps, 'find_place', lambda kernel, *args: asked.append(kernel) or (kernel, (2.0, -1.0)))
    start = gaussian(stage.degradation.kernel_size, sigmas=1.5)
    passes_from(start, stage, y, prior, degradation, config)
    (*_, (left, _)), ((taken, kernel), *_) = passes
    torch.testing.assert_close(taken, left.roll((2, -1), (-2, -1)))
    torch.testing.assert_close(kernel[2:, :-1], asked[0][:-2, 1:])


@pytest.mark.parametrize('draws', [1, 3])
def test_draws_are_pictures_from_other_noise_that_one_m_step_sums_over(draws, monkeypatch):
    """Its equations are the mean of theirs; what is shown is the first of them."""
    config = EmConfig(rim=0, draws=draws, sketch_passes=2, coarse_passes=0, fine_passes=0, steps=3, uncertainty=0)
    y, _, prior, degradation = problem(2, l_shape(12, 8, 2), config=config)
    seen = []

    def watched(degradation, x, y, weights=None):
        G, b = normal_equations(degradation, x, y, weights)
        alone = [normal_equations(degradation, x[i:i + 1], y[i:i + 1]) for i in range(len(x))]
        torch.testing.assert_close(G, sum(one for one, _ in alone) / len(alone))
        torch.testing.assert_close(b, sum(one for _, one in alone) / len(alone))
        seen.append(x)
        return G, b

    monkeypatch.setattr(em_steps, 'normal_equations', watched)
    states = list(find_kernel(given(y, prior, degradation, config), EmPlace()))
    assert {len(x) for x in seen} == {draws} and {len(picture) for _, picture, *_ in states} == {1}
    assert all(not torch.equal(x[0], other) for x in seen for other in x[1:])


@pytest.mark.parametrize('extra', [0, 1, 4])
def test_haze_is_what_lies_beyond_the_grid_that_was_asked_for(extra):
    """Of a kernel and an even haze the kernel is left, at its place; with nothing around it stays."""
    clear = F.pad(shift(l_shape(16, 8, 2), (1, -1)), (4,) * 4)
    hazy = 0.7 * clear + 0.3 / 24 ** 2
    torch.testing.assert_close(em_steps.without_haze(hazy, extra), clear if extra else hazy)


@pytest.mark.parametrize('scale', [2, 3, 4, 8])
def test_every_stage_has_pixels_to_see_the_haze_in(scale):
    """And inside it all of the grid that was asked for."""
    for size in range(scale, 65):
        for stage in kernel_stages(Degradation(scale, size), EmConfig()):
            grid = stage.degradation
            assert stage.extra >= 1 and grid.kernel_size - 2 * stage.extra >= size * grid.scale / scale, (size, grid)
        exact = kernel_stages(Degradation(scale, size), EmConfig(support=1.0))
        assert exact[-1].extra == 0 and exact[-1].degradation.kernel_size == size


def test_each_m_step_clears_the_haze(monkeypatch):
    """A fit that comes with haze leads to the kernel that it would have led to without."""
    config = EmConfig(rim=0, sketch_passes=2, coarse_passes=0, fine_passes=0, steps=3)
    y, _, prior, degradation = problem(2, l_shape(12, 8, 2), config=config)
    (stage,) = kernel_stages(degradation, config)
    assert stage.extra == (stage.degradation.kernel_size - 6) // 2 > 0
    clear = F.pad(gaussian(stage.degradation.kernel_size - 4, sigmas=1.0), (2,) * 4)
    found = []
    for haze in (0.0, 0.4):
        monkeypatch.setattr(em_steps, 'fit_kernel', lambda *args, haze=haze: (1 - haze) * clear + haze / clear.numel())
        walk = passes_from(clear, stage, y, prior, degradation, config)
        found.append([kernel for *_, kernel in walk])
    for without, cleared in zip(*found):
        torch.testing.assert_close(cleared, without, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize('floor', [0.0, 0.05, 0.2])
def test_faint_wings_are_not_believed(floor):
    """What is below the floor goes, and its mass to the rest; what is above stays as it was to itself."""
    k = 0.9 * gaussian(12, sigmas=1.5) + 0.1 / 144
    kept = em_steps.above_floor(k, floor)
    seen = k > floor * k.max()
    assert float(kept.sum()) == pytest.approx(1, abs=1e-6) and torch.equal(kept > 0, seen)
    torch.testing.assert_close(kept[seen], k[seen] / k[seen].sum())
    assert bool(seen.all()) == (not floor)


@pytest.mark.parametrize('scale', [2, 4])
@pytest.mark.parametrize('power', [0.7, 0.85])
def test_parts_of_a_kernel_share_the_light_by_a_power_of_what_they_had(scale, power):
    """Two dots, far apart: each keeps its shape."""
    size, dot = 12 * scale, gaussian(3 * scale, sigmas=0.2 * scale)
    bright, faint = torch.zeros(2, size, size)
    bright[:3 * scale, :3 * scale], faint[-3 * scale:, -3 * scale:] = 0.8 * dot, 0.2 * dot
    k = em_steps.with_weak_parts(bright + faint, scale, power)
    share = 0.2 ** power / (0.2 ** power + 0.8 ** power)
    assert float(k.sum()) == pytest.approx(1, abs=1e-6)
    assert float(k[-3 * scale:, -3 * scale:].sum()) == pytest.approx(share, abs=1e-4)
    torch.testing.assert_close(k[:3 * scale, :3 * scale] / (1 - share), k[-3 * scale:, -3 * scale:] / share, atol=1e-5,
                               rtol=1e-3)
    assert torch.equal(k > 0, bright + faint > 0)
    assert em_steps.with_weak_parts(bright, scale, 1.0) is bright


def test_what_is_uniform_stays_so_but_for_its_rim():
    square = torch.zeros(40, 40)
    square[4:36, 4:36] = 1 / 1024
    inside = em_steps.with_weak_parts(square, 4, 0.85)[18:22, 18:22]
    torch.testing.assert_close(inside, inside.mean().expand(4, 4), atol=0, rtol=1e-3)


@pytest.mark.parametrize(('jpeg', 'power'), [(0.0, 0.85), (0.005, 0.8), (0.01, 0.75), (0.03, 0.75)])
@pytest.mark.parametrize('frame', [False, True])
def test_a_search_ends_with_the_weak_parts_made_up_for_unless_the_frame_has_weighed_them(frame, jpeg, power,
                                                                                         monkeypatch):
    """By more under JPEG."""
    monkeypatch.setattr(kernel_search, 'MUCH_JPEG', 0.01)
    k = motion(24, seed=3)
    y, _, prior, full = problem(4, k)
    known = Frame(torch.ones(2, 6), torch.eye(6).expand(2, 6, 6), (3,) * 4, (frame, False))
    monkeypatch.setattr(restarts, 'find_kernel', lambda problem, place, start: setattr(place, 'found', k) or iter(()))
    place = EmPlace()
    assert not list(restarts.search(given(y, prior, full, EmConfig(), frame=known, noise=Noise(0.02, jpeg)), place))
    torch.testing.assert_close(place.best, k if frame else em_steps.with_weak_parts(k, 4, power))
    assert torch.equal(place.best, k) == frame


@pytest.mark.parametrize('stage', [0, 1])
def test_wings_are_cut_at_the_very_end_only(stage, monkeypatch):
    """A fit that comes with wings, in an M step of each stage: what is kept of it, in the last pass and before."""
    config = EmConfig(rim=0, sketch_passes=2, coarse_passes=0, fine_passes=2, steps=2, over_relaxation=1.0,
                      kernel_floor=0.1)
    y, _, prior, degradation = problem(2, gaussian(8, sigmas=1.2), config=config)
    stages = kernel_stages(degradation, config)
    size = stages[stage].degradation.kernel_size
    winged = F.pad(gaussian(size - 2, sigmas=1.3), (1,) * 4)
    monkeypatch.setattr(em_steps, 'fit_kernel', lambda *args: winged)
    grid = dataclasses.replace(stages[stage], extra=0)
    walk = passes_from(winged, grid, y, prior, degradation, config)
    cut = em_steps.above_floor(winged, 0.1)
    torch.testing.assert_close(walk[1][2], winged)  # symmetric: nothing has to be centred
    torch.testing.assert_close(walk[-1][2], cut if stage else winged)
    assert bool((winged > cut).any())


@pytest.mark.usefixtures('unjudged')
@pytest.mark.parametrize(('way', 'share'), [((0.0, 0.0), 0.5), ((1.0, 0.0), 0.0)])
def test_the_full_scale_remembers_and_weighs_its_pixels(way, share, monkeypatch):
    """G of a pass is its own plus half of the one before's, unless picture and kernel have been moved since; weights
    follow Student's t. Other stages do neither.
    """
    config = EmConfig(rim=0, sketch_passes=2, coarse_passes=0, fine_passes=2, steps=3, kernel_levels=1, memory=0.5,
                      outlier=0.05, over_relaxation=1.0, noise_floor=0, uncertainty=0)
    y, _, prior, degradation = problem(2, gaussian(8, sigmas=1.2), config=config)
    fits, fit = [], em_steps.fit_kernel
    monkeypatch.setattr(em_steps, 'fit_kernel', lambda *args: fits.append(args) or fit(*args))
    monkeypatch.setattr(em_steps, 'find_place', lambda kernel, *args: (kernel, way))
    states = solve(y, prior, degradation, config)
    sketch, fine = grids(degradation, config)
    assert len(fits) == 4 and len(states) == 12 + config.final_steps
    for number in (0, 1):  # the sketch
        torch.testing.assert_close(fits[number][0], normal_equations(sketch, prior.answers[4 * number + 3], y)[0])
    own = []
    for number in (2, 3):
        x0_hat, kernel = prior.answers[4 * number + 3], fits[number][2]
        r = (fine.forward(x0_hat, kernel) - y).square().mean(1, keepdim=True)
        own.append(normal_equations(fine, x0_hat, y, 1 / (1 + r / 0.05 ** 2)))
        assert not torch.allclose(own[-1][0], normal_equations(fine, x0_hat, y)[0], rtol=1e-3)
    for index in (0, 1):
        torch.testing.assert_close(fits[2][index], own[0][index])
        torch.testing.assert_close(fits[3][index], own[1][index] + share * own[0][index])


def test_a_pass_without_noise_draws_none():
    y, _, prior, degradation = problem(4, l_shape())
    config = dataclasses.replace(SMALL, final_samples=0)
    one = given(y, prior, degradation, config)
    before = one.generator.get_state()
    first, second = (solve(y, prior, degradation, config, kernel=l_shape())[-1].x0_hat for _ in range(2))
    start = data_step(degradation, l_shape(), y, to_canvas(y, degradation), em_steps.START_RHO, config.cg_iterations)
    walk = list(em_steps.reverse_pass(one, l_shape(), Sigma(config.final_noise), timesteps(200, 3, config.t_power),
                                      'none', EmPlace(x=start)))
    assert torch.equal(one.generator.get_state(), before)
    assert torch.equal(first, second) and torch.equal(walk[-1][1], first) and len(walk) == 3


class GaussianPrior:
    """p(x) = N(m, s²I): x0_hat = E[x | x_t] = m + s² √ᾱ / (s² ᾱ + 1 - ᾱ) · (x_t - √ᾱ m)."""

    def __init__(self, mean, deviation):
        self.schedule = Schedule()
        self.mean, self.variance = mean, deviation ** 2

    def predict_x0(self, x_t, t):
        a = self.schedule.alpha_bar(t, x_t)
        return self.mean + self.variance * a.sqrt() / (self.variance * a + 1 - a) * (x_t - a.sqrt() * self.mean)


@pytest.mark.parametrize(('t_start', 'border', 'spread'), [(300, 'valid', 0.03), (999, 'valid', 0.09),
                                                           (300, 'reflect', 0.03)])
def test_the_sampler_has_the_posteriors_mean_and_spread(t_start, border, spread):
    """p(x | y, k) = N(μ, Σ), Σ⁻¹ = AᵀA/σ² + I/s².

    lambda = 1 takes x0_hat's variance for (1 - ᾱ) / ᾱ, as if the prior were flat: exact as t falls, too unsure
    above, which the lower levels mend. With 500 samples the mean is then as near to μ as chance lets it be
    (the sampled squared error is Σ's trace / 500, its root a tenth of the way from m), and the spread short of
    Σ's only by what 100 steps leave out, more so from t = 999, where they are wider apart.
    """
    degradation, k, n, count = Degradation(2, 5, border), gaussian(5, sigmas=0.9).double(), (4, 5), 500
    sigma, deviation = 0.05, 0.6
    height, width = degradation.hr_size(n)
    eye = torch.eye(height * width, dtype=torch.float64)
    A = degradation.forward(eye.reshape(-1, 1, height, width), k).reshape(height * width, -1).T
    noise = torch.Generator().manual_seed(1)
    m = torch.rand(1, 1, height, width, generator=noise, dtype=torch.float64) - 0.5
    x = m + deviation * torch.randn(m.shape, generator=noise, dtype=torch.float64)
    y = degradation.forward(x, k) + sigma * torch.randn(1, 1, *n, generator=noise, dtype=torch.float64)
    covariance = torch.linalg.inv(A.T @ A / sigma ** 2 + eye / deviation ** 2)
    mean = (covariance @ (A.T @ y.flatten() / sigma ** 2 + m.flatten() / deviation ** 2)).reshape(m.shape)

    config = EmConfig(prior_weight=1.0, cg_iterations=20)
    several = given(y.expand(count, -1, -1, -1), GaussianPrior(m, deviation), degradation, config)
    *_, (_, samples) = reverse_pass(several, k, Sigma(sigma), timesteps(t_start, 100), 'ancestral',
                                    EmPlace(x=m.expand(count, -1, -1, -1)))
    error, way = samples.mean(0, keepdim=True) - mean, mean - m
    chance = float((covariance.trace() / count).sqrt() / way.norm())
    assert chance < 0.12
    assert error.norm() / way.norm() < 1.5 * chance
    assert (A @ error.flatten()).norm() < 0.04 * (A @ way.flatten()).norm()  # seen by y: hardly any chance
    ratio = samples.flatten(1).std(0) / covariance.diagonal().sqrt()
    assert abs(float(ratio.mean()) - 1) < spread + 0.02 and ratio.min() > 0.75 and ratio.max() < 1.15


def gaussian_problem(n=24, sigma=0.05):
    """(y, x, k, prior, degradation) of a picture drawn from the Gaussian prior N(0, 0.4² I)."""
    degradation, k, noise = Degradation(2, 8), gaussian(8, sigmas=1.2), torch.Generator().manual_seed(1)
    x = 0.4 * torch.randn(1, 3, *degradation.hr_size((n, n)), generator=noise)
    y = degradation.forward(x, k)
    return y + sigma * torch.randn(y.shape, generator=noise), x, k, GaussianPrior(0.0, 0.4), degradation


def test_the_result_is_the_mean_of_the_samples():
    y, x, k, prior, degradation = gaussian_problem()
    config = dataclasses.replace(SMALL, final_noise=0.05, final_steps=40)
    one, four = (solve(y, prior, degradation, dataclasses.replace(config, final_samples=n), kernel=k)
                 for n in (1, 4))
    assert (len(one), len(four)) == (40, 160)
    for a, b in zip(one, four):
        assert torch.equal(a.x0_hat, b.x0_hat)  # the first sample is the same one
    errors = [float((four[40 * n - 1].x0_hat - x).square().mean()) for n in (1, 2, 3, 4)]
    assert errors == sorted(errors, reverse=True)
    # The samples scatter independently about one mean: n of them leave 1 / n of the variance.
    assert (errors[0] - errors[3]) / (errors[0] - errors[1]) == pytest.approx(1.5, abs=0.1)
    assert errors[3] < 0.7 * errors[0]  # 5/8 where they are draws from p(x | y, k), as x is
    samples = [one[-1].x0_hat, 2 * four[79].x0_hat - one[-1].x0_hat]
    assert (samples[0] - samples[1]).abs().max() > 0.1  # the second sample is another one
    torch.testing.assert_close(four[79].x0_hat, sum(samples) / 2)


@pytest.mark.usefixtures('unjudged')
def test_kernel_side_takes_a_piece_and_leaves_the_rest_bicubic():
    """The piece is put in where it was taken from, and tells the kernel as a picture of that size would."""
    k, n, side, config = l_shape(), 30, 20, dataclasses.replace(SMALL, kernel_side=20)
    full = Degradation(4, len(k))
    y = full.forward(OraclePrior([full], n, 1).truths[full.hr_size((n, n))[0]], k)
    top, left, height, width = informative_piece(y, side)
    assert (height, width) == (side, side) and top != left
    prior = OraclePrior(grids(full), side, 0.7, whole=n, at=(top, left))
    states = list(find_kernel(given(y, prior, full, config), EmPlace()))
    assert len(states) == SEARCH
    assert [size for _, size in prior.calls[::5]] == [d.hr_size((side,) * 2)[0] for d in
                                                      (grids(full)[i] for i in (0, 1, 1, 2))]
    canvas, margin = to_canvas(y, full), full.margin[0]
    rows, cols = (slice(4 * at + margin, 4 * (at + side) + margin) for at in (top, left))
    outside = torch.ones(canvas.shape[-2:], dtype=torch.bool)
    outside[rows, cols] = False
    for _, picture, kernel, _ in states:
        assert picture.shape == canvas.shape and kernel.shape == k.shape
        assert torch.equal(picture[..., outside], canvas[..., outside])
    x = OraclePrior([full], n, 1).truths[canvas.shape[-1]][..., rows, cols]
    assert psnr_y(picture[..., rows, cols], x) > psnr_y(canvas[..., rows, cols], x) + 5
    assert kernel_ncc(kernel, k) > 0.95


def framed(y, rim):
    """y as if the picture had been continued with black: its outermost pixels are."""
    other = torch.full_like(y, -1)
    other[..., rim:-rim, rim:-rim] = y[..., rim:-rim, rim:-rim]
    return other


def test_the_pixels_of_a_black_frame_have_no_say_in_the_kernel():
    degradation, config = Degradation(4, 12), dataclasses.replace(SMALL, rim=None, centre_error=0)
    black, prior = framed(blocks(32) / 2, 1), load_texture_prior()  # windows of 12 reach one LR pixel beyond the frame
    grey = black.clone()
    grey[..., 0, :], grey[..., -1, :], grey[..., 0], grey[..., -1] = 0, 0, 0, 0

    def found(y, **changes):
        one = dataclasses.replace(config, **changes)
        framed_one = given(y, prior, degradation, one, frame=Frame.of(y, degradation))
        return [step[1:3] for step in find_kernel(framed_one, EmPlace())]

    black_one, grey_one = found(black), found(grey, rim=1)
    assert all(torch.equal(one[1], two[1]) for one, two in zip(black_one, grey_one))
    assert torch.equal(black_one[0][0][..., :4, :], to_canvas(black, degradation)[..., :4, :])  # the rim stays bicubic
    assert not torch.equal(black_one[-1][1], found(black, rim=0)[-1][1])
    assert torch.equal(found(grey)[-1][1], found(grey, rim=0)[-1][1])  # no black, no rim


@pytest.mark.parametrize(('top', 'left'), [(0, 0), (3, 17), (24, 28)])
def test_the_informative_piece_is_where_the_edges_are(top, left):
    y = torch.linspace(-0.2, 0.2, 60).expand(1, 3, 40, 60).clone()  # some slope everywhere
    y[..., top:top + 16, left:left + 32] = torch.rand(1, 3, 16, 32, generator=torch.Generator().manual_seed(0)) - 0.5
    row, col, height, width = informative_piece(y, 16)
    assert top - 1 <= row <= top and left - 1 <= col <= left + 16 and (height, width) == (16, 16)


@pytest.mark.parametrize('side', [0, 41, 60])
def test_a_piece_as_large_as_the_image_is_the_image(side):
    y = torch.rand(1, 3, 40, 30, generator=torch.Generator().manual_seed(0))
    assert informative_piece(y, side) == (0, 0, 40, 30)


def test_the_piece_keeps_away_from_the_sides():
    y = torch.zeros(1, 3, 40, 60)
    y[..., 30:, :] = torch.rand(1, 3, 10, 60, generator=torch.Generator().manual_seed(0))
    assert informative_piece(y, 16)[0] == 24
    assert informative_piece(y, 16, (0, 3, 0, 0))[0] == 21
    assert informative_piece(y, 0, (3, 1, 2, 0)) == informative_piece(y, 90, (3, 1, 2, 0)) == (3, 2, 36, 58)


def test_one_side_of_the_piece_may_be_the_images():
    y = torch.zeros(1, 3, 20, 50)
    y[..., 40:, ::2] = 1  # none
    y[..., 5:9, 38:44] = 1
    top, left, height, width = informative_piece(y, 30)
    assert (top, height, width) == (0, 20, 30) and 14 <= left <= 20


@pytest.mark.usefixtures('unjudged')
@pytest.mark.parametrize(('found', 'samples', 'searched', 'last'), [
    (Noise(0.03, 0.0), 0, (0.06, None), (0.03, None)), (Noise(0.03, 0.0), 1, (0.06, None), (0.06, None)),
    (Noise(0.03, 0.02), 0, (0.06, 0.12), (0.04, 0.08)), (Noise(0.01, 0.03), 0, (0.09, 0.18), (0.06, 0.12)),
    (Noise(0.03, 0.01), 0, (0.06, 0.06), (0.03, 0.04)), (Noise(0.0, 0.03), 1, (0.09, 0.18), (0.06, 0.12)),
], ids=['white', 'white, a sample', 'both', 'more of JPEG', 'more white', 'JPEG, a sample'])
def test_the_noise_found_in_y_is_added_to_every_sigma(monkeypatch, found, samples, searched, last):
    """``searched``, ``last``: of luma and of colour, in the search and in the final pass."""
    config = dataclasses.replace(SMALL, sketch_noise_start=0.4, sketch_noise_end=0.4, coarse_noise_start=0.1,
                                 coarse_noise_end=0.025, fine_noise_start=0.05, final_noise=0.01, noise_floor=2.0,
                                 search_jpeg=1.5, final_white=0.5, final_samples=samples)
    y, _, prior, degradation = problem(2, l_shape(12, 8, 2), config=config)
    sigmas, walk = [], em_steps.reverse_pass
    monkeypatch.setattr(em, 'estimate_noise', lambda picture: found if picture is y else pytest.fail('of all of y'))
    for module in (em, em_steps):
        monkeypatch.setattr(module, 'reverse_pass',
                            lambda *args, **named: sigmas.append(args[2]) or walk(*args, **named))
    solve(y, prior, degradation, config)
    expected = [(sigma, searched) for sigma in (0.4, 0.1, 0.025, 0.05)] + [(0.01, last)]
    assert [sigma.luma for sigma in sigmas] == pytest.approx([math.hypot(base, of[0]) for base, of in expected])
    assert [sigma.colour for sigma in sigmas] == pytest.approx(
        [of[1] and math.hypot(base, of[1]) for base, of in expected])


@pytest.mark.parametrize(('jpeg', 'power'), [(0.0, 0.8), (0.005, 0.75), (0.01, 0.7), (0.03, 0.7)])
def test_under_jpeg_weak_parts_count_more_for_the_centre(monkeypatch, jpeg, power):
    monkeypatch.setattr(kernel_search, 'MUCH_JPEG', 0.01)
    config = dataclasses.replace(SMALL, noise_floor=0)
    y, _, prior, degradation = problem(2, l_shape(12, 8, 2), config=config)
    powers, place = [], em_steps.find_place
    for module in (kernel_search, em_steps):
        monkeypatch.setattr(module, 'find_place', lambda k, grid, config, *frame: (
            powers.append(config.centre_power) or place(k, grid, config, *frame)))
    list(find_kernel(given(y, prior, degradation, config, noise=Noise(0.02, jpeg)), EmPlace()))
    assert len(powers) > 4 and powers == pytest.approx([power] * len(powers))


@pytest.mark.parametrize('border', BORDERS)
def test_luma_and_colour_are_drawn_to_y_each_by_its_noise(border):
    """In Y, Cb and Cr the step is that of one channel; with one noise for all it is RGB's."""
    y, x, prior, degradation = problem(2, l_shape(12, 8, 2), border)
    y, k, x0_hat = y.double() + 0.1 * y.double().flip(1), l_shape(12, 8, 2).double(), x.double().roll(3, -1)
    config, a = dataclasses.replace(SMALL, cg_iterations=60, prior_weight=0.7), 0.8
    expected = [data_step(degradation, k, to_ycbcr(y)[:, [channel]], to_ycbcr(x0_hat)[:, [channel]],
                          0.7 * sigma ** 2 * a / (1 - a), 60) for channel, sigma in enumerate((0.1, 0.3, 0.3))]
    found, plain, same = (em_steps._towards(given(y, prior, degradation, config), Highlights(), x0_hat, k, sigma, a)
                          for sigma in (Sigma(0.1, 0.3), Sigma(0.1), Sigma(0.1, 0.1)))
    torch.testing.assert_close(to_ycbcr(found), torch.cat(expected, 1), atol=1e-3, rtol=0)
    torch.testing.assert_close(same, plain, atol=1e-3, rtol=0)
    assert (found - plain).abs().max() > 0.05


def test_stages_without_passes_are_left_out():
    full = Degradation(4, 24)
    config = EmConfig(sketch_passes=3, sketch_noise_start=0.4, sketch_noise_end=0.1, coarse_passes=2, fine_passes=0,
                      smoothness=0.2)
    sketch, coarse = kernel_stages(full, config)
    assert (sketch.degradation.scale, coarse.degradation.scale) == (1, 2)
    assert [sigma.luma for sigma in sketch.sigmas] == pytest.approx([0.4, 0.2, 0.1])
    assert coarse.sigmas == [Sigma(config.coarse_noise_start), Sigma(config.coarse_noise_end)]
    assert (sketch.smoothness, coarse.smoothness) == pytest.approx((0.2 / 256, 0.2 / 16))
    (_, _, fine) = kernel_stages(full, dataclasses.replace(config, fine_passes=1))
    assert fine.degradation.scale == 4 and fine.smoothness == pytest.approx(0.2)
    only = dataclasses.replace(SMALL, coarse_passes=0, fine_passes=0)
    y, _, prior, degradation = problem(3, l_shape(18, 12, 4), config=only)
    assert [state.total for state in solve(y, prior, degradation, only)] == [6] * 6


@pytest.mark.parametrize(('scores', 'best', 'tried'), [([3.0, 1.0, 2.0], 1, 3), ([3.0, 2.0, 1.0], 2, 3),
                                                       ([1.0, 1.05], 0, 2)])
def test_uncertainties_are_tried_as_long_as_y_gets_likelier(scores, best, tried, monkeypatch):
    """Each from the same start; the likeliest one's kernel and its uncertainty go on."""
    config = EmConfig(sketch_passes=1, coarse_passes=2, fine_passes=1, steps=3, final_steps=3, noise_floor=0, rim=0)
    y, _, prior, degradation = problem(4, l_shape(), config=config)
    runs, passes, judged = [], em_steps.em_passes, []
    monkeypatch.setattr(stages, 'UNCERTAINTIES', (0.5, 1.0, 2.0))
    monkeypatch.setattr(kernel_search, 'WIDE', math.inf)

    def noted(piece, stage, place):
        start = place.kernel
        yield from passes(piece, stage, place)
        runs.append((stage, start, place.kernel))

    monkeypatch.setattr(kernel_search, 'em_passes', noted)
    said = [9.0, *scores, 5.0]  # sketch and fine stage are judged too, but there is nothing to choose
    monkeypatch.setattr(kernel_search, 'nll', lambda *args: judged.append(args) or said[len(judged) - 1])
    states = solve(y, prior, degradation, config)
    sketch, *trials, fine = runs
    assert sketch[0].uncertainty == 0 and [run[0].uncertainty for run in trials] == [0.5, 1, 2][:tried]
    assert all(torch.equal(run[1], trials[0][1]) for run in trials) and not torch.equal(trials[0][2], trials[1][2])
    assert len(judged) == len(runs) and all(torch.equal(args[2], run[2]) for args, run in zip(judged, runs))
    assert {args[5] for args in judged} == {177}  # of the levels 300, 177 and 72 the M step's first
    told = restarts.surprise(given(y, prior, degradation, config), states[-1].kernel)  # with noise of its own
    assert [state.surprise for state in states] == [None] * (len(states) - 3) + [told] * 3
    assert fine[0].uncertainty == (0.5, 1, 2)[best]
    carried = resample_kernel(trials[best][2], trials[best][0].degradation, fine[0].degradation)
    assert torch.equal(fine[1], shift(*em_steps.find_place(carried, fine[0].degradation, config)))
    left_out = 6 * (3 - tried) + 3 * (1 + 2 + 1)  # the second attempt
    assert len(states) == 3 + 6 * tried + 3 + 3 == states[-1].total - left_out and states[-1].step == states[-1].total
    assert {state.total for state in states} == {39}


def test_the_likeliest_kernel_is_the_result_where_no_stage_follows(monkeypatch):
    monkeypatch.setattr(kernel_search, 'WIDE', math.inf)
    config = EmConfig(sketch_passes=1, coarse_passes=2, fine_passes=0, steps=3, final_steps=3, noise_floor=0,
                      rim=0, density_power=1)
    y, _, prior, degradation = problem(4, l_shape(), config=config)
    said = iter([9.0, 1.0, 2.0])
    monkeypatch.setattr(kernel_search, 'nll', lambda *args: next(said))
    *search, end = [state.kernel for state in solve(y, prior, degradation, config)][:-2]
    first, second = search[3 + 5], search[-1]  # ends of the trials
    assert torch.equal(end, first) and not torch.equal(end, second)


def test_the_kernel_is_judged_on_the_most_informative_piece(monkeypatch):
    k = l_shape()
    y, _, prior, degradation = problem(4, k)
    judged = []
    monkeypatch.setattr(restarts, 'mean_nll', lambda *args: judged.append(args) or 1.5)
    monkeypatch.setattr(restarts, 'JUDGED', 12)
    states = solve(y, prior, degradation)
    top, left, *_ = informative_piece(y, 12)
    (judging, kernel, seed), = judged
    assert seed == 0  # whatever the run's is
    assert torch.equal(judging.y, y[..., top:top + 12, left:left + 12]) and torch.equal(kernel, states[-1].kernel)
    assert solve(y, prior, degradation, kernel=k)[-1].surprise is None and len(judged) == 1


@pytest.mark.parametrize('side', [1, 2, 4, 5])
@pytest.mark.parametrize('scale', [2, 4])
def test_y_leaves_the_more_open_the_wider_the_kernel(side, scale):
    """A uniform square of side² LR pixels, at any scale."""
    kernel = torch.zeros(8 * scale, 8 * scale)
    kernel[:side * scale, :side * scale] = 1 / (side * scale) ** 2
    assert float(em_steps.area(kernel, scale)) == pytest.approx(side ** 2)
    assert float(em_steps.left_open(kernel, scale)) == pytest.approx(min(3, (side ** 2 / 8) ** 1.5))


@pytest.mark.parametrize(('wide', 'likelier', 'runs'), [(0, 0.2, [0, 0.5, 1, 1, None, None, None]),
                                                        (0, 0.1, [0, 0.5, 1, 1, None, None, None]),
                                                        (math.inf, 0, [0, 0.5, 1, 1])])
def test_wide_kernels_are_sought_once_more_by_their_area(wide, likelier, runs, monkeypatch):
    """From the start; that kernel is taken if it makes y clearly likelier."""
    config = EmConfig(sketch_passes=1, coarse_passes=2, fine_passes=1, steps=3, final_steps=3, noise_floor=0,
                      rim=0, density_power=1)
    y, _, prior, degradation = problem(4, l_shape(), config=config)
    monkeypatch.setattr(kernel_search, 'WIDE', wide)
    monkeypatch.setattr(stages, 'UNCERTAINTIES', (0.5, 1.0))
    seen, passes = [], em_steps.em_passes

    def noted(piece, stage, place):
        seen.append((stage, place.kernel))
        yield from passes(piece, stage, place)
        seen[-1] += (place.kernel,)

    monkeypatch.setattr(kernel_search, 'em_passes', noted)
    said = iter([9.0, 3.0, 2.0, 4.0, 7.0, 1.0, 4.0 - likelier])
    monkeypatch.setattr(kernel_search, 'nll', lambda *args: next(said))
    states = solve(y, prior, degradation, config)
    assert [stage.uncertainty for stage, *_ in seen] == runs
    first, last = seen[3], seen[-1]
    best = last if likelier > kernel_search.CLEARLY else first
    assert torch.equal(states[-1].kernel, kernel_search.carry_over(best[2], best[0].degradation, degradation, config))
    assert states[-1].surprise == restarts.surprise(given(y, prior, degradation, config), states[-1].kernel)
    if len(runs) > 4:
        assert torch.equal(seen[4][1], seen[0][1]) and not torch.equal(first[2], last[2])
    assert len(states) == 3 + 6 * 2 + 3 + 12 * (len(runs) > 4) + 3 and states[-1].step == states[-1].total == 33


def test_what_is_left_open_goes_by_the_kernel_that_the_pass_began_with(monkeypatch):
    config = EmConfig(rim=0, sketch_passes=2, coarse_passes=0, fine_passes=0, steps=3, kernel_levels=1, final_steps=1)
    y, _, prior, degradation = problem(2, l_shape(12, 8, 2), config=config)
    stage = dataclasses.replace(kernel_stages(degradation, config)[0], uncertainty=None)
    seen = {'fit_kernel': [], 'window_covariance': [], 'normal_equations': [], 'reverse_pass': []}

    def noted(name, function):
        def note(*args):
            result = function(*args)
            seen[name].append((args, result))
            return result
        monkeypatch.setattr(em_steps, name, note)

    for name in seen:
        noted(name, getattr(em_steps, name))
    start = gaussian(stage.degradation.kernel_size, sigmas=1.5)
    passes_from(start, stage, y, prior, degradation, config)
    shares = [em_steps.left_open(args[1], 1) for args, _ in seen['reverse_pass']]
    assert len(shares) == 2 and shares[0] != shares[1]
    for ((G, *_), _), (_, open_), (_, (plain, _)), share in zip(
            seen['fit_kernel'], seen['window_covariance'], seen['normal_equations'], shares):
        torch.testing.assert_close(G, plain + share * open_)


def test_an_uncertainty_that_is_given_is_taken(monkeypatch):
    config = dataclasses.replace(SMALL, uncertainty=0.7)
    y, _, prior, degradation = problem(4, l_shape(), config=config)
    done, passes = [], em_steps.em_passes
    monkeypatch.setattr(kernel_search, 'em_passes', lambda *args: done.append(args[1]) or passes(*args))
    solve(y, prior, degradation, config)
    assert [stage.uncertainty for stage in done] == [0, 0.7, 0.7]


@pytest.mark.usefixtures('unjudged')
def test_each_half_asks_its_own_prior():
    """The kernel is sought with kernel_prior, the final passes are left to the other."""
    k = l_shape()
    y, x, prior, full = problem(4, k)
    search = OraclePrior(grids(full), 20, 0.7)
    states = list(solve_em(y, prior, full, SMALL, torch.Generator().manual_seed(0), None, search))
    assert len(search.calls) == SEARCH // 3 * 5 and [size for _, size in prior.calls] == [x.shape[-1]] * 3
    alone = solve(y, problem(4, k)[2], full)
    assert all(torch.equal(a.x0_hat, b.x0_hat) and torch.equal(a.kernel, b.kernel) for a, b in zip(states, alone))


@pytest.mark.parametrize(('options', 'name'), [
    *(({name: 0}, name) for name in ('sketch_passes', 'steps', 'kernel_levels', 'cg_iterations')),
    *(({name: -1}, name) for name in ('coarse_passes', 'fine_passes', 'final_steps', 'kernel_side', 'smoothness',
                                      'noise_floor', 'search_jpeg', 'final_white', 't_start', 'final_samples',
                                      'outlier', 'memory', 'rim', 'centre_error')),
    *(({name: 0.0}, name) for name in ('start_width', 'sketch_noise_start', 'sketch_noise_end', 'coarse_noise_end',
                                       'fine_noise_end', 'ridge', 'centre_power', 'jpeg_centre_power', 'density_power',
                                       'jpeg_density_power', 't_power')),
    ({'coarse_noise_start': -0.1}, 'coarse_noise_start'), ({'fine_noise_start': math.inf}, 'fine_noise_start'),
    ({'final_noise': math.nan}, 'final_noise'), ({'prior_weight': math.inf}, 'prior_weight'),
    ({'smoothness': math.nan}, 'smoothness'), ({'noise_floor': math.inf}, 'noise_floor'),
    ({'kernel_floor': 1.0}, 'kernel_floor'), ({'kernel_floor': math.nan}, 'kernel_floor'),
    ({'over_relaxation': 0.5}, 'over_relaxation'), ({'over_relaxation': math.inf}, 'over_relaxation'),
    ({'centre_error': math.nan}, 'centre_error'), ({'memory': 1.0}, 'memory'), ({'outlier': math.nan}, 'outlier'),
    ({'support': 0.9}, 'support'), ({'support': math.nan}, 'support'),
    ({'steps': 11, 't_start': 9}, 't_start'), ({'final_steps': 11, 'final_t_start': 9}, 'final_t_start'),
    ({'kernel_prior': 'both'}, 'kernel_prior'), ({'final_prior': 'texture'}, 'final_prior')])
def test_bad_options_are_refused_by_name(options, name):
    with pytest.raises(ValueError, match=rf'em\.{name}\b') as error:
        EmConfig(**options)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('options', [
    {'coarse_passes': 0, 'fine_passes': 0, 'kernel_side': 0, 'smoothness': 0, 'noise_floor': 0, 'kernel_floor': 0},
    {'over_relaxation': 1, 'memory': 0, 'outlier': 0, 'final_samples': 0, 'rim': 0, 'centre_error': 0},
    {'steps': 10, 't_start': 9}, {'support': 1}, {'kernel_prior': 'internal', 'final_prior': 'internal'}])
def test_the_bounds_themselves_are_allowed(options):
    EmConfig(**options)


@pytest.mark.parametrize('name', ['t_start', 'final_t_start'])
def test_a_start_beyond_the_schedule_is_refused(name):
    config = dataclasses.replace(SMALL, **{name: 1000})
    y, _, prior, degradation = problem(2, l_shape(12, 8, 2), config=config)
    with pytest.raises(ValueError, match=rf'em\.{name} must be below the 1000 levels'):
        solve(y, prior, degradation, config)
    assert not prior.calls


def test_each_start_is_held_against_its_own_prior():
    y, _, prior, degradation = problem(2, l_shape(12, 8, 2))
    short = OraclePrior(grids(degradation), 20, 0.7)
    short.schedule = Schedule(250)
    for final, search, name in ((prior, short, 't_start'), (short, prior, 'final_t_start')):
        config = dataclasses.replace(SMALL, final_t_start=260)
        with pytest.raises(ValueError, match=rf'em\.{name} must be below the 250 levels'):
            next(solve_em(y, final, degradation, config, torch.Generator(), None, search))


def test_grids_of_the_search_are_centred_on_lr_pixels():
    for full in (Degradation(4, 24), Degradation(4, 31), Degradation(3, 18), Degradation(2, 12), Degradation(7, 21)):
        for scale in (1, 2, full.scale):
            for support in (1, 4 / 3, 1.7):
                grid = scaled(full, scale, support)
                assert (grid.scale, grid.border) == (scale, full.border)
                lean = full.margin[1] - full.margin[0] if scale == full.scale else 0  # as the kernel asked for has
                assert grid.margin[1] - grid.margin[0] == lean
                width = full.kernel_size * scale / full.scale * support
                assert width - 1e-6 <= grid.kernel_size < width + 2
