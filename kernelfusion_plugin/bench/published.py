"""Compare our results with those published by KernelFusion's authors.

DATA is a folder with div2k/HR/NNNN.png, div2k/LRx4/NNNN_kKK.png, kernels/blind144_gt.npy,
kernels/official_recovered_0802.npy, official_crops/ (with crops.json) and div2krk/ (lr_x4_im_N.png,
kernel_N.mat). Pictures are scored by PSNR on Y: on the authors' crop without 4 pixels of border, and on the whole
picture without 5 %. Kernels are scored by correlation at zero shift.

With several seeds, a last line reports how far their results spread, and how often surprise, which needs no ground
truth, ranks them correctly.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from ..atomic import ready_folder
from ..click_device import Device
from ..click_path import UserPath
from ..core.config import KernelFusionConfig
from ..core.degradation import upscale_bicubic
from ..core.kernel_files import load_kernel
from ..core.memory import keep_freed_memory
from ..core.metrics import kernel_ncc, kernel_ncc_best_shift, psnr_y
from ..core.restore import Result, restore
from ..files import as_saved, read_rgb8
from ..pictures import Panel, save_sheet
from ..progress import ProgressLog
from ..report import kernel_picture, shared_grid, to_picture, to_tensor
from .seeds import by_case, ranked

CROPS = ('0813_k07', '0814_k10', '0827_k07')
KERNELS = ('0802_k00', '0802_k01', '0802_k02', '0802_k05', '0802_k07')
GAUSSIANS = ('krk_13', 'krk_14')
BLIND144 = 12  # kernels
BORDER = 4
SCALE = 4
CLEAR = {'psnr': 0.3, 'psnr_whole': 0.3, 'kernel_ncc': 0.02}  # scores, with the difference above which seeds are ranked

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Setting:
    """Settings of all cases: folders, preset, options that override it, device, degradation of y, side of the crop."""

    data: Path
    out: Path
    preset: str
    options: dict[str, Any]
    device: torch.device
    noise: float
    jpeg: int | None
    piece: int | None


@click.command(help=__doc__)
@click.argument('data', type=UserPath(exists=True, file_okay=False))
@click.option('--out', type=UserPath(), default=Path('results/published'), show_default=True,
              help='Output folder for rows.jsonl and the sheets.')
@click.option('--case', 'cases', multiple=True, default=(*CROPS, *KERNELS, *GAUSSIANS),
              help="NNNN_kKK or krk_N, as in DATA; may be repeated. Default: all of the paper's.")
@click.option('--seed', 'seeds', type=int, multiple=True, default=(0,), help='May be repeated. Default: 0.')
@click.option('--preset', default='quick', show_default=True, help='As of kernelfusion restore.')
@click.option('--options', default='{}', help='JSON that overrides the preset, e.g. {"em": {"steps": 8}}.')
@click.option('--noise', type=click.FloatRange(min=0), default=0,
              help='White noise added to y, in per cent of the range.')
@click.option('--jpeg', type=click.IntRange(1, 100), help='Compress y as JPEG of this quality.')
@click.option('--piece', type=click.IntRange(min=64),
              help='Restore only a central piece of this side, in pixels of the result.')
@click.option('--device', type=Device(), default='cpu', show_default=True, help='cpu, cuda, cuda:1, ...')
def command(data: Path, out: Path, cases: tuple[str, ...], seeds: tuple[int, ...], preset: str, options: str,
            noise: float, jpeg: int | None, piece: int | None, device: torch.device) -> None:
    try:
        over = json.loads(options)
    except json.JSONDecodeError as error:
        raise ValueError(f'--options is not JSON: {error}; e.g. {{"em": {{"steps": 8}}}}') from error
    if not isinstance(over, dict):
        raise ValueError(f'--options must be a section of settings, e.g. {{"em": {{"steps": 8}}}}, got {options}')
    KernelFusionConfig.from_dict({'preset': preset, **over})  # finds faults before the work
    there = cases_in(data)
    unknown = [case for case in cases if case not in there]
    if unknown:
        raise ValueError(f'--case {unknown[0]}: {data} has the cases {", ".join(there) or "none"}')
    setting = Setting(data, out, preset, over, device, noise, jpeg, piece)
    ready_folder(out, f'--out {out}')
    keep_freed_memory(device)
    rows = []
    for seed in seeds:
        for case in cases:
            row = run(case, seed, setting)
            rows.append(row)
            log.info(json.dumps(row))
            with open(out / 'rows.jsonl', 'a', encoding='utf-8') as file:
                file.write(json.dumps(row) + '\n')
    if len(seeds) > 1:
        log.info(over_seeds(rows))


def run(case: str, seed: int, setting: Setting) -> dict[str, Any]:
    """Restore one case, write its sheet, and return its row of the table."""
    y, x, k_true = load(case, setting.data)
    if setting.piece is not None:
        y, x = middle(y, x, setting.piece // SCALE)
    y = degrade(y, setting.noise, setting.jpeg, case)
    size = len(k_true) + len(k_true) % 2  # for DIV2KRK, see options/kernelfusion_div2krk.yml
    config = KernelFusionConfig.from_dict({'preset': setting.preset, 'seed': seed, 'kernel_size': size,
                                           **setting.options})
    kernel_only = case in KERNELS and setting.piece is None
    if kernel_only:  # the kernel does not depend on the final passes
        brief = dataclasses.replace(config.em, final_prior='textures', final_samples=1, final_steps=2)
        config = dataclasses.replace(config, em=brief)
    start = time.perf_counter()
    with closing(ProgressLog(log, case)) as show:
        result = restore(y.to(setting.device), config, name=case, on_progress=show)
    row = {'case': case, 'seed': seed, 'preset': setting.preset, **setting.options, 'noise': setting.noise,
           'jpeg': setting.jpeg, 'piece': setting.piece, 'seconds': round(time.perf_counter() - start),
           **{f'seconds_{key}': round(value) for key, value in result.seconds.items()},
           'kernel_ncc': round(kernel_ncc(result.kernel, k_true), 4),
           'kernel_ncc_best_shift': round(kernel_ncc_best_shift(result.kernel, k_true)[0], 4),
           'surprise': result.surprise}
    crop = crops(setting.data).get(case) if setting.piece is None else None
    if case in KERNELS:
        theirs = np.load(setting.data / 'kernels' / 'official_recovered_0802.npy')[int(case[-2:])]
        row['authors_ncc'] = round(kernel_ncc(torch.from_numpy(theirs).float(), k_true), 4)
    if not kernel_only:
        row.update(scores(case, y, x, result, setting.data, crop))
    _sheet(setting.out / f'{_name(case, seed, setting)}.png', y, x, result, k_true, case, setting.data, crop)
    return row


def _name(case: str, seed: int, setting: Setting) -> str:
    """Name of a sheet: case, seed and degradation of y."""
    parts = {'piece': setting.piece, 'noise': setting.noise, 'jpeg': setting.jpeg}
    return '_'.join([case, str(seed), *(f'{key}{value:g}' for key, value in parts.items() if value)])


def cases_in(data: Path) -> list[str]:
    """The cases whose LR and HR pictures exist: ``0802_k05`` and the like, then ``krk_13`` and the like."""
    shakes = [path.stem for path in sorted((data / 'div2k' / 'LRx4').glob('[0-9]*_k[0-9][0-9].png'))
              if int(path.stem[-2:]) < BLIND144]
    krk = [f'krk_{path.stem.rpartition("_")[2]}' for path in sorted((data / 'div2krk').glob('lr_x4_im_[0-9]*.png'))]
    return [case for case in (*shakes, *krk) if _pictures(case, data)[1].is_file()]


def _pictures(case: str, data: Path) -> tuple[Path, Path]:
    """Files of a case's LR and HR picture."""
    if case.startswith('krk_'):
        number = int(case[4:])
        return data / 'div2krk' / f'lr_x4_im_{number}.png', data / 'div2k' / 'HR' / f'{800 + number:04d}.png'
    return data / 'div2k' / 'LRx4' / f'{case}.png', data / 'div2k' / 'HR' / f'{case[:-4]}.png'


