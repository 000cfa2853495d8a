"""Diffusion EM with priors that know the answer: an oracle, and a Gaussian whose posterior is known in closed form."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from kernelfusion_plugin.core import em
from kernelfusion_plugin.core.degradation import BORDERS, Degradation, upscale_bicubic
from kernelfusion_plugin.core.diffusion import Schedule, timesteps
from kernelfusion_plugin.core.em import EmConfig, coarse_degradation, reverse_pass, solve_em
from kernelfusion_plugin.core.kernels import centre_of_mass, gaussian, l_shape, motion
from kernelfusion_plugin.core.metrics import kernel_ncc, psnr_y

SMALL = EmConfig(passes=3, steps=3, final_steps=3, noise_start=0.3)
MARGIN = 7  # LR pixels of scene around the frame, more than any canvas needs


def blocks(size, seed=0, block=5):
    """A scene of flat random squares: sharp edges everywhere, so that blur tells itself."""
    count = -(-size // block)
    scene = torch.rand(1, 3, count, count, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8
    return scene.repeat_interleave(block, -1).repeat_interleave(block, -2)[..., :size, :size]


class OraclePrior:
    """Knows the scene at every scale: x0_hat is ``share`` of the truth on the canvas of x_t, the rest x_t itself."""

    def __init__(self, degradations, n, share):
        self.schedule = Schedule()
        self.share = share
        self.calls = []  # (t, size)
        scale = max(d.scale for d in degradations)
        scene = blocks((n + 2 * MARGIN) * scale)
        self.truths = {}
        for d in degradations:
            size, first = d.hr_size((n, n))[0], MARGIN * d.scale - (d.margin[0] if d.border == 'valid' else 0)
            total = ((n + 2 * MARGIN) * d.scale,) * 2
            finer = scene if d.scale == scale else F.interpolate(scene, total, mode='bicubic', antialias=True)
            self.truths[size] = finer[..., first:first + size, first:first + size]

    def predict_x0(self, x_t, t):
        self.calls.append((t, x_t.shape[-1]))
        guess = x_t / self.schedule.alpha_bar(t, x_t).sqrt()
        return self.share * self.truths[x_t.shape[-1]] + (1 - self.share) * guess


def problem(scale, k, border='valid', n=20, share=0.7, config=SMALL):
    """(y, x, prior, full, coarse): a picture seen through k, and the prior that knows it at both scales."""
    full = Degradation(scale, len(k), border)
    s = min(config.coarse_scale, scale)
    coarse = coarse_degradation(s, full, config.support)
    prior = OraclePrior([coarse, full], n, share)
    x = prior.truths[full.hr_size((n, n))[0]]
    return full.forward(x, k), x, prior, full, coarse


def solve(y, prior, degradation, config=SMALL, seed=0, kernel=None):
    return list(solve_em(y, prior, degradation, config, torch.Generator().manual_seed(seed), kernel))


def gain(y, x, estimate, degradation):
    """dB above bicubic."""
    x = degradation.crop(x)
    return psnr_y(degradation.crop(estimate), x) - psnr_y(upscale_bicubic(y, degradation.scale), x)


# What the coarse grid can tell: scale 2 has the kernel's own grid; at x4 a motion path two pixels wide is drawn
# on a grid of half its resolution, so its correlation stays near 0.85.
@pytest.mark.parametrize(('scale', 'k', 'ncc'), [
    (2, l_shape(12, 8, 2), 0.95), (2, motion(13, 4), 0.95), (3, l_shape(18, 12, 4), 0.93), (3, motion(19, 5), 0.87),
    (4, l_shape(24, 16, 4), 0.93), (4, motion(24, 3), 0.8), (4, motion(31, 2), 0.78)],
    ids=['l-x2', 'motion-x2-odd', 'l-x3', 'motion-x3-odd', 'l-x4', 'motion-x4', 'motion-x4-odd'])
def test_oracle_prior_leads_to_the_kernel_and_the_picture(scale, k, ncc):
    y, x, prior, degradation, _ = problem(scale, k)
    states = solve(y, prior, degradation)
    start = gaussian(len(k), sigmas=SMALL.start_width * scale)
    assert kernel_ncc(start, k) < ncc - 0.08, 'the start is too good for this test'
    assert kernel_ncc(states[-1].kernel, k) > ncc
    assert gain(y, x, states[-1].x0_hat, degradation) > 6


@pytest.mark.parametrize('border', BORDERS)
@pytest.mark.parametrize(('scale', 'k'), [(2, l_shape(12, 8, 2)), (4, l_shape(25, 17, 4))], ids=['x2', 'x4-odd'])
def test_all_borders(border, scale, k):
    y, x, prior, degradation, _ = problem(scale, k, border)
    states = solve(y, prior, degradation)
    assert kernel_ncc(states[-1].kernel, k) > 0.9
    assert gain(y, x, states[-1].x0_hat, degradation) > 6
    for state in states:
        assert state.x0_hat.shape == (1, 3, *degradation.hr_size((20, 20)))


@pytest.mark.parametrize(('scale', 'size'), [(2, 4), (2, 11), (3, 7), (3, 18), (4, 8), (4, 15), (4, 31), (5, 12),
                                             (7, 21)])
def test_states_count_the_steps(scale, size):
    degradation, config = Degradation(scale, size), EmConfig(passes=2, steps=3, final_steps=4, cg_iterations=3)
    y, _, prior, _, coarse = problem(scale, gaussian(size, sigmas=size / 8), n=16, config=config)
    states = solve(y, prior, degradation, config)
    assert [state.step for state in states] == list(range(1, 11)) and {state.total for state in states} == {10}
    expected = 2 * timesteps(300, 3)[:-1] + timesteps(200, 4)[:-1]
    assert [state.t for state in states] == expected == [t for t, _ in prior.calls]
    assert [size for _, size in prior.calls] == [d.hr_size((16, 16))[0] for d in 6 * [coarse] + 4 * [degradation]]
    for state in states:
        assert state.kernel.shape == (size, size) and state.kernel.min() >= 0
        assert float(state.kernel.sum()) == pytest.approx(1, abs=1e-5)
        assert state.x0_hat.shape == (1, 3, *degradation.hr_size((16, 16)))
        assert not state.x0_hat.requires_grad and not state.kernel.requires_grad
        assert state.losses.keys() == {'residual'} and 0 <= state.losses['residual'] < math.inf
    for state in states[6:]:
        assert torch.equal(state.kernel, states[5].kernel)  # fixed in the last pass


def test_the_residual_belongs_to_the_yielded_estimate():
    y, _, prior, degradation, _ = problem(4, l_shape())
    last = solve(y, prior, degradation)[-1]
    again = (degradation.forward(last.x0_hat, last.kernel) - y).square().mean()
    assert last.losses['residual'] == pytest.approx(float(again), rel=1e-5)


@pytest.mark.parametrize('scale', [3, 4])
def test_the_watched_picture_of_the_coarse_stage_shows_the_scene(scale):
    """What is yielded in between is the coarse estimate, enlarged in place: nearer to the truth than bicubic."""
    y, x, prior, degradation, _ = problem(scale, l_shape(6 * scale, 4 * scale, scale))
    state = solve(y, prior, degradation)[SMALL.passes * SMALL.steps - 1]
    assert gain(y, x, state.x0_hat, degradation) > 2


def test_the_known_kernel_is_kept_and_skips_the_coarse_stage():
    k = motion(24, 3)
    y, x, prior, degradation, _ = problem(4, k)
    states = solve(y, prior, degradation, kernel=k)
    assert [(state.step, state.total) for state in states] == [(1, 3), (2, 3), (3, 3)]
    assert {size for _, size in prior.calls} == {x.shape[-1]}
    assert all(torch.equal(state.kernel, k) for state in states)
    blind = solve(y, prior, degradation)[-1]
    assert gain(y, x, states[-1].x0_hat, degradation) > gain(y, x, blind.x0_hat, degradation)
    assert states[-1].losses['residual'] < 1e-4


def test_same_seed_same_result_and_the_global_state_is_left_alone():
    y, _, prior, degradation, _ = problem(3, l_shape(18, 12, 4))
    before = torch.get_rng_state()
    first, second, third = (solve(y, prior, degradation, seed=seed)[-1] for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.x0_hat, second.x0_hat) and torch.equal(first.kernel, second.kernel)
    assert not torch.equal(first.x0_hat, third.x0_hat) and not torch.equal(first.kernel, third.kernel)


def test_the_kernel_comes_out_centred():
    """The truth is drawn off centre; its image is the centred kernel's, shifted, so the centred one is found."""
    k = torch.zeros(24, 24)
    k[2:14, 4:7] = 1 / 36  # a bar of 12 x 3, its centre 4 pixels up and 6.5 to the left
    y, _, prior, degradation, _ = problem(4, k, share=1.0)
    found = solve(y, prior, degradation)[-1].kernel
    assert (centre_of_mass(found) - 11.5).abs().max() < 0.6
    bar = torch.zeros(24, 24)
    bar[6:18, 10:13] = 1 / 36
    assert kernel_ncc(found, bar) > 0.8 > kernel_ncc(found, k) + 0.4


