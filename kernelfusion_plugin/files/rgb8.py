"""Pictures in 8 bits for data sets, whose sums must come out again: the values that lie in a file, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from .decode import content, opened
from .faults import BadPicture, first_line, of_file


def read_rgb8(path: Path) -> np.ndarray:
    """The picture in a file as uint8 RGB (H, W, 3), as :func:`decode_rgb8` has it.

    Raises:
        BadPicture: it cannot be read, or its values are in no range that is known.
    """
    with of_file(path, 'cannot be read: '):
        return decode_rgb8(path.read_bytes())


def decode_rgb8(raw: bytes) -> np.ndarray:
    """The picture in a file's content as uint8 RGB (H, W, 3); alpha is dropped.

    What PIL opens with 8 bits is as PIL has it; EXIF's orientation, but for a TIFF's, is not followed. Of 16 bits the
    upper 8 remain, as PIL and OpenCV cut colours: the two ways to widen v, 257 v and 256 v, both give v again.

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
    except ValueError as error:  # no way from this mode to RGB, as from LAB
        raise BadPicture(first_line(error)) from error


def _is_deep(image: Image.Image) -> bool:
    """Whether ``convert`` would clip its values to 255. Integers that do not go beyond are 8 bits in a wider file."""
    if image.mode == 'I' or image.mode.startswith('I;16'):
        values = np.asarray(image)  # getextrema does not know all modes of 16 bits
        return bool(values.min() < 0 or values.max() > 255)
    return image.mode == 'F'
