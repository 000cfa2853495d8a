"""Registers our data sets in BasicSR, for ``datasets`` of an option file."""

from basicsr.utils.registry import DATASET_REGISTRY

from ..compat import enter
from .random_blur_dataset import RandomBlurDataset
from .tolerant_dataset import TolerantPairedDataset

DATASETS = (RandomBlurDataset, TolerantPairedDataset)


def register() -> None:
    """Register :data:`DATASETS`; entries already registered and names already taken are skipped."""
    enter(DATASET_REGISTRY, DATASETS)


register()

__all__ = ['DATASETS', 'RandomBlurDataset', 'TolerantPairedDataset', 'register']
