"""Our networks under BasicSR's names, so that ``basicsr.archs.build_network`` makes them from an option file."""

from . import blinddiff_arch, kernelfusion_arch
from .blinddiff_arch import MCFormer
from .kernelfusion_arch import ARCHS


def register() -> None:
    """Enter our networks into the registry; a second call changes nothing."""
    blinddiff_arch.register()
    kernelfusion_arch.register()


register()

__all__ = ['ARCHS', 'MCFormer', 'register']
