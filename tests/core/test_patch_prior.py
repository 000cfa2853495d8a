"""Phase 1: crops, levels, rates and averages as configured, and that it learns."""

import math

import pytest
import torch
from torch import nn

from kernelfusion_plugin.core import patch_prior
from kernelfusion_plugin.core.diffusion import Schedule
from kernelfusion_plugin.core.nets.patch_net import PatchDiffusionNet
from kernelfusion_plugin.core.patch_prior import (
    MeanPrior,
    PatchPrior,
    PriorConfig,
    autocast,
    fit_patch_prior,
    fit_prior,
    random_crops,
)
from kernelfusion_plugin.core.tiles import Tiles

CPU = torch.device('cpu')
TINY = {'channels': 8, 'crop': 16, 'precision': 'fp32'}


def texture(height=24, width=28):
    """Stripes of three colours, in [-1, 1]."""
    at = torch.arange(height)[:, None] + 2 * torch.arange(width)
    return torch.stack([torch.sin(at / period) for period in (1.5, 2.5, 4.0)])[None] * 0.9


def make_net(channels=8):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PatchDiffusionNet(channels)


def fit(config, net=None, y=None, seed=0):
    """All states, and a copy of the weights at each."""
    states, weights = [], []
    for state in fit_patch_prior(net or make_net(), texture() if y is None else y, Schedule(config.timesteps), config,
                                 torch.Generator().manual_seed(seed)):
        states.append(state)
        weights.append([w.detach().clone() for w in state.net.parameters()])
    return states, weights


