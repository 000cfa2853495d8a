"""Recipes of data sets: images, kernels, how they are paired, and the forward model.

A recipe fixes what its paper fixes; a :class:`Setting` holds the user's choices. Both go into the manifest, from which
the data set can be rebuilt bit for bit. All randomness is seeded by the setting's seed and the image's name.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torch import Generator, Tensor

from ..core.kernel_align import resize
from ..core.kernel_files import ENDINGS, levin_kernels, load_kernel
from ..core.kernels import blind144_synthetic, gaussian, motion
from ..core.seeds import derived
from ..files import check_folder_name
from . import kernelgan

Item = TypeVar('Item')
VALIDATION = tuple(f'{number:04d}' for number in range(801, 901))  # DIV2K
SHAKES = 8  # our own camera shakes, in place of Levin's eight


@dataclass(frozen=True)
class Sources:
    """The user's files: folder of HR pictures, Levin's kernel file, files or folders of kernels."""

    hr: Path
    levin: Path | None = None
    kernels: tuple[Path, ...] = ()


KernelSet = Callable[[int, Sources], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Recipe:
    """How a data set is made.

    Attributes:
        name: name of the data set, and of the folder that the option files expect.
        about: one line for --help.
        kernel_set: maps (scale, sources) to kernels by name; None if each image has its own kernel.
        draw: maps (scale, generator) to the kernel of one image; None if there is a ``kernel_set``.
        each: pair every image with every kernel of the set, with one folder of LR images per kernel; else each image
            with one kernel of the set, chosen at random.
        images: names without extension; (): all in the folder.
        scales: scales at which it can be made.
        multiple: HR images are cropped, keeping the top left, to multiples of this; 0: of the scale.
        border: padding beyond the frame, see :func:`~..core.degradation.synthesise`; the paper's authors use zeros.
        forward: ``conv``: :func:`~..core.degradation.synthesise`; ``kernelgan``: :func:`.kernelgan.downscale`.
        kernel_tmpl: kernel file name without extension, as in the option files.
    """

    name: str
    about: str
    kernel_set: KernelSet | None = None
    draw: Callable[[int, Generator], Tensor] | None = None
    each: bool = False
    images: tuple[str, ...] = VALIDATION
    scales: tuple[int, ...] = (4,)
    multiple: int = 64
    border: str = 'zeros'
    forward: str = 'conv'
    kernel_tmpl: str = '{name}'


@dataclass(frozen=True)
class Setting:
    """The user's choices for a data set, all recorded in the manifest.

    Attributes:
        name: name of the data set.
        scale: s.
        seed: seeds kernels, choices and noise, together with the image's name.
        images: names without extension; (): the recipe's.
        piece: side of the central square to which HR images are cropped after degradation, in pixels; 0: no cropping.
        noise: standard deviation of white noise in the LR image, on a scale of 0 to 255.
        jpeg: quality, 1 … 100, of JPEG compression of the LR image; None: none.
        border: overrides the recipe's.
        each: for the recipe ``free``: pair every image with every kernel.
    """

    name: str
    scale: int = 4
    seed: int = 0
    images: tuple[str, ...] = ()
    piece: int = 0
    noise: float = 0.0
    jpeg: int | None = None
    border: str | None = None
    each: bool = False

    def __post_init__(self) -> None:
        if self.scale < 1:
            raise ValueError(f'--scale must be at least 1, got {self.scale}')
        if self.piece < 0 or self.piece % self.scale:
            raise ValueError(f'--piece must be a multiple of the scale {self.scale}, got {self.piece}')
        if not 0 <= self.noise < float('inf'):
            raise ValueError(f'--noise must not be negative, got {self.noise}')
        if self.jpeg is not None and not 1 <= self.jpeg <= 100:
            raise ValueError(f'--jpeg must be a quality from 1 to 100, got {self.jpeg}')
        check_folder_name('--name', self.name)


def size_on_grid(size: int, scale: int) -> int:
    """The smallest size K >= ``size`` with K - s even.

    The centre of such a kernel is at HR s·i + (s - 1) / 2, on the bicubic grid; that of other kernels is half a pixel
    further, see :mod:`..core.degradation`.
    """
    return size + (size - scale) % 2


def generator(seed: int, *names: str) -> Generator:
    """A generator seeded by the seed and the names only."""
    return Generator().manual_seed(derived(seed, *names))


def first_twins(items: Iterable[Item], name: Callable[[Item], str]) -> tuple[Item, Item] | None:
    """The first two items that have the same ``name``; None if all names differ."""
    seen: dict[str, Item] = {}
    for item in items:
        if name(item) in seen:
            return seen[name(item)], item
        seen[name(item)] = item
    return None


def _levin(scale: int, sources: Sources) -> dict[str, Tensor]:
    if sources.levin is None:
        raise ValueError("--levin is missing: give Levin's kernel file, Levin09.mat; without it, use "
                         'DIV2KMotion or Motion144, which have our own camera shakes instead')
    return {f'k{number:02d}': k for number, k in enumerate(levin_kernels(sources.levin, 6 * scale), 4)}


def _synthetic(scale: int, sources: Sources) -> dict[str, Tensor]:
    return {f'k{number:02d}': k for number, k in enumerate(blind144_synthetic())}


def _shakes(scale: int, sources: Sources) -> dict[str, Tensor]:
    """Eight camera shakes of our own, as wide as Levin's after resizing (root mean square radius, area)."""
    return {f'm{number:02d}': motion(6 * scale, seed=900 + number, extent=1.0, blur=0.2 * scale)
            for number in range(SHAKES)}


