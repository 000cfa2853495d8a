"""Our models in BasicSR's MODEL_REGISTRY; importing this also registers our archs, data sets and metrics."""

from .. import archs, data, metrics
from . import blind_sr_model, blinddiff_model, kernelfusion_model
from .blind_sr_model import BlindSRModel
from .blinddiff_model import BlindDiffModel
from .kernelfusion_model import KernelFusionModel


def register() -> None:
    """Enter our models into the registry; a second call, or a name that is taken already, changes nothing."""
    for module in (blind_sr_model, blinddiff_model, kernelfusion_model):
        module.register()


register()

__all__ = ['BlindDiffModel', 'BlindSRModel', 'KernelFusionModel', 'archs', 'data', 'metrics', 'register']
