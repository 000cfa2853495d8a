"""Memory: counted right, planned with, and what is done when there is not enough of it. No GPU is needed."""

import dataclasses
import logging
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from allocations import peak_memory
from torch import nn

from kernelfusion_plugin.core import degradation, memory, plan, quadratic
from kernelfusion_plugin.core import restore as restore_module
from kernelfusion_plugin.core.config import KernelFusionConfig
from kernelfusion_plugin.core.em_config import EmConfig
from kernelfusion_plugin.core.joint import JointConfig
from kernelfusion_plugin.core.kernels import gaussian
from kernelfusion_plugin.core.memory import bytes_per_pixel, capacity, is_out_of_memory, peak_bytes
from kernelfusion_plugin.core.nets.patch_net import PatchDiffusionNet
from kernelfusion_plugin.core.nets.texture_unet import TextureUNet
from kernelfusion_plugin.core.patch_prior import PriorConfig
from kernelfusion_plugin.core.plan import Plan
from kernelfusion_plugin.core.restore import plan_memory, restore, restore_steps
from kernelfusion_plugin.core.texture_prior import TuningConfig
from kernelfusion_plugin.core.tiles import SIDES, Tiles

CPU = torch.device('cpu')
HUGE = Path('/sys/kernel/mm/transparent_hugepage/enabled')
EM = KernelFusionConfig(scale=2, prior=PriorConfig(channels=8, steps=2, batch=1, precision='fp32'),
                        tuning=TuningConfig(steps=2, crop=24, batch=1),
                        em=EmConfig(final_steps=3, sketch_passes=1, coarse_passes=0, fine_passes=1, uncertainty=0,
                                    steps=2, kernel_levels=1, cg_iterations=3))
SEVERAL = dataclasses.replace(EM, em=dataclasses.replace(EM.em, draws=8))
WIDE = dataclasses.replace(EM, kernel_size=40)  # the normal equations for the kernel take most of all
JOINT = KernelFusionConfig(scale=2, solver='joint', prior=PriorConfig(channels=64, steps=1, batch=1, precision='fp32'),
                           joint=JointConfig(n_iter=1, n_iter_first=1, n_steps=2, precision='fp32'))
KERNEL = gaussian(12, sigmas=1.5)


def picture(height, width):
    y = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    return F.avg_pool2d(y, 3, 1, 1) * 2 - 1


def test_what_lives_at_once_is_counted_and_views_are_not():
    def run():
        a = torch.zeros(1000)
        a = a[10:].reshape(-1, 10) + 1  # 990 beside 1000
        b = torch.ones(500)
        b += 1
        return a.sum() + b.sum()
    assert 4 * 1990 <= peak_bytes(run) <= 4 * 2000


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason="glibc's settings")
@pytest.mark.skipif('[always]' in memory._read(HUGE), reason='a page has 2 MB')
def test_freed_memory_is_kept():
    """In processes of their own, as it holds for all of one; a page given back is a fault when it comes anew."""
    script = (
        'import resource, sys, torch\n'
        'from kernelfusion_plugin.core.memory import keep_freed_memory\n'
        'if sys.argv[1] == "kept": keep_freed_memory()\n'
        'def fill(times):\n'
        '    for _ in range(times): torch.ones(10, 1 << 20)\n'
        '    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n'
        'print(-fill(20) + fill(20))\n')

    def faults(way, **more):
        environment = {name: value for name, value in os.environ.items() if not name.startswith('MALLOC_')}
        done = subprocess.run([sys.executable, '-c', script, way], env={**environment, **more}, capture_output=True,
                              text=True, check=True, timeout=120)
        return int(done.stdout)

    plain, kept, own = faults('plain'), faults('kept'), faults('kept', MALLOC_ARENA_MAX='2')
    assert min(plain, own) > 20 * (40 << 20) // (1 << 16) > 2 * kept  # pages have 64 kB at most


@pytest.mark.parametrize('make', [TextureUNet, lambda: PatchDiffusionNet(32)])
def test_a_networks_bytes_per_pixel_are_those_that_are_allocated(make):
    net, t = make().to(memory_format=torch.channels_last), torch.zeros(1, dtype=torch.int64)

    def forward(x):
        with torch.no_grad():
            return net(x.contiguous(memory_format=torch.channels_last), t)

    def keep(x):
        return net(x.contiguous(memory_format=torch.channels_last), t)

    def train(x):
        keep(x).sum().backward()

    x = torch.zeros(1, 3, 128, 128)
    train(x)  # once, so that the weights' gradients are there
    for estimate, run in ((forward, forward), (keep, train)):
        assert 0.9 <= bytes_per_pixel(estimate, CPU) * 128 ** 2 / peak_memory(lambda run=run: run(x)) <= 1.1


