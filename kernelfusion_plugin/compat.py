"""Makes BasicSR importable with current torchvision, and registers our classes in it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from basicsr.utils.registry import Registry

_MISSING = 'torchvision.transforms.functional_tensor'


class _FunctionalTensorFinder:
    """Provides ``torchvision.transforms.functional_tensor``, which torchvision 0.17 removed.

    BasicSR 1.4.2 imports ``rgb_to_grayscale`` from it. The finder is last in ``sys.meta_path``, so an existing module
    of that name, torchvision's or another's, is found first. torchvision is imported only when the module is.
    """

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> Any:
        return ModuleSpec(name, self, origin=__name__) if name == _MISSING else None

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        from torchvision.transforms.functional import rgb_to_grayscale
        module.rgb_to_grayscale = rgb_to_grayscale


def apply() -> None:
    """Make ``import basicsr`` work with current torchvision; repeated calls have no effect."""
    if not any(type(finder).__name__ == '_FunctionalTensorFinder' for finder in sys.meta_path):
        sys.meta_path.append(_FunctionalTensorFinder())


def register() -> None:
    """Register our archs, models and metrics in BasicSR by importing them.

    Raises:
        ImportError: basicsr, or another requirement of our modules, is not installed.
    """
    for part in ('archs', 'models', 'metrics'):
        importlib.import_module(f'kernelfusion_plugin.{part}')


def enter(registry: Registry, entries: Iterable[Any]) -> None:
    """Register classes or functions in a BasicSR registry under their names; names already taken are skipped."""
    for entry in entries:
        if entry.__name__ not in registry:
            registry.register(entry)
