"""Reads the channel values of a picture file, upright, and its alpha."""

from __future__ import annotations

import io
import re

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageCms

from .exif import ORIENTATION, orientation
from .faults import BadPicture

WHITE_IS_ZERO = 0  # of TIFF's PhotometricInterpretation


def channels(raw: bytes, image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """Values (h, w) or (h, w, 3) as uint8, uint16 or floats in [0, 1], upright, and alpha (h, w) or None."""
    values = _deep_colour(raw, image) if _has_deep_colour(raw, image) else _plain(image)
    if image.format == 'TIFF' and image.mode == 'I;16':
        values = _over_16_bits(values, 2 ** image.tag_v2.get(258, (16,))[0] - 1)  # scanners write 12: BitsPerSample
    if values.dtype not in (np.uint8, np.uint16):
        values = from_floats(values)
    if _is_negative(image):
        values = negative(values)
    return split(_upright(values, orientation(image)))


def split(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Split (h, w) or (h, w, 1 to 4) into colour or greyscale, and alpha or None."""
    if values.ndim == 2:
        return values, None
    colour = values[..., 0] if values.shape[2] < 3 else values[..., :3]
    return colour, values[..., -1] if values.shape[2] in (2, 4) else None


def negative(values: np.ndarray) -> np.ndarray:
    """Unsigned integers with black and white exchanged."""
    return np.iinfo(values.dtype).max - values


def _plain(image: Image.Image) -> np.ndarray:
    """Values of an image that PIL reads losslessly: L, LA, RGB, RGBA, 16-bit grey, floats; others are converted."""
    if image.mode in ('I', 'F') or image.mode.startswith('I;16'):
        return np.asarray(image)
    if image.mode in ('CMYK', 'LAB') and image.info.get('icc_profile'):
        inks = ImageCms.ImageCmsProfile(io.BytesIO(image.info['icc_profile']))
        return np.asarray(ImageCms.profileToProfile(image, inks, ImageCms.createProfile('sRGB'), outputMode='RGB'))
    alpha = image.mode != 'LAB' and not {'A', 'a'}.isdisjoint(image.getbands())  # LAB's A is the green-red axis
    see_through = alpha or 'transparency' in image.info
    grey = image.mode in ('1', 'L', 'LA', 'La')
    return np.asarray(image.convert(('LA' if see_through else 'L') if grey else 'RGBA' if see_through else 'RGB'))


def _is_negative(image: Image.Image) -> bool:
    """Whether 0 is white in a TIFF and PIL has not inverted it, which it does for 8 bits only."""
    return image.format == 'TIFF' and image.tag_v2.get(262) == WHITE_IS_ZERO and (  # PhotometricInterpretation
        image.mode == 'F' or image.mode.startswith('I;16'))


def _has_deep_colour(raw: bytes, image: Image.Image) -> bool:
    """Whether there are several 16-bit channels, which PIL would reduce to 8 bits."""
    if image.format == 'PNG':
        return raw[24] == 16 and raw[25] != 0  # IHDR: bit depth, and colour type (0: grey only)
    if image.format == 'PPM':
        return image.mode == 'RGB' and _ppm_top(raw) > 255
    if image.format == 'TIFF':
        bits = image.tag_v2.get(258, (1,))  # BitsPerSample
        return image.mode in ('LA', 'RGB', 'RGBA', 'RGBX') and max(bits) > 8
    return False


def _deep_colour(raw: bytes, image: Image.Image) -> np.ndarray:
    """Values of several 16-bit channels, RGB."""
    if image.format == 'TIFF':
        return tiff_values(raw)
    values = _by_opencv(raw)
    if image.format == 'PPM':
        return _over_16_bits(values, _ppm_top(raw))
    return values[..., [0, -1]] if raw[25] == 4 else values  # grey and alpha, which OpenCV expands to four channels


def _over_16_bits(values: np.ndarray, top: int) -> np.ndarray:
    """Integers whose white is ``top``, stretched to the full range of 16 bits."""
    return values if top == 65535 else np.round(values * (65535 / top)).astype(np.uint16)


def _ppm_top(raw: bytes) -> int:
    """The value of white in a colour PPM, given after width and height."""
    return int(re.match(rb'P[36]' + 3 * rb'(?:\s|#[^\r\n]*[\r\n])+(\d+)', raw)[3])


def tiff_values(raw: bytes) -> np.ndarray:
    """Values of a TIFF's first page, (h, w) or (h, w, channels), upright: grey or RGB, and alpha if declared."""
    with tifffile.TiffFile(io.BytesIO(raw)) as file:
        page = file.pages[0]
        turn = page.tags.get(ORIENTATION)
        see_through = page.extrasamples[:1] in ((1,), (2,))  # other extra channels may be anything, e.g. a selection
        known = (1 if page.photometric in (0, 1) else 3) + see_through
        try:
            values = page.asarray()
            values = np.moveaxis(values, 0, -1) if page.axes == 'SYX' else values  # planar layout
        except ValueError as error:
            if 'imagecodecs' not in str(error):  # without it, tifffile knows few compressions, not LZW
                raise
            values = _by_opencv(raw)
    values = values if values.ndim == 2 else values[..., :known]
    values = _unmultiplied(values) if page.extrasamples[:1] == (1,) else values
    return _upright(values, turn.value if turn else 1)


def _unmultiplied(values: np.ndarray) -> np.ndarray:
    """Undo premultiplied alpha (the last channel) in (h, w, channels); PIL does so for 8 bits."""
    top = np.iinfo(values.dtype).max if values.dtype.kind == 'u' else 1
    alpha = values[..., -1:].astype(np.float64)
    colour = np.minimum(values[..., :-1] * (top / np.where(alpha > 0, alpha, top)), top)
    colour = np.round(colour) if values.dtype.kind == 'u' else colour
    return np.concatenate([colour.astype(values.dtype), values[..., -1:]], axis=-1)


def _by_opencv(raw: bytes) -> np.ndarray:
    values = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise BadPicture('the image is damaged: its values cannot be read')
    if values.ndim == 2:
        return values
    return cv2.cvtColor(values, cv2.COLOR_BGRA2RGBA if values.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def from_floats(values: np.ndarray) -> np.ndarray:
    """Convert 32-bit integers and floats to uint16, if their values show the intended range."""
    if values.dtype.kind in 'iu' and values.size and 0 <= values.min() and values.max() <= 65535:
        return values.astype(np.uint16)
    if values.dtype.kind == 'f' and values.size and 0 <= values.min() <= values.max() <= 1:  # false for NaN
        return np.round(values.astype(np.promote_types(values.dtype, np.float32)) * 65535.0).astype(np.uint16)
    raise BadPicture(f'its values ({values.dtype}) are in an unknown range: save it with 8 or 16 bits')


def _upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """Rotate and mirror (h, w, …) according to the EXIF orientation 1 … 8."""
    if orientation in (5, 6, 7, 8):
        values = np.swapaxes(values, 0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values[:, ::-1] if orientation in (2, 3, 6, 7) else values
