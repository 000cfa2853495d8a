"""Registers our networks in BasicSR, so that ``basicsr.archs.build_network`` can build them."""

from basicsr.utils.registry import ARCH_REGISTRY

from ..compat import enter
from . import baseline_arch, blinddiff_arch, kernelfusion_arch

enter(ARCH_REGISTRY, (*kernelfusion_arch.ARCHS, *baseline_arch.ARCHS, blinddiff_arch.MCFormer))
