"""The contract of restore() and restore_steps() at toy size: neither nets nor pictures are any good here."""

import contextlib
import dataclasses
import itertools
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from kernelfusion_plugin import KernelFusionConfig, Progress, Result, restore, restore_steps
from kernelfusion_plugin.core import inputs, phase1, solvers
from kernelfusion_plugin.core import restore as module
from kernelfusion_plugin.core.degradation import Degradation, downscale_bicubic, to_canvas
from kernelfusion_plugin.core.em_config import EmConfig
from kernelfusion_plugin.core.joint import JointConfig
from kernelfusion_plugin.core.journal import Journal
from kernelfusion_plugin.core.kernel_models import DirectKernel
from kernelfusion_plugin.core.kernels import gaussian
from kernelfusion_plugin.core.nets.patch_net import PatchDiffusionNet
from kernelfusion_plugin.core.nets.refine_unet import RefineUNet
from kernelfusion_plugin.core.nets.texture_unet import TextureUNet
from kernelfusion_plugin.core.patch_prior import MeanPrior, PriorConfig
from kernelfusion_plugin.core.seeds import derived
from kernelfusion_plugin.core.texture_prior import TuningConfig, load_texture_net

TOY = KernelFusionConfig(
    scale=2, kernel_size=8, seed=3,
    prior=PriorConfig(channels=4, steps=3, crop=16, lr=1e-3, ema=0.9, precision='fp32'),
    em=EmConfig(sketch_passes=1, coarse_passes=1, fine_passes=0, uncertainty=0, steps=2, kernel_levels=1,
                final_samples=1, final_steps=2, final_prior='both', cg_iterations=3, noise_floor=0),
    tuning=TuningConfig(steps=3, crop=16, batch=1),
    joint=JointConfig(n_iter=1, n_iter_first=2, n_steps=2, precision='fp32'))
JOINT = dataclasses.replace(TOY, solver='joint')
INTERNAL = dataclasses.replace(TOY, em=dataclasses.replace(TOY.em, kernel_prior='internal', final_prior='internal'))


def with_em(**options):
    return dataclasses.replace(TOY, em=dataclasses.replace(TOY.em, **options))


def tiny_unet():
    return RefineUNet((4, 4, 4, 4, 4))


def image(height=16, width=18, seed=0):
    y = torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.avg_pool2d(y, 3, 1, 1)


def same(a, b):
    return torch.equal(a.sr, b.sr) and torch.equal(a.kernel, b.kernel)


@pytest.fixture(scope='module')
def full():
    """One run with its progress, which several tests look at."""
    seen = []
    return restore(image(), TOY, name='a', on_progress=seen.append), seen


@pytest.mark.parametrize('top', [255, 65535])
def test_how_y_was_read_makes_no_difference(top):
    """Layout and arithmetic: EM would make another kernel of another last bit."""
    values = torch.randint(top + 1, (3, 21, 18), generator=torch.Generator().manual_seed(0))
    plain = inputs.checked(values.double() / top * 2 - 1)
    assert plain.is_contiguous() and plain.dtype == torch.float32
    assert (plain[0] - (values.double() / top * 2 - 1)).abs().max() < 1e-7
    last = values.permute(1, 2, 0).contiguous().permute(2, 0, 1)  # as of an array (H, W, C)
    for y in (values.float() / top * 2 - 1, (values.float() - top / 2) / (top / 2), values.float() * (2 / top) - 1,
              last.float() / top * 2 - 1, (last.double() / top * 2 - 1)[None]):
        found = inputs.checked(y)
        assert torch.equal(found, plain) and found.stride() == plain.stride()


def test_values_in_between_stay_as_they_are():
    y = (torch.arange(3 * 20 * 20).reshape(3, 20, 20) + 0.3) / 32767.5 - 1
    assert torch.equal(inputs.checked(y), y[None])


def test_what_is_no_tensor_or_config_is_named():
    for arguments, options, said in (((image().numpy(),), {}, 'y must be a tensor, got ndarray'),
                                     ((image(), {'scale': 2}), {}, 'must be a KernelFusionConfig, got dict'),
                                     ((image(), TOY), {'kernel': gaussian(8, sigmas=1.0).numpy()}, 'must be a tensor')):
        with pytest.raises(ValueError, match=said):
            restore(*arguments, **options)


