"""BlindDiff's loss, gradient term and sampler against finite differences, closed forms and itself."""

import math

import pytest
import torch
import torch.nn.functional as F

from kernelfusion_plugin.core.blinddiff import BlindDiffConfig, training_loss, variance_bound
from kernelfusion_plugin.core.blinddiff_sampling import data_term, degrade, image_generator, sample
from kernelfusion_plugin.core.degradation import downscale_bicubic
from kernelfusion_plugin.core.diffusion import Schedule, timesteps
from kernelfusion_plugin.core.kernel_basis import kernel_basis
from kernelfusion_plugin.core.kernels import delta, gaussian
from kernelfusion_plugin.core.nets.mcformer import ModulatedTransformer, Prediction

PAPER = BlindDiffConfig()


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def tiny_net(dtype=torch.float32, **options):
    torch.manual_seed(0)
    basis = kernel_basis(torch.stack([gaussian(9, sigmas=float(s)) for s in torch.linspace(0.3, 2, 40)]), 4)
    return ModulatedTransformer(dim=8, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1, kernel_size=9,
                                **{'basis': basis, **options}).to(dtype).eval()


def generators(count, seed=0):
    return [image_generator(seed, f'image {i}') for i in range(count)]


def last(states):
    *_, state = states
    return state


# The gradient term

@pytest.mark.parametrize('options', [{}, {'residual': 'norm', 'shrinkage': 0.1}, {'downsample': 'bicubic'},
                                     {'guidance': 'bicubic'}, {'border': 'zeros', 'image_range': 'unit'},
                                     {'clip_x0': False}])
def test_gradient_is_that_of_finite_differences(options):
    """Through estimate, kernel and degradation, in float64: one step with it less one without is -lambda times it."""
    config = BlindDiffConfig(steps=4, guidance_weight=0.37, tile=0, **options)
    net, y = tiny_net(torch.float64), random(2, 3, 4, 6).clamp(-1, 1)
    with_term, without = (next(sample(net, y, 4, c, generators(2)))
                          for c in (config, BlindDiffConfig(**{**vars(config), 'guidance_weight': 0})))
    gradient = (without.x_t - with_term.x_t) / 0.37 / (2 if config.image_range == 'unit' else 1)
    schedule, t = config.schedule(), 999
    x_t = torch.cat([torch.randn(1, 3, 16, 24, generator=g, dtype=torch.float64) for g in generators(2)])
    y_in = y if config.image_range == 'signed' else (y + 1) / 2

    def objective(x):
        said = net(x, torch.full((2,), t), y_in)
        a = schedule.alphas_cumprod[t]
        x0 = (x - (1 - a).sqrt() * said.eps) / a.sqrt()
        if config.clip_x0:
            x0 = x0.clamp(-1 if config.image_range == 'signed' else 0, 1)
        return data_term(y_in, x0, said.kernel, 4, config)[0].sum()

    with torch.no_grad():
        for seed in range(4):
            direction = random(2, 3, 16, 24, seed=10 + seed)
            h = 1e-6
            slope = (objective(x_t + h * direction) - objective(x_t - h * direction)) / (2 * h)
            torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-5, atol=1e-8)


def test_each_image_is_degraded_by_its_own_kernel_as_eq_1_says():
    x, k = random(2, 3, 24, 16), torch.stack([gaussian(9, sigmas=s).double() for s in (0.8, 2.0)])
    for i in range(2):
        wide = F.pad(x[i:i + 1], (2, 3, 2, 3), mode='reflect').reshape(3, 1, 29, 21)
        expected = F.conv2d(wide, k[i][None, None], stride=4).reshape(1, 3, 6, 4)
        torch.testing.assert_close(degrade(x, k, 4, PAPER)[i:i + 1], expected)


def test_the_released_reduction_is_bicubic_after_the_blur():
    x, k = random(1, 3, 24, 16), gaussian(9, sigmas=0.8).double()
    blurred = F.conv2d(F.pad(x, (4,) * 4, mode='reflect').reshape(3, 1, 32, 24), k[None, None]).reshape(x.shape)
    reduced = degrade(x, k[None], 4, BlindDiffConfig(downsample='bicubic'))
    torch.testing.assert_close(reduced, downscale_bicubic(blurred, 4))


