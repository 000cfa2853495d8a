"""How much memory there is, how much networks need, and how to tell running out of it from other errors."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CPU = torch.device('cpu')
CGROUPS = Path('/sys/fs/cgroup')
SHORTAGE = 'out of memory: free some, set memory_limit to the GB that are free, or take a smaller picture or scale'
OUT_OF_MEMORY = ('out of memory', "can't allocate memory", 'ALLOC_FAILED')  # phrases in the text of a RuntimeError
PROBES = (64, 128)  # sides of the trial pictures
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


def capacity(device: torch.device) -> float:
    """Total bytes of a device, whoever holds them now; for the CPU, what this machine or container may use.

    The amount that is free varies from moment to moment, and results must not depend on it. If unknown: inf.
    """
    if device.type == 'cuda':
        return torch.cuda.mem_get_info(device)[1]
    if device.type != 'cpu':
        return float('inf')
    limits = [int(text) for text in map(_read, _cgroup_files()) if text.isdigit()]
    try:
        limits.append(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'))
    except (AttributeError, OSError, ValueError):
        pass  # not a Unix
    return min(limits, default=float('inf'))


def keep_freed_memory(device: torch.device = CPU) -> None:
    """Let this process keep memory that it frees for later allocations (CPU with glibc only).

    glibc returns blocks above 32 MB to the system as soon as they are freed. Each step on a large picture allocates as
    many again, and every page of them is cleared anew (``kernelfusion benchmark memory``). Results are the same.
    Meant for programs, since it affects the whole process. ``MALLOC_…`` variables, where set, take precedence. Where
    the work is done on another ``device``, nothing happens.
    """
    if device.type != 'cpu':
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or not a Unix
        return
    if not any(name.startswith('MALLOC_') for name in os.environ):
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)  # never


def peak_bytes(function: Callable[[], object]) -> int:
    """Peak bytes of live tensors that ``function()`` makes; operators' internal workspace is not counted."""
    with _Tally() as tally:
        kept = function()
    del kept
    return tally.peak


def bytes_per_pixel(function: Callable[[Tensor], object], device: torch.device, pictures: int = 1) -> float:
    """Growth of :func:`peak_bytes` of ``function(x)`` per pixel of x (``pictures``, 3, n, n), measured by trial."""
    small, large = (peak_bytes(partial(function, torch.zeros(pictures, 3, side, side, device=device)))
                    for side in PROBES)
    return (large - small) / (PROBES[1] ** 2 - PROBES[0] ** 2)


class _Tally(TorchDispatchMode):
    """Adds up the storages of all operators' results while they are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        if id(storage) in self._known:
            return
        self._known.add(id(storage))
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, id(storage), storage.nbytes())

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that GPU or CPU memory ran out; PyTorch has no exception class for the latter.

    Nor is there one for shortages that the driver, cuBLAS or cuDNN reports, for example when processes share a GPU.
    """
    return (isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError))
            or (isinstance(error, RuntimeError) and any(sign in str(error) for sign in OUT_OF_MEMORY)))


def _cgroup_files() -> list[Path]:
    """Files with the memory limits of a container or cluster job: those of this process's group and its ancestors."""
    own = next((line[3:] for line in _read(Path('/proc/self/cgroup')).splitlines() if line.startswith('0::')), '/')
    group = CGROUPS / own.lstrip('/')
    return [*(folder / 'memory.max' for folder in (group, *group.parents) if folder.is_relative_to(CGROUPS)),
            CGROUPS / 'memory/memory.limit_in_bytes']  # the last is for cgroup version 1


def _read(path: Path) -> str:
    """A system file's text; empty if it cannot be read."""
    try:
        return path.read_text(encoding='utf-8').strip()
    except OSError:
        return ''