@pytest.mark.parametrize('size', [2, 4, 6])
def test_a_smaller_known_kernel_gets_zeros_around_it(size):
    """Its centre stays: the forward model of its own size agrees."""
    small = torch.rand(size, size, generator=torch.Generator().manual_seed(1))
    small /= small.sum()
    kernel = inputs.known_kernel(small, TOY)
    assert kernel.shape == (8, 8)
    x = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(2))
    wide, narrow = (Degradation(2, len(k), 'zeros').forward(x, k) for k in (kernel, small))
    torch.testing.assert_close(wide, narrow)


@pytest.mark.parametrize(('size', 'scale', 'grid'), [(3, 4, 9), (5, 4, 9), (6, 4, 8), (8, 4, 8), (24, 4, 24)])
def test_the_grid_of_a_known_kernel_is_said(size, scale, grid):
    config = KernelFusionConfig(scale=scale, kernel_size=23 if size % 2 == 0 else 24)
    assert inputs.grid_for(size, scale) == grid
    if size < 23:
        with pytest.raises(ValueError, match=f'set kernel_size to {grid}$'):
            inputs.known_kernel(gaussian(size, sigmas=1.0), config)
    config = KernelFusionConfig(scale=scale, kernel_size=grid)
    assert inputs.known_kernel(gaussian(size, sigmas=1.0), config).shape == (grid, grid)


def test_the_result(full):
    result, _ = full
    assert isinstance(result, Result) and result.config is TOY
    assert result.sr.shape == (1, 3, 32, 36) and result.sr.dtype == torch.float32
    assert result.sr.min() >= -1 and result.sr.max() <= 1 and torch.isfinite(result.sr).all()
    assert result.kernel.shape == (8, 8) and result.kernel.dtype == torch.float32
    assert float(result.kernel.sum()) == pytest.approx(1, abs=1e-5) and result.kernel.min() >= 0
    assert result.seconds.keys() == {'phase1', 'phase2'} and all(value > 0 for value in result.seconds.values())
    assert result.prior_state.keys() == PatchDiffusionNet(4).state_dict().keys()
    assert not any(value.requires_grad for value in result.prior_state.values())
    assert not result.sr.requires_grad and not result.kernel.requires_grad


def test_progress_counts_the_steps_of_both_phases(full):
    result, seen = full
    assert [(p.phase, p.step, p.total) for p in seen] == ([('prior', i, 3) for i in (1, 2, 3)]
                                                          + [('em', i, 6) for i in range(1, 7)])
    for p in seen:
        assert isinstance(p, Progress) and p.loss >= 0
        if p.phase == 'prior':
            assert p.x0_hat is None and p.kernel is None
        else:
            assert p.x0_hat.shape == (1, 3, 32, 36) and p.kernel.shape == (8, 8)
            assert p.losses.keys() == {'residual'} and p.loss == p.losses['residual']
    for phase in ('prior', 'em'):
        seconds = [p.seconds for p in seen if p.phase == phase]
        assert seconds == sorted(seconds) and seconds[0] > 0
    assert torch.equal(seen[-1].x0_hat.clamp(-1, 1), result.sr) and torch.equal(seen[-1].kernel, result.kernel)


def test_eta_is_what_is_left_at_the_mean_pace(full):
    assert Progress('em', 3, 12, 0.1, 6.0).eta == pytest.approx(18)
    for p in full[1]:
        assert p.eta == pytest.approx(p.seconds * (p.total - p.step) / p.step)
    assert full[1][-1].eta == 0


def test_the_trace_is_numbers_of_every_step_of_phase_2(full):
    result, seen = full
    phase2 = [row for row in result.trace if row['phase'] == 'em']
    assert [row['step'] for row in phase2] == list(range(1, 7)) and all(0 <= row['t'] < 1000 for row in phase2)
    assert [row['residual'] for row in phase2] == [p.loss for p in seen if p.phase == 'em']
    prior = [row for row in result.trace if row['phase'] == 'prior']
    assert [(row['step'], row['loss']) for row in prior] == [(i, seen[i - 1].loss) for i in (1, 2, 3)]


