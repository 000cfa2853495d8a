"""Core on a simulated GPU: nothing meets a tensor or a generator of another device, and results are the CPU's.

The simulation (``simulated_gpu``) is tested first. What it cannot show: a GPU's own arithmetic and operators, autocast
to bf16, memory and time.
"""

import dataclasses
import io
import itertools

import pytest
import torch
import torch.nn.functional as F
from simulated_gpu import CUDA, OnGpu, simulated, waits
from test_blind_nets import make
from test_blinddiff import tiny_net
from test_restore import JOINT, TOY, image, tiny_unet
from test_resume import framed

from kernelfusion_plugin import restore_steps
from kernelfusion_plugin.core import frame, metrics, patch_prior, regional_degradation, shift_metrics
from kernelfusion_plugin.core import restore as module
from kernelfusion_plugin.core.back_projection import back_project
from kernelfusion_plugin.core.blinddiff import BlindDiffConfig, training_loss
from kernelfusion_plugin.core.blinddiff_sampling import image_generator, sample
from kernelfusion_plugin.core.blur_width import blur_spread
from kernelfusion_plugin.core.config import KernelFusionConfig
from kernelfusion_plugin.core.deconvolution import lr_space_kernel
from kernelfusion_plugin.core.degradation import BORDERS, Degradation, downscale_bicubic, resample_kernel, synthesise
from kernelfusion_plugin.core.diffusion import Schedule
from kernelfusion_plugin.core.em import solve_em
from kernelfusion_plugin.core.em_config import EmConfig
from kernelfusion_plugin.core.joint import solve_joint
from kernelfusion_plugin.core.joint_ablations import solve_ablation
from kernelfusion_plugin.core.kernel_align import centre, centre_by_pixels, resize, shift
from kernelfusion_plugin.core.kernel_basis import kernel_basis
from kernelfusion_plugin.core.kernel_models import DirectKernel, LinearCnnKernel
from kernelfusion_plugin.core.kernel_pca import decode, pca_matrix
from kernelfusion_plugin.core.kernels import gaussian, l_shape, motion
from kernelfusion_plugin.core.memory import capacity
from kernelfusion_plugin.core.nets.dan import DAN
from kernelfusion_plugin.core.nets.danv2 import DANv2
from kernelfusion_plugin.core.nets.dcls import DCLS
from kernelfusion_plugin.core.nets.patch_net import PatchDiffusionNet
from kernelfusion_plugin.core.noise import estimate_noise
from kernelfusion_plugin.core.overexposure import white_level
from kernelfusion_plugin.core.patch_prior import PatchPrior, computes_bf16
from kernelfusion_plugin.core.plan import Plan
from kernelfusion_plugin.core.quadratic import data_step
from kernelfusion_plugin.core.texture_prior import TuningConfig, load_texture_prior
from kernelfusion_plugin.core.tiles import Tiles
from kernelfusion_plugin.estimate import _timed

L = l_shape(8, 6, 2)


@pytest.fixture
def gpu():
    with simulated() as device:
        yield device


def em(**options):
    return dataclasses.replace(TOY, em=dataclasses.replace(TOY.em, **options))


def joint(**options):
    return dataclasses.replace(JOINT, joint=dataclasses.replace(JOINT.joint, **options))


def equal(a, b):
    return torch.equal(a.cpu(), b.cpu())


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# The simulation

MIXED = {
    'sum': lambda a, b: a + b,
    'sum in place': lambda a, b: b.add_(a),
    'cat': lambda a, b: torch.cat([a, b]),
    'stack of scalars': lambda a, b: torch.stack([a.sum(), b.sum()]),
    'scalar of the GPU': lambda a, b: a * b.sum(),
    'scalar of the CPU as the result': lambda a, b: a.sum().add_(b.sum()),
    'product': lambda a, b: a @ b,
    'convolution': lambda a, b: F.conv2d(a[None, None], b[None, None]),
    'linear': lambda a, b: torch.nn.Linear(3, 3)(b),
    'where': lambda a, b: torch.where(a > 0, b, b),
    'equal': torch.equal,
    'index of the GPU': lambda a, b: a[b.argmax(0)],
    'gather': lambda a, b: b.gather(0, a.argmax(0, keepdim=True)),
    'values by index': lambda a, b: b.index_put_((torch.arange(2),), a[:2]),
    'index_add': lambda a, b: b.index_add(0, torch.arange(3), b),
    'searchsorted': torch.searchsorted,
}


