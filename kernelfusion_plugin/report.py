"""What a run writes: pictures, kernels, table of scores, summary. Pure functions; BasicSR is not needed.

Every file is written beside its place and renamed into it, so a reader (or a crash) never meets half of one.
Same image, options and seed give the same bytes in the SR picture, ``NAME_kernel.npy``, ``NAME_kernel.png`` and
the pictures made of them; ``scores.csv`` and ``summary.json`` also hold seconds, which differ from run to run.

Arrays: pictures are uint8 RGB (H, W, 3), or (H, W) for grey; kernels float32 (K, K), as drawn.
"""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
import math
import platform
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from . import __version__
from .atomic import PathLike, write_atomically, write_text_atomically
from .core import metrics, shift_metrics
from .core.degradation import Degradation, upscale_bicubic
from .core.regional_degradation import RegionalDegradation

COLUMNS = ('dataset', 'image', 'psnr', 'ssim', 'psnr_bicubic', 'ssim_bicubic', 'psnr_best_shift',
           'psnr_best_subpixel_shift', 'shift_y', 'shift_x', 'kernel_ncc', 'kernel_ncc_best_shift', 'kernel_psnr',
           'kernel_lr_psnr', 'lr_consistency', 'surprise', 'seconds_phase1', 'seconds_phase2', 'seed', 'solver',
           'preset')
KERNEL_PICTURE = 240  # pixels, about: the side of an enlarged kernel


def save_picture(path: PathLike, picture: np.ndarray) -> None:
    """A uint8 picture as PNG."""
    write_atomically(path, lambda file: Image.fromarray(picture).save(file, format='PNG'))


def save_array(path: PathLike, array: np.ndarray) -> None:
    """An array as .npy."""
    content = io.BytesIO()  # into a file NumPy writes by itself, and a full disk leaves a part of it without an error
    np.save(content, array)
    write_atomically(path, lambda file: file.write(content.getbuffer()))


def save_kernel(folder: PathLike, name: str, kernel: np.ndarray) -> None:
    """NAME_kernel.npy (float32, sums to 1, as drawn) and NAME_kernel.png (enlarged)."""
    folder = Path(folder)
    save_array(folder / f'{name}_kernel.npy', kernel.astype(np.float32))
    save_picture(folder / f'{name}_kernel.png', kernel_picture(kernel))