def test_squared_term_and_its_norm():
    x, y, k = random(2, 3, 16, 16), random(2, 3, 4, 4, seed=1), torch.stack([delta(9).double()] * 2)
    squared, same = data_term(y, x, k, 4, PAPER)
    assert torch.equal(squared, same) and squared.shape == (2,)
    norm, _ = data_term(y, x, k, 4, BlindDiffConfig(residual='norm', shrinkage=0.5))
    torch.testing.assert_close(norm, squared.sqrt() + 0.5 * x.square().sum((1, 2, 3)).sqrt())


# The sampler and a known posterior

class GaussianDenoiser(torch.nn.Module):
    """The optimal eps for x0 ~ N(mean, var I), in place of the network; its kernel is always the box."""

    def __init__(self, schedule, mean, var, kernel):
        super().__init__()
        self.schedule, self.mean, self.var, self.kernel = schedule, mean, var, kernel

    def forward(self, x_t, t, y):
        a = self.schedule.alphas_cumprod[t].reshape(-1, 1, 1, 1)
        x0 = (self.var * a.sqrt() * x_t + (1 - a) * self.mean) / (self.var * a + 1 - a)
        return Prediction((x_t - a.sqrt() * x0) / (1 - a).sqrt(), self.kernel.expand(len(x_t), -1, -1), None)


def exact_schedule(steps, weight, noise_var, var, gain):
    """A schedule under which a constant lambda is Bayes' rule.

    With A Aᵀ = gain · I, p(y | x_t) = N(A x0_hat, (noise_var + gain · v_t) I), v_t = Var[x0 | x_t], so the reverse
    step's mean moves by beta / √alpha times its score. Algorithm 2 moves it by 2 · lambda · grad ||r||² / 2. The two
    are equal where beta / √alpha = 2 · lambda · (noise_var + gain · v_t).
    """
    schedule, table, a_bar = Schedule(steps), [], 1.0
    for _ in range(steps):
        beta = 0.0
        for _ in range(20):  # v_t is that after the step
            v = var * (1 - a_bar * (1 - beta)) / (var * a_bar * (1 - beta) + 1 - a_bar * (1 - beta) + 1e-300)
            beta = 2 * weight * (noise_var + gain * v) * math.sqrt(1 - beta)
        a_bar *= 1 - beta
        table.append(a_bar)
    schedule.alphas_cumprod = torch.tensor(table, dtype=torch.float64)
    return schedule


def chain(schedule, weight, mean, var, gain):
    """Algorithm 2 under these Gaussians by hand, for the mean of a 4 x 4 block: slope and intercept of its expectation
    as a function of y, and its variance.
    """
    table = [1.0, *schedule.alphas_cumprod.tolist()]
    slope, shift, variance = 0.0, 0.0, gain  # of x_T ~ N(0, I)
    for a_t, a_s in zip(reversed(table[1:]), reversed(table[:-1])):
        r = a_t / a_s
        c, d = var * a_t ** 0.5 / (var * a_t + 1 - a_t), (1 - a_t) * mean / (var * a_t + 1 - a_t)  # x0_hat = c x + d
        of_x0, of_x = a_s ** 0.5 * (1 - r) / (1 - a_t), r ** 0.5 * (1 - a_s) / (1 - a_t)
        pull = 2 * weight * c * gain
        factor = of_x0 * c + of_x - pull * c
        slope, shift = factor * slope + pull, factor * shift + of_x0 * d - pull * d
        variance = factor ** 2 * variance + (1 - r) * (1 - a_s) / (1 - a_t) * gain
    return slope, shift, variance


GAUSS = {'mean': 0.2, 'var': 0.25, 'gain': 1 / 16}  # prior of a pixel; A is a 4 x 4 box and every fourth pixel


def test_algorithm_2_goes_to_the_posterior():
    """With many steps the chain ends in Kalman's posterior of x0 ~ N(m, s²), y = A x0 + n."""
    noise_var, steps = 0.02, 60_000
    schedule = exact_schedule(steps, 200 / steps, noise_var, GAUSS['var'], GAUSS['gain'])
    slope, shift, variance = chain(schedule, 200 / steps, **GAUSS)
    prior = GAUSS['gain'] * GAUSS['var']
    kalman = prior / (prior + noise_var)
    assert slope == pytest.approx(kalman, rel=0.01) and shift == pytest.approx((1 - kalman) * 0.2, rel=0.01)
    assert variance == pytest.approx(prior * (1 - kalman), rel=0.01)