@pytest.mark.parametrize('name', MIXED)
def test_devices_do_not_mix(name, gpu):
    a = random(3, 3)
    with pytest.raises(RuntimeError, match='Expected all tensors to be on the same device'):
        MIXED[name](a, a.to(gpu))


def test_only_the_processor_reads_values(gpu):
    with pytest.raises(RuntimeError, match='numpy'):
        random(3).to(gpu).numpy()


def test_what_cuda_lets_pass_does(gpu):
    a = random(3, 3)
    b = a.to(gpu)
    scalar = torch.tensor(2.0, dtype=torch.float64)
    index, mask = torch.tensor([2, 0]), a > 0
    for on_gpu, on_cpu in ((b * scalar, a * scalar), (torch.where(b > 0, b, scalar), torch.where(a > 0, a, scalar)),
                           (b[index], a[index]), (b[mask], a[mask]), (b.clone().copy_(a), a), (a.clone().copy_(b), a)):
        assert equal(on_gpu, on_cpu)
    assert (b * scalar).device == b[mask].device == CUDA and a.clone().copy_(b).device.type == 'cpu'


def test_tensors_say_where_they_are(gpu):
    a, b = random(3, 4), random(3, 4).to(gpu)
    assert b.device == CUDA and b.is_cuda and not b.is_cpu and not b.is_meta and a.device.type == 'cpu'
    made = (torch.zeros(2, device=gpu), torch.arange(3, device='cuda'), torch.full((2,), 1, device=b.device),
            torch.tensor([1.0], device=gpu), torch.as_tensor([1.0], device='cuda:0'), b.new_tensor([1.0]),
            torch.zeros_like(b), b.new_zeros(2), b[0], b.T, b.reshape(-1), a.to(b), b.double(), torch.fft.rfft2(b),
            torch.zeros_like(a, device=gpu), b.view(2, 6), b.sum(), torch.quantile(b, 0.5))
    assert all(type(z) is OnGpu and z.device == CUDA for z in made)
    left = (b.cpu(), b.to('cpu'), b.to(a), a + 1, torch.ones(2), torch.zeros_like(b, device='cpu'),
            torch.as_tensor(b, device='cpu'), b.detach().to('cpu', copy=True))
    assert all(type(z) is torch.Tensor and z.device.type == 'cpu' for z in left)
    assert b.new_tensor([1.5]).tolist() == [1.5] and float(b.sum()) == float(a.sum()) and equal(a, b)


def test_views_share_their_values(gpu):
    b = torch.zeros(4, 4, device=gpu)
    b[1:3, 1:3] += 1
    b.T[0].copy_(torch.ones(4))
    b[3] = torch.tensor(5.0)
    assert b.tolist() == [[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0], [5, 5, 5, 5]]


def test_generators_belong_to_a_device(gpu):
    here, there = torch.Generator(), torch.Generator(gpu)
    assert here.device.type == 'cpu' and there.device == CUDA
    same = [torch.randn(3, generator=g.manual_seed(7), device=g.device) for g in (here, there)]
    assert equal(*same) and same[1].device == CUDA
    for generator, device in ((here, gpu), (there, None), (there, 'cpu')):
        with pytest.raises(RuntimeError, match='device type for generator'):
            torch.randn(3, generator=generator, device=device)
        with pytest.raises(RuntimeError, match='device type for generator'):
            torch.randint(3, (3,), generator=generator, device=device)
        with pytest.raises(RuntimeError, match='device type for generator'):
            torch.zeros(3, device=device).normal_(generator=generator)


def test_networks_learn_there(gpu):
    """And a net that stays on the CPU, or a part of it, fails."""
    results = []
    for device in ('cpu', gpu):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 3, 1))
        net.to(device).to(memory_format=torch.channels_last)
        optimiser = torch.optim.Adam(net.parameters(), lr=0.1)
        for _ in range(2):
            optimiser.zero_grad()
            net(random(1, 3, 8, 8).to(device)).square().sum().backward()
            optimiser.step()
        results.append(net.state_dict())
    assert all(value.device == CUDA and equal(value, results[0][name]) for name, value in results[1].items())
    with pytest.raises(RuntimeError, match='same device'):
        net(random(1, 3, 8, 8))
    net[2].cpu()
    with pytest.raises(RuntimeError, match='same device'):
        net(random(1, 3, 8, 8).to(gpu))


