"""Our networks under BasicSR's names, so that ``basicsr.archs.build_network`` makes them from an option file."""

from . import baseline_arch, kernelfusion_arch

ARCHS = (*kernelfusion_arch.ARCHS, *baseline_arch.ARCHS)


def register() -> None:
    """Enter :data:`ARCHS` into the registry; a second call, or a name that is taken already, changes nothing."""
    kernelfusion_arch.register()
    baseline_arch.register()


register()

__all__ = ['ARCHS', 'register']
