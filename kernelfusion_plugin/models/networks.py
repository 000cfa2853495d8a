"""Builds ``network_g`` of a trained baseline, loads its weights, and applies it to pictures of any size."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from ..core.memory import is_out_of_memory
from ..core.sections import nearest, section_of
from ..core.tiles import tiled
from .adapters import Estimate
from .build import check_network
from .priors import load_weights
from .published import missing_weights

LEAST = 8  # pixels: smaller inputs are padded to this side
WHOLE = 1_000_000  # LR pixels up to which a picture is processed in one piece
TILE = 512  # side of the tiles of larger pictures
SMALLEST_TILE = 64  # if memory is short


def network_options(opt: Mapping[str, Any]) -> dict[str, Any]:
    """``network_g`` with type and arguments checked, and the run's scale filled in if it takes one.

    Raises:
        ValueError: the network is missing or unknown, an argument is unknown, or its scale is not the run's.
    """
    options = dict(section_of(opt, 'network_g'))
    kind = options.get('type')
    check_network('network_g', kind)
    known = _arguments(ARCH_REGISTRY.get(kind))
    for name in options:
        if name not in known | {'type'}:
            raise ValueError(f"unknown option 'network_g.{name}' of {kind}{nearest(name, known)}")
    for name in {'upscale', 'scale'} & known:
        if options.setdefault(name, opt['scale']) != opt['scale']:
            raise ValueError(f"'network_g.{name}' is {options[name]}, but 'scale' is {opt['scale']}: remove it")
    return options


def check_weights(path: str | Path | None) -> None:
    """Check that a file of weights exists.

    Raises:
        ValueError: it does not; the message says where to get it.
    """
    if path and not Path(path).expanduser().is_file():
        raise ValueError(missing_weights(path))


def load_strictly(net: nn.Module, path: str | Path, keys: tuple[str, ...]) -> None:
    """Load weights into a network strictly; code in the file is never run.

    Args:
        path: a file with a state dict, bare or under one of ``keys``, with or without the prefix ``module.``.
        keys: tried in this order.

    Raises:
        ValueError: the file is missing (with where to get it), is not a weights file, or does not fit; one line.
    """
    check_weights(path)
    state, _ = load_weights(path, keys)
    own = net.state_dict()
    faults = [f'{len(names)} {what} ({", ".join(sorted(names)[:2])}{", …" if len(names) > 2 else ""})'
              for what, names in (('missing', own.keys() - state.keys()), ('unexpected', state.keys() - own.keys()))
              if names]
    faults += [f'{name} is {_size(state[name])}, not {_size(own[name])}' for name in own.keys() & state.keys()
               if state[name].numel() != own[name].numel()][:2]
    if faults:
        raise ValueError(f'{path} does not fit network_g ({type(net).__name__}): {"; ".join(faults)}')
    net.load_state_dict(state, strict=True)


def size_multiple(options: Mapping[str, Any]) -> int:
    """Divisor of the input's sides that the network requires: SwinIR's window, RRDBNet's unshuffling below x4."""
    if options['type'] == 'RRDBNet':
        return max(1, 4 // options['scale'])
    return int(options.get('window_size') or 1)


@dataclass(frozen=True)
class Sizes:
    """How pictures of any size are fed to a network.

    Attributes:
        scale: s.
        multiple: the sides of the network's input must be multiples of this.
        tile: side of the tiles in LR pixels; 0: no tiles; 'auto': tiles only above :data:`WHOLE` pixels.
        overlap: LR pixels of context around a tile, on each side.
    """

    scale: int
    multiple: int = 1
    tile: int | str = 'auto'
    overlap: int = 32


def enlarge(estimate: Callable[[Tensor], Estimate], y: Tensor, sizes: Sizes) -> tuple[Estimate, int]:
    """``estimate(y)`` for y (B, C, h, w) of any size, in tiles if necessary; their kernels are averaged by area.

    If memory runs short, smaller tiles are tried.

    Returns:
        The estimate, and the side of the tiles used (0: no tiles).
    """
    side = (0 if y.shape[-2] * y.shape[-1] <= WHOLE else TILE) if sizes.tile == 'auto' else int(sizes.tile)
    while True:
        try:
            return _in_tiles(estimate, y, side, sizes), side
        except (RuntimeError, MemoryError) as error:
            side = min(side or 2 * TILE, max(y.shape[-2:])) // 2
            if side < SMALLEST_TILE or not is_out_of_memory(error):
                raise
        torch.cuda.empty_cache()  # after the handler: the error's traceback holds tensors


def _in_tiles(estimate: Callable[[Tensor], Estimate], y: Tensor, side: int, sizes: Sizes) -> Estimate:
    found: list[tuple[int, Estimate]] = []

    def run(piece: Tensor) -> Tensor:
        wide = _continued(piece, sizes.multiple)
        one = estimate(wide)
        if one.sr.shape[-2:] != (sizes.scale * wide.shape[-2], sizes.scale * wide.shape[-1]):
            raise ValueError(f'scale is {sizes.scale}, but the network made {one.sr.shape[-1]} x {one.sr.shape[-2]} of '
                             f'{wide.shape[-1]} x {wide.shape[-2]} pixels (width x height)')
        found.append((piece.shape[-2] * piece.shape[-1], one))
        return one.sr[..., :sizes.scale * piece.shape[-2], :sizes.scale * piece.shape[-1]]

    sr = tiled(run, y, side or max(y.shape[-2:]), sizes.overlap, sizes.multiple, sizes.scale)
    last = found[-1][1]
    if last.kernel is None:
        return Estimate(sr)
    area = sum(pixels for pixels, _ in found)
    return Estimate(sr, sum(pixels / area * one.kernel for pixels, one in found), last.kernel_space)


def _continued(y: Tensor, multiple: int) -> Tensor:
    """y padded at the right and bottom to multiples of ``multiple``, of at least :data:`LEAST`."""
    least = -(-LEAST // multiple) * multiple
    bottom, right = (max(least, -(-n // multiple) * multiple) - n for n in y.shape[-2:])
    mirror = bottom < y.shape[-2] and right < y.shape[-1]
    return F.pad(y, (0, right, 0, bottom), mode='reflect' if mirror else 'replicate') if bottom or right else y


def _arguments(kind: type[nn.Module]) -> set[str]:
    """Names of a network's constructor arguments, including those passed on to its base class."""
    names: set[str] = set()
    for base in kind.__mro__:
        if '__init__' in vars(base) and base is not nn.Module:
            parameters = inspect.signature(base.__init__).parameters.values()
            names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    return names - {'self', 'pca'}


def _size(value: Tensor) -> str:
    return ' x '.join(map(str, value.shape)) or 'a number'
