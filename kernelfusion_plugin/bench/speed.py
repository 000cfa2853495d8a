"""Time each fast path against its slow counterpart in the same run. PARTS (default: all):

\b
    work    a 512 x 512 picture from scikit-image with a camera-shake kernel: the preset against four times its work
    area    seconds of a run's two parts against the picture's area, with the exponent of growth; takes some minutes
            per Mpx of result on a CPU
    prior   steps per second of Phase 1: as shipped against float32 in PyTorch's default memory layout
    tiles   the priors on a large picture, in tiles and as a whole: seconds and largest difference
    memory  on a CPU: the texture prior on a large picture, in a process that keeps freed memory and in one that
            returns it to the system
    seeds   not speed: four pictures from scikit-image, two camera shakes, three seeds: how far PSNR spreads, and
            whether the score without ground truth tells the better run; takes an hour on a CPU. With --hr and
            --kernels: your own pictures, each with all the kernels

Ratios hold for the machine on which they were measured; run nothing else meanwhile.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from ..atomic import write_text_atomically
from ..click_device import device_option
from ..click_path import UserPath
from ..core.config import KernelFusionConfig
from ..core.degradation import synthesise, upscale_bicubic
from ..core.diffusion import Schedule
from ..core.em_config import EmConfig
from ..core.kernels import motion
from ..core.memory import keep_freed_memory
from ..core.metrics import kernel_ncc, psnr_y
from ..core.nets.patch_net import PatchDiffusionNet
from ..core.patch_prior import PatchPrior, fit_patch_prior
from ..core.restore import restore
from ..core.texture_prior import load_texture_prior
from ..demo import load_photo
from . import seeds

MEMORY = """
import sys, time, torch
from kernelfusion_plugin.core.memory import keep_freed_memory
from kernelfusion_plugin.core.texture_prior import load_texture_prior
if sys.argv[1] == 'kept':
    keep_freed_memory()
torch.set_num_threads(int(sys.argv[2]))
prior, x = load_texture_prior(), torch.rand(1, 3, 1024, 1024)
prior.predict_x0(x, 100)
start = time.perf_counter()
for _ in range(3):
    prior.predict_x0(x, 100)
