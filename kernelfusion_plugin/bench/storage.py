"""Stores the pictures of a data set in PNG folders or LMDBs, as read by BasicSR's PairedImageDataset."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..core.faults import first_line
from ..files import decode_rgb8, read_rgb8
from ..report import save_picture

LARGEST = 2 ** 40  # bytes of an LMDB
COMPRESSION = 1  # PNG compression level in an LMDB, as in BasicSR's own tool


def digest(values: np.ndarray) -> str:
    """sha256 of an array's shape, type and values, independent of the file format."""
    head = f'{values.shape} {values.dtype.str}'
    return hashlib.sha256(head.encode() + np.ascontiguousarray(values).tobytes()).hexdigest()


class Folders:
    """``ROOT/PLACE/NAME.png``; ``place`` is HR, LRx4, or LRx4/k00."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @staticmethod
    def path(place: str) -> str:
        """Path of ``place`` relative to the root."""
        return place

    def put(self, place: str, name: str, picture: np.ndarray) -> None:
        """Write a picture, uint8 RGB (H, W, 3)."""
        save_picture(self.root / place / f'{name}.png', picture)

    def get(self, place: str, name: str) -> np.ndarray:
        """Read a picture.

        Raises:
            ValueError: it is missing or damaged.
        """
        return read_rgb8(self.root / place / f'{name}.png')

    def close(self) -> None:
        """Nothing to do."""


class Lmdbs:
    """``ROOT/PLACE.lmdb`` with keys NAME, written by BasicSR's own LmdbMaker.

    Args:
        root: folder of the data set.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._open: dict[str, Any] = {}

    @staticmethod
    def path(place: str) -> str:
        return f'{place}.lmdb'

    def put(self, place: str, name: str, picture: np.ndarray) -> None:
        if place not in self._open:
            from .. import compat
            compat.apply()
            from basicsr.utils.lmdb_util import LmdbMaker
            folder = self.root / self.path(place)
            folder.parent.mkdir(parents=True, exist_ok=True)
            self._open[place] = LmdbMaker(str(folder), map_size=LARGEST, compress_level=COMPRESSION)
        file = io.BytesIO()
        Image.fromarray(picture).save(file, format='PNG', compress_level=COMPRESSION)
        self._open[place].put(file.getvalue(), name, picture.shape)

    def get(self, place: str, name: str) -> np.ndarray:
        import lmdb
        folder = self.root / self.path(place)
        try:
            if place not in self._open:
                self._open[place] = lmdb.open(str(folder), readonly=True, lock=False, readahead=False)
            with self._open[place].begin() as transaction:
                raw = transaction.get(name.encode())
            if raw is None:
                raise ValueError('no such key')
            return decode_rgb8(raw)
        except (lmdb.Error, OSError, ValueError) as error:
            raise ValueError(f'{folder}:{name}: cannot be read: {first_line(error)}') from error

    def close(self) -> None:
        """Close all LMDBs."""
        for each in self._open.values():
            each.close()
        self._open.clear()
