"""Our networks under BasicSR's names, so that ``basicsr.archs.build_network`` makes them from an option file."""

from basicsr.utils.registry import ARCH_REGISTRY

from ..compat import enter
from . import baseline_arch, blinddiff_arch, kernelfusion_arch

ARCHS = (*kernelfusion_arch.ARCHS, *baseline_arch.ARCHS, blinddiff_arch.MCFormer)


def register() -> None:
    """Enter :data:`ARCHS` into the registry; a second call, or a name that is taken already, changes nothing."""
    enter(ARCH_REGISTRY, ARCHS)


register()

__all__ = ['ARCHS', 'register']
