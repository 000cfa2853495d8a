"""Kernels from files: .npy, .mat, pictures, .txt, and Levin's eight camera-shake kernels.

h5py (for Levin's and other MATLAB 7.3 files) and scipy (for older .mat files) are imported only when needed.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .faults import first_line
from .kernel_align import centre_of_mass, normalise, shift

ARRAYS = ('.npy', '.mat', '.txt', '.csv')
PICTURES = ('.png', '.bmp', '.jpg', '.jpeg', '.tif', '.tiff')
ENDINGS = (*ARRAYS, *PICTURES)  # all file extensions for kernels
TOLERANCE = 1e-2  # negative values up to this fraction of the maximum are rounding errors and set to 0


def load_kernel(path: str | Path) -> Tensor:
    """Read a kernel (K, K), float32, normalised to sum 1; the format follows from the file extension.

    * ``.npy``: a 2D array. ``.txt``, ``.csv``: rows of numbers, separated by blanks, commas or semicolons.
    * ``.mat``: the variable ``Kernel`` or ``kernel`` (DIV2KRK), or the only 2D array in the file.
    * pictures: grey values; black is 0.

    Negative values of at most 1 % of the maximum become 0. Larger ones are accepted only if the array sums to 1, as do
    kernels found by ``LinearCnnKernel``, but not pictures.

    Raises:
        ValueError: the file cannot be read, or has no square, finite, non-negative array with a positive sum; a
            one-line message that names the file.
    """
    path = Path(path)
    return _checked(_read(path), path)


def load_kernels(path: str | Path) -> Tensor:
    """Like :func:`load_kernel`, but also reads a 4D ``.npy``, (R, C, K, K): one kernel for each of R x C regions, as
    written by a run with ``regions``.
    """
    path = Path(path)
    values = _read(path)
    if values.ndim != 4 or not values.size:
        return _checked(values, path)
    kernels = [_checked(kernel, path) for row in values for kernel in row]
    return torch.stack(kernels).unflatten(0, values.shape[:2])


def _read(path: Path) -> np.ndarray:
    """The array in a kernel file, float64, of any shape."""
    if not path.is_file():
        raise ValueError(f'{path}: no such kernel file')
    suffix = path.suffix.lower()
    readers = {'.npy': _read_npy, '.mat': _read_mat, '.txt': _read_txt, '.csv': _read_txt}
    reader = _read_picture if suffix in PICTURES else readers.get(suffix)
    if reader is None:
        raise ValueError(f'{path}: a kernel file must end in {", ".join(ENDINGS[:-1])} or {ENDINGS[-1]}')
    try:
        return np.asarray(reader(path), dtype=np.float64)
    except Exception as error:  # on broken files, readers may raise anything
        raise ValueError(f'{path}: cannot be read as a kernel: {first_line(error)}') from error


def load_levin(path: str | Path) -> list[Tensor]:
    """The eight kernels of Levin et al. 2009 at their native sizes (13 to 27), float32, each summing to 1.

    Args:
        path: ``Levin09.mat``, a MATLAB 7.3 file with the cell array ``kernels``.

    Returns:
        Kernels 1 … 8, in MATLAB's orientation.

    Raises:
        ValueError: h5py is missing, or it is not that file.
    """
    path = Path(path)
    try:
        with _optional('h5py').File(path, 'r') as file:
            arrays = [np.array(file[reference]).T for reference in np.ravel(file['kernels'])]  # HDF5 is row-major
    except Exception as error:  # as above
        raise ValueError(f"{path}: cannot be read as Levin's file of kernels: {first_line(error)}") from error
    return [_checked(array.astype(np.float64), path) for array in arrays]


def levin_kernels(path: str | Path, size: int = 24) -> Tensor:
    """(8, size, size): Levin's kernels prepared as Blind144's k_4 … k_11.

    Each is rotated by 180 degrees, resized to size x size with PIL's bicubic filter whatever its native size, clipped
    at 0, shifted (bilinear) to move its centre of mass to the grid's centre, and normalised. There is a single shift,
    as in the published data: k_9 loses mass at the border and ends up 0.2 px off centre.
    """
    kernels = []
    for k in load_levin(path):
        picture = Image.fromarray(np.ascontiguousarray(k.flip(0, 1).numpy()))
        resized = np.array(picture.resize((size, size), Image.Resampling.BICUBIC))
        clipped = torch.from_numpy(resized).double().clamp_min(0)
        dy, dx = ((size - 1) / 2 - centre_of_mass(clipped)).tolist()
        kernels.append(normalise(shift(clipped, (dy, dx))).float())
    return torch.stack(kernels)


def _checked(values: np.ndarray, path: Path) -> Tensor:
    if values.ndim != 2 or values.shape[0] != values.shape[1] or values.size == 0:
        raise ValueError(f'{path}: a kernel must be a square 2D array, got shape {values.shape}')
    if not np.isfinite(values).all():
        raise ValueError(f'{path}: the kernel has values that are not finite')
    if values.max() <= 0:
        raise ValueError(f'{path}: the kernel has no positive value')
    if values.min() >= -TOLERANCE * values.max():
        values = values.clip(min=0)
    elif abs(values.sum() - 1) >= 1e-3:
        raise ValueError(f'{path}: a kernel must not be negative, but its minimum is {values.min():g} '
                         f'and its maximum {values.max():g}')
    return normalise(torch.from_numpy(values)).float()


def _read_npy(path: Path) -> np.ndarray:
    values = np.load(path, allow_pickle=False)
    if not isinstance(values, np.ndarray):
        raise ValueError('it is an archive of several arrays')
    return values


def _read_txt(path: Path) -> np.ndarray:
    rows = [line.replace(',', ' ').replace(';', ' ').split() for line in path.read_text(encoding='utf-8').splitlines()]
    return np.array([[float(value) for value in row] for row in rows if row])


def _read_picture(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        if picture.mode in ('I', 'F') or picture.mode.startswith('I;16'):
            return np.array(picture)
        return np.array(picture.convert('L'))


def _read_mat(path: Path) -> np.ndarray:
    with path.open('rb') as file:
        is_hdf5 = b'MATLAB 7.3' in file.read(128)
    if is_hdf5:
        h5py = _optional('h5py')
        with h5py.File(path, 'r') as file:
            found = {name: np.array(item).T for name, item in file.items()
                     if isinstance(item, h5py.Dataset) and item.dtype.kind in 'fiu'}
    else:
        loadmat = _optional('scipy.io').loadmat
        found = {name: item for name, item in loadmat(path).items() if not name.startswith('__')}
    for name in ('Kernel', 'kernel'):
        if name in found:
            return found[name]
    arrays = [item for item in found.values() if isinstance(item, np.ndarray) and item.ndim == 2 and item.size > 1]
    if len(arrays) != 1:
        raise ValueError(f'it has no variable Kernel, and {len(arrays)} arrays to choose from')
    return arrays[0]


def _optional(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.split('.')[0]
        raise ImportError(f'it needs {package}: pip install {package}') from error
