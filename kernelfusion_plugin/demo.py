"""``make demo``: blurs a photograph by camera shake, reduces it by 4, and restores it from that picture alone.

The photograph comes with scikit-image. Writes ``demo/hr``, ``demo/lr`` and ``demo/kernels`` to the working folder, then
runs BasicSR's test program with ``options/kernelfusion_demo.yml`` on them; ground truth and true kernel are used for
scores only. Further arguments are passed to that program, e.g. ``--force_yml kernelfusion:solver=joint``.
"""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from kernelfusion_plugin.core.degradation import Degradation, synthesise
from kernelfusion_plugin.core.kernels import motion

PHOTO = 'coffee'  # 600 x 400, by Rachel Michetti, public domain (CC0); shipped with scikit-image
SCALE = 4
KERNEL_SIZE = 24
KERNEL_SEED = 5
MAX_LR = 128  # longer sides are cropped, so that preset quick takes minutes on a CPU
CHECKOUT = Path(__file__).resolve().parent.parent
OPTIONS = CHECKOUT / 'options' / 'kernelfusion_demo.yml'


def load_photo(name: str = PHOTO) -> np.ndarray:
    """The photograph as uint8 RGB (H, W, 3).

    Raises:
        ValueError: scikit-image is not installed, or has no such file.
    """
    try:
        from skimage import data
        return np.ascontiguousarray(getattr(data, name)()[..., :3])
    except (ImportError, AttributeError, OSError) as error:
        raise ValueError(f"the photograph {name} comes with scikit-image (pip install 'kernelfusion-plugin[demo]'): "
                         f'{error}') from error


def degrade(photo: np.ndarray, kernel: torch.Tensor, scale: int = SCALE,
            max_lr: int = MAX_LR) -> tuple[np.ndarray, np.ndarray]:
    """The HR picture and its LR picture, blurred by ``kernel``, reduced by ``scale``, rounded to 8 bits.

    Both are cropped so that the blur never reaches beyond the photograph.

    Args:
        photo: uint8 (H, W, 3).
        kernel: (K, K), sums to 1.
        scale: s.
        max_lr: longest side of the LR picture.

    Returns:
        uint8 (s·h, s·w, 3) and (h, w, 3).
    """
    height, width = (side // scale * scale for side in photo.shape[:2])
    hr = torch.from_numpy(photo[:height, :width]).permute(2, 0, 1)[None]
    lr = synthesise(hr, kernel, scale, 'reflect')
    around = reach(kernel, scale)
    (top, h), (left, w) = (_middle(side, around, max_lr) for side in lr.shape[-2:])
    lr = lr[0, :, top:top + h, left:left + w]
    hr = hr[0, :, top * scale:(top + h) * scale, left * scale:(left + w) * scale]
    return hr.permute(1, 2, 0).numpy(), lr.permute(1, 2, 0).numpy()


def reach(kernel: torch.Tensor, scale: int = SCALE) -> int:
    """Width in LR pixels of the border where a blur by ``kernel`` (K, K) reaches beyond the frame."""
    return -(-max(Degradation(scale, kernel.shape[-1]).margin) // scale)


def write_data(folder: Path) -> None:
    """Write ``hr``, ``lr`` and ``kernels`` of the demo into ``folder``; what was there is written over."""
    kernel = motion(KERNEL_SIZE, KERNEL_SEED)
    hr, lr = degrade(load_photo(), kernel)
    for name in ('hr', 'lr', 'kernels'):
        (folder / name).mkdir(parents=True, exist_ok=True)
    Image.fromarray(hr).save(folder / 'hr' / f'{PHOTO}.png')
    Image.fromarray(lr).save(folder / 'lr' / f'{PHOTO}.png')
    np.save(folder / 'kernels' / f'{PHOTO}.npy', kernel.numpy())


def summary(results: Path) -> str:
    """The results in a few lines: scores from ``scores.csv`` and the files written."""
    with open(results / 'scores.csv', newline='', encoding='utf-8') as file:
        row = {key: float(value) for key, value in next(csv.DictReader(file)).items() if _is_number(value)}
    gain = row['psnr'] - row['psnr_bicubic']
    lines = [f'PSNR  {row["psnr"]:.2f} dB   (bicubic {row["psnr_bicubic"]:.2f} dB: {gain:+.2f} dB)',
             f'SSIM  {row["ssim"]:.4f}     (bicubic {row["ssim_bicubic"]:.4f})',
             f'correlation with the true kernel: {row["kernel_ncc"]:.3f}',
             f'seconds: {row["seconds_phase1"]:.0f} for phase 1, {row["seconds_phase2"]:.0f} for phase 2']
    names = {f'{PHOTO}_{results.name}.png': 'result', f'{PHOTO}_kernel.png': 'kernel',
             f'{PHOTO}_kernel.npy': 'kernel as an array', f'{PHOTO}_sheet.png': 'sheet: bicubic, ours, truth, kernels'}
    lines += [f'{path}   {names[path.name]}' for path in sorted(results.rglob('*')) if path.name in names]
    return '\n'.join([*lines, f'{results / "scores.csv"}   scores'])


def main(arguments: list[str]) -> int:
    """Run the demo in the working folder; returns the exit status of BasicSR's test program.

    With ``-h`` or ``--help`` it prints what the demo does instead.
    """
    if not {'-h', '--help'}.isdisjoint(arguments):
        sys.stdout.write(__doc__)
        return 0
    if not OPTIONS.is_file():
        raise SystemExit(f'kernelfusion: the demo needs a checkout of the repository with options/{OPTIONS.name}')
    try:
        write_data(Path('demo'))
    except ValueError as error:
        raise SystemExit(f'kernelfusion: error: {error}') from error
    command = [sys.executable, str(CHECKOUT / 'basicsr' / 'test.py'), '-opt', str(OPTIONS), *arguments]
    status = subprocess.run(command, check=False).returncode
    if status == 0:
        sys.stdout.write('\n' + summary(Path('results', 'kernelfusion_demo')) + '\n')
    return status


def _middle(side: int, reach: int, longest: int) -> tuple[int, int]:
    """(start, length) of the central part of a side, ``reach`` away from both ends, at most ``longest`` long."""
    length = min(side - 2 * reach, longest)
    return (side - length) // 2, length


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