def test_the_memory_of_a_container_counts(tmp_path, monkeypatch):
    whole = capacity(CPU)
    assert 2 ** 28 < whole < 2 ** 50
    (tmp_path / 'memory.max').write_text('123456789\n')
    monkeypatch.setattr(memory, 'CGROUPS', tmp_path)
    assert capacity(CPU) == 123456789
    (tmp_path / 'memory.max').write_text('max\n')
    assert capacity(CPU) >= whole


def test_the_end_of_memory_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2 ** 55, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.cuda.OutOfMemoryError('CUDA out of memory')) and is_out_of_memory(MemoryError())
    for text in ('CUDA error: out of memory', 'CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`',
                 'cuDNN error: CUDNN_STATUS_ALLOC_FAILED'):
        assert is_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(RuntimeError('shapes differ')) and not is_out_of_memory(ValueError('memory_limit'))


def need(size, config, **changes):
    return plan_memory(size, CPU, KernelFusionConfig.from_dict({**config.to_dict(), **changes}), True)


def test_tiles_shrink_with_the_limit_and_what_cannot_be_done_is_refused_in_a_line():
    size = 700, 700
    plans = [need(size, EM, memory_limit=100.0)]
    while plans[-1].tile > SIDES[-1]:
        plans.append(need(size, EM, memory_limit=plans[-1].need / 1e9 - 1e-6))
    assert [plan.tile for plan in plans] == list(SIDES)
    assert all(a.need > b.need for a, b in zip(plans, plans[1:]))
    with pytest.raises(ValueError, match=r'^a result of 1410 x 1410 pixels needs about \d.\d GB .* memory_limit is '
                                         r'\d.\d GB: take a smaller picture or scale$'):
        need(size, EM, memory_limit=plans[-1].need / 1e9 - 1e-6)
    assert need((2 * size[0], size[1]), EM).need > plans[0].need


def test_more_draws_than_there_is_memory_for_are_refused_before_they_are_tried():
    many = dataclasses.replace(EM, em=dataclasses.replace(EM.em, draws=100_000))
    with pytest.raises(ValueError, match='GB: take fewer em.draws or a smaller picture or scale$'):
        plan_memory((48, 48), CPU, many)


def test_joint_recomputes_before_it_refuses():
    plain = need((300, 300), JOINT)
    spare = need((300, 300), JOINT, memory_limit=0.95 * plain.need / 1e9)
    least = need((300, 300), JOINT, memory_limit=0.5 * plain.need / 1e9)
    assert not plain.recompute and spare.recompute and least.recompute and least.tile < spare.tile
    with pytest.raises(ValueError, match='with solver joint.*: take solver em or a smaller picture or scale$'):
        need((300, 300), JOINT, memory_limit=0.9)


@pytest.mark.parametrize(('config', 'kernel', 'recompute', 'side'), [
    (EM, KERNEL, False, 96), (EM, None, False, 96), (SEVERAL, None, False, 96), (WIDE, None, False, 48),
    (JOINT, None, False, 40), (JOINT, None, True, 40)])
def test_the_estimate_is_above_what_a_run_allocates_and_not_far(config, kernel, recompute, side, monkeypatch):
    for module in (plan, quadratic):
        monkeypatch.setattr(module, 'WINDOW_BYTES', 2 ** 20)
    for module in (plan, degradation):
        monkeypatch.setattr(module, 'BAND_BYTES', 2 ** 20)
    monkeypatch.setattr(plan, 'PROCESS', 0)
    monkeypatch.setattr(plan, 'HOLES', 1.0)
    y = picture(side, side)
    planned = plan_memory((side, side), CPU, config, kernel is not None)
    if recompute:
        limited = KernelFusionConfig.from_dict({**config.to_dict(), 'memory_limit': 0.9 * planned.need / 1e9})
        planned = plan_memory((side, side), CPU, limited)
    assert planned.recompute == recompute
    monkeypatch.setattr(restore_module, 'plan_memory', lambda *_: planned)
    measured = peak_memory(lambda: restore(y, config, kernel=kernel))
    assert 0.4 * planned.need < measured <= planned.need


def test_the_peak_does_not_grow_with_the_steps():
    peaks = [peak_memory(lambda n=n: restore(picture(32, 32), KernelFusionConfig.from_dict(
        {**EM.to_dict(), 'em': {**EM.to_dict()['em'], 'final_steps': n}}), kernel=KERNEL)) for n in (2, 8)]
    assert peaks[1] < 1.02 * peaks[0]


