"""Our models in BasicSR's MODEL_REGISTRY; importing this also registers our archs, data sets and metrics."""

from .. import archs, data, metrics
from . import blind_sr_model, kernelfusion_model
from .blind_sr_model import BlindSRModel
from .kernelfusion_model import KernelFusionModel


def register() -> None:
    """Enter our models into the registry; a second call, or a name that is taken already, changes nothing."""
    blind_sr_model.register()
    kernelfusion_model.register()


register()

__all__ = ['BlindSRModel', 'KernelFusionModel', 'archs', 'data', 'metrics', 'register']
