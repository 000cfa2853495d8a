"""Kernels from files: .npy, .mat, pictures, .txt, and Levin's eight camera-shake kernels.

h5py (Levin's file, other MATLAB 7.3 files) and scipy (older .mat files) are imported when such a file is read.
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
ENDINGS = (*ARRAYS, *PICTURES)  # of files of kernels
TOLERANCE = 1e-2  # negative values down to this part of the maximum are taken for rounding and set to 0


def load_kernel(path: str | Path) -> Tensor:
    """A kernel from a file, by its ending; (K, K) float32 that sums to 1.

    * ``.npy``: a 2D array. ``.txt``, ``.csv``: rows of numbers, separated by blanks or commas.
    * ``.mat``: the variable ``Kernel`` or ``kernel`` (DIV2KRK), or the only 2D array in the file.
    * a picture: its grey values, black is 0.

    Raises:
        ValueError: in one line that names the file: it cannot be read, or holds no square, finite, non-negative
            array with a positive sum. Negative values of less than 1 % of the maximum become 0; larger ones are
            taken where the array sums to 1, as kernels do that ``LinearCnnKernel`` finds, and pictures do not.
    """
    path = Path(path)
    return _checked(_read(path), path)


def load_kernels(path: str | Path) -> Tensor:
    """:func:`load_kernel`; from a ``.npy`` of four axes one for each of R x C regions, (R, C, K, K), as restored with
    ``regions``.
    """
    path = Path(path)
    values = _read(path)
    if values.ndim != 4 or not values.size:
        return _checked(values, path)
    kernels = [_checked(kernel, path) for row in values for kernel in row]
    return torch.stack(kernels).unflatten(0, values.shape[:2])


def _read(path: Path) -> np.ndarray:
    """What is in a file of :func:`load_kernel`, float64, whatever its shape."""
    if not path.is_file():
        raise ValueError(f'{path}: no such kernel file')
    suffix = path.suffix.lower()
    readers = {'.npy': _read_npy, '.mat': _read_mat, '.txt': _read_txt, '.csv': _read_txt}
    reader = _read_picture if suffix in PICTURES else readers.get(suffix)
    if reader is None:
        raise ValueError(f'{path}: a kernel file must end in {", ".join(ENDINGS[:-1])} or {ENDINGS[-1]}')
    try:
        return np.asarray(reader(path), dtype=np.float64)
    except Exception as error:  # the readers of broken files raise whatever they like
        raise ValueError(f'{path}: cannot be read as a kernel: {first_line(error)}') from error


def load_levin(path: str | Path) -> list[Tensor]:
    """The eight kernels of Levin et al. 2009 at their native sizes (13 to 27), float32, each summing to 1.

    Args:
        path: ``Levin09.mat``, a MATLAB 7.3 file with the cell array ``kernels``.

    Returns:
        Kernels 1 … 8 as MATLAB shows them.

    Raises:
        ValueError: h5py is missing, or the file is not that file.
    """
    path = Path(path)
    try:
        with _optional('h5py').File(path, 'r') as file:
            arrays = [np.array(file[reference]).T for reference in np.ravel(file['kernels'])]  # HDF5 is row-major
    except Exception as error:  # as above
        raise ValueError(f"{path}: cannot be read as Levin's file of kernels: {first_line(error)}") from error
    return [_checked(array.astype(np.float64), path) for array in arrays]


def levin_kernels(path: str | Path, size: int = 24) -> Tensor:
    """(8, size, size): Levin's kernels as Blind144's k_4 … k_11.

    Each is turned by 180 degrees, resized to size x size with PIL's bicubic whatever its native size, clipped at
    0, shifted (bilinear) by what its centre of mass is off the grid's centre, and normalised. One shift, as in the
    published data: k_9 loses mass at the frame by it and ends up 0.2 px off.
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
        raise ValueError(f'{path}: a kernel must be a square 2D array, got the shape {values.shape}')
    if not np.isfinite(values).all():
        raise ValueError(f'{path}: the kernel has values that are not finite')
    if values.max() <= 0:
        raise ValueError(f'{path}: the kernel has no positive value')
    if values.min() >= -TOLERANCE * values.max():
        values = values.clip(min=0)
    elif abs(values.sum() - 1) >= 1e-3:
        raise ValueError(f'{path}: a kernel must not be negative, its least value is {values.min():g} '
                         f'at a maximum of {values.max():g}')
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
        raise ValueError(f'no variable Kernel in it, and {len(arrays)} arrays to choose from')
    return arrays[0]


def _optional(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.split('.')[0]
        raise ImportError(f'it needs {package}: pip install {package}') from error