print((time.perf_counter() - start) / 3)
"""  # a program; arguments: plain or kept, number of threads

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Setting:
    """Settings of the parts.

    Attributes:
        preset: preset of the configuration.
        sides: for ``area``: sides of the LR pictures.
        device: device for all work.
        cases: for ``seeds``.
        keep: called by ``seeds`` with its results so far.
    """

    preset: str
    sides: list[int]
    device: torch.device
    cases: Iterable[seeds.Case] = ()
    keep: Callable[[dict[str, Any]], object] | None = None


@click.command(help=__doc__)
@click.argument('parts', nargs=-1)
@click.option('--preset', default='quick', show_default=True, help='As of kernelfusion restore.')
@click.option('--side', 'sides', type=int, multiple=True, default=(64, 128, 256), show_default=True,
              help='For area: side of an LR picture; may be repeated.')
@click.option('--hr', type=UserPath(exists=True, file_okay=False),
              help='For seeds: folder of your own sharp pictures, of which the central part is used.')
@click.option('--kernels', multiple=True, type=UserPath(exists=True),
              help='For seeds: a kernel (.npy, .mat or a picture) or a folder of kernels; may be repeated.')
@device_option
@click.option('--out', type=UserPath(), help='Also write the figures to this JSON file as they are measured.')
def command(parts: tuple[str, ...], preset: str, sides: tuple[int, ...], hr: Path | None, kernels: tuple[Path, ...],
            device: torch.device, out: Path | None) -> None:
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise ValueError(f'benchmark has no part {unknown[0]!r}; it has {", ".join(PARTS)}')
    if (hr is None) != (not kernels):
        raise ValueError('--hr and --kernels must be given together')
    if hr is not None and parts and 'seeds' not in parts:
        raise ValueError('--hr and --kernels are only for the part seeds')
    cases = seeds.photographs() if hr is None else seeds.own(hr, kernels)
    setting = Setting(preset, sorted(sides), device, cases, lambda found: write('seeds', found))
    cuda = setting.device.type == 'cuda'
    name = torch.cuda.get_device_name(setting.device) if cuda else f'CPU, {torch.get_num_threads()} threads'
    log.info(f'torch {torch.__version__}, {name}')
    keep_freed_memory(setting.device)
    figures: dict[str, Any] = {'torch': torch.__version__, 'device': name}

    def write(part: str, found: Any) -> None:  # noqa: ANN401  (a part's figures)
        figures[part] = found
        if out:
            write_text_atomically(out, json.dumps(figures, indent=1))

    for part in parts or PARTS:
        write(part, 'under way')  # fails before the work if --out cannot be written
        write(part, PARTS[part](setting))
        log.info(f'{part}: {json.dumps(figures[part])}')


def work(setting: Setting) -> list[dict[str, float]]:
    """The preset against four times its passes, final steps and Phase 1 steps, on the same picture."""
    x, k = photograph(), motion(24, 5)
    y = (synthesise(x, k, 4, 'reflect').float() / 127.5 - 1).to(setting.device)
    x = x.float() / 127.5 - 1
    bicubic = psnr_y(upscale_bicubic(y.cpu(), 4).clamp(-1, 1), x)
    base = KernelFusionConfig(preset=setting.preset)
    rows = []
    for factor in (1, 4):
        more = {name: factor * getattr(base.em, name)
                for name in ('sketch_passes', 'coarse_passes', 'fine_passes', 'final_steps')}
        config = dataclasses.replace(
            base, prior=dataclasses.replace(base.prior, steps=factor * base.prior.steps),
            tuning=dataclasses.replace(base.tuning, steps=factor * base.tuning.steps),
            em=dataclasses.replace(base.em, **more))
        result, seconds = timed(lambda config=config: restore(y, config, name='speed'), setting.device)
        rows.append({'work': factor, 'seconds': round(seconds, 1), 'psnr': round(psnr_y(result.sr.cpu(), x), 2),
                     'bicubic': round(bicubic, 2), 'kernel_ncc': round(kernel_ncc(result.kernel, k), 3)})
        log.info(f'  {rows[-1]}')
    return rows


def area(setting: Setting) -> dict[str, Any]:
    """Seconds of kernel search and final passes, with the texture prior, on pictures of several sizes."""
    brief = EmConfig(final_prior='textures', sketch_passes=1, coarse_passes=1, fine_passes=1, final_samples=1,
                     final_steps=4)
    picture = upscale_bicubic(photograph().float() / 127.5 - 1, 2)
    rows = []
    for side in setting.sides:
        y = picture[..., :side, :side].clamp(-1, 1).to(setting.device)
        pair = []
        for kernel in (motion(24, 5), None):
            config = KernelFusionConfig(em=dataclasses.replace(brief, kernel_side=0))
            def run(config: KernelFusionConfig = config, kernel: Tensor | None = kernel, y: Tensor = y) -> None:
                restore(y, config, kernel=kernel)
            pair.append(min(timed(run, setting.device)[1] for _ in range(2)))
        rows.append({'hr_mpx': round(16 * side ** 2 / 1e6, 3), 'final': round(pair[0], 3),
                     'search': round(pair[1] - pair[0], 3)})
        log.info(f'  {rows[-1]}')
    first, last = rows[0], rows[-1]
    growth = math.log(last['hr_mpx'] / first['hr_mpx'])
    return {'rows': rows, 'exponent': {part: round(math.log(last[part] / first[part]) / growth, 3)
                                       for part in ('final', 'search')}}


def prior(setting: Setting) -> dict[str, float]:
    """Steps per second of Phase 1 as shipped, and of a plain loop: float32, default memory layout."""
    y = (photograph().float() / 127.5 - 1)[..., :256, :256].to(setting.device)
    config = KernelFusionConfig(preset=setting.preset).prior
    count = 30 if setting.device.type == 'cpu' else 500

    def shipped() -> None:
        steps = fit_patch_prior(PatchDiffusionNet(config.channels).to(setting.device), y, Schedule(), config,
                                torch.Generator(setting.device).manual_seed(0))
        for _ in itertools.islice(steps, count):
            pass

    def plain() -> None:
        net, schedule = PatchDiffusionNet(config.channels).to(setting.device), Schedule()
        optimizer = torch.optim.Adam(net.parameters(), lr=config.lr)
        for _ in range(count):
            top, left = torch.randint(256 - config.crop, (2,)).tolist()
            x0 = y[..., top:top + config.crop, left:left + config.crop].repeat(config.batch, 1, 1, 1)
            t, eps = torch.randint(400, (config.batch,), device=setting.device), torch.randn_like(x0)
            loss = (net(schedule.q_sample(x0, t, eps), t) - schedule.velocity(x0, eps, t)).square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    rates = {}
    for name, loop in (('shipped', shipped), ('plain', plain)):
        loop()
        rates[name] = round(count / timed(loop, setting.device)[1], 2)
    return {'steps_per_second': rates, 'ratio': round(rates['shipped'] / rates['plain'], 2)}


def tiles(setting: Setting) -> dict[str, Any]:
    """Each prior, in float32, on 1024 x 1024 pixels: as a whole, and in tiles of 256."""
    x = upscale_bicubic(photograph().float() / 127.5 - 1, 2).to(setting.device)
    pd = PatchPrior(PatchDiffusionNet(64).to(setting.device), Schedule(), 'fp32')
    rows = {}
    for name, net in (('pd', pd), ('textures', load_texture_prior(setting.device, 'fp32'))):
        outputs, seconds = {}, {}
        for tile in (0, 256):
            net.tiles.side = tile
            with torch.no_grad():
                outputs[tile], seconds[tile] = timed(lambda net=net: net.predict_x0(x, 100), setting.device)
        rows[name] = {'whole': round(seconds[0], 3), 'tiled': round(seconds[256], 3),
                      'largest_difference': float((outputs[0] - outputs[256]).abs().max())}
    return rows


def memory(setting: Setting) -> dict[str, float]:
    """Seconds of the texture prior on 1024 x 1024 pixels, in a process that keeps freed memory and in a plain one.

    Medians of three runs, alternating, each in its own process.
    """
    seconds = {'plain': [], 'kept': []}
    environment = {name: value for name, value in os.environ.items() if not name.startswith('MALLOC_')}
    for way in ('plain', 'kept') * 3:
        command = [sys.executable, '-c', MEMORY, way, str(torch.get_num_threads())]
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        seconds[way].append(float(said))
    plain, kept = (sorted(seconds[way])[1] for way in ('plain', 'kept'))
    return {'plain': round(plain, 3), 'kept': round(kept, 3), 'ratio': round(plain / kept, 2)}


def photograph() -> Tensor:
    """The astronaut of scikit-image (NASA, public domain), (1, 3, 512, 512) uint8."""
    return torch.from_numpy(load_photo('astronaut')).permute(2, 0, 1)[None].contiguous()


def timed(function: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """The function's result and its seconds, including queued GPU work."""
    start = time.perf_counter()
    result = function()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - start


PARTS = {'work': work, 'area': area, 'prior': prior, 'tiles': tiles, 'memory': memory,
         'seeds': lambda setting: seeds.measure(setting.preset, setting.device, setting.cases, keep=setting.keep)}
