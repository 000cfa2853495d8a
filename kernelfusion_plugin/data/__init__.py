"""Our data set under BasicSR's names, for ``datasets`` of an option file."""

from .tolerant_dataset import TolerantPairedDataset, register

register()

__all__ = ['TolerantPairedDataset', 'register']