def test_a_row_of_phase_1_is_the_mean_over_a_hundredth_of_it_also_of_a_run_that_is_resumed(generator):
    journal = Journal(None)
    for step in range(1, 1001):
        journal.note('prior', step, 1000, 1 / step)
        if step == 505:
            journal = Journal(journal.snapshot('prior', dict, generator, 0.0))
    assert [row['step'] for row in journal.trace] == list(range(10, 1001, 10))
    for row in journal.trace:
        assert row['loss'] == pytest.approx(sum(1 / step for step in range(row['step'] - 9, row['step'] + 1)) / 10)


def test_the_generator_gives_the_same(full):
    steps, count = restore_steps(image(), TOY, name='a'), 0
    while True:
        try:
            next(steps)
            count += 1
        except StopIteration as end:
            assert same(end.value, full[0]) and count == len(full[1])
            return


def test_stopping_early_is_up_to_the_caller():
    steps = restore_steps(image(), TOY)
    assert [p.phase for p in itertools.islice(steps, 4)] == ['prior'] * 3 + ['em']
    steps.close()


def test_batch_axis_dtype_and_gradients_of_y_do_not_matter(full):
    for y in (image()[None], image().double(), image().requires_grad_()):
        result = restore(y, TOY, name='a')
        assert same(result, full[0]) and not result.sr.requires_grad
    y = image()
    restore(y, TOY, name='a')
    assert torch.equal(y, image())


@pytest.mark.parametrize('config', [TOY, JOINT], ids=['em', 'joint'])
def test_weights_at_hand_give_the_full_runs_result(config):
    first = restore(image(), config, name='a', make_refine_net=tiny_unet)
    seen = []
    again = restore(image(), config, name='a', make_refine_net=tiny_unet, prior_state=first.prior_state,
                    on_progress=seen.append)
    assert same(first, again) and {p.phase for p in seen} == {config.solver}
    assert again.seconds['phase1'] == 0 and again.trace == [row for row in first.trace if row['phase'] != 'prior']
    assert all(torch.equal(first.prior_state[key], again.prior_state[key]) for key in first.prior_state)


def test_seed_and_name_decide(full):
    assert same(restore(image(), TOY, name='a'), full[0])
    other_name = restore(image(), TOY, name='b')
    other_seed = restore(image(), dataclasses.replace(TOY, seed=4), name='a')
    for other in (other_name, other_seed):
        assert not torch.equal(other.sr, full[0].sr) and not torch.equal(other.kernel, full[0].kernel)
        assert any(not torch.equal(other.prior_state[key], full[0].prior_state[key]) for key in other.prior_state)
    assert not same(other_name, other_seed)


def test_seed_and_name_decide_phase_2_too(full):
    state = full[0].prior_state
    other = restore(image(), TOY, name='b', prior_state=state)
    assert not torch.equal(other.sr, full[0].sr) and not torch.equal(other.kernel, full[0].kernel)


@pytest.mark.parametrize('config', [TOY, JOINT], ids=['em', 'joint'])
def test_neither_order_nor_global_random_state_matter(config):
    def run(name, seed):
        return restore(image(seed=seed), config, name=name, make_refine_net=tiny_unet)

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, second = run('a', 0), run('b', 1)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    torch.rand(5)
    assert same(run('b', 1), second) and same(run('a', 0), first)


def test_two_runs_may_take_turns(full):
    """Generators in step with each other: no state is shared."""
    runs, results = {name: restore_steps(image(), TOY, name=name) for name in 'ab'}, {}
    while len(results) < 2:
        for name in runs.keys() - results.keys():
            try:
                next(runs[name])
            except StopIteration as end:
                results[name] = end.value
    assert same(results['a'], full[0]) and not same(results['b'], full[0])


def test_the_known_kernel_is_used_and_returned_normalised(full):
    k = gaussian(8, sigmas=1.2)
    seen = []
    config = dataclasses.replace(TOY, em=dataclasses.replace(TOY.em, cg_iterations=30))
    result = restore(image(), config, name='a', kernel=3 * k.double(), on_progress=seen.append)
    torch.testing.assert_close(result.kernel, k)
    assert [(p.phase, p.total) for p in seen] == [('prior', 3)] * 3 + [('em', 2)] * 2
    assert not torch.equal(result.sr, full[0].sr)
    bicubic = Degradation(2, 8).forward(to_canvas(image()[None], Degradation(2, 8)), k)
    assert seen[-1].loss < 0.05 * (bicubic - image()).square().mean()  # y is explained through this kernel


