"""Another solver than ours: what README's "Extending" says is enough is enough."""

import dataclasses
import re
from dataclasses import dataclass

import pytest
import torch

from kernelfusion_plugin import KernelFusionConfig, restore
from kernelfusion_plugin.core import restore as restore_module
from kernelfusion_plugin.core.degradation import to_canvas
from kernelfusion_plugin.core.em_config import FINAL_PRIORS, EmConfig
from kernelfusion_plugin.core.em_steps import lr_mse
from kernelfusion_plugin.core.kernels import gaussian
from kernelfusion_plugin.core.restore import plan_memory
from kernelfusion_plugin.core.solver import Solver
from kernelfusion_plugin.core.solvers import SOLVERS
from kernelfusion_plugin.core.state import Phase2State
from kernelfusion_plugin.estimate import measure_pace


class Landweber(Solver):
    """x := x + Aᵀ(y - Ax) under a Gaussian; nothing is trained."""

    def training(self, config, kernel_known=False):
        return {}

    def solve(self, problem):
        degradation, k = problem.degradation, gaussian(problem.config.kernel_size, sigmas=1.2)
        x = to_canvas(problem.y, degradation)
        for step in range(1, 6):
            x = x + degradation.adjoint(problem.y - degradation.forward(x, k), k)
            yield Phase2State(step, 5, 0, x, k, {'residual': lr_mse(degradation, x, k, problem.y)})


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setitem(SOLVERS, 'landweber', Landweber())
    return KernelFusionConfig(scale=2, kernel_size=8, solver='landweber')


def image(size=(16, 18)):
    return torch.rand(3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_a_solver_of_ones_own(config):
    seen = []
    result = restore(image(), config, name='a', on_progress=seen.append)
    assert result.sr.shape == (1, 3, 32, 36) and torch.equal(result.kernel, gaussian(8, sigmas=1.2))
    assert [(p.phase, p.step, p.total) for p in seen] == [('landweber', step, 5) for step in range(1, 6)]
    assert seen[-1].loss < seen[0].loss
    assert KernelFusionConfig.from_dict(config.to_dict()) == config


@dataclass(frozen=True)
class Settings:
    rate: float = 1.0
    steps: int = 5

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f'relaxed.steps must be at least 1, got {self.steps}')


class Relaxed(Landweber):
    settings = Settings

    def solve(self, problem):
        own = problem.config.own
        for state in super().solve(problem):
            yield dataclasses.replace(state, total=own.steps, x0_hat=own.rate * state.x0_hat)
            if state.step == own.steps:
                return


def test_its_settings_are_a_section_of_its_name(monkeypatch):
    monkeypatch.setitem(SOLVERS, 'relaxed', Relaxed())
    given = {'scale': 2, 'kernel_size': 8, 'solver': 'relaxed', 'relaxed': {'rate': '5e-1', 'steps': 2}}
    config = KernelFusionConfig.from_dict(given)
    assert config.own == Settings(0.5, 2) and config.to_dict()['relaxed'] == {'rate': 0.5, 'steps': 2}
    assert KernelFusionConfig.from_dict(config.to_dict()) == config
    assert config == KernelFusionConfig(scale=2, kernel_size=8, solver='relaxed', own={'rate': 0.5, 'steps': 2})
    assert KernelFusionConfig.from_dict({**given, 'relaxed': None}).own == Settings()
    assert KernelFusionConfig.from_dict({**given, 'solver': 'em'}).own is None  # a section of another, as of joint
    seen = []
    restore(image(), config, on_progress=seen.append)
    assert [(p.step, p.total) for p in seen] == [(1, 2), (2, 2)]


@pytest.mark.parametrize(('options', 'words'), [
    ({'relaxed': {'rat': 1}}, "unknown option 'relaxed.rat': did you mean 'rate'? Known: rate, steps"),
    ({'relaxd': {'rate': 1}}, "unknown option 'relaxd': did you mean 'relaxed'? Known: "),
    ({'solver': 'em', 'relaxed': {'rat': 1}}, "unknown option 'relaxed.rat'"),
    ({'relaxed': {'steps': 1.5}}, "option 'relaxed.steps' must be a whole number, got 1.5"),
    ({'relaxed': {'steps': 0}}, 'relaxed.steps must be at least 1, got 0'),
    ({'relaxed': 3}, "option 'relaxed' must be a section of options, got 3"),
    ({'own': {'rate': 1}}, "unknown option 'own'")])
