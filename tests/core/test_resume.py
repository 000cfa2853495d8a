"""A run that is left after any step and taken up by another process ends with the same bits."""

import dataclasses
import io

import pytest
import torch

from kernelfusion_plugin import KernelFusionConfig, restore_steps
from kernelfusion_plugin.core import regional_degradation
from kernelfusion_plugin.core.degradation import Degradation
from kernelfusion_plugin.core.em_config import EmConfig
from kernelfusion_plugin.core.frame import Frame
from kernelfusion_plugin.core.joint import JointConfig
from kernelfusion_plugin.core.kernels import gaussian
from kernelfusion_plugin.core.nets.refine_unet import RefineUNet
from kernelfusion_plugin.core.patch_prior import PriorConfig
from kernelfusion_plugin.core.texture_prior import TuningConfig

EM = KernelFusionConfig(
    scale=2, kernel_size=8, prior=PriorConfig(channels=4, steps=4, crop=16, lr=1e-3, ema=0.9, max_grad_norm=1.0),
    em=EmConfig(sketch_passes=1, coarse_passes=1, fine_passes=2, steps=3, kernel_levels=2, final_steps=3,
                final_prior='both', cg_iterations=3),
    tuning=TuningConfig(steps=4, crop=16, batch=1))
JOINT = dataclasses.replace(EM, solver='joint', joint=JointConfig(n_iter=2, n_iter_first=3, n_steps=3, lr=1e-3))


def with_em(**options):
    return dataclasses.replace(EM, em=dataclasses.replace(EM.em, **options))


def with_joint(**options):
    return dataclasses.replace(JOINT, joint=dataclasses.replace(JOINT.joint, **options))


def image():
    y = torch.rand(3, 17, 20, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return torch.nn.functional.avg_pool2d(y, 3, 1, 1)


def framed():
    """An image in a black frame, which has a say in its kernel."""
    rows, columns = (torch.tensor([0.55, 0.9] + [1.0] * (n - 4) + [0.85, 0.5]) for n in (17, 20))
    y = (image() + 1) * rows[:, None] * columns - 1
    assert all(Frame.of(y[None], Degradation(2, 8)).tells)
    return y


def run(config, resume=None, stop=None, y=None, **options):
    """(result, progress so far); stopped after ``stop`` steps the result is the snapshot as read from a file."""
    steps = restore_steps(image() if y is None else y, config, name='a', make_refine_net=lambda: RefineUNet((4, 6)),
                          resume=resume, **options)
    seen = []
    try:
        while True:
            seen.append(next(steps))
            if len(seen) == stop:
                file = io.BytesIO()
                torch.save(seen[-1].snapshot(), file)
                file.seek(0)
                return torch.load(file, weights_only=True), seen
    except StopIteration as end:
        return end.value, seen


@pytest.fixture(autouse=True)
def _tiny_regions(monkeypatch):
    monkeypatch.setattr(regional_degradation, 'SMALLEST', 8)


def same(a, b):
    return (torch.equal(a.sr, b.sr) and torch.equal(a.kernel, b.kernel) and a.trace == b.trace
            and a.surprise == b.surprise
            and (a.kernels is None if b.kernels is None else torch.equal(a.kernels, b.kernels))
            and a.prior_state.keys() == b.prior_state.keys()
            and all(torch.equal(value, b.prior_state[key]) for key, value in a.prior_state.items()))


CASES = {
    'em': (EM, {}),
    'em, samples': (with_em(final_samples=2, final_prior='textures', sketch_passes=1, coarse_passes=1), {}),
    'em, internal': (with_em(kernel_prior='internal', final_prior='internal', coarse_passes=0, fine_passes=0), {}),
    'em, regions': (dataclasses.replace(with_em(sketch_passes=1, coarse_passes=1, fine_passes=1, steps=2, final_steps=2,
                                                final_samples=2, final_prior='textures'), regions='1x2'), {}),
    'em, regions, two searches': (dataclasses.replace(
        with_em(searches=2, coarse_passes=0, fine_passes=1, steps=1, final_steps=2, final_prior='textures',
                uncertainty=1.0), regions='1x2'), {}),
    'em, two searches': (with_em(searches=2, draws=2, fine_passes=1, steps=2, final_steps=2, final_prior='textures'),
                         {}),
    'em, frame': (with_em(final_prior='textures', uncertainty=1.0), {'y': framed()}),
    'em, known kernel': (EM, {'kernel': gaussian(8, sigmas=1.2)}),
    'em, tuned': (with_em(final_prior='tuned', sketch_passes=1, coarse_passes=0, fine_passes=0), {}),
    'joint': (JOINT, {}),
    'joint, two U-Nets': (with_joint(separate_unets=True), {}),
    'dip': (with_joint(pipeline='dip'), {}),
    'pd_unet': (with_joint(pipeline='pd_unet'), {}),
}


@pytest.mark.parametrize('case', [pytest.param(case, marks=pytest.mark.slow if case == 'em, samples' else ())
                                  for case in CASES])
def test_left_after_any_step(case):
    config, options = CASES[case]
    whole, seen = run(config, **options)
    stops = [number for number, p in enumerate(seen, 1) if p.step < p.total]
    strides = {'em': 5, 'em, regions': 7, 'em, two searches': 7, 'em, regions, two searches': 2}
    for stop in stops if case == 'joint' else stops[1::strides.get(case, 3)]:  # all kinds of steps in little time
        progress = seen[stop - 1]
        snapshot, _ = run(config, stop=stop, **options)
        result, rest = run(config, snapshot, **options)
        assert same(result, whole), f'left after step {progress.step} of {progress.phase}'
        assert [(p.phase, p.step) for p in rest] == [(p.phase, p.step) for p in seen[stop:]]
        assert [p.loss for p in rest] == [p.loss for p in seen[stop:]]


def test_left_twice():
    whole, _ = run(EM)
    first, _ = run(EM, stop=3)
    second, _ = run(EM, first, stop=9)
    assert same(run(EM, second)[0], whole)


def test_seconds_go_on():
    snapshot, seen = run(EM, stop=8)
    snapshot['seconds'], snapshot['phase1'] = 100.0, 50.0
    result, rest = run(EM, snapshot)
    assert rest[0].phase == seen[-1].phase == 'em' and rest[0].seconds > 100
    assert result.seconds['phase1'] == 50 and result.seconds['phase2'] > 100


def test_a_snapshot_is_a_copy():
    steps = restore_steps(image(), EM, name='a')
    progress = next(steps)
    snapshot = progress.snapshot()
    before = {key: value.clone() for key, value in snapshot['solver']['net'].items()}
    next(steps)
    assert all(torch.equal(value, before[key]) for key, value in snapshot['solver']['net'].items())
