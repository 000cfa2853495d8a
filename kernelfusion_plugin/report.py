"""Output of a run: pictures, kernels, score table, summary. Plain functions that do not need BasicSR.

Every file is written under a temporary name and renamed, so that neither a reader nor a crash sees a partial file.
The same image, options and seed give the same bytes in the SR picture, ``NAME_kernel.npy``, ``NAME_kernel.png`` and
the pictures made from them; ``scores.csv`` and ``summary.json`` also hold timings, which vary.

Arrays: pictures are uint8 RGB (H, W, 3), or (H, W) for greyscale; kernels are float32 (K, K), as drawn: they correlate.
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
KERNEL_PICTURE = 240  # approximate side of an enlarged kernel, pixels


def save_picture(path: PathLike, picture: np.ndarray) -> None:
    """Save a uint8 picture as PNG."""
    write_atomically(path, lambda file: Image.fromarray(picture).save(file, format='PNG'))


def save_array(path: PathLike, array: np.ndarray) -> None:
    """Save an array as .npy."""
    content = io.BytesIO()  # np.save to a file can truncate it on a full disk without raising an error
    np.save(content, array)
    write_atomically(path, lambda file: file.write(content.getbuffer()))


def save_kernel(folder: PathLike, name: str, kernel: np.ndarray) -> None:
    """Save NAME_kernel.npy (float32, sums to 1, as drawn) and NAME_kernel.png (enlarged)."""
    folder = Path(folder)
    save_array(folder / f'{name}_kernel.npy', kernel.astype(np.float32))
    save_picture(folder / f'{name}_kernel.png', kernel_picture(kernel))


def kernel_picture(kernel: np.ndarray, side: int = KERNEL_PICTURE, grid: int | None = None) -> np.ndarray:
    """Kernel as a greyscale picture about ``side`` wide: 0 is black, its maximum white, each entry a square of pixels.

    Args:
        grid: number of entries that the picture spans, so that kernels shown side by side have the same scale (see
            :func:`shared_grid`). The kernel is padded with black, its centre at the centre of the picture, even when
            odd and even sizes meet; if the padding is odd, the smaller half is above and to the left.
    """
    grid = max(grid or 0, len(kernel))
    zoom = max(1, round(side / grid))
    values = np.clip(kernel, 0, None)
    values = np.round(255 * values / max(float(values.max()), 1e-12)).astype(np.uint8)
    around = (grid - len(kernel)) * zoom
    return np.pad(values.repeat(zoom, axis=0).repeat(zoom, axis=1), (around // 2, around - around // 2))


def shared_grid(kernels: Iterable[np.ndarray | None]) -> int | None:
    """Size of the largest kernel, as ``grid`` for drawing several side by side; None if there are none."""
    return max((len(kernel) for kernel in kernels if kernel is not None), default=None)


def save_region_kernels(folder: PathLike, name: str, kernels: np.ndarray) -> None:
    """Save NAME_kernels.npy (R, C, K, K), float32, each summing to 1, and NAME_kernels.png, laid out as the regions."""
    folder = Path(folder)
    save_array(folder / f'{name}_kernels.npy', kernels.astype(np.float32))
    save_picture(folder / f'{name}_kernels.png', region_kernels_picture(kernels))


def region_kernels_picture(kernels: np.ndarray, grid: int | None = None) -> np.ndarray:
    """Kernels (R, C, K, K) as one greyscale picture, laid out as the regions, with dividing lines."""
    each = KERNEL_PICTURE // min(max(kernels.shape[:2]), 3)
    rows = [np.concatenate([np.pad(kernel_picture(k, each, grid), 1, constant_values=128) for k in row], axis=1)
            for row in kernels]
    return np.concatenate(rows)


def to_picture(x: Tensor) -> np.ndarray:
    """(1, 3, H, W) or (1, 1, H, W) in [-1, 1] to uint8 RGB (H, W, 3), clamped and rounded."""
    x = x.detach().float().cpu()[0]
    x = ((x + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)
    return x.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()


def to_tensor(picture: np.ndarray, dtype: torch.dtype = torch.float64) -> Tensor:
    """uint8 (H, W, 3) or (H, W) to RGB (1, 3, H, W) in [-1, 1], computed in ``dtype``."""
    x = torch.from_numpy(np.array(picture)).to(dtype) / 127.5 - 1
    return (x if x.ndim == 3 else x[..., None].expand(-1, -1, 3)).permute(2, 0, 1)[None].contiguous()


def bicubic_picture(y: Tensor, scale: int) -> np.ndarray:
    """The LR image (1, C, h, w) in [-1, 1], enlarged bicubically, as a uint8 picture."""
    return to_picture(upscale_bicubic(y.detach().float().cpu(), scale))


def picture_scores(sr: np.ndarray, bicubic: np.ndarray, gt: np.ndarray | None) -> dict[str, float]:
    """PSNR (dB) and SSIM on Y, without the paper's border, of the result and of bicubic; {} without ground truth.

    Also ``psnr_best_shift`` and ``psnr_best_subpixel_shift`` of the result, and ``shift_y`` and ``shift_x`` (pixels)
    of the latter; see :mod:`.core.shift_metrics`.
    """
    if gt is None:
        return {}
    truth = to_tensor(gt)
    scores = {}
    for suffix, picture in (('', sr), ('_bicubic', bicubic)):
        x = to_tensor(picture)
        scores[f'psnr{suffix}'] = metrics.psnr_y(x, truth)
        scores[f'ssim{suffix}'] = metrics.ssim_y(x, truth)
    x = to_tensor(sr)
    whole = shift_metrics.psnr_best_shift(x, truth)
    best = shift_metrics.psnr_best_subpixel_shift(x, truth, whole=whole)
    return {**scores, 'psnr_best_shift': whole.psnr, 'psnr_best_subpixel_shift': best.psnr,
            'shift_y': best.shift[0], 'shift_x': best.shift[1]}


def kernel_scores(kernel: np.ndarray | None, truth: np.ndarray | None) -> dict[str, float]:
    """Normalised correlation with the true kernel, at zero shift and at the best shift, and PSNR against it.

    {} if either kernel is unknown. Kernels of different sizes are aligned at their centres, see
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
    """Kernel scores measured on degraded pictures, in dB; unknown ones are omitted, {} without a kernel.

    ``lr_consistency``: PSNR of the LR image against the result degraded by ``kernel``, or by the ``kernels`` of its
    regions (R, C, K, K). ``kernel_lr_psnr``: PSNR between the ground truth degraded by ``kernel`` and by ``k_true``.
    Both leave out LR pixels whose kernel support extends beyond the frame.
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
    """Write the score table: one row per image, sorted by data set and image; unknown values are empty.

    Columns: :data:`COLUMNS`, then any others (``val_…``: BasicSR's own metrics), sorted by name.
    """
    rows = sorted(rows, key=lambda row: (str(row['dataset']), str(row['image'])))
    columns = [*COLUMNS, *sorted({key for row in rows for key in row} - set(COLUMNS))]
    write_text_atomically(path, csv_text(columns, rows))


def csv_text(columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A table as CSV, numbers with six decimals; unknown values are empty."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(columns), restval='', lineterminator='\n')
    table.writeheader()
    table.writerows({key: round(value, 6) if isinstance(value, float) else value for key, value in row.items()}
                    for row in rows)
    return text.getvalue()


def mean_scores(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Mean of each float column over its finite values; inf if all values are inf. NaNs are ignored."""
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
    """One log line: number of images, mean scores and seconds, number of failures."""
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
        parts.append(f'{same} identical to the ground truth (not in the mean PSNR)')
    if failed:
        parts.append(f'{failed} failed')
    return f'{dataset}: mean of {len(rows)} image{"s" if len(rows) > 1 else ""}: ' + '; '.join(parts)


def write_summary(path: PathLike, summary: Mapping[str, Any]) -> None:
    """Write ``summary.json``; inf and nan, which JSON cannot express, become strings."""
    text = json.dumps(_jsonable(summary), indent=2, ensure_ascii=False, allow_nan=False) + '\n'
    write_text_atomically(path, text)


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, device and commit that produced a result; nothing that identifies the host or its folders."""
    versions = {'python': platform.python_version(), 'torch': torch.__version__,
                'kernelfusion-plugin': __version__}  # from the code: metadata of an editable install may be stale
    for package in ('basicsr', 'torchvision', 'numpy'):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else platform.machine()
    return {'versions': versions, 'device': {'type': device.type, 'name': name, 'threads': torch.get_num_threads()},
            'commit': git_commit(Path(__file__).resolve().parent.parent)}


def git_commit(folder: Path) -> str | None:
    """Commit checked out in ``folder``, with ``+changes`` if tracked files were edited; None outside a checkout."""
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