def with_tiles(monkeypatch, side):
    monkeypatch.setattr(restore_module, 'plan_memory', lambda *_: Plan(side, False, 0))
    return restore(picture(40, 76), EM, kernel=KERNEL).sr


def test_a_run_in_tiles_gives_what_one_without_does(monkeypatch):
    whole = with_tiles(monkeypatch, 1024)
    assert float((with_tiles(monkeypatch, 64) - whole).abs().max()) < 1e-4


class Short(nn.Module):
    """Reach 1; memory runs out above ``most`` pixels of input."""

    reach = 1

    def __init__(self, most, error=torch.cuda.OutOfMemoryError):
        super().__init__()
        self.most, self.error, self.seen = most, error, []
        self.weight = nn.Parameter(torch.linspace(-1, 1, 81).reshape(3, 3, 3, 3))

    def forward(self, x):
        self.seen.append(x.shape[-2] * x.shape[-1])
        if self.seen[-1] > self.most:
            raise self.error("DefaultCPUAllocator: can't allocate memory")
        return F.conv2d(x, self.weight, padding=1)


@pytest.mark.parametrize('error', [torch.cuda.OutOfMemoryError, RuntimeError, MemoryError])
def test_tiles_are_halved_for_good_where_memory_runs_out(error, caplog):
    net, x = Short(140 ** 2, error), torch.randn(1, 3, 200, 450)
    way = Tiles()
    torch.testing.assert_close(way.run(net, x, net), F.conv2d(x, net.weight, padding=1))
    assert way.side == 100 and len(caplog.records) == 1 and 'tiles of 100 x 100' in caplog.text
    seen = len(net.seen)
    way.run(net, x, net)
    assert max(net.seen[seen:]) <= 140 ** 2 and len(caplog.records) == 1


def test_the_smallest_tiles_that_do_not_fit_and_other_faults_are_errors():
    x = torch.zeros(1, 3, 200, 200)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        (way := Tiles()).run(net := Short(100), x, net)
    assert way.side == SIDES[-1]
    with pytest.raises(RuntimeError, match='channels'):
        (way := Tiles()).run(net, torch.zeros(1, 2, 5, 5), net)
    assert way.side == SIDES[0]


def test_a_gradient_that_is_recomputed_in_tiles_is_the_gradient():
    net, plain = Short(10 ** 9), torch.randn(1, 3, 150, 90, requires_grad=True)
    tiled = plain.detach().clone().requires_grad_()
    (Tiles(64).run(net, plain, net) ** 2).sum().backward()
    assert net.seen == [150 * 90]  # whole, as nothing is to be saved
    whole, net.weight.grad = net.weight.grad, None
    (Tiles(64, recompute=True).run(net, tiled, net) ** 2).sum().backward()
    torch.testing.assert_close(tiled.grad, plain.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(net.weight.grad, whole, rtol=1e-4, atol=1e-2)
    assert max(net.seen[1:]) <= 66 * 66 and len(net.seen) == 1 + 2 * 6


def test_a_run_goes_on_from_the_step_at_which_memory_ran_out(monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    y = picture(70, 76)
    expected, forward, calls = restore(y, EM, kernel=KERNEL).sr, TextureUNet.forward, []

    def short(net, x, t):
        calls.append(max(x.shape[-2:]))
        if not net.training and calls.count(162) > 2 and calls[-1] > 150:  # from the second step on
            raise torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB')
        return forward(net, x, t)

    monkeypatch.setattr(TextureUNet, 'forward', short)
    steps, seen = restore_steps(y, EM, kernel=KERNEL), []
    with pytest.raises(StopIteration) as end:
        while True:
            seen.append(next(steps).step)
    assert seen == [1, 2, 1, 2, 3] and calls.count(162) == 3 and len(caplog.records) == 1
    assert float((end.value.value.sr - expected).abs().max()) < 1e-4


def test_bands_give_the_whole(monkeypatch):
    for size, border in ((8, 'valid'), (9, 'valid'), (12, 'reflect'), (7, 'zeros')):
        A, k = degradation.Degradation(3, size, border), torch.rand(size, size, dtype=torch.float64)
        y = torch.rand(2, 3, 13, 11, dtype=torch.float64)
        x = torch.rand(2, 3, *A.hr_size((13, 11)), dtype=torch.float64)
        monkeypatch.setattr(degradation, 'BAND_BYTES', 2 ** 25)
        whole = A.forward(x, k), A.adjoint(y, k)
        for size_of_band in (1, 4 * x.numel(), 8 * x.numel()):  # single rows; two and three bands
            monkeypatch.setattr(degradation, 'BAND_BYTES', size_of_band)
            torch.testing.assert_close((A.forward(x, k), A.adjoint(y, k)), whole, rtol=1e-12, atol=1e-12)
