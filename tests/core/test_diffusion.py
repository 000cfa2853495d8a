"""Schedule, conversions and steps against closed forms; samplers with an analytic Gaussian denoiser."""

import math

import pytest
import torch

from kernelfusion_plugin.core.diffusion import Schedule, timesteps


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope='module')
def schedule():
    return Schedule()


def test_schedule_is_ddpms(schedule):
    """ᾱ_t is the product of 1 - beta_i with beta_i = 1e-4 + i (0.02 - 1e-4) / 999."""
    product = 1.0
    for t in range(1000):
        product *= 1 - (1e-4 + t * (0.02 - 1e-4) / 999)
        if t in (0, 1, 10, 499, 999):
            assert float(schedule.alphas_cumprod[t]) == pytest.approx(product, rel=1e-9)
    assert product == pytest.approx(4.0358e-5, rel=1e-3)  # DDPM's figure
    assert (schedule.alphas_cumprod.diff() < 0).all()


def test_alpha_bar_shapes_and_the_end(schedule):
    like = torch.zeros(3, 2, 4, 4)
    assert schedule.alpha_bar(5, like).shape == ()
    a = schedule.alpha_bar(torch.tensor([0, 10, -1]), like)
    assert a.shape == (3, 1, 1, 1) and a.dtype == torch.float32
    assert a[2].item() == 1 and a[0].item() == pytest.approx(1 - 1e-4)


@pytest.mark.parametrize('t', [0, 3, 400, 999])
def test_round_trips(schedule, t):
    x0, eps = random(2, 3, 5, 4), random(2, 3, 5, 4, seed=1)
    x_t = schedule.q_sample(x0, t, eps)
    v = schedule.velocity(x0, eps, t)
    torch.testing.assert_close(schedule.x0_from_v(x_t, v, t), x0)
    torch.testing.assert_close(schedule.eps_from_x0(x_t, x0, t), eps)
    torch.testing.assert_close(x_t.square() + v.square(), x0.square() + eps.square())  # a rotation


def test_a_batch_of_steps_is_each_step(schedule):
    x0, eps, t = random(3, 3, 4, 4), random(3, 3, 4, 4, seed=1), torch.tensor([0, 500, 999])
    x_t, v = schedule.q_sample(x0, t, eps), schedule.velocity(x0, eps, t)
    for i in range(3):
        torch.testing.assert_close(x_t[i:i + 1], schedule.q_sample(x0[i:i + 1], int(t[i]), eps[i:i + 1]))
    torch.testing.assert_close(schedule.x0_from_v(x_t, v, t), x0)


@pytest.mark.parametrize(('t', 's'), [(999, 998), (999, 400), (500, 0), (1, 0), (300, -1), (0, -1)])
def test_posterior_is_ddim_with_eta_1(schedule, t, s):
    x_t, x0, noise = random(1, 3, 4, 4), random(1, 3, 4, 4, seed=1), random(1, 3, 4, 4, seed=2)
    torch.testing.assert_close(schedule.posterior_step(x_t, x0, t, s, noise),
                               schedule.ddim_step(x_t, x0, t, s, noise, eta=1.0), rtol=1e-6, atol=1e-8)
    if s == -1:
        torch.testing.assert_close(schedule.posterior_step(x_t, x0, t, s, noise), x0)
        torch.testing.assert_close(schedule.ddim_step(x_t, x0, t, s, noise), x0)


def test_one_posterior_step_is_ddpms_formula(schedule):
    """Ho et al., Eq. 7, in betas."""
    t = 600
    beta = 1e-4 + t * (0.02 - 1e-4) / 999
    a_t, a_s = schedule.alphas_cumprod[t], schedule.alphas_cumprod[t - 1]
    x_t, x0, noise = random(1, 1, 3, 3), random(1, 1, 3, 3, seed=1), random(1, 1, 3, 3, seed=2)
    mean = (a_s.sqrt() * beta * x0 + math.sqrt(1 - beta) * (1 - a_s) * x_t) / (1 - a_t)
    sigma = ((1 - a_s) / (1 - a_t) * beta).sqrt()
    torch.testing.assert_close(schedule.posterior_step(x_t, x0, t, t - 1, noise), mean + sigma * noise)
    torch.testing.assert_close(schedule.posterior_step(x_t, x0, t, t - 1, noise, sigma_scale=0), mean)