def test_what_a_card_is_asked():
    for capability, bf16 in (((7, 5), False), ((8, 0), True)):
        with simulated(capability, memory=5) as gpu:
            assert computes_bf16(gpu) == bf16 and capacity(gpu) == 5


# restore()

def wide():
    return F.avg_pool2d(random(3, 16, 34), 3, 1, 1)


def overexposed():
    y = 0.4 * wide() - 0.5
    y[..., 6:8, 10:14] = 1
    assert white_level(y) is not None
    return y


CASES = {  # config, other arguments, the step after which the run is left and taken up again
    'both': (em(coarse_passes=0, fine_passes=1, uncertainty=None, noise_floor=1, final_samples=0), {}, None),
    'frame, samples': (em(coarse_passes=0, fine_passes=2, final_prior='textures', final_samples=2), {'y': framed()}, 5),
    'tuned': (dataclasses.replace(em(coarse_passes=0, final_prior='tuned'), tuning=TuningConfig(2, 16, 1)), {}, 1),
    'internal': (em(coarse_passes=0, kernel_prior='internal', final_prior='internal', uncertainty=1.0), {}, None),
    'regions': (dataclasses.replace(em(final_prior='textures'), regions='1x2'), {'y': wide()}, None),
    'known kernel, border': (dataclasses.replace(em(final_prior='textures'), border='reflect'), {'kernel': L}, None),
    'known kernels': (em(final_prior='textures'), {'y': wide(), 'kernel': torch.stack([L, L.T])[None]}, None),
    'overexposed': (em(coarse_passes=0, fine_passes=1, final_prior='textures'), {'y': overexposed()}, 4),
    'overexposed, known kernel': (em(final_prior='textures', final_samples=0), {'y': overexposed(), 'kernel': L}, 1),
    'joint': (joint(n_iter_first=1), {}, 4),
    'joint, two U-Nets': (joint(n_iter_first=1, n_steps=1, separate_unets=True), {}, None),
    'dip': (joint(n_iter_first=1, pipeline='dip'), {}, 1),
    'pd_unet': (joint(n_iter_first=1, pipeline='pd_unet'), {}, 4),
}


@pytest.fixture
def _small(monkeypatch):
    """Regions of a few pixels, few rounds where the frame is asked, and Phase 1's loss read at each step."""
    monkeypatch.setattr(regional_degradation, 'SMALLEST', 8)
    monkeypatch.setattr(frame, 'ROUNDS', 2)
    monkeypatch.setattr(patch_prior, 'READ', 1)


def run(device, config, resume=None, left=None, y=None, **options):
    """The result; the progress; the snapshot after step ``left`` of all, as read from a file."""
    y, seen, file = image() if y is None else y, [], io.BytesIO()
    steps = restore_steps(y.to(device), config, name='a', make_refine_net=tiny_unet, resume=resume, **options)
    try:
        while True:
            seen.append(next(steps))
            if len(seen) == left:
                torch.save(seen[-1].snapshot(), file)
    except StopIteration as end:
        file.seek(0)
        return end.value, seen, left and torch.load(file, weights_only=True)


def assert_same(a, b):
    assert equal(a.sr, b.sr) and torch.equal(a.kernel, b.kernel)
    assert a.trace == b.trace and a.surprise == b.surprise
    assert a.kernels is None if b.kernels is None else torch.equal(a.kernels, b.kernels)
    assert a.prior_state.keys() == b.prior_state.keys()
    assert all(torch.equal(value, b.prior_state[name]) for name, value in a.prior_state.items())


@pytest.mark.usefixtures('_small')
@pytest.mark.parametrize('case', CASES)
def test_restore(case):
    """The result is the CPU's, and lies where its docstring says; also when a run is left and taken up again."""
    config, options, left = CASES[case]
    expected, *_ = run('cpu', config, **options)
    with simulated() as gpu:
        found, seen, snapshot = run(gpu, config, left=left, **options)
        again = run(gpu, config, snapshot, **options)[0] if left else found
    for result in (found, again):
        assert_same(result, expected)
        assert result.sr.device == CUDA and result.kernel.device.type == 'cpu'
        assert result.kernels is None or result.kernels.device.type == 'cpu'
        assert all(value.device.type == 'cpu' for value in result.prior_state.values())
    assert all(p.x0_hat is None or p.x0_hat.device == p.kernel.device == CUDA for p in seen)


