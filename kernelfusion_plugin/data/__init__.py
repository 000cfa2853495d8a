"""Our data sets under BasicSR's names, for ``datasets`` of an option file."""

from basicsr.utils.registry import DATASET_REGISTRY

from ..compat import enter
from .random_blur_dataset import RandomBlurDataset
from .tolerant_dataset import TolerantPairedDataset

DATASETS = (RandomBlurDataset, TolerantPairedDataset)


def register() -> None:
    """Enter :data:`DATASETS` into the registry; a second call, or a name that is taken already, changes nothing."""
    enter(DATASET_REGISTRY, DATASETS)


register()

__all__ = ['DATASETS', 'RandomBlurDataset', 'TolerantPairedDataset', 'register']