class Spy(nn.Module):
    """A one-weight net that notes what it was asked."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.shapes, self.times, self.modes = [], [], []

    def forward(self, x_t, t):
        self.shapes.append(tuple(x_t.shape))
        self.times.extend(t.tolist())
        self.modes.append(self.training)
        return self.weight * x_t


@pytest.mark.parametrize('ema', [0.0, 0.99])
def test_the_prior_learns_a_texture(ema):
    config = PriorConfig(channels=16, steps=150, batch=2, lr=3e-3, crop=20, t_max=400, ema=ema, precision='fp32')
    states, _ = fit(config, make_net(16))
    losses = [state.loss for state in states]
    assert [state.step for state in states] == list(range(1, 151)) and {state.total for state in states} == {150}
    assert sum(losses[-30:]) / 30 < 0.5 * sum(losses[:10]) / 10
    prior = PatchPrior(states[-1].net, Schedule(), 'fp32')
    y, noise = texture(), torch.randn(1, 3, 24, 28, generator=torch.Generator().manual_seed(5))
    for t in (100, 200):
        x_t = prior.schedule.q_sample(y, t, noise)
        guess = x_t / prior.schedule.alpha_bar(t, x_t).sqrt()
        assert (prior.predict_x0(x_t, t) - y).square().mean() < 0.5 * (guess - y).square().mean()


def test_same_seed_same_weights_and_the_global_state_is_left_alone():
    config = PriorConfig(**TINY, steps=4, batch=2)
    before = torch.get_rng_state()
    (_, first), (_, second), (_, third) = (fit(config, make_net(), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first[-1], second[-1]))
    assert not all(torch.equal(a, b) for a, b in zip(first[-1], third[-1]))


def test_without_average_the_net_itself_is_trained():
    net = make_net()
    start = [w.detach().clone() for w in net.parameters()]
    states, weights = fit(PriorConfig(**TINY, steps=2), net)
    assert all(state.net is net for state in states)
    assert not all(torch.equal(a, b) for a, b in zip(start, weights[-1]))


@pytest.mark.parametrize('ema', [0.3, 0.999])
def test_the_average_follows_its_formula(ema):
    """w̄ ← d·w̄ + (1 - d)·w, d = min(ema, (1 + i) / (10 + i)), from the weights at the start."""
    net = make_net()
    mean = [w.detach().clone() for w in net.parameters()]
    _, plain = fit(PriorConfig(**TINY, steps=5, lr=1e-2))
    states, averaged = fit(PriorConfig(**TINY, steps=5, lr=1e-2, ema=ema), net)
    assert all(state.net is not net for state in states)
    for i, (weights, found) in enumerate(zip(plain, averaged), 1):
        decay = min(ema, (1 + i) / (10 + i))
        mean = [decay * m + (1 - decay) * w for m, w in zip(mean, weights)]
        for m, w in zip(mean, found):
            torch.testing.assert_close(w, m, rtol=1e-5, atol=1e-7)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), plain[-1]))  # the average has no effect on training


@pytest.mark.parametrize(('t_max', 'timesteps', 'top'), [(None, 1000, 999), (5, 1000, 4), (1, 10, 0), (None, 3, 2)])
def test_levels_are_drawn_below_t_max(t_max, timesteps, top):
    net = Spy()
    fit(PriorConfig(channels=2, steps=40, batch=8, t_max=t_max, timesteps=timesteps, precision='fp32'), net)
    assert min(net.times) >= 0 and max(net.times) <= top
    assert max(net.times) >= 0.97 * top and min(net.times) <= 0.03 * top  # all of them
    assert all(net.modes) and len(net.times) == 320
    assert net.shapes[0] == (8, 3, 24, 28)  # the default crop of 64 takes the image whole


def test_crops_have_the_size_asked_for():
    net = Spy()
    fit(PriorConfig(channels=2, steps=2, batch=3, crop=16, precision='fp32'), net)
    assert net.shapes == [(3, 3, 16, 16)] * 2


def test_the_loss_is_that_of_the_velocity():
    """PD = 0: the loss is mean(v²), v = √ᾱ·eps - √(1 - ᾱ)·x0; on x0 = 0 and t = 0 that is √ᾱ_0²·eps² ≈ 1."""
    class Zero(Spy):
        def forward(self, x_t, t):
            return self.weight * x_t * 0

    config = PriorConfig(channels=2, steps=5, batch=8, t_max=1, precision='fp32')
    for y, expected in ((torch.zeros(1, 3, 40, 40), 1 - 1e-4), (torch.ones(1, 3, 40, 40), 1.0)):
        for state in fit(config, Zero(), y)[0]:
            assert state.loss == pytest.approx(expected, abs=0.03)
    config = PriorConfig(channels=2, steps=40, batch=8, timesteps=1000, precision='fp32')
    level = Schedule().alphas_cumprod
    y = torch.full((1, 3, 40, 40), 0.5)
    mean = sum(state.loss for state in fit(config, Zero(), y)[0]) / 40
    assert mean == pytest.approx(float((level + (1 - level) * 0.25).mean()), abs=0.05)


@pytest.mark.parametrize('lr_end', [0.0, 2e-5])
def test_the_rate_falls_by_a_cosine_to_its_end(lr_end, monkeypatch):
    rates, optimizers = [], []

    class Watched(torch.optim.Adam):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            optimizers.append(self)

        def step(self, *args, **options):
            rates.append(self.param_groups[0]['lr'])
            return super().step(*args, **options)

    monkeypatch.setattr(torch.optim, 'Adam', Watched)
    fit(PriorConfig(channels=2, steps=10, lr=1e-3, lr_end=lr_end, precision='fp32'), Spy())
    assert rates == pytest.approx([lr_end + (1e-3 - lr_end) * (1 + math.cos(math.pi * i / 10)) / 2 for i in range(10)])
    assert rates[0] == pytest.approx(1e-3)
    assert optimizers[0].param_groups[0]['lr'] == pytest.approx(lr_end, abs=1e-12)


def test_crops_are_inside_and_reach_every_edge(generator):
    y = torch.arange(20 * 30.).reshape(1, 1, 20, 30).expand(1, 3, 20, 30)
    crops = random_crops(y, 17, 300, generator)
    assert crops.shape == (300, 3, 17, 17)
    corners = crops[:, 0, 0, 0].long()
    rows, cols = corners // 30, corners % 30
    assert set(rows.tolist()) == set(range(4)) and set(cols.tolist()) == set(range(14))
    for crop, i, j in zip(crops[:20], rows, cols):
        assert torch.equal(crop, y[0, :, i:i + 17, j:j + 17])


def test_a_small_image_is_taken_whole(generator):
    y = torch.rand(1, 3, 16, 40, generator=generator)
    assert torch.equal(random_crops(y[..., :20], 64, 3, generator), y[..., :20].expand(3, -1, -1, -1))
    assert random_crops(y, 32, 2, generator).shape == (2, 3, 16, 32)  # one side only


def test_predict_x0_is_the_formula_and_passes_gradients_through_frozen_weights(generator):
    net, schedule = make_net(), Schedule()
    net.train()
    prior = PatchPrior(net, schedule, 'fp32')
    assert not net.training and not any(w.requires_grad for w in net.parameters())
    x_t = torch.randn(2, 3, 17, 16, generator=generator, requires_grad=True)
    for t in (0, 250, 999):
        x0 = prior.predict_x0(x_t, t)
        a = schedule.alphas_cumprod[t]
        expected = a.sqrt() * x_t - (1 - a).sqrt() * net(x_t, torch.tensor([t, t]))
        torch.testing.assert_close(x0, expected.float(), rtol=1e-4, atol=1e-5)
    (grad,) = torch.autograd.grad(x0[0, :, 8, 8].sum(), x_t)
    assert grad[0].abs().sum() > 0 and grad[1].abs().sum() == 0
    assert (grad[0, 0] != 0).sum() > 100  # not only through the √ᾱ · x_t of the pixel itself
    assert all(w.grad is None for w in net.parameters())


@pytest.mark.parametrize('size', [(40, 21), (20, 20), (20, 47)])
def test_a_large_picture_is_done_in_tiles(size, generator):
    net, seen = make_net(), []
    net.head.register_forward_hook(lambda module, args, output: seen.append(args[0].shape[-2:]))
    x_t = torch.randn(1, 3, *size, generator=generator)
    whole, tiles = (PatchPrior(net, Schedule(), 'fp32', Tiles(tile)).predict_x0(x_t, 100) for tile in (0, 20))
    torch.testing.assert_close(tiles, whole, rtol=1e-4, atol=1e-5)
    assert len(seen) == 1 + -(-size[0] // 20) * -(-size[1] // 20)
    assert max(max(shape) for shape in seen[1:]) <= 20 + 2 * net.reach
    seen.clear()
    PatchPrior(net, Schedule(), 'fp32', Tiles(20)).predict_x0(x_t.requires_grad_(), 100)
    assert [tuple(shape) for shape in seen] == [size]  # with a gradient: whole


def test_the_mean_of_priors_is_the_mean_of_their_estimates(generator):
    x_t = torch.randn(1, 3, 16, 17, generator=generator)
    nets = make_net(), make_net(4)
    priors = [PatchPrior(net, Schedule(), 'fp32') for net in nets]
    mean = MeanPrior(priors)
    for t in (0, 300):
        first, second = (prior.predict_x0(x_t, t) for prior in priors)
        assert (first - second).abs().max() > 1e-3
        torch.testing.assert_close(mean.predict_x0(x_t, t), (first + second) / 2)
    assert mean.schedule is priors[0].schedule


def test_priors_of_different_schedules_are_not_averaged():
    for other in (Schedule(999), Schedule(beta_end=0.01)):
        with pytest.raises(ValueError, match='same schedule'):
            MeanPrior([PatchPrior(make_net(), Schedule()), PatchPrior(make_net(), other)])
    MeanPrior([PatchPrior(make_net(), Schedule()), PatchPrior(make_net(), Schedule())])


def test_fit_prior_takes_the_batches_it_is_given():
    net, batches = Spy(), [torch.full((2, 3, 17, 19), 0.1 * i) for i in range(3)]
    config = PriorConfig(channels=2, steps=3, t_max=2, precision='fp32')
    states = list(fit_prior(net, iter(batches).__next__, Schedule(), config, torch.Generator().manual_seed(0)))
    assert [(state.step, state.total) for state in states] == [(1, 3), (2, 3), (3, 3)]
    assert net.shapes == [(2, 3, 17, 19)] * 3 and len(net.times) == 6 and max(net.times) <= 1


@pytest.mark.parametrize(('most', 'expected'), [(None, None), (0.01, 0.01), (1e9, None)])
def test_large_gradients_are_scaled_down(most, expected, monkeypatch):
    norms = []

    class Watched(torch.optim.Adam):
        def step(self, *args, **options):
            grads = [w.grad for group in self.param_groups for w in group['params']]
            norms.append(float(torch.stack([grad.norm() for grad in grads]).norm()))
            return super().step(*args, **options)

    monkeypatch.setattr(torch.optim, 'Adam', Watched)
    fit(PriorConfig(**TINY, steps=2))
    fit(PriorConfig(**TINY, steps=2, max_grad_norm=most))
    assert min(norms[:2]) > 0.02
    assert norms[2:] == pytest.approx(norms[:2] if expected is None else [expected] * 2, rel=1e-3)


@pytest.mark.parametrize(('precision', 'supported', 'dtype'), [
    ('fp32', True, torch.float32), ('fp32', False, torch.float32), ('bf16', False, torch.bfloat16),
    ('auto', True, torch.bfloat16), ('auto', False, torch.float32)])
def test_precision_names(precision, supported, dtype, monkeypatch):
    monkeypatch.setattr(patch_prior, 'computes_bf16', lambda device: supported)
    seen = []

    class Conv(nn.Conv2d):
        def forward(self, x_t, t=None):
            out = super().forward(x_t)
            seen.append(out.dtype)
            return out

    with autocast(CPU, precision):
        Conv(3, 3, 1)(torch.zeros(1, 3, 4, 4))
    x0 = PatchPrior(Conv(3, 3, 1), Schedule(), precision).predict_x0(torch.zeros(1, 3, 4, 4), 10)
    states, _ = fit(PriorConfig(channels=2, steps=1, precision=precision), Conv(3, 3, 1))
    assert seen == [dtype] * 3
    assert x0.dtype == torch.float32 and next(states[-1].net.parameters()).dtype == torch.float32


def test_auto_asks_the_processor(monkeypatch):
    for supported in (True, False):
        monkeypatch.setattr(torch.cpu, '_is_avx512_bf16_supported', lambda value=supported: value, raising=False)
        assert patch_prior.computes_bf16(CPU) is supported
    monkeypatch.delattr(torch.cpu, '_is_avx512_bf16_supported')
    assert patch_prior.computes_bf16(CPU) is False


@pytest.mark.parametrize(('options', 'name'), [
    ({'channels': 0}, 'channels'), ({'channels': 7}, 'channels'), ({'steps': 0}, 'steps'), ({'batch': -1}, 'batch'),
    ({'timesteps': 0}, 'timesteps'), ({'lr': 0.0}, 'lr'), ({'lr': math.nan}, 'lr'), ({'lr': math.inf}, 'lr'),
    ({'crop': 14}, 'crop'), ({'lr_end': 1e-3}, 'lr_end'), ({'lr_end': -1e-9}, 'lr_end'),
    ({'lr_end': math.nan}, 'lr_end'), ({'t_max': 0}, 't_max'), ({'t_max': 1001}, 't_max'),
    ({'timesteps': 50, 't_max': 51}, 't_max'), ({'ema': 1.0}, 'ema'), ({'ema': -0.1}, 'ema'),
    ({'ema': math.nan}, 'ema'), ({'precision': 'fp16'}, 'precision'),
    ({'max_grad_norm': 0.0}, 'max_grad_norm'), ({'max_grad_norm': math.nan}, 'max_grad_norm')])
def test_bad_options_are_refused_by_name(options, name):
    with pytest.raises(ValueError, match=rf'prior\.{name}\b') as error:
        PriorConfig(**options)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('options', [{'crop': 15}, {'lr_end': 1e-4}, {'t_max': 1000}, {'t_max': 1}, {'channels': 2}])
def test_the_bounds_themselves_are_allowed(options):
    PriorConfig(**options)
