"""``KernelFusionModel`` in BasicSR's MODEL_REGISTRY; importing this also registers our archs, data sets and metrics."""

from .. import archs, data, metrics
from .kernelfusion_model import KernelFusionModel, register

register()

__all__ = ['KernelFusionModel', 'archs', 'data', 'metrics', 'register']