def kernel_picture(kernel: np.ndarray, side: int = KERNEL_PICTURE, grid: int | None = None) -> np.ndarray:
    """Kernel as grey picture: 0 black, its maximum white, each entry a square of whole pixels, about ``side`` wide.

    Args:
        grid: for kernels that stand beside each other, see :func:`shared_grid`: the picture is as wide as that many
            entries, with the kernel's centre at its own, so that all of them are at one scale. The centre is kept to
            the pixel of the picture, as the scores keep it, also where an odd size meets an even one; where the black
            around the kernel cannot be halved, the smaller half is above and to the left.
    """
    grid = max(grid or 0, len(kernel))
    zoom = max(1, round(side / grid))
    values = np.clip(kernel, 0, None)
    values = np.round(255 * values / max(float(values.max()), 1e-12)).astype(np.uint8)
    around = (grid - len(kernel)) * zoom
    return np.pad(values.repeat(zoom, axis=0).repeat(zoom, axis=1), (around // 2, around - around // 2))


def shared_grid(kernels: Iterable[np.ndarray | None]) -> int | None:
    """Size of the largest kernel, on whose grid those beside it are drawn; None without any."""
    return max((len(kernel) for kernel in kernels if kernel is not None), default=None)


def save_region_kernels(folder: PathLike, name: str, kernels: np.ndarray) -> None:
    """NAME_kernels.npy (R, C, K, K), float32, each sums to 1; and NAME_kernels.png, laid out as the regions lie."""
    folder = Path(folder)
    save_array(folder / f'{name}_kernels.npy', kernels.astype(np.float32))
    save_picture(folder / f'{name}_kernels.png', region_kernels_picture(kernels))


def region_kernels_picture(kernels: np.ndarray, side: int = KERNEL_PICTURE, grid: int | None = None) -> np.ndarray:
    """Kernels (R, C, K, K) as one grey picture, as the regions lie, with lines between; each as in kernel_picture."""
    each = side // min(max(kernels.shape[:2]), 3)
    rows = [np.concatenate([np.pad(kernel_picture(k, each, grid), 1, constant_values=128) for k in row], axis=1)
            for row in kernels]
    return np.concatenate(rows)


def to_picture(x: Tensor) -> np.ndarray:
    """(1, 3, H, W) or (1, 1, H, W) in [-1, 1] to uint8 RGB (H, W, 3), clamped and rounded."""
    x = x.detach().float().cpu()[0]
    x = ((x + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)
    return x.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()


def to_tensor(picture: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) or (H, W) to float64 RGB (1, 3, H, W) in [-1, 1]."""
    x = torch.from_numpy(np.array(picture)).double() / 127.5 - 1
    return (x if x.ndim == 3 else x[..., None].expand(-1, -1, 3)).permute(2, 0, 1)[None].contiguous()


def bicubic_picture(y: Tensor, scale: int) -> np.ndarray:
    """The LR image (1, C, h, w) in [-1, 1], enlarged, as a picture."""
    return to_picture(upscale_bicubic(y.detach().float().cpu(), scale))


def picture_scores(sr: np.ndarray, bicubic: np.ndarray, gt: np.ndarray | None,
                   border: float | int = metrics.PAPER_BORDER) -> dict[str, float]:
    """PSNR (dB) and SSIM on Y, the border left out, of the result and of bicubic; {} without ground truth.

    Besides, ``psnr_best_shift`` and ``psnr_best_subpixel_shift`` of the result, and the latter's ``shift_y`` and
    ``shift_x`` in pixels, see :mod:`.core.shift_metrics`.
    """
    if gt is None:
        return {}
    truth = to_tensor(gt)
    scores = {}
    for suffix, picture in (('', sr), ('_bicubic', bicubic)):
        x = to_tensor(picture)
        scores[f'psnr{suffix}'] = metrics.psnr_y(x, truth, border)
        scores[f'ssim{suffix}'] = metrics.ssim_y(x, truth, border)
    x = to_tensor(sr)
    whole = shift_metrics.psnr_best_shift(x, truth, border)
    best = shift_metrics.psnr_best_subpixel_shift(x, truth, border, whole=whole)
    return {**scores, 'psnr_best_shift': whole.psnr, 'psnr_best_subpixel_shift': best.psnr,
            'shift_y': best.shift[0], 'shift_x': best.shift[1]}


def kernel_scores(kernel: np.ndarray | None, truth: np.ndarray | None) -> dict[str, float]:
    """Normalised correlation at zero shift and at the best one, and PSNR against the true kernel.

    {} if either is unknown. Kernels of different sizes are compared centre on centre, see
    :func:`.core.metrics.kernel_ncc`.
    """
    if kernel is None or truth is None:
        return {}
    k, k_true = torch.from_numpy(kernel), torch.from_numpy(truth)
    return {'kernel_ncc': metrics.kernel_ncc(k, k_true),
            'kernel_ncc_best_shift': metrics.kernel_ncc_best_shift(k, k_true)[0],
            'kernel_psnr': metrics.kernel_psnr(k, k_true)}


def degradation_scores(sr: np.ndarray, lr: np.ndarray, gt: np.ndarray | None, kernel: np.ndarray | None,
                       k_true: np.ndarray | None, scale: int, kernels: np.ndarray | None = None) -> dict[str, float]:
    """What the kernel does to pictures, in dB; what is unknown is left out, {} without a kernel.

    ``lr_consistency``: the LR image against the result degraded by the result's kernel, or by the ``kernels`` of its
    regions (R, C, K, K); ``kernel_lr_psnr``: the truth degraded by that kernel against the truth degraded by its own.
    LR pixels that see beyond the frame are left out of both.
    """
    if kernel is None:
        return {}
    k = torch.from_numpy(kernel)
    largest = max(len(each) for each in (kernel, k_true) if each is not None)
    if min(lr.shape[:2]) <= 2 * metrics.lr_reach(scale, largest):
        return {}
    degradation = Degradation(scale, len(kernel), 'reflect')
    border = metrics.lr_reach(scale, len(kernel))
    y, used = to_tensor(lr), k
    if kernels is not None:
        used = torch.from_numpy(kernels)
        degradation = RegionalDegradation(degradation, y.shape[-2:], used.shape[:2])
    scores = {'lr_consistency': metrics.lr_consistency(y, to_tensor(sr).float(), used, degradation, border)}
    if gt is not None and k_true is not None:
        scores['kernel_lr_psnr'] = metrics.kernel_lr_psnr(k, torch.from_numpy(k_true), to_tensor(gt).float(), scale)
    return scores


def write_scores(path: PathLike, rows: Iterable[Mapping[str, Any]]) -> None:
    """The table: one row per image, sorted by data set and image; what is not known stays empty.

    Columns: :data:`COLUMNS`, then any others that occur (``val_…``: the toolbox's own metrics), by name.
    """
    rows = sorted(rows, key=lambda row: (str(row['dataset']), str(row['image'])))
    columns = [*COLUMNS, *sorted({key for row in rows for key in row} - set(COLUMNS))]
    text = io.StringIO()
    table = csv.DictWriter(text, columns, restval='', lineterminator='\n')
    table.writeheader()
    table.writerows({key: round(value, 6) if isinstance(value, float) else value for key, value in row.items()}
                    for row in rows)
    write_text_atomically(path, text.getvalue())


def mean_scores(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Mean of every column of numbers over its finite values; inf if it has nothing but inf (and no nan)."""
    columns: dict[str, list[float]] = {}
    for row in rows:
        for key, value in row.items():
            if isinstance(value, float) and not math.isnan(value):
                columns.setdefault(key, []).append(value)
    means = {}
    for key, values in columns.items():
        finite = [value for value in values if math.isfinite(value)]
        means[key] = sum(finite) / len(finite) if finite else values[0]
    return means


def mean_line(dataset: str, rows: list[Mapping[str, Any]], failed: int = 0) -> str:
    """One line for the log: how many images, mean scores and seconds, how many failed."""
    if not rows:
        return f'{dataset}: no image was restored' + (f', {failed} failed' if failed else '')
    means = mean_scores(rows)
    parts = []
    if 'psnr' in means:
        gain = means['psnr'] - means['psnr_bicubic']
        parts.append(f'PSNR {means["psnr"]:.2f} dB (bicubic {means["psnr_bicubic"]:.2f}, {gain:+.2f}), '
                     f'SSIM {means["ssim"]:.4f} (bicubic {means["ssim_bicubic"]:.4f})')
    if 'kernel_ncc' in means:
        known = sum('kernel_ncc' in row for row in rows)
        some = f' ({known} known)' if known < len(rows) else ''
        parts.append(f'kernel correlation {means["kernel_ncc"]:.3f}{some}')
    both = f'{means["seconds_phase1"]:.1f} s phase 1 and ' if means['seconds_phase1'] else ''
    parts.append(f'{both}{means["seconds_phase2"]:.1f} s{" phase 2" if both else ""} per image')
    same = sum(math.isinf(row.get('psnr', 0.0)) for row in rows)
    if same:
        parts.append(f'{same} identical to the truth and left out of the mean PSNR')
    if failed:
        parts.append(f'{failed} failed')
    return f'{dataset}: mean of {len(rows)} image{"s" if len(rows) > 1 else ""}: ' + '; '.join(parts)


def write_summary(path: PathLike, summary: Mapping[str, Any]) -> None:
    """``summary.json``; numbers that JSON has no word for (inf, nan) become strings."""
    text = json.dumps(_jsonable(summary), indent=2, ensure_ascii=False, allow_nan=False) + '\n'
    write_text_atomically(path, text)


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, device and commit that a result came from; nothing that names the host or its folders."""
    versions = {'python': platform.python_version(), 'torch': torch.__version__,
                'kernelfusion-plugin': __version__}  # of this code: an editable install's metadata may be older
    for package in ('basicsr', 'torchvision', 'numpy'):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else platform.machine()
    return {'versions': versions, 'device': {'type': device.type, 'name': name, 'threads': torch.get_num_threads()},
            'commit': git_commit(Path(__file__).resolve().parent.parent)}


def git_commit(folder: Path) -> str | None:
    """Commit of the checkout in ``folder``, with ``+changes`` if it was edited since; None outside a checkout."""
    if not (folder / '.git').exists():
        return None
    try:
        commit, changes = (subprocess.run(['git', '-C', str(folder), *command], capture_output=True, text=True,
                                          timeout=10, check=True).stdout.strip()
                           for command in (['rev-parse', 'HEAD'], ['status', '--porcelain', '-uno']))
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ('+changes' if changes else '')


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if isinstance(value, (bool, int, str, type(None))) else str(value)