def test_a_gpu_is_waited_for_once_a_step(gpu):
    """For the residual that the step reports; but for the passes' first steps, and their last, which fit the kernel."""
    config = EmConfig(sketch_passes=2, coarse_passes=0, fine_passes=0, steps=5, final_steps=5, uncertainty=0, rim=0)
    y, prior, waited = image()[None].to(gpu), load_texture_prior(gpu, 'fp32'), [waits.total()]
    for _ in solve_em(y, prior, Degradation(2, 8), config, torch.Generator(gpu).manual_seed(0)):
        waited.append(waits.total())
    steps = [after - before for before, after in itertools.pairwise(waited)]
    assert steps[1:4] == steps[6:9] == [1] * 3 and steps[-4:] == [1] * 4
    assert max(steps) < 40


def test_a_gpu_is_waited_for_where_steps_are_timed(gpu, monkeypatch):
    """Steps only enter what is to be done into its queue: here in no time, and each takes the GPU a second."""
    clock, queued = [0.0], [0]
    monkeypatch.setattr('kernelfusion_plugin.estimate.time.perf_counter', lambda: clock[0])

    def steps():
        for number in range(3):
            queued[0] += 1
            yield number

    def synchronize(device):
        assert device == gpu
        clock[0] += queued[0]
        queued[0] = 0

    monkeypatch.setattr(torch.cuda, 'synchronize', synchronize)
    assert list(_timed(steps(), gpu)) == [(1.0, 0), (1.0, 1), (1.0, 2)]


@pytest.mark.parametrize('turns', [False, True])
def test_phase_1_waits_for_a_gpu_where_it_reads_the_loss(turns, gpu, monkeypatch):
    monkeypatch.setattr(patch_prior, 'READ', 3)
    config = patch_prior.PriorConfig(channels=8, steps=8, crop=16, batch=2, turns=turns, precision='fp32', ema=0.9)
    losses, waited = {}, []
    for device in ('cpu', gpu):
        y, net = image()[None].to(device), PatchDiffusionNet(8)
        net.load_state_dict({name: torch.full_like(value, 0.01) for name, value in net.state_dict().items()})
        generator = torch.Generator(device).manual_seed(0)
        losses[str(device)] = []
        for state in patch_prior.fit_patch_prior(net.to(device), y, Schedule(), config, generator):
            losses[str(device)].append(state.loss)
            waited.append(waits.total())
    expected = losses['cpu']
    assert losses[str(gpu)] == pytest.approx([expected[i] for i in (0, 0, 2, 2, 2, 5, 5, 7)], rel=1e-4)
    steps = [after - before for before, after in itertools.pairwise(waited[8:])]
    assert steps == [0, 1, 0, 0, 1, 0, 1]


@pytest.mark.parametrize('pipeline', ['kernelfusion', 'unet'])
def test_joint_waits_for_a_gpu_once_a_step(pipeline, gpu):
    config = dataclasses.replace(JOINT.joint, pipeline=pipeline, n_iter_first=3, n_iter=3)
    y, schedule, waited = image()[None].to(gpu), Schedule(), [waits.total()]
    prior = PatchPrior(PatchDiffusionNet(8).to(gpu), schedule, 'fp32') if config.uses_pd else None
    rest = (Degradation(2, 8), tiny_unet().to(gpu), DirectKernel(8).to(gpu), config,
            torch.Generator(gpu).manual_seed(0))
    for _ in solve_joint(y, prior, *rest) if prior else solve_ablation(y, None, schedule, *rest):
        waited.append(waits.total())
    steps = [after - before for before, after in itertools.pairwise(waited)]
    assert set(steps[1:]) == {1}, steps


def test_what_a_gpu_is_waited_for_is_counted(gpu):
    b, counted = random(3, 3).to(gpu), []
    for ask in (lambda: float(b.sum()), b.cpu, lambda: random(3).to(gpu), lambda: torch.equal(b, b), lambda: b[b > 0],
                b.tolist, lambda: b * 2 + torch.tensor(3.0), lambda: b.clone().copy_(b), lambda: b.to(torch.float64)):
        before = waits.total()
        ask()
        counted.append(waits.total() - before)
    assert counted == [1, 1, 1, 1, 1, 1, 0, 0, 0]


def test_joint_that_computes_twice_what_it_would_keep(gpu, monkeypatch):
    config = joint(n_iter_first=1)
    expected, *_ = run(gpu, config)
    monkeypatch.setattr(module, 'plan_memory', lambda *args: Plan(64, True, 0))
    assert_same(run(gpu, config)[0], expected)


