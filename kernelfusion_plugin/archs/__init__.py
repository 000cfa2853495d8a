"""Registers our networks in BasicSR, so that ``basicsr.archs.build_network`` can build them."""

from basicsr.utils.registry import ARCH_REGISTRY

from ..compat import enter
from . import baseline_arch, blinddiff_arch, kernelfusion_arch

ARCHS = (*kernelfusion_arch.ARCHS, *baseline_arch.ARCHS, blinddiff_arch.MCFormer)


def register() -> None:
    """Register :data:`ARCHS`; entries already registered and names already taken are skipped."""
    enter(ARCH_REGISTRY, ARCHS)


register()

__all__ = ['ARCHS', 'register']