@pytest.mark.parametrize(('t_start', 'steps', 't_kernel', 'fits'), [(300, 6, 120, 2), (300, 2, 120, 1),
                                                                    (300, 4, 0, 1), (300, 4, 301, 4)])
def test_the_kernel_is_fitted_at_low_levels_and_at_the_last(t_start, steps, t_kernel, fits, monkeypatch):
    config = EmConfig(passes=2, steps=steps, t_start=t_start, t_kernel=t_kernel, final_steps=1)
    y, _, prior, degradation, _ = problem(2, l_shape(12, 8, 2), config=config)
    count = []
    fit = em.fit_kernel
    monkeypatch.setattr(em, 'fit_kernel', lambda *args: count.append(1) or fit(*args))
    solve(y, prior, degradation, config)
    assert len(count) == 2 * fits


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
    *_, (_, samples, _) = reverse_pass(m.expand(count, -1, -1, -1), k, y.expand(count, -1, -1, -1),
                                       GaussianPrior(m, deviation), degradation, config,
                                       torch.Generator().manual_seed(0), t_start, 100, sigma)
    error, way = samples.mean(0, keepdim=True) - mean, mean - m
    chance = float((covariance.trace() / count).sqrt() / way.norm())
    assert chance < 0.12
    assert error.norm() / way.norm() < 1.5 * chance
    assert (A @ error.flatten()).norm() < 0.04 * (A @ way.flatten()).norm()  # seen by y: hardly any chance
    ratio = samples.flatten(1).std(0) / covariance.diagonal().sqrt()
    assert abs(float(ratio.mean()) - 1) < spread + 0.02 and ratio.min() > 0.75 and ratio.max() < 1.15


