"""``KernelFusionModel`` in BasicSR's MODEL_REGISTRY; importing this also registers our archs and metrics."""

from .. import archs, metrics
from .kernelfusion_model import KernelFusionModel, register

register()

__all__ = ['KernelFusionModel', 'archs', 'metrics', 'register']