def test_the_black_frame_of_the_case_above_is_asked():
    assert all(frame.Frame.of(framed()[None], Degradation(2, 8)).tells)


def test_weights_and_kernels_from_either_device(gpu):
    config = em(final_prior='internal')
    first, *_ = run('cpu', config, kernel=L)
    for device, other in ((gpu, gpu), (gpu, 'cpu'), ('cpu', gpu)):
        state = {name: value.to(other) for name, value in first.prior_state.items()}
        again, *_ = run(device, config, kernel=L.to(other), prior_state=state)
        assert again.sr.device == torch.zeros(0, device=device).device and equal(again.sr, first.sr)


# The parts

@pytest.mark.parametrize('border', BORDERS)
def test_forward_model(border, gpu):
    degradation, k = Degradation(2, 8, border), L.to(gpu)
    y = random(1, 3, 9, 11).to(gpu)
    x = degradation.adjoint(y, k)
    for z in (x, degradation.forward(x, k), degradation.normal_operator(k)(y), degradation.windows(x),
              resample_kernel(k, degradation, Degradation(3, 9, border))):
        assert z.device == CUDA
    hr = (random(1, 3, 16, 12) * 100 + 128).to(torch.uint8)
    if border != 'valid':
        assert equal(synthesise(hr.to(gpu), L, 2, border), synthesise(hr, L, 2, border))


@pytest.mark.parametrize('share', [1.0, 1 + 1e-6, 0.5])
def test_a_data_step_of_a_gpu_is_the_cpus_though_it_does_not_ask_when_to_stop(share, gpu):
    """Even where nothing is left to do from the first step on: 0 / 0."""
    degradation = Degradation(2, 8)
    x = random(1, 3, *degradation.hr_size((9, 11)))
    y = degradation.forward(x, L)
    expected, found = (data_step(degradation, L.to(device), y.to(device), (share * x).to(device), 0.01, 30, 1e-3)
                       for device in ('cpu', gpu))
    assert found.device == CUDA and equal(found, expected)


def test_back_projection(gpu):
    y = random(1, 3, 9, 11)
    x = back_project(y.to(gpu), L.to(gpu), 2)
    assert x.device == CUDA and equal(x, back_project(y, L, 2))


def test_kernels(gpu):
    k = shift(motion(13, 3), (0.7, -1.6))
    family = torch.stack([gaussian(9, sigmas=0.5 + 0.1 * i) for i in range(20)])
    axes = pca_matrix(family, 3)
    for function, *given in ((centre, k), (centre_by_pixels, k), (lambda z: resize(z, 9), k),
                             (lambda z: kernel_basis(z, 3)[1], family), (lambda z: pca_matrix(z, 3), family),
                             (decode, family.flatten(1) @ axes, axes)):
        found = function(*(z.to(gpu) for z in given))
        assert found.device == CUDA and equal(found, function(*given))
    for model in (LinearCnnKernel(12, 2), DirectKernel(12)):
        expected = model()
        assert equal(model.to(gpu)(), expected)


def test_scores_are_those_of_the_cpu_wherever_pictures_and_kernels_are(gpu):
    x, x_true = F.avg_pool2d(random(1, 3, 40, 44), 3, 1, 1), random(1, 3, 40, 44)
    y, degradation = random(1, 3, 20, 22), Degradation(2, 8, 'reflect')
    wide = gaussian(8, sigmas=1.5)

    def scores(a, b):
        return [metrics.psnr_y(x.to(a), x_true.to(b)), metrics.ssim_y(x.to(a), x_true.to(b)),
                shift_metrics.psnr_best_shift(x.to(a), x_true.to(b), max_shift=1),
                shift_metrics.psnr_best_subpixel_shift(x.to(a), x_true.to(b), max_shift=1, rounds=2),
                metrics.kernel_ncc(wide.to(a), L.to(b)), metrics.kernel_ncc_best_shift(wide.to(a), L.to(b)),
                metrics.kernel_psnr(wide.to(a), L.to(b)), metrics.kernel_lr_psnr(wide.to(a), L.to(a), x_true.to(b), 2),
                metrics.lr_consistency(y.to(b), x.to(a), L.to(b), degradation),
                metrics.lr_consistency(y.to(b), x.to(b), L.to(a), degradation)]

    expected = scores('cpu', 'cpu')
    for pair in ((gpu, gpu), (gpu, 'cpu'), ('cpu', gpu)):
        assert scores(*pair) == expected


