"""Our networks under BasicSR's names, so that ``basicsr.archs.build_network`` makes them from an option file."""

from .kernelfusion_arch import ARCHS, register

register()

__all__ = ['ARCHS', 'register']