def test_sampler_is_that_chain():
    """Mean and variance over many pixels; what A does not see keeps its prior; lambda = 0 gives the prior."""
    steps, weight = 250, 0.8
    schedule = exact_schedule(steps, weight, 0.02, GAUSS['var'], GAUSS['gain'])
    net = GaussianDenoiser(schedule, GAUSS['mean'], GAUSS['var'], torch.full((1, 4, 4), 1 / 16, dtype=torch.float64))
    y = random(2, 3, 20, 20, seed=5) * 0.4
    for w in (weight, 0.0):
        config = BlindDiffConfig(steps=steps, guidance_weight=w, tile=0, clip_x0=False)
        x = last(sample(net, y, 4, config, generators(2), schedule=schedule)).x_t
        blocks = F.avg_pool2d(x, 4)
        slope, shift, variance = chain(schedule, w, **GAUSS)
        found = ((y - y.mean()) * blocks).sum() / (y - y.mean()).square().sum()
        assert float(found) == pytest.approx(slope, abs=0.02)
        assert float((blocks - slope * y - shift).mean()) == pytest.approx(0, abs=0.008)
        assert float((blocks - slope * y - shift).square().mean()) == pytest.approx(variance, rel=0.09)
        within = x - F.interpolate(blocks, scale_factor=4)
        unseen = chain(schedule, 0.0, **GAUSS)[2] * 15  # 15 / 16 of a pixel's variance
        assert float(within.square().mean()) == pytest.approx(unseen, rel=0.03)


def test_ddim_without_gradient_is_the_deterministic_map():
    """eta = 0 and a Gaussian prior: x0 is the prior's quantile of x_T, mean + sd · x_T, as steps become many."""
    schedule = PAPER.schedule()
    net = GaussianDenoiser(schedule, 0.1, 0.25, torch.full((1, 4, 4), 1 / 16, dtype=torch.float64))
    config = BlindDiffConfig(steps=500, sampler='ddim', guidance_weight=0, tile=0, clip_x0=False)
    y = torch.zeros(1, 3, 4, 4, dtype=torch.float64)
    x = last(sample(net, y, 4, config, generators(1))).x_t
    x_T = torch.randn(1, 3, 16, 16, generator=generators(1)[0], dtype=torch.float64)
    torch.testing.assert_close(x, 0.1 + 0.5 * x_T, atol=0.02, rtol=0)


# The sampler around the network

@pytest.mark.parametrize('size', [(7, 5), (4, 4), (1, 9)])
@pytest.mark.parametrize('scale', [2, 3, 4])
def test_any_size(size, scale):
    y = random(1, 3, *size, dtype=torch.float32).clamp(-1, 1)
    config = BlindDiffConfig(steps=2, guidance_weight=1e-3)
    state = last(sample(tiny_net(scale=scale), y, scale, config, generators(1)))
    assert state.x_t.shape == state.x0_hat.shape == (1, 3, scale * size[0], scale * size[1])
    assert state.kernel.shape == (1, 9, 9) and torch.isfinite(state.x_t).all() and (state.step, state.total) == (2, 2)


def test_an_image_does_not_depend_on_its_batch_and_seeds_matter():
    y = random(3, 3, 4, 6, dtype=torch.float32).clamp(-1, 1)
    net, config = tiny_net(), BlindDiffConfig(steps=3, guidance_weight=1e-3)
    together = last(sample(net, y, 4, config, generators(3)))
    alone = last(sample(net, y[1:2], 4, config, generators(3)[1:2]))
    torch.testing.assert_close(together.x_t[1:2], alone.x_t, atol=2e-3, rtol=1e-4)
    again = last(sample(net, y[1:2], 4, config, generators(3)[1:2]))
    assert torch.equal(alone.x_t, again.x_t)
    other = last(sample(net, y[1:2], 4, config, generators(1, seed=1)))
    assert (other.x_t - alone.x_t).abs().mean() > 0.1
    with pytest.raises(ValueError, match='one generator per image'):
        next(sample(net, y, 4, config, generators(2)))


