"""Our models in BasicSR's MODEL_REGISTRY; importing this also registers our archs, data sets and metrics."""

from .. import archs, data, metrics
from . import blinddiff_model, kernelfusion_model
from .blinddiff_model import BlindDiffModel
from .kernelfusion_model import KernelFusionModel


def register() -> None:
    """Enter our models into the registry; a second call changes nothing."""
    blinddiff_model.register()
    kernelfusion_model.register()


register()

__all__ = ['BlindDiffModel', 'KernelFusionModel', 'archs', 'data', 'metrics', 'register']