@pytest.mark.parametrize('s', [700, 399, 0])
def test_posterior_step_keeps_the_marginal(schedule, s):
    """x_t ~ q(x_t | x0) and a step give x_s ~ q(x_s | x0): mean √ᾱ_s x0, variance 1 - ᾱ_s."""
    t, x0 = 800, torch.full((1, 1, 1, 200_000), 0.7, dtype=torch.float64)
    x_t = schedule.q_sample(x0, t, random(*x0.shape))
    x_s = schedule.posterior_step(x_t, x0, t, s, random(*x0.shape, seed=1))
    a_s = float(schedule.alphas_cumprod[s])
    assert float(x_s.mean()) == pytest.approx(math.sqrt(a_s) * 0.7, abs=0.01)
    assert float(x_s.var()) == pytest.approx(1 - a_s, rel=0.02)


def gaussian_denoiser(schedule, mean, var):
    """E[x0 | x_t] for the prior N(mean, var)."""
    def predict(x_t, t):
        a = schedule.alphas_cumprod[t]
        return (var * a.sqrt() * x_t + (1 - a) * mean) / (var * a + 1 - a)
    return predict


@pytest.mark.parametrize('step', ['posterior', 'ddim'])
def test_samplers_reach_the_gaussian_prior(schedule, step):
    mean, var = 0.3, 0.25
    predict = gaussian_denoiser(schedule, mean, var)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 1, 20_000, generator=generator, dtype=torch.float64)
    path = timesteps(999, 1000)
    for t, s in zip(path, path[1:], strict=False):
        x0 = predict(x, t)
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        x = getattr(schedule, f'{step}_step')(x, x0, t, s, noise)
    assert float(x.mean()) == pytest.approx(mean, abs=0.02)
    assert float(x.var()) == pytest.approx(var, rel=0.05)


def test_ancestral_chain_from_a_noisy_image_is_the_analytic_posterior(schedule):
    """Started at x_t = c, the chain ends in N(E[x0 | c], Var[x0 | c])."""
    mean, var, start, c = -0.2, 0.09, 400, 0.5
    predict = gaussian_denoiser(schedule, mean, var)
    generator = torch.Generator().manual_seed(0)
    x = torch.full((1, 1, 1, 20_000), c, dtype=torch.float64)
    path = timesteps(start, start + 1)
    for t, s in zip(path, path[1:], strict=False):
        x = schedule.posterior_step(x, predict(x, t), t, s, torch.randn(x.shape, generator=generator).double())
    a = float(schedule.alphas_cumprod[start])
    precision = 1 / var + a / (1 - a)
    assert float(x.mean()) == pytest.approx((mean / var + math.sqrt(a) / (1 - a) * c) / precision, abs=0.02)
    assert float(x.var()) == pytest.approx(1 / precision, rel=0.05)


@pytest.mark.parametrize(('start', 'count'), [(999, 1000), (999, 50), (400, 20), (7, 8), (7, 3), (3, 1), (0, 1)])
def test_timesteps_are_distinct_and_even(start, count):
    path = timesteps(start, count)
    assert len(path) == count + 1 and path[0] == start and path[-1] == -1
    gaps = [a - b for a, b in zip(path, path[1:], strict=False)]
    assert min(gaps) >= 1 and max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize('power', [0.5, 1.3, 2.0, 7.0])
@pytest.mark.parametrize(('start', 'count'), [(999, 1000), (999, 50), (300, 6), (200, 8), (7, 8), (7, 3), (0, 1)])
def test_timesteps_by_a_power_are_distinct_and_fall(start, count, power):
    path = timesteps(start, count, power)
    assert len(path) == count + 1 and path[0] == start and path[-1] == -1 and path[-2] >= 0
    assert all(type(t) is int for t in path) and all(a > b for a, b in zip(path, path[1:]))


def test_timesteps_gather_where_the_power_says():
    """Index i at about start · (1 - i / count)^power; the gaps shrink towards the low levels above 1."""
    assert timesteps(300, 6, 1.3)[:-1] == [round(300 * (1 - i / 6) ** 1.3) for i in range(6)]
    path = timesteps(900, 30, 2.0)[:-1]
    gaps = [a - b for a, b in zip(path, path[1:])]
    assert gaps == sorted(gaps, reverse=True) and gaps[0] > 5 * gaps[-1]
    assert timesteps(300, 6, 1.0) == timesteps(300, 6) == [300, 250, 200, 150, 100, 50, -1]
    assert timesteps(7, 8, 5.0) == timesteps(7, 8)  # no room for any other


@pytest.mark.parametrize(('start', 'count'), [(10, 0), (10, 12)])
def test_timesteps_that_do_not_fit(start, count):
    for power in (1.0, 1.3):
        with pytest.raises(ValueError, match='1 to 11'):
            timesteps(start, count, power)


def test_a_bad_schedule_is_refused():
    for bad in [{'steps': 0}, {'beta_start': 0.0}, {'beta_end': 1.0}, {'beta_start': 0.1, 'beta_end': 0.01}]:
        with pytest.raises(ValueError, match='schedule'):
            Schedule(**bad)