@pytest.mark.parametrize(('options', 'name'), [
    ({'coarse_scale': 0}, 'coarse_scale'), ({'passes': 0}, 'passes'), ({'steps': 0}, 'steps'),
    ({'final_steps': -1}, 'final_steps'), ({'cg_iterations': 0}, 'cg_iterations'),
    ({'start_width': 0.0}, 'start_width'), ({'noise_start': -0.1}, 'noise_start'), ({'noise_end': 0.0}, 'noise_end'),
    ({'final_noise': math.nan}, 'final_noise'), ({'prior_weight': math.inf}, 'prior_weight'),
    ({'ridge': 0.0}, 'ridge'), ({'centre_power': 0.0}, 'centre_power'), ({'centre_floor': 1.0}, 'centre_floor'),
    ({'centre_floor': math.nan}, 'centre_floor'), ({'support': 0.9}, 'support'), ({'support': math.nan}, 'support'),
    ({'steps': 11, 't_start': 9}, 't_start'), ({'final_steps': 11, 'final_t_start': 9}, 'final_t_start'),
    ({'t_start': -1}, 't_start')])
def test_bad_options_are_refused_by_name(options, name):
    with pytest.raises(ValueError, match=rf'em\.{name}\b') as error:
        EmConfig(**options)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', ['t_start', 'final_t_start'])
def test_a_start_beyond_the_schedule_is_refused(name):
    config = dataclasses.replace(SMALL, **{name: 1000})
    y, _, prior, degradation, _ = problem(2, l_shape(12, 8, 2), config=config)
    with pytest.raises(ValueError, match=rf'em\.{name} must be below the 1000 levels'):
        solve(y, prior, degradation, config)
    assert not prior.calls


def test_the_sketch_comes_first_on_the_grid_of_y():
    """Its steps are counted, its prior is asked on y's own grid only, and the coarse stage starts from its kernel."""
    k = l_shape()
    config = dataclasses.replace(SMALL, sketch_passes=2)
    y, x, prior, full, coarse = problem(4, k, config=config)
    ground = coarse_degradation(1, full, config.support)
    sketch_prior = OraclePrior([ground], 20, 0.7)
    sketch_prior.truths = {ground.hr_size((20, 20))[0]: F.interpolate(
        F.pad(x, (2, 2, 2, 2), mode='replicate'), (ground.hr_size((20, 20))[0],) * 2, mode='bicubic', antialias=True)}
    states = list(solve_em(y, prior, full, config, torch.Generator().manual_seed(0), None, sketch_prior))
    assert [state.step for state in states] == list(range(1, 19)) and {state.total for state in states} == {18}
    assert {size for _, size in sketch_prior.calls} == {ground.hr_size((20, 20))[0]} and len(sketch_prior.calls) == 6
    assert len(prior.calls) == 12
    assert kernel_ncc(states[-1].kernel, k) > 0.9 and gain(y, x, states[-1].x0_hat, full) > 6


def test_coarse_grids_are_centred_on_lr_pixels():
    for full in (Degradation(4, 24), Degradation(4, 31), Degradation(3, 18), Degradation(2, 12)):
        for scale in (1, 2):
            grid = coarse_degradation(scale, full, 4 / 3)
            assert grid.margin[0] == grid.margin[1]
            assert grid.kernel_size >= full.kernel_size * scale / full.scale * 4 / 3
