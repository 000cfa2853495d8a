"""Registers our metrics in BasicSR, for ``val.metrics`` of an option file."""

from basicsr.utils.registry import METRIC_REGISTRY

from ..compat import enter
from .border import calculate_psnr_border, calculate_ssim_border
from .perceptual import calculate_lpips

METRICS = (calculate_psnr_border, calculate_ssim_border, calculate_lpips)


def register() -> None:
    """Register :data:`METRICS`; entries already registered and names already taken are skipped."""
    enter(METRIC_REGISTRY, METRICS)


register()

__all__ = ['METRICS', 'calculate_lpips', 'calculate_psnr_border', 'calculate_ssim_border', 'register']
