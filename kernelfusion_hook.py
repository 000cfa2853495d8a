"""Start-up hook: makes KernelFusion known to any program that imports BasicSR.

``pip install`` puts a line into site-packages (``kernelfusion_hook.pth``) that calls :func:`install` whenever Python
starts. That adds one finder to ``sys.meta_path`` and nothing more: no torch, no basicsr, well under a millisecond.
(It is a module of its own, beside the package, so that Python's start does not decide which kernelfusion_plugin is
used: a checkout in which the program runs still comes before the installed package.) Only when the program imports
``basicsr`` itself does the finder act:

* before basicsr runs: :func:`kernelfusion_plugin.compat.apply`, without which 1.4.2 does not import today;
* after ``basicsr.utils.options``: our reading of option files and ``--force_yml``, for our runs only;
* after ``basicsr``: our archs, models and metrics are registered.

``KERNELFUSION_NO_HOOK=1`` turns the start-up line off. A failure in here never reaches the program: it is logged at
level DEBUG under ``kernelfusion_plugin``. (For a run of ours the reason is raised later, by the option reader.)
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # as in typing, whose import would be nine tenths of this module's cost
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any


def install() -> None:
    """Add the finder, once. Where basicsr was imported before, act on it at once."""
    if any(type(finder).__name__ == '_BasicSRFinder' for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _BasicSRFinder())
    for name in ('basicsr.utils.options', 'basicsr'):
        if name in sys.modules:
            _quietly(_after, sys.modules[name])


def _before(name: str) -> None:
    if name == 'basicsr':
        from kernelfusion_plugin import compat
        compat.apply()


def _after(module: ModuleType) -> None:
    if module.__name__ == 'basicsr.utils.options':
        from kernelfusion_plugin import options
        options.patch(module)
    elif module.__name__ == 'basicsr':
        from kernelfusion_plugin import compat
        compat.register()


def _quietly(action: Callable[[Any], None], argument: Any) -> None:
    try:
        action(argument)
    except Exception:  # noqa: BLE001  (the program is not ours: nothing of ours may end it)
        import logging
        logging.getLogger('kernelfusion_plugin').debug('start-up hook: %s(%s)', action.__name__, argument,
                                                       exc_info=True)


class _BasicSRFinder:
    """Finds nothing itself: wraps the loader that the other finders give for the two modules of interest."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> Any:
        if name != 'basicsr' and name != 'basicsr.utils.options':
            return None
        for finder in sys.meta_path:
            find_spec = getattr(finder, 'find_spec', None)
            spec = find_spec(name, path, target) if find_spec and finder is not self else None
            if spec is not None:
                # A folder without __init__.py (our own launchers' folder, if basicsr is absent) is not BasicSR.
                if spec.origin is not None and hasattr(spec.loader, 'exec_module'):
                    spec.loader = _Loader(spec.loader)
                return spec
        return None


class _Loader:
    """Runs the real loader between :func:`_before` and :func:`_after`, and leaves no trace on the module."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: Any) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = module.__spec__.loader = self._loader
        _quietly(_before, module.__name__)
        self._loader.exec_module(module)
        _quietly(_after, module)