def test_a_known_kernel_of_a_grid_of_one_region():
    config = dataclasses.replace(TOY, em=dataclasses.replace(TOY.em, final_prior='textures'))
    k = gaussian(8, sigmas=1.2)
    one, grid = (restore(image(), config, name='a', kernel=kernel) for kernel in (k, 2 * k[None, None]))
    assert same(one, grid) and grid.kernels is None


@pytest.fixture
def _ieee():
    """What a user may set, TF32 by operator; torch.backends.cudnn.flags cannot read the older setting then."""
    conv = getattr(torch.backends.cudnn, 'conv', None)  # torch 2.9
    if conv is None:
        yield
        return
    before, conv.fp32_precision = conv.fp32_precision, 'ieee'
    yield
    conv.fp32_precision = before


@pytest.mark.usefixtures('_ieee')
@pytest.mark.parametrize('fails', [False, True])
def test_a_context_for_the_same_bits_leaves_cudnn_as_it_was(fails, monkeypatch):
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, 'benchmark', True)
    with contextlib.suppress(KeyError), module.repeatable(torch.device('cuda')):
        assert (cudnn.benchmark, cudnn.deterministic) == (False, True)
        if fails:
            raise KeyError
    assert (cudnn.benchmark, cudnn.deterministic) == (True, False)
    with module.repeatable(torch.device('cpu')):
        assert cudnn.benchmark


@pytest.mark.parametrize('border', ['valid', 'reflect'])
@pytest.mark.parametrize(('scale', 'size', 'shape'), [(2, 7, (15, 15)), (3, 18, (15, 20)), (4, 31, (17, 16))])
def test_sizes(scale, size, shape, border):
    config = dataclasses.replace(with_em(fine_passes=1), scale=scale, kernel_size=size, border=border)
    result = restore(image(*shape), config)
    assert result.sr.shape == (1, 3, scale * shape[0], scale * shape[1]) and result.kernel.shape == (size, size)
    assert torch.isfinite(result.sr).all() and torch.isfinite(result.kernel).all()


@pytest.mark.parametrize('level', [0.0, 1.0])
def test_a_flat_picture_breaks_nothing(level):
    result = restore(torch.full((3, 16, 16), level), TOY)
    assert torch.isfinite(result.sr).all() and torch.isfinite(result.kernel).all()


def test_a_little_beyond_the_range_is_rounding():
    assert restore(image().clamp(-1, 1) * 0 + 1.00005, TOY).sr.max() <= 1


def test_the_joint_solver():
    seen = []
    result = restore(image(), JOINT, on_progress=seen.append, make_refine_net=tiny_unet)
    assert [(p.phase, p.step, p.total) for p in seen[3:]] == [('joint', i, 3) for i in (1, 2, 3)]
    assert result.sr.shape == (1, 3, 32, 36) and -1 <= result.sr.min() and result.sr.max() <= 1
    assert float(result.kernel.sum()) == pytest.approx(1, abs=1e-5)
    assert all(p.loss == p.losses['total'] for p in seen[3:])
    assert not seen[-1].x0_hat.requires_grad and not result.kernel.requires_grad


def test_the_factories_are_used_under_the_images_seed():
    made = {}

    def watch(name, factory):
        def make():
            made.setdefault(name, []).append(factory())
            return made[name][-1]
        return make

    class Wide(PatchDiffusionNet):
        pass

    factories = {'make_patch_net': watch('patch', lambda: Wide(6)), 'make_refine_net': watch('refine', tiny_unet),
                 'make_kernel_model': watch('kernel', lambda: Jittered(8))}
    before = torch.get_rng_state()
    first = restore(image(), JOINT, **factories)
    assert {name: len(nets) for name, nets in made.items()} == {'patch': 2, 'refine': 2, 'kernel': 1}  # on trial
    assert first.prior_state.keys() == Wide(6).state_dict().keys()
    assert first.prior_state['head.weight'].shape == (3, 6, 1, 1)
    torch.set_rng_state(before)
    second, third = restore(image(), JOINT, **factories), restore(image(), JOINT, name='z', **factories)
    assert torch.equal(before, torch.get_rng_state())
    assert same(first, second) and not same(first, third)
    assert torch.equal(made['kernel'][0].start, made['kernel'][1].start)
    assert not torch.equal(made['kernel'][0].start, made['kernel'][2].start)