def _gaussian8(scale: int, sources: Sources) -> dict[str, Tensor]:
    """Gaussian8 (Gu et al. 2019, IKC; BlindDiff, Section 4.1): eight widths, 21 x 21 (22 x 22 at an even scale)."""
    low, high = {2: (0.8, 1.6), 3: (1.35, 2.4), 4: (1.8, 3.2)}[scale]
    widths = [low + (high - low) * step / 7 for step in range(8)]
    return {f'g{100 * width:03.0f}': gaussian(size_on_grid(21, scale), sigmas=width) for width in widths}


def _anisotropic(scale: int, random: Generator) -> Tensor:
    """BlindDiff's anisotropic kernels, Section 4.1: 11 x 11 (12 x 12 at an even scale), distributed as in KernelGAN.

    0.6 … 5 are taken as variances, as in DIV2KRK's files; as standard deviations they would not fit into 11 pixels.
    """
    return kernelgan.anisotropic(size_on_grid(11, scale), random).float()


def _div2krk_aligned(scale: int, random: Generator) -> Tensor:
    """DIV2KRK's kernel on the next even grid, resampled bilinearly about its centre."""
    k = kernelgan.draw_kernel(scale, random)
    return resize(k, size_on_grid(len(k), scale), factor=1.0)


def _files(scale: int, sources: Sources) -> dict[str, Tensor]:
    """Kernels from any files, by name without extension."""
    paths = []
    for place in sources.kernels:
        paths += sorted(p for p in place.iterdir() if p.suffix.lower() in ENDINGS) if place.is_dir() else [place]
    if not paths:
        raise ValueError('--kernels: this recipe needs at least one file (.npy, .mat, a picture) or folder of kernels')
    if pair := first_twins(paths, lambda path: path.stem):
        raise ValueError('--kernels: two files have the same name except for folder or extension: '
                         f'{pair[0]}, {pair[1]}')
    kernels = {path.stem: load_kernel(path) for path in paths}
    small = [name for name, k in kernels.items() if len(k) < scale]
    if small:
        raise ValueError(f'--kernels: {small[0]} is smaller than the scale {scale}')
    return kernels


RECIPES = {recipe.name: recipe for recipe in (
    Recipe('DIV2KFK', 'DIV2K validation set, each image with one of eight camera shakes (KernelFusion); needs --levin.',
           _levin),
    Recipe('Blind144', 'twelve DIV2K images x twelve kernels (KernelFusion); needs --levin.',
           lambda scale, sources: {**_synthetic(scale, sources), **_levin(scale, sources)}, each=True,
           images=VALIDATION[:12]),
    Recipe('DIV2KMotion', 'like DIV2KFK, with our own camera shakes.', _shakes),
    Recipe('Motion144', "like Blind144, with our own camera shakes in place of Levin's eight.",
           lambda scale, sources: {**_synthetic(scale, sources), **_shakes(scale, sources)}, each=True,
           images=VALIDATION[:12]),
    Recipe('DIV2KRK', "KernelGAN's noisy anisotropic Gaussians, as published: kernel files are off the grid by half a "
           'pixel.', draw=kernelgan.draw_kernel, scales=(2, 4), multiple=0, border='symmetric', forward='kernelgan',
           kernel_tmpl='kernel_{number}'),
    Recipe('DIV2KRK-aligned', 'the same kernels on 32 x 32, centred on the bicubic grid: y = (x * k)↓ holds.',
           draw=_div2krk_aligned, scales=(2, 4), multiple=0, border='reflect'),
    Recipe('DIV2KRK-offset', 'the same kernels, centred on 31 x 31: LR pixel i lies at HR 4i + 2.',
           draw=kernelgan.draw_kernel, scales=(2, 4), multiple=0, border='reflect'),
    Recipe('DIV2K-Gaussian8', 'DIV2K validation set x eight isotropic Gaussians (BlindDiff).', _gaussian8,
           each=True, scales=(2, 3, 4), multiple=0, border='reflect'),
    Recipe('DIV2K-Anisotropic', 'DIV2K validation set, each image with a noisy anisotropic Gaussian (BlindDiff).',
           draw=_anisotropic, scales=(2, 3, 4), multiple=0, border='reflect'),
    Recipe('free', 'any folder of pictures x any kernels: --kernels, --name.', _files, images=(), scales=(2, 3, 4),
           multiple=0, border='reflect'),
)}


def find_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ValueError: there is none; the nearest name is suggested.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name.lower(), [known.lower() for known in RECIPES], n=1)
        known = {known.lower(): known for known in RECIPES}
        hint = f'did you mean {known[near[0]]}? ' if near else ''
        raise ValueError(f'no recipe {name!r}: {hint}choose one of {", ".join(RECIPES)}, or give a manifest.json')
    return RECIPES[name]
