"""Our metrics under BasicSR's names, for ``val.metrics`` of an option file."""

from .border import METRICS, calculate_psnr_border, calculate_ssim_border, register

register()

__all__ = ['METRICS', 'calculate_psnr_border', 'calculate_ssim_border', 'register']