class Jittered(DirectKernel):
    """A kernel model with random weights, and a copy of how it began."""

    def __init__(self, size):
        super().__init__(size)
        nn.init.uniform_(self.values, 0, 1)
        self.start = self.values.detach().clone()


def test_defaults_without_a_config(monkeypatch):
    """The preset takes too long for a test: Phase 1 is stopped as soon as it has its settings."""
    class Enough(Exception):
        pass

    def stop(net, y, schedule, config, generator, resume):
        raise Enough(net, config)

    monkeypatch.setattr(module, 'fit_patch_prior', stop)
    with pytest.raises(Enough) as end:
        next(restore_steps(image()))
    default, (net, config) = KernelFusionConfig(), end.value.args
    assert isinstance(net, TextureUNet)
    assert (config.t_max, config.steps, config.crop, config.batch) == (201, 300, 64, 4)
    assert (config.lr, config.ema) == (4e-4, 0.99)
    assert (config.turns, config.max_grad_norm, config.timesteps, config.precision) == (True, 1.0, 1000, 'auto')
    with pytest.raises(Enough) as end:
        next(restore_steps(image(), KernelFusionConfig(solver='joint')))
    net, config = end.value.args
    assert (net.channels, config) == (default.prior.channels, default.prior)


def weights(channels):
    return PatchDiffusionNet(channels).state_dict()


def spoilt(value):
    y = image()
    y[1, 3, 4] = value
    return y


@pytest.mark.parametrize(('y', 'words'), [
    (spoilt(float('nan')), 'NaN or infinite'), (spoilt(float('inf')), 'NaN or infinite'),
    (spoilt(-float('inf')), 'NaN or infinite'), (spoilt(1.01), r'\[-1, 1\].*1.01.*rescale'),
    (spoilt(-3.0), r'\[-1, 1\], got \[-3'), (image()[0], r'one RGB image.*\(16, 18\)'),
    (image()[None, None], 'one RGB image'), (image()[:1], r'one RGB image.*\(1, 1, 16, 18\)'),
    (torch.stack([image(), image()]), r'one RGB image.*\(2, 3, 16, 18\)'), (image().permute(1, 2, 0), 'one RGB image'),
    ((image() * 127).to(torch.uint8), 'floating point.*uint8.*127.5'), (image().long(), 'floating point.*int64'),
    (image(14, 40), r'40 x 14 pixels \(width x height\): at least 15 x 15'), (image(40, 14), '14 x 40'),
    (torch.zeros(3, 0, 20), '20 x 0')])
def test_bad_pictures_are_one_line(y, words):
    with pytest.raises(ValueError, match=words) as error:
        next(restore_steps(y, TOY))
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(('config', 'options', 'words'), [
    (TOY, {'kernel': torch.ones(9, 9)}, r'8 x 8.*\(9, 9\).*kernel_size'),
    (TOY, {'kernel': torch.ones(8)}, r'8 x 8.*\(8,\)'), (TOY, {'kernel': torch.ones(1, 8, 8)}, r'8 x 8.*\(1, 8, 8\)'),
    (TOY, {'kernel': torch.zeros(8, 8)}, 'positive sum'), (TOY, {'kernel': -torch.ones(8, 8)}, 'positive sum'),
    (TOY, {'kernel': torch.full((8, 8), float('nan'))}, 'finite'),
    (JOINT, {'kernel': torch.ones(8, 8)}, "solver 'joint' takes no known kernel"),
    (TOY, {'prior_state': weights(6)}, 'do not fit.*prior.channels'),
    (TOY, {'prior_state': {**weights(4), 'more': torch.zeros(1)}}, 'do not fit.*more'),
    (INTERNAL, {'prior_state': {**weights(4), 'half.more': torch.zeros(1)}}, 'do not fit.*'),
    (KernelFusionConfig(), {'prior_state': {'tuned.more': torch.zeros(1)}}, 'texture prior, tuned. do not fit')])
