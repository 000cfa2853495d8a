"""Start-up hook that makes KernelFusion available to any program that imports BasicSR.

``pip install`` adds ``kernelfusion_hook.pth`` to site-packages, which calls :func:`install` whenever Python starts.
That only adds a finder to ``sys.meta_path``, in well under a millisecond, without importing torch or basicsr. (The hook
is a module outside the package so that it does not fix which kernelfusion_plugin is used: a checkout from which the
program runs still takes precedence over the installed package.) The finder acts only when the program imports
``basicsr``:

* before it is executed: :func:`kernelfusion_plugin.compat.apply`, without which 1.4.2 cannot be imported today;
* after ``basicsr.utils.options``: patches the reading of option files and ``--force_yml``, for our runs only;
* after ``basicsr``: registers our archs, models and metrics.

``KERNELFUSION_NO_HOOK=1`` disables the start-up line. Failures in the hook never reach the program; they are logged at
level DEBUG under ``kernelfusion_plugin``. (In our own runs, the option reader raises the reason later.)
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # as typing's, whose import would take 90 % of this module's time
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any


def install() -> None:
    """Add the finder, once. If basicsr is already imported, act on it immediately."""
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
    except Exception:  # noqa: BLE001  (the program is not ours, so we must never end it)
        import logging
        logging.getLogger('kernelfusion_plugin').debug('start-up hook: %s(%s)', action.__name__, argument,
                                                       exc_info=True)


class _BasicSRFinder:
    """Wraps the loader that the other finders return for the two modules of interest; finds nothing itself."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> Any:
        if name != 'basicsr' and name != 'basicsr.utils.options':
            return None
        for finder in sys.meta_path:
            find_spec = getattr(finder, 'find_spec', None)
            spec = find_spec(name, path, target) if find_spec and finder is not self else None
            if spec is not None:
                # A folder without __init__.py is not BasicSR (e.g. our launchers' folder, if basicsr is not installed).
                if spec.origin is not None and hasattr(spec.loader, 'exec_module'):
                    spec.loader = _Loader(spec.loader)
                return spec
        return None


class _Loader:
    """Runs the real loader between :func:`_before` and :func:`_after`, leaving no trace in the module."""

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
