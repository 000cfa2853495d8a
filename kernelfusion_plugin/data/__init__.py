"""Registers our data sets in BasicSR, for ``datasets`` of an option file."""

from basicsr.utils.registry import DATASET_REGISTRY

from ..compat import enter
from .random_blur_dataset import RandomBlurDataset
from .tolerant_dataset import TolerantPairedDataset

enter(DATASET_REGISTRY, (RandomBlurDataset, TolerantPairedDataset))

__all__ = ['RandomBlurDataset', 'TolerantPairedDataset']
