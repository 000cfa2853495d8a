"""Registers our models in BasicSR's MODEL_REGISTRY and, by importing them, our archs, data sets and metrics."""

from basicsr.utils.registry import MODEL_REGISTRY

from .. import archs, data, metrics
from ..compat import enter
from .baselines import BackProjectionModel, BicubicModel
from .blind_sr_model import BlindSRModel
from .blinddiff_model import BlindDiffModel
from .kernelfusion_model import KernelFusionModel

enter(MODEL_REGISTRY, (KernelFusionModel, BicubicModel, BackProjectionModel, BlindSRModel, BlindDiffModel))

__all__ = ['BackProjectionModel', 'BicubicModel', 'BlindDiffModel', 'BlindSRModel', 'KernelFusionModel',
           'archs', 'data', 'metrics']
