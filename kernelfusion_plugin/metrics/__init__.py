"""Our metrics under BasicSR's names, for ``val.metrics`` of an option file."""

from basicsr.utils.registry import METRIC_REGISTRY

from ..compat import enter
from .border import calculate_psnr_border, calculate_ssim_border
from .perceptual import calculate_lpips

METRICS = (calculate_psnr_border, calculate_ssim_border, calculate_lpips)


def register() -> None:
    """Enter :data:`METRICS` into the registry; a second call, or a name that is taken already, changes nothing."""
    enter(METRIC_REGISTRY, METRICS)


register()

__all__ = ['METRICS', 'calculate_lpips', 'calculate_psnr_border', 'calculate_ssim_border', 'register']
