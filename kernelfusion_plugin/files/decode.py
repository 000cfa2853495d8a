"""Reads pictures in PNG, JPEG, TIFF, WebP and more, with 16 bits, alpha, EXIF and colour profile.

Files are read by PIL, except 16-bit colour, which PIL would reduce to 8 bits, and TIFFs that it does not support: those
are read by OpenCV and tifffile. Pictures are rotated according to their EXIF orientation, and written upright. Values
are used as they are, except where alpha hides them, see :mod:`.hidden`. Colour profile and EXIF are kept. Any fault in
a file is a :class:`BadPicture` with a one-line message.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..core.degradation import downscale_bicubic
from ..core.faults import first_line
from .channels import WHITE_IS_ZERO, channels, from_floats, negative, split, tiff_values
from .exif import read_exif
from .faults import BadPicture, UnknownFormat, of_file
from .hidden import fill_hidden

MAX_PIXELS = 100_000_000  # files that claim more are not decoded
TIFF = re.compile(rb'II[*+]\0|MM\0[*+]')
GREY_OR_RGB = (WHITE_IS_ZERO, 1, 2)  # TIFF's PhotometricInterpretation
CAMERA_RAW = (32803, 34892)  # likewise: colour filter array, linear raw
SAVE_AS = 'save it as PNG, JPEG or TIFF, with 8 or 16 bits'
UNREAD = (  # formats that PIL, or some versions of it, cannot read: start of the file, and name
    (re.compile(rb'.{4}ftyp(hei|hev|mif1|msf1)', re.DOTALL), 'HEIC (HEIF)'),
    (re.compile(rb'.{4}ftypavi', re.DOTALL), 'AVIF'),
    (re.compile(rb'.{4}ftypcrx |FUJIFILMCCD-RAW|II(RO|RS|U\0)|MMOR|FOVb|\0MRM|.{6}HEAPCCDR', re.DOTALL), 'camera raw'),
    (re.compile(rb'\xff\x0a|\0\0\0\x0cJXL '), 'JPEG XL'),
    (re.compile(rb'II\xbc\x01'), 'JPEG XR'),
    (re.compile(rb'\x76\x2f\x31\x01'), 'OpenEXR'),
    (re.compile(rb'#\?(RADIANCE|RGBE)'), 'Radiance HDR'),
    (re.compile(rb'%PDF'), 'PDF'),
    (TIFF, 'this kind of TIFF, or a damaged TIFF,'))


@dataclass(frozen=True)
class Picture:
    """A picture, and what is needed to write another one like it.

    Attributes:
        y: (1, 3, h, w) float32 RGB in [-1, 1], upright.
        grey: the file had one channel; the three of ``y`` are equal.
        bits: 8 or 16 per channel.
        alpha: (1, 1, h, w) in [0, 1]; None: opaque.
        profile: ICC colour profile; None: none.
        format: PIL's name of the file format.
        exif: EXIF tags that also apply to a restored picture, with sub-tables as dicts. Empty: none.
        pages: number of pictures in the file, of which this is the first.
    """

    y: Tensor
    grey: bool
    bits: int
    alpha: Tensor | None
    profile: bytes | None
    format: str
    exif: Mapping[int, Any] = field(default_factory=dict)
    pages: int = 1

    def smaller(self, factor: int) -> Picture:
        """Reduced bicubically by a whole factor; the remainder at the right and bottom is cropped.

        Raises:
            BadPicture: nothing would be left.
        """
        if factor == 1:
            return self
        height, width = (n // factor * factor for n in self.y.shape[-2:])
        if not height or not width:
            raise BadPicture(f'{self.y.shape[-1]} x {self.y.shape[-2]} pixels cannot be reduced by {factor}')

        def reduced(x: Tensor, low: float) -> Tensor:
            return downscale_bicubic(x[..., :height, :width], factor).clamp(low, 1)

        return replace(self, y=reduced(self.y, -1), alpha=None if self.alpha is None else reduced(self.alpha, 0))


class _Content(NamedTuple):
    """Content of a file: values and alpha as in :func:`~.channels.channels`, the rest as in :class:`Picture`."""

    values: np.ndarray
    alpha: np.ndarray | None
    profile: bytes | None
    format: str
    exif: Mapping[int, Any]


def read_picture(path: Path) -> Picture:
    """Read the picture in a file; the first if there are several.

    Raises:
        BadPicture: it is not a file or not an image, is damaged, too large, or has values of unknown range.
    """
    if not path.is_file():  # a device or a pipe might never end
        raise BadPicture(f'{path}: {"no such file" if not path.exists() else "not a file"}')
    with of_file(path):
        return decode(path.read_bytes())


def decode(raw: bytes) -> Picture:
    """As :func:`read_picture`, from a file's content."""
    image = opened(raw)
    values, alpha, profile, kind, exif = content(raw, image)
    grey, bits = values.ndim == 2, 16 if values.dtype != np.uint8 else 8
    top = np.iinfo(values.dtype).max if values.dtype.kind == 'u' else 1.0
    if alpha is not None:
        values = fill_hidden(values, alpha > 0)
        alpha = torch.from_numpy(alpha.astype(np.float64) / np.iinfo(alpha.dtype).max).float()[None, None]
    y = torch.from_numpy(np.ascontiguousarray(values.astype(np.float64) / top * 2 - 1)).float()
    y = y.expand(3, -1, -1) if grey else y.permute(2, 0, 1)
    return Picture(y[None].contiguous(), grey, bits, alpha, profile, kind, exif, _pages(raw, kind))


