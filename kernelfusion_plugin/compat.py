"""What it takes to import and use BasicSR today."""

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
    """Offers ``torchvision.transforms.functional_tensor`` where torchvision (from 0.17 on) has none.

    BasicSR 1.4.2 takes ``rgb_to_grayscale`` from it. The finder is the last of ``sys.meta_path``: a module of that
    name that is there, torchvision's own or somebody else's, is found first. torchvision is not imported before
    somebody asks for the module.
    """

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> Any:
        return ModuleSpec(name, self, origin=__name__) if name == _MISSING else None

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        from torchvision.transforms.functional import rgb_to_grayscale
        module.rgb_to_grayscale = rgb_to_grayscale


def apply() -> None:
    """Make ``import basicsr`` work with today's torchvision; may be called any number of times."""
    if not any(type(finder).__name__ == '_FunctionalTensorFinder' for finder in sys.meta_path):
        sys.meta_path.append(_FunctionalTensorFinder())


def register() -> None:
    """Put our archs, models and metrics into BasicSR's registries (by importing them).

    Raises:
        ImportError: basicsr, or something that our modules need, is not installed.
    """
    for part in ('archs', 'models', 'metrics'):
        importlib.import_module(f'kernelfusion_plugin.{part}')


def enter(registry: Registry, entries: Iterable[Any]) -> None:
    """Put classes or functions into one of BasicSR's registries, under their names; one that is taken stays as it is.
    """
    for entry in entries:
        if entry.__name__ not in registry:
            registry.register(entry)
