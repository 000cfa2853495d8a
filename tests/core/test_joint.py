import copy
import math

import pytest
import torch

from kernelfusion_plugin.core.degradation import Degradation, to_canvas
from kernelfusion_plugin.core.diffusion import Schedule
from kernelfusion_plugin.core.joint import JointConfig, solve_joint
from kernelfusion_plugin.core.kernel_models import DirectKernel, Siren, centre_of_mass_loss
from kernelfusion_plugin.core.nets.refine_unet import RefineUNet

SMALL = {'n_iter': 2, 'n_iter_first': 3, 'n_steps': 3, 't_start': 200, 'precision': 'fp32'}


class OraclePrior:
    """Knows the truth: its x0 is x_true, with a little of what it was given so that gradients pass."""

    def __init__(self, x_true, share=1.0):
        self.schedule = Schedule()
        self.x_true = x_true
        self.share = share
        self.levels = []

    def predict_x0(self, x_t, t):
        self.levels.append(t)
        guess = x_t / self.schedule.alpha_bar(t, x_t).sqrt()
        return self.share * self.x_true + (1 - self.share) * guess


def blocks(size, seed=0, block=3):
    """A picture of flat random squares: sharp edges everywhere, so that blur tells itself."""
    generator = torch.Generator().manual_seed(seed)
    count = [-(-n // block) for n in size]
    coarse = torch.rand(1, 3, *count, generator=generator) * 1.6 - 0.8
    return coarse.repeat_interleave(block, -1).repeat_interleave(block, -2)[..., :size[0], :size[1]]


def l_kernel():
    """An L whose centre of mass is the middle (to 0.04 pixels)."""
    k = torch.zeros(12, 12)
    k[1:9, 3:6] = 1
    k[6:9, 3:11] = 1
    return k / k.sum()


def correlation(a, b):
    return float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())


def run(config, seed=0, share=1.0, lr_size=(20, 20), channels=(4, 6, 8, 10, 12)):
    degradation = Degradation(2, 12)
    x_true = blocks(degradation.hr_size(lr_size))
    y = degradation.forward(x_true, l_kernel())
    torch.manual_seed(0)
    refine_net, kernel_model = RefineUNet(channels), Siren(12, width=64)
    prior = OraclePrior(x_true, share)
    states = list(solve_joint(y, prior, degradation, refine_net, kernel_model, config,
                              torch.Generator().manual_seed(seed)))
    return states, prior, y, degradation


def test_states_count_the_steps_and_live_on_the_canvas():
    states, prior, _, degradation = run(JointConfig(**SMALL))
    assert [state.step for state in states] == list(range(1, 8))
    assert {state.total for state in states} == {7}
    assert [state.t for state in states] == 3 * [133] + 2 * [67] + 2 * [0] == prior.levels
    assert states[0].x0_hat.shape == (1, 3, *degradation.hr_size((20, 20)))
    assert not states[0].x0_hat.requires_grad and not states[0].kernel.requires_grad
    assert set(states[0].losses) == {'consistency_before', 'consistency_after', 'centre', 'total'}
    assert states[-1].kernel.sum().item() == pytest.approx(1, abs=1e-5)


def test_the_lines_of_algorithm_1():
    """Written out once more from the paper and the choices in the module's text, with an Adam for each network."""
    config = JointConfig(**SMALL, lr=1e-2, lr_final=1e-3, lr_kernel=0.3, sigma_scale=0.7, weight_before=2.0,
                         weight_after=3.0, weight_centre=5.0)
    degradation = Degradation(2, 12)
    x_true = 1.6 * blocks(degradation.hr_size((20, 20)), block=8)
    y = degradation.forward(x_true, l_kernel())
    torch.manual_seed(0)
    nets = torch.nn.Conv2d(3, 3, 3, padding=1), DirectKernel(12)
    R, kernel_model = copy.deepcopy(nets)
    prior = OraclePrior(x_true, 0.5)
    states = list(solve_joint(y, prior, degradation, *nets, config, torch.Generator().manual_seed(1)))

    generator, alphas = torch.Generator().manual_seed(1), torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    adams = torch.optim.Adam(R.parameters()), torch.optim.Adam(kernel_model.parameters())
    x0_above = to_canvas(y, degradation)
    assert x0_above.abs().max() > 1.01
    x0_above = x0_above.clamp(-1, 1)
    x_above = alphas[200].sqrt() * x0_above + (1 - alphas[200]).sqrt() * torch.randn(x_true.shape, generator=generator)
    for (t_above, t), n_iter in (((200, 133), 3), ((133, 67), 2), ((67, 0), 2)):
        eps = torch.randn(x_true.shape, generator=generator)
        bar, bar_above = alphas[t], alphas[t_above]
        a = bar_above / bar
        for i in range(n_iter):
            k, before = kernel_model(), R(x0_above)
            x_t = (bar.sqrt() * (1 - a) * before + a.sqrt() * (1 - bar) * x_above) / (1 - bar_above)
            x_t = x_t + 0.7 * ((1 - a) * (1 - bar) / (1 - bar_above)).sqrt() * eps
            x0 = prior.predict_x0(x_t, t)
            after = R(x0)
            errors = [(y - degradation.forward(x, k)).square().mean() for x in (before, after)]
            loss = 2 * errors[0] + 3 * errors[1] + 5 * centre_of_mass_loss(k)
            for adam, factor in zip(adams, (1, 0.3)):
                adam.param_groups[0]['lr'] = factor * (1e-3 + 9e-3 * (1 + math.cos(math.pi * i / (n_iter - 1))) / 2)
                adam.zero_grad()
            loss.backward()
            for adam in adams:
                adam.step()
            state = states.pop(0)
            torch.testing.assert_close(state.x0_hat, after.detach(), atol=1e-4, rtol=0)
            torch.testing.assert_close(state.kernel, k.detach(), atol=1e-6, rtol=1e-3)
            assert list(state.losses.values()) == pytest.approx(
                [value.item() for value in (*errors, centre_of_mass_loss(k), loss)], rel=1e-3)
        x0_above, x_above = x0.detach(), x_t.detach()
    assert not states


def test_consistency_after_belongs_to_the_yielded_estimate():
    states, _, y, degradation = run(JointConfig(**SMALL))
    again = (degradation.forward(states[-1].x0_hat, states[-1].kernel) - y).square().mean()
    assert states[-1].losses['consistency_after'] == pytest.approx(again.item(), rel=1e-5)
    assert states[-1].losses['centre'] == pytest.approx(centre_of_mass_loss(states[-1].kernel).item(), rel=1e-5)


def test_same_seed_same_result_and_another_seed_another():
    config = JointConfig(**SMALL)
    (first, *_), (second, *_), (third, *_) = run(config, share=0.5), run(config, share=0.5), run(config, 1, 0.5)
    assert torch.equal(first[-1].x0_hat, second[-1].x0_hat) and torch.equal(first[-1].kernel, second[-1].kernel)
    assert not torch.equal(first[-1].x0_hat, third[-1].x0_hat)


def test_global_random_state_is_neither_used_nor_changed():
    degradation = Degradation(2, 12)
    x_true = blocks(degradation.hr_size((16, 16)))
    y = degradation.forward(x_true, l_kernel())
    torch.manual_seed(0)
    nets = RefineUNet((4, 6, 8, 10, 12)), Siren(12, width=16)
    before = torch.get_rng_state()
    list(solve_joint(y, OraclePrior(x_true), degradation, *nets, JointConfig(**SMALL), torch.Generator()))
    assert torch.equal(before, torch.get_rng_state())


def test_gradient_reaches_both_networks_and_passes_through_the_prior():
    degradation = Degradation(2, 12)
    x_true = blocks(degradation.hr_size((16, 16)))
    y = degradation.forward(x_true, l_kernel())
    torch.manual_seed(0)
    refine_net, kernel_model = RefineUNet((4, 6, 8, 10, 12)), Siren(12, width=16)
    seen = []

    class Watched(OraclePrior):
        def predict_x0(self, x_t, t):
            x_t.register_hook(lambda grad: seen.append(grad.abs().sum().item()))
            return super().predict_x0(x_t, t)

    next(solve_joint(y, Watched(x_true, 0.5), degradation, refine_net, kernel_model, JointConfig(**SMALL),
                     torch.Generator()))
    assert seen and seen[0] > 0
    for net in (refine_net, kernel_model):
        for name, value in net.named_parameters():
            assert value.grad is not None and torch.isfinite(value.grad).all(), name


def test_without_noise_and_with_a_perfect_network_the_guess_is_kept():
    """R = identity, PD = identity on the mean: line 17 then carries the bicubic guess through all levels."""
    class Identity(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.nothing = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return x + 0 * self.nothing

    degradation = Degradation(2, 12)
    y = degradation.forward(blocks(degradation.hr_size((16, 16))), l_kernel())
    guess = to_canvas(y, degradation).clamp(-1, 1)
    states = list(solve_joint(y, OraclePrior(guess), degradation, Identity(), Siren(12, width=16),
                              JointConfig(**SMALL), torch.Generator()))
    assert torch.allclose(states[-1].x0_hat, guess, atol=1e-6)


def test_oracle_prior_leads_to_the_kernel():
    config = JointConfig(n_iter_first=60, n_iter=20, n_steps=6, t_start=200, lr=1e-3, lr_final=1e-4,
                         precision='fp32')
    states, *_ = run(config, lr_size=(24, 24), channels=(12, 16, 16, 16, 16))
    start, end = states[0], states[-1]
    for name in ('consistency_before', 'consistency_after'):
        assert end.losses[name] < start.losses[name] / 10, name
    assert correlation(start.kernel, l_kernel()) < 0.65
    assert correlation(end.kernel, l_kernel()) > 0.85


@pytest.mark.parametrize('options', [
    {'n_iter': 0}, {'n_iter_first': 0}, {'lr': 0.0}, {'lr': 1e-5, 'lr_final': 1e-4}, {'lr': float('nan')},
    {'lr': math.inf}, {'lr_kernel': math.inf}, {'weight_after': math.inf},
    {'n_steps': 0}, {'n_steps': 11, 't_start': 10}, {'sigma_scale': -1.0}, {'weight_centre': float('nan')},
    {'weight_before': 0.0, 'weight_after': 0.0}, {'precision': 'fp16'}])
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match='joint'):
        JointConfig(**options)


def test_start_beyond_the_schedule_is_refused():
    with pytest.raises(ValueError, match='1000 levels'):
        run(JointConfig(t_start=1000))
