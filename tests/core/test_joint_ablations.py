"""The pipelines of Table 3 and the two U-Nets of Table 5."""

import pytest
import torch
from test_joint import SMALL, OraclePrior, blocks, correlation, l_kernel

from kernelfusion_plugin import KernelFusionConfig, restore
from kernelfusion_plugin.core.degradation import Degradation, to_canvas
from kernelfusion_plugin.core.diffusion import Schedule
from kernelfusion_plugin.core.joint import JointConfig, solve_joint
from kernelfusion_plugin.core.joint_ablations import solve_ablation
from kernelfusion_plugin.core.kernel_models import Siren
from kernelfusion_plugin.core.nets.refine_unet import RefineUNet


class Watched(torch.nn.Module):
    """R = identity, times a weight; keeps what it was given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.inputs = []

    def forward(self, x):
        self.inputs.append(x.detach().clone())
        return x * self.weight


def run(pipeline, refine_net=None, lr_size=(20, 20), share=1.0, **options):
    degradation, schedule = Degradation(2, 12), Schedule()
    x_true = blocks(degradation.hr_size(lr_size))
    y = degradation.forward(x_true, l_kernel())
    torch.manual_seed(0)
    prior = OraclePrior(x_true, share) if pipeline == 'pd_unet' else None
    refine_net = refine_net or RefineUNet((4, 6, 8, 10, 12))
    config = JointConfig(**{**SMALL, **options}, pipeline=pipeline)
    states = list(solve_ablation(y, prior, schedule, degradation, refine_net, Siren(12, width=64), config,
                                 torch.Generator().manual_seed(0)))
    return states, refine_net, y, degradation, prior


def test_dip_sees_one_noise_at_all_steps():
    states, net, *_ = run('dip', Watched())
    assert len(states) == 7 and {state.t for state in states} == {0}
    assert all(torch.equal(u, net.inputs[0]) for u in net.inputs)
    assert abs(float(net.inputs[0].mean())) < 0.1 and float(net.inputs[0].std()) == pytest.approx(1, abs=0.05)


def test_unet_starts_from_the_noised_guess_and_walks_down():
    states, net, y, degradation, _ = run('unet', Watched(), lr=1e-9, lr_final=1e-10)
    assert [state.t for state in states] == 3 * [200] + 2 * [100] + 2 * [0]
    a = Schedule().alphas_cumprod[200]
    noise = (net.inputs[0] - a.sqrt() * to_canvas(y, degradation).clamp(-1, 1)) / (1 - a).sqrt()
    assert abs(float(noise.mean())) < 0.1 and float(noise.std()) == pytest.approx(1, abs=0.05)
    assert torch.equal(net.inputs[0], net.inputs[2]) and not torch.equal(net.inputs[2], net.inputs[3])


def test_unet_walks_by_the_posterior_of_its_own_estimate():
    _, net, *_ = run('unet', Watched(), lr=1e-9, lr_final=1e-10, sigma_scale=0.5)
    mean, variance = Schedule().posterior(net.inputs[2], net.inputs[2], 200, 100)  # R is the identity
    noise = (net.inputs[3] - mean) / variance.sqrt()
    assert abs(float(noise.mean())) < 0.05 and float(noise.std()) == pytest.approx(0.5, abs=0.03)


def test_unet_leaves_a_prior_alone_that_it_is_given():
    class Forbidden:
        schedule = Schedule()

        def predict_x0(self, x_t, t):
            raise AssertionError('PD is no part of this pipeline')

    degradation, config = Degradation(2, 12), JointConfig(**SMALL, pipeline='unet')
    y = torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(0)) * 2 - 1
    steps = solve_ablation(y, Forbidden(), Schedule(), degradation, Watched(), Siren(12, width=64), config,
                           torch.Generator().manual_seed(0))
    assert len(list(steps)) == 7


def test_pd_stands_before_the_unet():
    states, net, *_, prior = run('pd_unet', Watched())
    assert all(torch.equal(u, prior.x_true) for u in net.inputs)  # the oracle's estimate, whatever x_t is
    assert prior.levels == [200, 100, 0] and len(states) == 7  # once for each t


@pytest.mark.parametrize('pipeline', ['dip', 'unet', 'pd_unet'])
def test_losses_belong_to_the_state_and_fall(pipeline):
    states, _, y, degradation, _ = run(pipeline, n_iter_first=40, n_iter=20, lr=1e-3, lr_final=1e-4, weight_centre=3.0)
    again = (degradation.forward(states[-1].x0_hat, states[-1].kernel) - y).square().mean()
    assert states[-1].losses['consistency'] == pytest.approx(again.item(), rel=1e-4)
    assert states[0].losses['total'] == pytest.approx(states[0].losses['consistency'] + 3 * states[0].losses['centre'])
    assert states[0].losses['centre'] > 1e-4 * states[0].losses['consistency']
    assert states[-1].losses['consistency'] < states[0].losses['consistency'] / 2
    assert states[-1].step == states[-1].total == 80


def test_with_an_oracle_pd_the_kernel_is_found():
    states, *_ = run('pd_unet', RefineUNet((12, 16, 16, 16, 16)), lr_size=(24, 24), n_iter_first=60, n_iter=20,
                     n_steps=6, lr=1e-3, lr_final=1e-4)
    assert correlation(states[-1].kernel, l_kernel()) > correlation(states[0].kernel, l_kernel()) + 0.1


def test_two_unets_take_one_place_each():
    degradation = Degradation(2, 12)
    x_true = blocks(degradation.hr_size((16, 16)))
    y = degradation.forward(x_true, l_kernel())
    before, after = Watched(), Watched()
    states = list(solve_joint(y, OraclePrior(x_true), degradation, before, Siren(12, width=16), JointConfig(**SMALL),
                              torch.Generator().manual_seed(0), after))
    assert len(before.inputs) == len(after.inputs) == len(states)
    assert all(torch.equal(u, x_true) for u in after.inputs)
    assert not torch.equal(before.inputs[0], x_true)
    assert float(before.weight.detach()) != 1 != float(after.weight.detach())
    assert float(before.weight.detach()) != float(after.weight.detach())


@pytest.mark.parametrize('pipeline', ['dip', 'unet'])
def test_without_pd_there_is_no_phase_1(pipeline):
    y = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    config = KernelFusionConfig.from_dict({
        'solver': 'joint', 'preset': 'quick', 'prior': {'t_max': 100},  # below joint.t_start: no matter without PD
        'joint': {'pipeline': pipeline, 'n_steps': 2, 'n_iter': 1, 'n_iter_first': 1}})
    result = restore(y, config, make_refine_net=lambda: RefineUNet((4, 6)))
    assert result.seconds['phase1'] == 0 and not result.prior_state
    assert {row['phase'] for row in result.trace} == {'joint'} and result.sr.shape == (1, 3, 64, 64)
    again = restore(y, config, make_refine_net=lambda: RefineUNet((4, 6)))
    assert torch.equal(result.sr, again.sr) and torch.equal(result.kernel, again.kernel)


@pytest.mark.parametrize(('options', 'message'), [
    ({'pipeline': 'unet_only'}, 'joint.pipeline must be one of'),
    ({'pipeline': 'dip', 'separate_unets': True}, 'only one U-Net')])
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        JointConfig(**options)


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match='needs PD'):
        next(solve_ablation(torch.zeros(1, 3, 16, 16), None, Schedule(), Degradation(2, 12), Watched(), Siren(12),
                            JointConfig(pipeline='pd_unet'), torch.Generator()))