def test_bad_settings_are_one_line_before_phase_1(config, options, words, monkeypatch):
    monkeypatch.setattr(module, 'fit_patch_prior', lambda *_: pytest.fail('hours of Phase 1, then an error'))
    with pytest.raises(ValueError, match=words) as error:
        next(restore_steps(image(), config, **options))
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(('setting', 'other', 'usual', 'words'), [
    (torch.set_default_dtype, torch.float64, torch.float32, 'got torch.float64 on cpu'),
    (torch.set_default_device, 'meta', None, 'on meta: see')], ids=['dtype', 'device'])
def test_other_defaults_of_pytorch_are_refused(setting, other, usual, words):
    y = image()
    setting(other)
    try:
        with pytest.raises(ValueError, match=words):
            restore(y, TOY)
    finally:
        setting(usual)


def test_autocast_around_it_is_refused():
    with torch.autocast('cpu', dtype=torch.bfloat16):
        with pytest.raises(ValueError, match=r"within torch\.autocast: .* torch\.autocast\('cpu', enabled=False\)"):
            restore(image(), TOY)
    next(restore_steps(image(), TOY))


@pytest.mark.parametrize(('solver', 'joint'), [('em', {}), ('joint', {}), ('joint', {'pipeline': 'dip'})])
def test_autocast_around_it_that_is_turned_off_changes_nothing(solver, joint):
    """It would keep weights rounded to bfloat16 to its end, so that training would not see its own steps."""
    config = dataclasses.replace(INTERNAL, solver=solver, prior=dataclasses.replace(TOY.prior, precision='bf16'),
                                 joint=dataclasses.replace(TOY.joint, precision='bf16', **joint))
    expected = restore(image(), config)
    with torch.autocast('cpu', dtype=torch.bfloat16), torch.autocast('cpu', enabled=False):
        result = restore(image(), config)
    assert torch.equal(result.sr, expected.sr) and torch.equal(result.kernel, expected.kernel)


def test_a_known_kernel_with_a_gradient_gives_a_result_without():
    kernel = gaussian(8, sigmas=1.2).requires_grad_()
    result = restore(image(), TOY, kernel=kernel)
    assert not result.kernel.requires_grad and not result.sr.requires_grad


def test_threads_draw_no_weights_from_each_others_randomness():
    """Global state, which modules draw from, is all threads'."""
    def slow_net():
        torch.rand(5)
        time.sleep(0.05)
        return PatchDiffusionNet(4)

    def run(name):
        return restore(image(), INTERNAL, name=name, make_patch_net=slow_net)

    names = ('a', 'b', 'c')
    alone = [run(name) for name in names]
    with ThreadPoolExecutor(len(names)) as pool:
        together = list(pool.map(run, names))
    assert all(same(one, other) for one, other in zip(alone, together))


@pytest.mark.parametrize('mode', [torch.no_grad, torch.inference_mode])
def test_it_may_be_called_where_gradients_are_turned_off(mode):
    with mode():
        result = restore(image(), TOY, name='a')
        assert not torch.is_grad_enabled()
    assert same(result, restore(image(), TOY, name='a'))


def test_a_picture_in_another_range_is_spoken_of():
    with pytest.warns(UserWarning, match=r'all values of y are in \[0, 1\].* pass 2 \* y - 1'):
        restore(image() / 2 + 0.5, TOY)


@pytest.mark.parametrize(('config', 'phase', 'rate'), [
    (TOY, 'patch prior', 'prior.lr'), (JOINT, 'joint', 'joint.lr'),
    (dataclasses.replace(TOY, em=dataclasses.replace(TOY.em, final_prior='tuned')), 'texture prior, tuned',
     'tuning.lr')])
def test_what_diverges_is_no_result(config, phase, rate, monkeypatch):
    section = rate.partition('.')[0]
    rates = {'lr': 1e30, 'steps': 5} if section == 'prior' else {'lr': 1e30}
    wild = dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **rates)})
    with pytest.raises(ValueError, match=rf'^{phase} has diverged: its loss is \S+ at step \d+: lower {rate}') as error:
        restore(image(), wild, make_refine_net=tiny_unet)
    assert '\n' not in str(error.value)


def test_an_unknown_option_is_refused():
    with pytest.raises(TypeError, match='prior_stat'):
        restore(image(), TOY, prior_stat={})