def opened(raw: bytes) -> Image.Image | None:
    """The image as decoded by PIL; None for a TIFF that PIL does not support."""
    try:
        return load(raw)
    except UnknownFormat:
        if not TIFF.match(raw):
            raise
        return None


def content(raw: bytes, image: Image.Image | None) -> _Content:
    """The full-depth content of an image opened by :func:`opened`."""
    try:
        with _silence():
            return _by_tifffile(raw) if image is None else _by_pil(raw, image)
    except BadPicture:
        raise
    except Exception as error:  # noqa: BLE001  (decoders raise anything on broken files)
        raise BadPicture(f'the image is damaged: {first_line(error)}') from error


def load(raw: bytes) -> Image.Image:
    """Open and decode an image file.

    Raises:
        UnknownFormat, BadPicture: without the file's name, which is not known here.
    """
    if not raw:
        raise BadPicture('the file is empty')
    if TIFF.match(raw) and _is_camera_raw(raw):
        raise BadPicture(f'camera raw is not supported: {SAVE_AS}')
    try:
        with _silence():
            image = Image.open(io.BytesIO(raw))
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f'{image.width} x {image.height} pixels')
            image.load()
    except UnidentifiedImageError as error:
        name = next((name for beginning, name in UNREAD if beginning.match(raw)), None)
        raise UnknownFormat(f'{name} is not supported: {SAVE_AS}' if name else 'not an image') from error
    except Image.DecompressionBombError as error:
        raise BadPicture(f'the image is too large to decode: {first_line(error)}') from error
    except Exception as error:  # noqa: BLE001  (as in content)
        raise BadPicture(f'the image is damaged: {first_line(error)}') from error
    return image


def _is_camera_raw(raw: bytes) -> bool:
    """Whether a TIFF is a DNG, NEF, ARW or CR2, of which PIL would read the preview, which comes first."""
    with contextlib.suppress(Exception), _silence(), tifffile.TiffFile(io.BytesIO(raw)) as file:
        page = file.pages[0]
        preview = bool(page.is_reduced) and 330 in page.tags  # SubIFDs, which hold the picture
        return raw[8:12] == b'CR\2\0' or page.photometric in CAMERA_RAW or preview
    return False


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Suppress warnings and log messages of PIL and tifffile about odd files."""
    loggers = {name: logging.getLogger(name) for name in ('PIL', 'tifffile')}
    levels = {name: logger.level for name, logger in loggers.items()}
    for logger in loggers.values():
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        for name, logger in loggers.items():
            logger.setLevel(levels[name])


def _by_pil(raw: bytes, image: Image.Image) -> _Content:
    """The content of a file that PIL has opened."""
    values, alpha = channels(raw, image)
    profile = image.info.get('icc_profile')
    if image.mode in ('CMYK', 'LAB'):
        profile = None  # was the profile of the inks, see channels._plain
    return _Content(values, alpha, profile or None, image.format or '', read_exif(raw, image))


def _by_tifffile(raw: bytes) -> _Content:
    """The content of a TIFF that PIL does not support: float or 32-bit colour, half floats, 16-bit grey with alpha,
    grey in several planes.

    Raises:
        UnknownFormat, BadPicture: tifffile does not support it either; without the file's name, as in load.
    """
    try:
        with tifffile.TiffFile(io.BytesIO(raw)) as file:
            page = file.pages[0]
            if page.size > 8 * MAX_PIXELS or page.imagewidth * page.imagelength > MAX_PIXELS:
                raise BadPicture(f'the image is too large to decode: {page.shape}')
            scheme = page.tags.valueof(262)  # without the tag, page.photometric is WHITE_IS_ZERO
            if scheme not in GREY_OR_RGB:
                raise ValueError(f'photometric interpretation {getattr(scheme, "name", scheme)}')
            profile = page.tags.get(34675)
        values = tiff_values(raw)
    except BadPicture:
        raise
    except Exception as error:
        raise UnknownFormat(f'{UNREAD[-1][1]} is not supported ({first_line(error)}): {SAVE_AS}') from error
    colour, alpha = split(values if values.dtype == np.uint8 else from_floats(values))
    colour = negative(colour) if scheme == WHITE_IS_ZERO else colour
    found = getattr(profile, 'value', None)
    return _Content(colour, alpha, found if isinstance(found, bytes) else None, 'TIFF', {})


def _pages(raw: bytes, kind: str) -> int:
    """Number of pictures in a file, as pages or frames; 1 if unknown."""
    with contextlib.suppress(Exception), _silence():  # a damaged second page does not affect the first
        if kind == 'TIFF':
            with tifffile.TiffFile(io.BytesIO(raw)) as file:
                return max(1, sum(not page.subfiletype & 5 for page in file.pages))  # 1: reduced copy, 4: mask
        if kind in ('GIF', 'PNG', 'WEBP', 'AVIF'):  # elsewhere frames are something else, e.g. previews in JPEG
            with Image.open(io.BytesIO(raw)) as image:
                return image.n_frames
    return 1
