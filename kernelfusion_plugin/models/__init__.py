"""Our models in BasicSR's MODEL_REGISTRY; importing this also registers our archs, data sets and metrics."""

from basicsr.utils.registry import MODEL_REGISTRY

from .. import archs, data, metrics
from .baselines import BackProjectionModel, BicubicModel
from .blind_sr_model import BlindSRModel
from .blinddiff_model import BlindDiffModel
from .kernelfusion_model import KernelFusionModel

MODELS = (KernelFusionModel, BicubicModel, BackProjectionModel, BlindSRModel, BlindDiffModel)


def register() -> None:
    """Enter :data:`MODELS` into the registry; a second call, or a name that is taken already, changes nothing."""
    for model in MODELS:
        if model.__name__ not in MODEL_REGISTRY:
            MODEL_REGISTRY.register(model)


register()

__all__ = ['MODELS', 'BackProjectionModel', 'BicubicModel', 'BlindDiffModel', 'BlindSRModel', 'KernelFusionModel',
           'archs', 'data', 'metrics', 'register']
