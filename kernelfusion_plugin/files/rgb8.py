"""Reads 8-bit pictures for data sets with reproducible checksums: only the values stored in the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ..core.faults import first_line
from .decode import content, opened
from .faults import BadPicture, of_file


def read_rgb8(path: Path) -> np.ndarray:
    """The picture in a file as uint8 RGB (H, W, 3), see :func:`decode_rgb8`.

    Raises:
        BadPicture: it cannot be read, or its values are in an unknown range.
    """
    with of_file(path, 'cannot be read: '):
        return decode_rgb8(path.read_bytes())


def decode_rgb8(raw: bytes) -> np.ndarray:
    """The picture in a file's content as uint8 RGB (H, W, 3); alpha is dropped.

    8-bit pictures are as read by PIL; EXIF orientation is ignored, except for TIFFs. Of 16 bits the upper 8 are kept,
    as in PIL and OpenCV, so both common ways to widen v to 16 bits, 257 v and 256 v, give v again.

    Raises:
        BadPicture: as in :func:`read_rgb8`; without the file's name, which is not known here.
    """
    image = opened(raw)
    if image is None or _is_deep(image):
        values = content(raw, image).values
        values = values >> 8 if values.dtype == np.uint16 else values
        colour = values if values.ndim == 3 else values[..., None].repeat(3, axis=2)
        return np.ascontiguousarray(colour, dtype=np.uint8)
    try:
        return np.array(image.convert('RGB'))
    except ValueError as error:  # no conversion from this mode to RGB, e.g. LAB
        raise BadPicture(first_line(error)) from error


def _is_deep(image: Image.Image) -> bool:
    """Whether ``convert`` would clip values to 255. Wider integers that are at most 255 count as 8 bits."""
    if image.mode == 'I' or image.mode.startswith('I;16'):
        values = np.asarray(image)  # getextrema does not support all 16-bit modes
        return bool(values.min() < 0 or values.max() > 255)
    return image.mode == 'F'
