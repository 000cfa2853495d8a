"""Registers our metrics in BasicSR, for ``val.metrics`` of an option file."""

from basicsr.utils.registry import METRIC_REGISTRY

from ..compat import enter
from .border import calculate_psnr_border, calculate_ssim_border
from .perceptual import calculate_lpips

enter(METRIC_REGISTRY, (calculate_psnr_border, calculate_ssim_border, calculate_lpips))

__all__ = ['calculate_lpips', 'calculate_psnr_border', 'calculate_ssim_border']