def test_a_net_without_training_does_not_run_away():
    """At t = 999 its x0_hat is some hundred times too large, and so would be the gradient."""
    y = random(1, 3, 4, 4, dtype=torch.float32).clamp(-1, 1)
    state = last(sample(tiny_net(), y, 4, BlindDiffConfig(steps=20), generators(1)))
    assert state.x_t.abs().max() < 3


def test_tiles_of_a_local_denoiser_are_the_whole():
    """A denoiser of one pixel's reach: any tiling gives the untiled result, seams and noise included."""
    schedule = PAPER.schedule()
    net = GaussianDenoiser(schedule, 0.1, 0.25, gaussian(9, sigmas=1.0).double()[None])
    y = random(1, 3, 21, 34).clamp(-1, 1)
    whole, tiled = (last(sample(net, y, 4, BlindDiffConfig(steps=5, guidance_weight=0, tile=tile, overlap=3),
                                generators(1))).x_t for tile in (0, 8))
    torch.testing.assert_close(tiled, whole)


def test_tiles_of_the_network_have_no_seams():
    """The network sees all of a tile, so tiles differ; where they meet, the result is no rougher than elsewhere."""
    y = F.interpolate(random(1, 3, 3, 6, dtype=torch.float32), scale_factor=8, mode='bicubic').clamp(-1, 1)
    config = BlindDiffConfig(steps=4, sampler='ddim', guidance_weight=1e-3, tile=16, overlap=8)
    net = tiny_net()
    state = next(sample(net, y, 4, config, generators(1)))
    whole = next(sample(net, y, 4, BlindDiffConfig(**{**vars(config), 'tile': 0}), generators(1)))
    difference = (state.x0_hat - whole.x0_hat)[0].double()
    jumps = difference.diff(dim=-1).abs().mean((0, 1))
    assert jumps.max() < 5 * jumps.mean()


def test_the_true_kernel_replaces_the_estimate_in_the_gradient():
    y, net = random(2, 3, 4, 4, dtype=torch.float32).clamp(-1, 1), tiny_net()
    config = BlindDiffConfig(steps=3, guidance_weight=1e-3)
    blind, oracle = (last(sample(net, y, 4, config, generators(2), kernel=k)) for k in (None, gaussian(13, sigmas=3.0)))
    assert not torch.equal(blind.x_t, oracle.x_t)
    each = last(sample(net, y, 4, config, generators(2), kernel=torch.stack([gaussian(13, sigmas=3.0)] * 2)))
    assert torch.equal(each.x_t, oracle.x_t)


def test_the_noise_of_a_step_has_the_learned_variance():
    y = random(1, 3, 4, 4, dtype=torch.float32).clamp(-1, 1)
    config, net = BlindDiffConfig(steps=3, guidance_weight=0), tiny_net(learned_variance=True)
    learned, fixed = (next(sample(one, y, 4, config, generators(1)))
                      for one in (net, lambda *args: net(*args)._replace(v=None)))
    generator, like = generators(1)[0], torch.empty(1, 3, 16, 16)
    x_t, noise = (torch.randn(like.shape, generator=generator) for _ in range(2))
    schedule, (t, s, *_) = config.schedule(), timesteps(999, 3)
    with torch.no_grad():
        v = net(x_t, torch.tensor([t]), y).v
    deviations = schedule.learned_variance(v, t, s).sqrt(), schedule.posterior(x_t, x_t, t, s)[1].sqrt()
    torch.testing.assert_close(learned.x_t - fixed.x_t, (deviations[0] - deviations[1]) * noise, atol=1e-5, rtol=0)
    assert (learned.x_t - fixed.x_t).abs().max() > 1e-3


# The loss

def test_loss_is_eq_13():
    config, schedule = BlindDiffConfig(kernel_weight=0.3), PAPER.schedule()
    x0, y, eps = random(2, 3, 16, 16), random(2, 3, 4, 4, seed=1), random(2, 3, 16, 16, seed=2)
    k, t = torch.stack([gaussian(9, sigmas=s).double() for s in (0.5, 1.5)]), torch.tensor([10, 800])
    net = tiny_net(torch.float64)
    with torch.no_grad():
        losses = training_loss(net, x0, y, k, t, eps, schedule, config)
    noise = kernel = 0.0
    for i in range(2):
        a = schedule.alphas_cumprod[t[i]]
        said = net(a.sqrt() * x0[i:i + 1] + (1 - a).sqrt() * eps[i:i + 1], t[i:i + 1], y[i:i + 1])
        noise += float((said.eps.detach() - eps[i]).square().mean()) / 2
        kernel += float((said.kernel.detach()[0] - k[i]).abs().sum()) / 2
    assert float(losses.noise) == pytest.approx(noise) and float(losses.kernel) == pytest.approx(kernel)
    assert float(losses.total) == pytest.approx(noise + 0.3 * kernel) and losses.variance is None