def phases(seen):
    """(phase, steps) in their order."""
    return [(phase, len(list(group))) for phase, group in itertools.groupby(p.phase for p in seen)]


@pytest.mark.parametrize('final', ['internal', 'both', 'textures'])
def test_internal_finds_the_kernel_with_a_prior_of_the_half_image(final):
    seen, nets, batches = [], [], []

    def make_net():
        nets.append(PatchDiffusionNet(4))
        nets[-1].register_forward_pre_hook(lambda net, args: batches.append(args[0].shape) if net.training else None)
        return nets[-1]

    config = dataclasses.replace(with_em(kernel_prior='internal', final_prior=final),
                                 prior=dataclasses.replace(TOY.prior, batch=5))
    result = restore(image(), config, name='a', make_patch_net=make_net, on_progress=seen.append)
    own = {'prior': 3} if final != 'textures' else {}
    assert phases(seen) == [*own.items(), ('half', 3), ('em', 6)]
    assert all(p.x0_hat is None and p.kernel is None and p.total == 3 for p in seen if p.phase != 'em')
    assert len(nets) == 2 * (1 + len(own))  # one of each on trial
    assert batches == [(5, 3, 16, 16)] * 3 * len(own) + [(2, 3, 8, 9)] * 3  # half the size, half the batch
    weights = PatchDiffusionNet(4).state_dict()
    assert result.prior_state.keys() == {*(weights if own else ()), *(f'half.{key}' for key in weights)}
    assert {row['phase'] for row in result.trace} == {'half', 'em', *own}


def test_weights_of_the_half_size_prior_are_reused_or_trained_if_they_are_missing():
    first = restore(image(), INTERNAL, name='a')
    for missing in ('half.', ''):
        kept = {key: value for key, value in first.prior_state.items() if key.startswith('half.') == (missing == '')}
        seen = []
        again = restore(image(), INTERNAL, name='a', prior_state=kept, on_progress=seen.append)
        assert same(first, again) and phases(seen) == [('half' if missing else 'prior', 3), ('em', 6)]
        assert all(torch.equal(again.prior_state[key], value) for key, value in first.prior_state.items())
    seen = []
    again = restore(image(), INTERNAL, name='a', prior_state=first.prior_state, on_progress=seen.append)
    assert same(first, again) and phases(seen) == [('em', 6)] and again.seconds['phase1'] == 0


def test_empty_weights_are_trained(full):
    assert same(restore(image(), TOY, name='a', prior_state={}), full[0])


def test_a_known_kernel_needs_no_half_size_prior():
    seen = []
    result = restore(image(), INTERNAL, kernel=torch.ones(8, 8), on_progress=seen.append)
    assert phases(seen) == [('prior', 3), ('em', 2)]
    assert result.prior_state.keys() == PatchDiffusionNet(4).state_dict().keys()


@pytest.mark.parametrize('kernel', [None, gaussian(8, sigmas=1.2)], ids=['blind', 'known'])
def test_textures_alone_need_no_phase_1(kernel):
    seen = []
    result = restore(image(), with_em(final_prior='textures'), kernel=kernel, on_progress=seen.append,
                     make_patch_net=lambda: pytest.fail('no net is to be made'))
    assert phases(seen) == [('em', 6 if kernel is None else 2)]
    assert result.prior_state == {} and result.seconds['phase1'] == 0 < result.seconds['phase2']
    assert {row['phase'] for row in result.trace} == {'em'}


def test_tuned_trains_the_texture_prior_on_with_y():
    """Its weights leave those that ship, are given back, and are reused; the kernel is found with those that ship."""
    config, seen = with_em(final_prior='tuned'), []
    first = restore(image(), config, name='a', on_progress=seen.append,
                    make_patch_net=lambda: pytest.fail('no PD is to be made'))
    assert phases(seen) == [('tuned', 3), ('em', 6)] and {row['phase'] for row in first.trace} == {'tuned', 'em'}
    shipped = load_texture_net().state_dict()
    assert first.prior_state.keys() == {f'tuned.{key}' for key in shipped}
    changes = {key: float((first.prior_state[f'tuned.{key}'] - value).abs().max()) for key, value in shipped.items()}
    assert 0 < max(changes.values()) < 0.01
    plain = restore(image(), with_em(final_prior='textures'), name='a')
    assert torch.equal(first.kernel, plain.kernel) and not torch.equal(first.sr, plain.sr)
    seen = []
    again = restore(image(), config, name='a', prior_state=first.prior_state, on_progress=seen.append)
    assert same(first, again) and phases(seen) == [('em', 6)]