def load(case: str, data: Path) -> tuple[Tensor, Tensor, Tensor]:
    """(y, x, k) of a case, pictures in [-1, 1]."""
    y, x = map(read, _pictures(case, data))
    if case.startswith('krk_'):
        height, width = (min(a, SCALE * b) // SCALE * SCALE for a, b in zip(x.shape[-2:], y.shape[-2:]))
        return (y[..., :height // SCALE, :width // SCALE], x[..., :height, :width],
                load_kernel(data / 'div2krk' / f'kernel_{case[4:]}.mat'))
    return y, x, torch.from_numpy(np.load(data / 'kernels' / 'blind144_gt.npy'))[int(case[-2:])]


def read(path: Path) -> Tensor:
    """A picture as (1, 3, H, W) in [-1, 1]."""
    return to_tensor(read_rgb8(path), torch.float32)


def middle(y: Tensor, x: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The central part of y, at most ``side`` pixels square, and the corresponding part of x."""
    height, width = (min(side, n) for n in y.shape[-2:])
    top, left = ((n - m) // 2 for n, m in zip(y.shape[-2:], (height, width)))
    return (y[..., top:top + height, left:left + width],
            x[..., SCALE * top:SCALE * (top + height), SCALE * left:SCALE * (left + width)])


def degrade(y: Tensor, noise: float, jpeg: int | None, case: str) -> Tensor:
    """y with white noise, seeded by the case only, and JPEG compression, rounded to 8 bits."""
    if not noise and jpeg is None:
        return y
    generator = torch.Generator().manual_seed(zlib.crc32(case.encode()))
    pixels = (y + 2 * noise / 100 * torch.randn(y.shape, generator=generator) + 1) * 127.5
    return to_tensor(as_saved(pixels[0], jpeg), torch.float32)


def over_seeds(rows: list[dict[str, Any]]) -> str:
    """One line: each case's spread over seeds, and how many clearly different pairs surprise ranks correctly."""
    spreads, pairs, right = [], 0, 0
    for case, same in by_case(rows).items():
        name = next(name for name in CLEAR if name in same[0])
        values = [row[name] for row in same]
        spreads.append(f'{case} {max(values) - min(values):.3f} ({name})')
        told, clear = ranked(same, name, CLEAR[name])
        right, pairs = right + told, pairs + clear
    clear = ', '.join(f'{value} ({name})' for name, value in CLEAR.items())
    return (f'largest minus smallest: {", ".join(spreads)}; surprise ranks {right} of {pairs} pairs correctly that '
            f'differ by more than {clear}')


def scores(case: str, y: Tensor, x: Tensor, result: Result, data: Path,
           crop: dict[str, Any] | None) -> dict[str, float]:
    """PSNR of our result, bicubic and, if published, the authors' result, on the same pixels."""
    sr, bicubic = result.sr.cpu(), upscale_bicubic(y, SCALE).clamp(-1, 1)
    row = {'psnr_whole': psnr_y(sr, x), 'bicubic_whole': psnr_y(bicubic, x)}
    if crop:
        there = (..., slice(crop['row'], crop['row'] + crop['size'][0]),
                 slice(crop['col'], crop['col'] + crop['size'][1]))
        authors = read(data / 'official_crops' / case[:4] / 'KernelFusion.png')
        row.update({'psnr': psnr_y(sr[there], x[there], BORDER), 'bicubic': psnr_y(bicubic[there], x[there], BORDER),
                    'authors': psnr_y(authors, x[there], BORDER)})
    return {key: round(value, 3) for key, value in row.items()}


def crops(data: Path) -> dict[str, dict[str, Any]]:
    """The authors' crops by case: kernel; row and col of the top left corner in HR pixels; size."""
    listed = json.loads((data / 'official_crops' / 'crops.json').read_text(encoding='utf-8'))
    return {f'{image}_k{crop["kernel"]:02d}': crop for image, crop in listed.items()}


def _sheet(path: Path, y: Tensor, x: Tensor, result: Result, k_true: Tensor, case: str, data: Path,
           crop: dict[str, Any] | None) -> None:
    """bicubic | ours | truth | the authors', on the authors' crop or (without theirs) a central piece, and kernels."""
    size = crop['size'] if crop else [min(384, n) for n in x.shape[-2:]]
    top, left = (crop['row'], crop['col']) if crop else ((n - m) // 2 for n, m in zip(x.shape[-2:], size))
    there = (..., slice(top, top + size[0]), slice(left, left + size[1]))
    pictures = {'bicubic': upscale_bicubic(y, SCALE)[there], 'ours': result.sr.cpu()[there], 'truth': x[there]}
    if crop:
        pictures["the authors'"] = read(data / 'official_crops' / case[:4] / 'KernelFusion.png')
    panels = [Panel(name, '' if name == 'truth' else f'{psnr_y(picture.clamp(-1, 1), x[there], BORDER):.2f} dB',
                    to_picture(picture))
              for name, picture in pictures.items()]
    kernels = {f'kernel, {kernel_ncc(result.kernel, k_true):.3f}': result.kernel, 'true kernel': k_true}
    grid = shared_grid(kernels.values())
    panels += [Panel(name, '', kernel_picture(k.numpy(), grid=grid), whole=False) for name, k in kernels.items()]
    save_sheet(path, panels, case)
