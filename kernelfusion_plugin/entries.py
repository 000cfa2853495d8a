"""Reads a BasicSR dataset image by image, so that a bad file costs one image and one clear message."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from torch.utils.data import default_collate

from . import files
from .core.faults import first_line, named
from .listing import drop_others


class BadImage(ValueError):
    """An image that cannot be restored; the message is one line that names the file."""


@dataclass(frozen=True)
class Entry:
    """One image of a dataset, not yet read.

    Attributes:
        dataset: the dataset.
        index: index in the dataset.
        name: file name without folder and extension; they are added (``a_jpg``, ``x_a_png``) where files differ only in
            them.
        path: the LR file, or FOLDER:KEY in an LMDB.
    """

    dataset: Any
    index: int
    name: str
    path: str

    @property
    def kernel_name(self) -> str:
        """Name that identifies the file of its true kernel: ``name``, or the stem of the HR file if the LR name is
        derived from it by ``filename_tmpl: {}x4``, as a number there would not be the image's.
        """
        truth = dict(self._paths()).get('gt')
        return self.name if truth is None or getattr(self.dataset, 'filename_tmpl', '{}') == '{}' else Path(truth).stem

    def read(self, scale: int, crop_gt: bool, section: str = 'kernelfusion') -> dict[str, Any]:
        """The image as from BasicSR's loader: lq (1, C, h, w), gt (1, C, s·h, s·w) if there is one, paths.

        Args:
            section: section that has ``crop_gt``, for the error message.

        Raises:
            BadImage: a file is missing, empty or damaged, or the two sizes do not match.
        """
        paths = getattr(self.dataset, 'paths', None)
        if paths is not None and not isinstance(paths[self.index], str) and paths[self.index].get('fault'):
            raise BadImage(paths[self.index]['fault'])  # TolerantPairedDataset: an unpaired picture
        try:
            item = self.dataset[self.index]
        except Exception as error:  # noqa: BLE001  (BasicSR, OpenCV and LMDB raise anything: TypeError, cv2.error, …)
            reason = first_line(error) if isinstance(error, ValueError) else named(error)
            raise BadImage(self._diagnosis() or f'{self.path}: ' + reason.removeprefix(f'{self.path}: ')) from error
        fault = self._diagnosis()
        if fault:
            raise BadImage(fault)
        if 'gt' in item:
            self._check_sizes(item, scale, crop_gt, section)
        return default_collate([item])

    def pixels(self) -> int:
        """Pixels of the LR file (or the HR file it is made from), from its header only; 0 if it cannot be read."""
        try:
            path, role = next((path, role) for role, path in self._paths())
            client = getattr(self.dataset, 'file_client', None)
            with Image.open(path if client is None else io.BytesIO(client.get(path, role))) as image:
                return image.width * image.height
        except Exception:  # noqa: BLE001  (only for planning; errors are reported when the image is read)
            return 0

    def _diagnosis(self) -> str | None:
        """What is wrong with the files: missing, empty, not an image, truncated; None if nothing."""
        if getattr(self.dataset, 'file_client', None) is None and '.lmdb:' in self.path:
            return None  # the LMDB could not be opened; the error says why
        for role, path in self._paths():
            try:
                raw = self._bytes(path, role)
            except OSError as error:
                return f'{self._shown(path, role)}: cannot be read: {error.strerror or first_line(error)}'
            fault = 'no such key in the LMDB' if raw is None else _fault(raw)
            if fault:
                return f'{self._shown(path, role)}: {fault}'
        return None

    def _check_sizes(self, item: dict[str, Any], scale: int, crop_gt: bool, section: str) -> None:
        height, width = item['lq'].shape[-2:]
        paths = dict(self._paths())
        gt = tuple(item['gt'].shape[-2:])
        if 'gt' in paths and not crop_gt:  # BasicSR has already cropped it, so check the file
            decoded = _decode(self._bytes(paths['gt'], 'gt'))
            gt = gt if decoded is None else decoded.shape[:2]
        if gt != (scale * height, scale * width):
            larger = gt[0] >= scale * height and gt[1] >= scale * width
            hint = f' ({section}: crop_gt: true crops larger ones)' if larger else ''
            raise BadImage(f'{self._shown(paths.get("gt", self.path), "gt")}: the HR image has {gt[1]} x {gt[0]} '
                           f'pixels (width x height), but {scale} times the LR image of {width} x {height} is '
                           f'{scale * width} x {scale * height}{hint}')

    def _paths(self) -> list[tuple[str, str]]:
        paths = self.dataset.paths[self.index] if hasattr(self.dataset, 'paths') else {}
        if isinstance(paths, str):
            return [('lq', paths)]
        return [(role, paths[f'{role}_path']) for role in ('lq', 'gt') if f'{role}_path' in paths]

    def _bytes(self, path: str, role: str) -> bytes | None:
        client = getattr(self.dataset, 'file_client', None)
        if client is not None:
            return client.get(path, role)
        with open(path, 'rb') as file:
            return file.read()

    def _shown(self, path: str, role: str) -> str:
        folder = getattr(self.dataset, f'{role}_folder', None)
        return f'{folder}:{path}' if str(folder).endswith('.lmdb') else path


def entries(dataset: Any) -> list[Entry]:
    """The images of a BasicSR dataset in its order, with unique names, see :func:`.files.distinct_names`.

    First removes files that are not pictures from BasicSR's own data sets, see :func:`.listing.drop_others`.
    """
    drop_others(dataset)
    paths = [_lq_path(dataset, index) for index in range(len(dataset))]
    folder = str(getattr(dataset, 'lq_folder', ''))
    before = f'{folder}:' if folder.endswith('.lmdb') else ''
    return [Entry(dataset, index, name, before + path)
            for index, (path, name) in enumerate(zip(paths, files.distinct_names(map(Path, paths)), strict=True))]


def _lq_path(dataset: Any, index: int) -> str:
    """The LR path from the dataset's list; a numbered name if it has none."""
    paths = getattr(dataset, 'paths', None)
    if paths is None:
        return f'image_{index:04d}'
    return paths[index] if isinstance(paths[index], str) else paths[index]['lq_path']


def _fault(raw: bytes) -> str | None:
    try:
        files.load(raw)  # OpenCV silently fills up truncated files
    except files.UnknownFormat as error:  # perhaps a format that only OpenCV reads
        return None if _decode(raw) is not None else str(error)
    except files.BadPicture as error:
        return str(error)
    return None if _decode(raw) is not None else 'not an image'


def _decode(raw: bytes) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        return None