@pytest.mark.parametrize(('options', 'name'), [({'steps': 0}, 'steps'), ({'lr': 0}, 'lr'), ({'ema': 1}, 'ema'),
                                               ({'crop': 8}, 'crop'), ({'batch': float('inf')}, 'batch')])
def test_faults_in_tuning_are_named(options, name):
    with pytest.raises(ValueError, match=rf'tuning\.{name} must be'):
        TuningConfig(**options)


@pytest.mark.parametrize('options', [{'solver': 'joint'}, {'em': INTERNAL.em}])
def test_the_texture_prior_is_loaded_only_where_it_takes_part(options, monkeypatch):
    monkeypatch.setattr(module, 'load_texture_prior', lambda *args: pytest.fail('not asked for'))
    restore(image(), dataclasses.replace(TOY, **options), make_refine_net=tiny_unet)


@pytest.mark.parametrize('kernel_prior', ['textures', 'internal'])
@pytest.mark.parametrize('final_prior', ['textures', 'internal', 'both', 'tuned'])
def test_each_half_gets_the_priors_that_are_named(kernel_prior, final_prior, monkeypatch):
    given = {}

    def stop(y, prior, degradation, config, generator, kernel, search, resume):
        given.update(final=prior, search=search)
        raise StopIteration

    monkeypatch.setattr(solvers, 'solve_em', stop)
    with pytest.raises(RuntimeError, match='StopIteration'):
        restore(image(), with_em(kernel_prior=kernel_prior, final_prior=final_prior),
                make_patch_net=lambda: PatchDiffusionNet(4))
    final = given['final'].priors if isinstance(given['final'], MeanPrior) else [given['final']]
    kinds = [type(prior.net) for prior in final]
    assert kinds == {'textures': [TextureUNet], 'internal': [PatchDiffusionNet], 'tuned': [TextureUNet, TextureUNet],
                     'both': [PatchDiffusionNet, TextureUNet]}[final_prior]
    assert type(given['search'].net) is {'textures': TextureUNet, 'internal': PatchDiffusionNet}[kernel_prior]
    others = final[:1] if final_prior == 'tuned' else final  # tuned: the one that ships is the second of the two
    if kernel_prior == 'internal' or final_prior == 'tuned':
        assert all(given['search'].net is not prior.net for prior in others)


def test_half_size_is_the_mean_of_a_constant_and_keeps_to_the_range():
    half = phase1.half_size(torch.full((1, 3, 15, 18), 0.25))
    assert half.shape == (1, 3, 7, 9) and torch.allclose(half, torch.tensor(0.25), atol=1e-6)
    stripes = torch.where(torch.arange(32) % 8 < 4, 1.0, -1.0).expand(1, 3, 32, 32)
    assert downscale_bicubic(stripes, 2).max() > 1.01 and phase1.half_size(stripes).abs().max() <= 1


def test_what_an_image_is_called_and_what_its_numbers_are_for_do_not_run_together():
    assert derived(1, '2', 'em') != derived(12, '', 'em') and derived(0, 'a', 'bem') != derived(0, 'ab', 'em')
    assert derived(0, 'a', 'em') == derived('0', 'a', 'em') in range(2 ** 63)


def test_a_picture_is_the_same_in_whatever_arithmetic_it_was_read():
    levels = torch.arange(256)
    values = [levels / 127.5 - 1, (levels / 255 - 0.5) / 0.5, levels.double() / 127.5 - 1, levels / 255 * 2 - 1]
    assert any(not torch.equal(values[0], value.float()) for value in values[1:])
    one, *others = (inputs.stored(value.expand(1, 3, 16, 256)) for value in values)
    assert all(torch.equal(one, other) for other in others)
    between = torch.full((1, 3, 16, 16), 1 / 65535)  # of a picture in floats: nothing near
    assert torch.equal(inputs.stored(between + 0.4 / 65535), between + 0.4 / 65535)
