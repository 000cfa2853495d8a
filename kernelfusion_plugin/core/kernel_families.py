"""Families of random kernels and mixtures of them, as described by the list ``kernels`` in an option file:

    kernels:
      - {type: isotropic, sigma: [0.2, 4.0], size: 21, prob: 0.5}
      - {type: folder, dataroot: my_kernels, prob: 0.5}

A family is a frozen dataclass with ``size`` and ``draw(generator)``; its fields are the keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .kernel_align import normalise
from .kernel_files import ARRAYS, PICTURES, load_kernel
from .kernels import gaussian, motion
from .sections import check_number, check_range, from_section, nearest

Range = tuple[float, float]


@dataclass(frozen=True)
class Family:
    """Base class of all families.

    Attributes:
        prob: weight of the family within its mixture; only ratios of weights matter.
    """

    prob: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        check_number('prob', self.prob, 0)


@dataclass(frozen=True)
class Drawn(Family):
    """A family given by a formula, on a grid of ``size`` x ``size``."""

    size: int = 21

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number('size', self.size, 1, whole=True)

    def _set_range(self, name: str, low: float, high: float = float('inf')) -> None:
        object.__setattr__(self, name, check_range(name, getattr(self, name), low, high))


@dataclass(frozen=True)
class Isotropic(Drawn):
    """Isotropic Gaussians, sigma (pixels) uniform in its range (IKC and DAN at x4: 0.2 to 4)."""

    sigma: Range = (0.2, 4.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_range('sigma', 0.05)

    def draw(self, generator: torch.Generator) -> Tensor:
        """(K, K), sums to 1."""
        return gaussian(self.size, sigmas=_uniform(self.sigma, generator))


@dataclass(frozen=True)
class Anisotropic(Drawn):
    """Rotated anisotropic Gaussians with multiplicative noise (as in KernelGAN).

    Both sigmas (pixels) are uniform in their range, theta is uniform in [0, π), and every entry is multiplied by a
    number uniform in [1 - noise, 1 + noise] before the kernel is normalised. It is not re-centred.
    """

    sigma: Range = (0.6, 5.0)
    noise: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_range('sigma', 0.05)
        check_number('noise', self.noise, 0, 0.99)

    def draw(self, generator: torch.Generator) -> Tensor:
        """(K, K), sums to 1."""
        sigmas = _uniform(self.sigma, generator), _uniform(self.sigma, generator)
        k = gaussian(self.size, sigmas=sigmas, theta=_uniform((0, math.pi), generator)).double()
        factors = torch.rand(self.size, self.size, generator=generator, dtype=torch.float64) * 2 - 1
        return normalise(k * (1 + self.noise * factors)).float()


@dataclass(frozen=True)
class Motion(Drawn):
    """Camera shakes, see :func:`.kernels.motion`, with extent and optical blur uniform in their ranges."""

    extent: Range = (0.3, 0.95)
    blur: Range = (0.4, 0.8)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_range('extent', 0.01, 1)
        self._set_range('blur', 0)

    def draw(self, generator: torch.Generator) -> Tensor:
        """(K, K), sums to 1."""
        extent, blur = _uniform(self.extent, generator), _uniform(self.blur, generator)
        return motion(self.size, generator, extent=extent, blur=blur, steps=500)


@dataclass(frozen=True)
class Folder(Family):
    """The kernels in the files of a folder, all equally likely.

    Attributes:
        dataroot: folder of .npy, .mat, .txt or .csv files or, if it has none, of pictures; or a single such file.
    """

    dataroot: str
    members: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        found = [(path, load_kernel(path)) for path in _kernel_paths(Path(self.dataroot).expanduser())]
        first, k = found[0]
        for path, other in found:
            if other.shape != k.shape:
                raise ValueError(f'all kernels must have the same size: {first} has {k.shape[0]} x {k.shape[0]}, '
                                 f'{path} {other.shape[0]} x {other.shape[0]}')
        object.__setattr__(self, 'members', torch.stack([other for _, other in found]))

    @property
    def size(self) -> int:
        """K."""
        return self.members.shape[-1]

    def draw(self, generator: torch.Generator) -> Tensor:
        """(K, K), sums to 1."""
        return self.members[int(torch.randint(len(self.members), (), generator=generator))].clone()


FAMILIES: dict[str, type[Family]] = {'isotropic': Isotropic, 'anisotropic': Anisotropic, 'motion': Motion,
                                     'folder': Folder}


class Mixture:
    """A random choice among several families according to their weights; all have the same kernel size.

    Args:
        families: at least one, and at least one with positive ``prob``.

    Attributes:
        size: K.

    Raises:
        ValueError: no family, no positive weight, or different sizes.
    """

    def __init__(self, families: Sequence[Family]) -> None:
        if not families or not any(family.prob > 0 for family in families):
            raise ValueError('kernels must list at least one family with prob above 0')
        if len({family.size for family in families}) > 1:
            raise ValueError('the kernels of all families must have the same size, got '
                             + ', '.join(f'{family.size} ({type(family).__name__.lower()})' for family in families))
        self.families = tuple(families)
        self.size = families[0].size
        self._weights = torch.tensor([float(family.prob) for family in families], dtype=torch.float64)

    @classmethod
    def from_options(cls, options: Sequence[Mapping[str, Any]], where: str = 'kernels') -> Mixture:
        """The mixture described by a list in an option file.

        Raises:
            ValueError: an invalid entry; the message names the entry and the key.
        """
        if not isinstance(options, Sequence) or isinstance(options, str):
            raise ValueError(f'{where!r} must be a list of families, such as [{{type: isotropic, size: 21}}], '
                             f'got {options!r}')
        return cls([_family(entry, f'{where}.{index}') for index, entry in enumerate(options)])

    def draw(self, generator: torch.Generator) -> Tensor:
        """A kernel (K, K), float32 on the CPU, that sums to 1."""
        return self.families[int(torch.multinomial(self._weights, 1, generator=generator))].draw(generator)


def _uniform(range_: Range, generator: torch.Generator) -> float:
    low, high = range_
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def _family(entry: Any, where: str) -> Family:
    if not isinstance(entry, Mapping) or entry.get('type') not in FAMILIES:
        kind = entry.get('type') if isinstance(entry, Mapping) else entry
        raise ValueError(f'unknown family {kind!r} in {where!r}{nearest(str(kind), FAMILIES)}')
    return from_section(FAMILIES[entry['type']], {key: value for key, value in entry.items() if key != 'type'}, where)


def _kernel_paths(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise ValueError(f'{place}: no such folder or file of kernels')
    files = sorted(path for path in place.iterdir() if path.is_file() and not path.name.startswith('.'))
    for endings in (ARRAYS, PICTURES):
        found = [path for path in files if path.suffix.lower() in endings]
        if found:
            return found
    raise ValueError(f'{place}: this folder has no kernels ({", ".join(ARRAYS)} or pictures)')
