"""KernelFusion: blind super-resolution with an unrestricted kernel, from the low-resolution image alone.

The names below are loaded at first use, so importing the package imports neither torch nor BasicSR, and the start-up
hook (see ``compat``) costs nothing in programs that use neither.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .core.config import KernelFusionConfig
    from .core.restore import Progress, Result, restore, restore_steps

__version__ = '0.13.0'
__all__ = ['KernelFusionConfig', 'Progress', 'Result', 'restore', 'restore_steps']

_HOMES = {'KernelFusionConfig': '.core.config', 'Progress': '.core.restore', 'Result': '.core.restore',
          'restore': '.core.restore', 'restore_steps': '.core.restore'}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(_HOMES[name], __name__), name)
