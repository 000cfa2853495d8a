"""Our data sets under BasicSR's names, for ``datasets`` of an option file."""

from . import random_blur_dataset, tolerant_dataset
from .random_blur_dataset import RandomBlurDataset
from .tolerant_dataset import TolerantPairedDataset


def register() -> None:
    """Enter our data sets into the registry; a second call changes nothing."""
    random_blur_dataset.register()
    tolerant_dataset.register()


register()

__all__ = ['RandomBlurDataset', 'TolerantPairedDataset', 'register']