def test_noise(gpu):
    y = (random(1, 3, 80, 72) * 4).round() / 4
    assert estimate_noise(y.to(gpu)) == estimate_noise(y)


def test_the_width_of_a_blur(gpu):
    y = (random(1, 3, 80, 84) * 4).round() / 4
    config = KernelFusionConfig()
    found, expected = (blur_spread(y.to(device), load_texture_prior(device, 'fp32'), config) for device in (gpu, 'cpu'))
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize('gradient', [False, True])
def test_tiles_and_less_memory_than_thought(gradient, gpu):
    prior = PatchPrior(PatchDiffusionNet(4).to(gpu), Schedule(), 'fp32')
    x = random(1, 3, 100, 72).to(gpu).requires_grad_(gradient)
    expected = prior.predict_x0(x, 100)
    prior.tiles, run_tile = Tiles(512, recompute=True), prior.net.forward

    def little(z, t):
        if z.shape[-2] > 90:
            raise torch.cuda.OutOfMemoryError('a card is full')
        return run_tile(z, t)

    prior.net.forward = little
    with torch.set_grad_enabled(gradient):
        found = prior.predict_x0(x, 100)
    assert prior.tiles.side == 64 and found.device == CUDA
    torch.testing.assert_close(found.cpu(), expected.cpu(), rtol=0, atol=1e-5)
    if gradient:
        (expected_slope,), (slope,) = (torch.autograd.grad(z.square().sum(), x) for z in (expected, found))
        torch.testing.assert_close(slope.cpu(), expected_slope.cpu(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(('options', 'kernel'), [
    ({'tile': 0}, None), ({'tile': 8, 'overlap': 2, 'sampler': 'ddim', 'eta': 0.5}, gaussian(9, sigmas=1.0)),
    ({'residual': 'norm', 'shrinkage': 0.1, 'downsample': 'bicubic'}, None)],
    ids=['whole', 'tiles, known kernel', 'released'])
def test_blinddiff(options, kernel, gpu):
    """Noise is the same whether its generators are the GPU's or the CPU's: those of the simulation draw the same."""
    config, y = BlindDiffConfig(steps=2, **options), F.avg_pool2d(random(1, 3, 8, 12), 3, 1, 1)
    results = []
    for device, source in (('cpu', 'cpu'), (gpu, gpu), (gpu, 'cpu')):
        net = tiny_net(learned_variance=config.sampler == 'ancestral').to(device)
        generator = image_generator(0, 'a', source)
        *_, state = sample(net, y.to(device), 4, config, [generator], kernel)
        assert generator.device.type == torch.device(source).type
        assert {z.device for z in (state.x_t, state.x0_hat, state.kernel, state.residual)} == {net.output.weight.device}
        results.append(state.x_t)
    assert results[1].device == CUDA and equal(results[0], results[1]) and equal(results[0], results[2])


def test_blinddiff_learns(gpu):
    x0, y, eps = random(2, 3, 32, 32), random(2, 3, 8, 8), random(2, 3, 32, 32, seed=1)
    k, t, config = torch.stack([gaussian(9, sigmas=s) for s in (1.0, 2.0)]), torch.tensor([0, 500]), BlindDiffConfig()
    totals = []
    for device in ('cpu', gpu):
        net = tiny_net(learned_variance=True).to(device)
        losses = training_loss(net, *(z.to(device) for z in (x0, y, k, t, eps)), config.schedule(), config)
        losses.total.backward()
        totals.append([float(losses.total.detach()), float(net.output.weight.grad.sum())])
    assert totals[0] == totals[1]


@pytest.mark.parametrize('kind', [DAN, DANv2, DCLS])
def test_blind_nets(kind, gpu):
    y, net = random(1, 3, 16, 16).double() / 2 + 0.5, make(kind)
    expected = net(y)
    for found, known in zip(net.to(gpu)(y.to(gpu)), expected):
        found, known = (z[-1] if isinstance(z, list) else z for z in (found, known))
        assert found.device == CUDA
        torch.testing.assert_close(found.cpu(), known)
    x = random(1, 3, 64, 64)
    y = downscale_bicubic(x, 4)
    k = lr_space_kernel(y.to(gpu), F.avg_pool2d(x, 4).to(gpu), 11)
    assert k.device == CUDA and equal(k, lr_space_kernel(y, F.avg_pool2d(x, 4), 11))
