"""On a CUDA device: the processor's results, the same bits twice and after a stop, Phase 1 in reduced precision."""

import dataclasses
import io

import pytest
import torch

from kernelfusion_plugin import KernelFusionConfig, restore_steps
from kernelfusion_plugin.core.degradation import synthesise, upscale_bicubic
from kernelfusion_plugin.core.diffusion import Schedule
from kernelfusion_plugin.core.em_config import EmConfig
from kernelfusion_plugin.core.joint import JointConfig
from kernelfusion_plugin.core.kernels import motion
from kernelfusion_plugin.core.metrics import psnr_y
from kernelfusion_plugin.core.nets.patch_net import PatchDiffusionNet
from kernelfusion_plugin.core.patch_prior import PriorConfig, fit_patch_prior
from kernelfusion_plugin.core.restore import repeatable
from kernelfusion_plugin.core.texture_prior import TuningConfig

pytestmark = pytest.mark.gpu
GPU = torch.device('cuda')
EM = KernelFusionConfig(preset='quick', tuning=TuningConfig(steps=10),
                        em=EmConfig(sketch_passes=2, coarse_passes=2, fine_passes=2, uncertainty=1.0, final_steps=6))
JOINT = KernelFusionConfig(solver='joint', prior=PriorConfig(channels=32, steps=20), preset='quick',
                           joint=JointConfig(n_iter=2, n_iter_first=4, n_steps=4, lr=5e-4))


def problem(side=64):
    """y (1, 3, side, side) of a photograph under a camera shake, and x."""
    photo = pytest.importorskip('skimage').data.astronaut()
    x = torch.from_numpy(photo).permute(2, 0, 1)[None][..., :4 * side, 100:100 + 4 * side]
    y = synthesise(x, motion(24, 5), 4, 'reflect')
    return y.float() / 127.5 - 1, x.float() / 127.5 - 1


def run(config, y, stop=None, resume=None, **options):
    """The result; with ``stop`` the snapshot behind so many steps, as a file keeps it."""
    with repeatable(y.device):
        steps = restore_steps(y, config, name='a', resume=resume, **options)
        try:
            for number in range(1, 10 ** 6):
                progress = next(steps)
                if number == stop:
                    file = io.BytesIO()
                    torch.save(progress.snapshot(), file)
                    file.seek(0)
                    return torch.load(file, weights_only=True)
        except StopIteration as end:
            return end.value


def test_the_picture_under_a_known_kernel_is_the_processors():
    """Without random numbers: they are others on a GPU."""
    y, x = problem()
    config = dataclasses.replace(EM, em=dataclasses.replace(EM.em, final_prior='textures'))
    scores = [psnr_y(run(config, y.to(device), kernel=motion(24, 5)).sr.cpu(), x) for device in ('cpu', GPU)]
    print(scores)
    assert scores[1] == pytest.approx(scores[0], abs=0.05)
    assert scores[1] > psnr_y(upscale_bicubic(y, 4).clamp(-1, 1), x) + 1


def test_a_blind_run_gives_the_same_bits_twice_and_after_a_stop():
    y = problem()[0].to(GPU)
    whole = run(EM, y)
    again = run(EM, y)
    assert torch.equal(whole.sr, again.sr) and torch.equal(whole.kernel, again.kernel)
    for stop in (5, 20, 45):
        resumed = run(EM, y, resume=run(EM, y, stop))
        assert torch.equal(whole.sr, resumed.sr) and torch.equal(whole.kernel, resumed.kernel)


def test_joint_goes_on_where_it_was_left_but_for_rounding():
    y = problem(32)[0].to(GPU)
    whole, resumed = run(JOINT, y), run(JOINT, y, resume=run(JOINT, y, 24))
    assert whole.sr.isfinite().all() and (whole.sr - resumed.sr).abs().mean() < 0.02


@pytest.mark.parametrize('precision', ['fp32', 'bf16', 'auto'])
def test_phase_1_learns_in_each_precision(precision):
    y = problem()[0].to(GPU)
    config = PriorConfig(channels=32, steps=200, batch=4, lr=1e-3, t_max=400, precision=precision)
    states = fit_patch_prior(PatchDiffusionNet(32).to(GPU), y, Schedule(), config, torch.Generator(GPU).manual_seed(0))
    losses = [float(state.loss) for state in states]
    assert sum(losses[-20:]) < 0.7 * sum(losses[:20])