def test_variance_bound_is_least_at_the_true_variance_and_spares_the_mean():
    """For a perfect mean the bound falls to 0 where p's variance is the posterior's: v = -1."""
    schedule, t = PAPER.schedule(), torch.tensor([300])
    x0, eps = random(1, 3, 8, 8), random(1, 3, 8, 8, seed=1)
    x_t = schedule.q_sample(x0, t, eps)
    values = [float(variance_bound(eps, torch.full_like(x0, v), x_t, x0, t, schedule)) for v in (-1.0, -0.5, 0.5, 1.0)]
    assert values[0] == pytest.approx(0, abs=1e-9) and values == sorted(values)
    distribution = torch.distributions.Normal
    mean, variance = schedule.posterior(x_t, x0, 300, 299)
    q = distribution(mean, variance.sqrt().expand_as(mean))
    wrong, _ = schedule.posterior(x_t, schedule.x0_from_eps(x_t, eps + 0.1, 300), 300, 299)
    p = distribution(wrong, schedule.learned_variance(torch.full_like(x0, 0.3), 300, 299).sqrt())
    expected = torch.distributions.kl_divergence(q, p).mean() / math.log(2)
    got = variance_bound(eps + 0.1, torch.full_like(x0, 0.3), x_t, x0, t, schedule)
    assert float(got) == pytest.approx(float(expected), rel=1e-6)
    net = tiny_net(learned_variance=True)
    args = [z.float() for z in (x0, random(1, 3, 2, 2, seed=3))]
    k = gaussian(9, sigmas=1.0)[None]
    both = [training_loss(net, args[0], args[1], k, t, eps.float(), schedule, BlindDiffConfig(variance_weight=w))
            for w in (0.0, 1.0)]
    rows = [torch.autograd.grad(losses.total, net.output.weight)[0] for losses in both]
    assert torch.allclose(rows[0][:3], rows[1][:3]) and not torch.allclose(rows[0][3:], rows[1][3:])


def test_learned_variance_lies_between_its_bounds():
    schedule, like = PAPER.schedule(), torch.zeros(1, 3, 2, 2, dtype=torch.float64)
    for t, s in ((999, 979), (500, 499), (20, 3)):
        a_t, a_s = schedule.alphas_cumprod[t], schedule.alphas_cumprod[s]
        beta = 1 - a_t / a_s
        low = beta * (1 - a_s) / (1 - a_t)
        assert float(schedule.learned_variance(like - 1, t, s).mean()) == pytest.approx(float(low))
        assert float(schedule.learned_variance(like + 1, t, s).mean()) == pytest.approx(float(beta))
        assert float(schedule.learned_variance(like, t, s).mean()) == pytest.approx(float((low * beta).sqrt()))
    lowest = schedule.learned_variance(like - 1, 0, -1)  # the posterior's own is 0 there
    torch.testing.assert_close(lowest, schedule.posterior(like, like, 1, 0)[1].expand_as(lowest))


# Settings

@pytest.mark.parametrize(('options', 'message'), [
    ({'gudance': 'kernel'}, "did you mean 'guidance'"), ({'guidance': 'gt'}, 'guidance must be one of'),
    ({'steps': 2000}, 'steps'), ({'preset': 'published'}, 'unknown preset'), ({'tile': 8, 'overlap': 8}, 'overlap'),
    ({'shrinkage': 0.1}, 'residual: norm'), ({'guidance_weight': -1}, 'guidance_weight'), ({'clip_x0': 1}, 'clip_x0')])
def test_wrong_settings(options, message):
    with pytest.raises(ValueError, match=message):
        BlindDiffConfig.from_options(options)


def test_preset_of_the_released_code():
    config = BlindDiffConfig.from_options({'preset': 'released', 'steps': 50})
    assert (config.residual, config.downsample, config.image_range, config.steps) == ('norm', 'bicubic', 'unit', 50)
    assert BlindDiffConfig.from_options({}) == PAPER