def test_faults_in_its_settings(options, words, monkeypatch):
    monkeypatch.setitem(SOLVERS, 'relaxed', Relaxed())
    with pytest.raises(ValueError, match=f'^{re.escape(words)}'):
        KernelFusionConfig.from_dict({'solver': 'relaxed', **options})


def test_settings_that_a_solver_does_not_have():
    with pytest.raises(ValueError, match=r"solver 'em' has no settings of its own, got \{'rate': 1\}"):
        KernelFusionConfig(own={'rate': 1})


@pytest.mark.parametrize(('change', 'words'), [
    (lambda states: states[:0], 'made no step'),
    (lambda states: [dataclasses.replace(states[-1], kernel=states[-1].kernel[:5, :5])],
     r'found a kernel of shape \(5, 5\), not \(8, 8\)'),
    (lambda states: [dataclasses.replace(states[-1], kernel=torch.ones(8, 8))], 'kernel whose sum is 64, not 1'),
    (lambda states: [dataclasses.replace(states[-1], kernel=torch.full((8, 8), float('nan')))], 'sum is nan, not 1'),
    (lambda states: [dataclasses.replace(states[-1], x0_hat=states[-1].x0_hat[..., 2:])],
     r'made a picture of shape \(1, 3, 32, 34\), not \(1, 3, 32, 36\)'),
    (lambda states: [dataclasses.replace(states[-1], x0_hat=states[-1].x0_hat / 0)], 'non-finite values')])
def test_what_is_no_result_is_none(change, words, config, monkeypatch):
    class Other(Landweber):
        def solve(self, problem):
            yield from change(list(super().solve(problem)))

    monkeypatch.setitem(SOLVERS, 'landweber', Other())
    with pytest.raises(ValueError, match=rf"^solver 'landweber' .*{words}"):
        restore(image(), config)


def test_its_memory_and_pace_are_told_without_more(config):
    less, more = (plan_memory((side, side), torch.device('cpu'), config).need for side in (50, 100))
    assert less < more
    pace = measure_pace(image((40, 40))[None], config)
    small, large = (pace.seconds((side, side)) for side in (100, 200))
    assert set(small) == {'landweber'} and 3 < large['landweber'] / small['landweber'] < 5


def test_memory_counts_a_network_of_its_own(config, monkeypatch):
    class WithNet(Landweber):
        def networks(self, factories):
            return {'mine': lambda: torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3), torch.nn.Conv2d(64, 3, 3))}

    less = plan_memory((400, 400), torch.device('cpu'), config).need
    monkeypatch.setitem(SOLVERS, 'landweber', WithNet())
    more = plan_memory((400, 400), torch.device('cpu'), config).need
    assert more > less + 64 * 4 * 800 ** 2  # its 64 maps


def test_what_a_solver_refuses_is_refused_before_phase_1(monkeypatch):
    monkeypatch.setattr(restore_module, '_fit_priors', lambda *_: pytest.fail('Phase 1 has begun'))
    for options, said in (({'rim': 5}, 'em.rim = 5 leaves 8 x 6 pixels of y, 18 x 16'), ({'rim': 9}, '0 x 0 pixels')):
        with pytest.raises(ValueError, match=said):
            restore(image(), KernelFusionConfig(scale=2, em=EmConfig(**options)))
    with pytest.raises(ValueError, match='em.kernel_side must be 0 or at least 8, got 7'):
        EmConfig(kernel_side=7)


def test_what_it_does_not_offer_is_refused(config):
    with pytest.raises(ValueError, match="solver 'landweber' takes no known kernel"):
        restore(image(), config, kernel=gaussian(8, sigmas=1.2))
    with pytest.raises(ValueError, match="regions: 1x2: solver 'landweber' finds one kernel"):
        KernelFusionConfig(solver='landweber', regions='1x2')


def test_ours_keep_their_names():
    assert list(SOLVERS) == ['em', 'joint']
    assert {name for name, solver in SOLVERS.items() if solver.takes_kernels and solver.takes_regions} == {'em'}
    assert all(prior in ('prior', 'tuned', 'textures') for priors in FINAL_PRIORS.values() for prior in priors)
