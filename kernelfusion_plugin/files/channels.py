"""Values of a file's channels, upright, and its alpha."""

from __future__ import annotations

import io
import re

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageCms

from .exif import ORIENTATION, orientation
from .faults import BadPicture


def channels(raw: bytes, image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """(h, w) or (h, w, 3) of uint8, uint16 or floats in [0, 1], upright, and alpha (h, w) or None."""
    values = _deep_colour(raw, image) if _has_deep_colour(raw, image) else _plain(image)
    if image.format == 'TIFF' and image.mode == 'I;16':
        values = _over_16_bits(values, 2 ** image.tag_v2.get(258, (16,))[0] - 1)  # scanners write 12: BitsPerSample
    if values.dtype not in (np.uint8, np.uint16):
        values = from_floats(values)
    if _is_negative(image):
        values = np.iinfo(values.dtype).max - values
    return split(_upright(values, orientation(image)))


def split(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Colour or grey, and alpha, of (h, w) or (h, w, 1 to 4)."""
    if values.ndim == 2:
        return values, None
    colour = values[..., 0] if values.shape[2] < 3 else values[..., :3]
    return colour, values[..., -1] if values.shape[2] in (2, 4) else None


def _plain(image: Image.Image) -> np.ndarray:
    """Values of an image that PIL reads without loss: L, LA, RGB, RGBA, 16-bit grey, floats; others become these."""
    if image.mode in ('I', 'F') or image.mode.startswith('I;16'):
        return np.asarray(image)
    if image.mode in ('CMYK', 'LAB') and image.info.get('icc_profile'):
        inks = ImageCms.ImageCmsProfile(io.BytesIO(image.info['icc_profile']))
        return np.asarray(ImageCms.profileToProfile(image, inks, ImageCms.createProfile('sRGB'), outputMode='RGB'))
    alpha = image.mode != 'LAB' and not {'A', 'a'}.isdisjoint(image.getbands())  # LAB's A is green to red
    see_through = alpha or 'transparency' in image.info
    grey = image.mode in ('1', 'L', 'LA', 'La')
    return np.asarray(image.convert(('LA' if see_through else 'L') if grey else 'RGBA' if see_through else 'RGB'))


def _is_negative(image: Image.Image) -> bool:
    """Whether 0 is white in a TIFF, and PIL has left it so: it turns what has 8 bits alone."""
    return image.format == 'TIFF' and image.tag_v2.get(262) == 0 and (  # PhotometricInterpretation
        image.mode == 'F' or image.mode.startswith('I;16'))


def _has_deep_colour(raw: bytes, image: Image.Image) -> bool:
    """Whether there are 16 bits in several channels, of which PIL keeps 8."""
    if image.format == 'PNG':
        return raw[24] == 16 and raw[25] != 0  # IHDR: bits, and colour type 0 for grey alone
    if image.format == 'PPM':
        return image.mode == 'RGB' and _ppm_top(raw) > 255
    if image.format == 'TIFF':
        bits = image.tag_v2.get(258, (1,))  # BitsPerSample
        return image.mode in ('LA', 'RGB', 'RGBA', 'RGBX') and max(bits) > 8
    return False


def _deep_colour(raw: bytes, image: Image.Image) -> np.ndarray:
    """16 bits of several channels, RGB."""
    if image.format == 'TIFF':
        return tiff_values(raw)
    values = _by_opencv(raw)
    if image.format == 'PPM':
        return _over_16_bits(values, _ppm_top(raw))
    return values[..., [0, -1]] if raw[25] == 4 else values  # grey and alpha, which OpenCV gives in four channels


def _over_16_bits(values: np.ndarray, top: int) -> np.ndarray:
    """Integers of which ``top`` is white, spread over all of 16 bits."""
    return values if top == 65535 else np.round(values * (65535 / top)).astype(np.uint16)


def _ppm_top(raw: bytes) -> int:
    """The value that is white in a PPM in colour, behind its width and height."""
    return int(re.match(rb'P[36]' + 3 * rb'(?:\s|#[^\r\n]*[\r\n])+(\d+)', raw)[3])


def tiff_values(raw: bytes) -> np.ndarray:
    """Values of a TIFF's first page, (h, w) or (h, w, channels), upright; grey or colours, and alpha if one says so."""
    with tifffile.TiffFile(io.BytesIO(raw)) as file:
        page = file.pages[0]
        turn = page.tags.get(ORIENTATION)
        see_through = page.extrasamples[:1] in ((1,), (2,))  # others may be anything, such as a selection
        known = (1 if page.photometric in (0, 1) else 3) + see_through
        try:
            values = page.asarray()
            values = np.moveaxis(values, 0, -1) if page.axes == 'SYX' else values  # plane by plane
        except ValueError as error:
            if 'imagecodecs' not in str(error):  # without that package tifffile knows few compressions, not LZW
                raise
            values = _by_opencv(raw)
    values = values if values.ndim == 2 else values[..., :known]
    values = _unmultiplied(values) if page.extrasamples[:1] == (1,) else values
    return _upright(values, turn.value if turn else 1)


def _unmultiplied(values: np.ndarray) -> np.ndarray:
    """(h, w, channels) whose colours have been multiplied by the last, alpha, without that; PIL does so for 8 bits."""
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
    """Integers of 32 bits and floats: what range they are meant in must show."""
    if values.dtype.kind in 'iu' and values.size and 0 <= values.min() and values.max() <= 65535:
        return values.astype(np.uint16)
    if values.dtype.kind == 'f' and values.size and 0 <= values.min() <= values.max() <= 1:  # NaN is not
        return np.round(values.astype(np.promote_types(values.dtype, np.float32)) * 65535.0).astype(np.uint16)
    raise BadPicture(f'its values ({values.dtype}) are not in a range that is known: save it with 8 or 16 bits')


def _upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """(h, w, …) turned and mirrored as EXIF's orientation 1 … 8 says."""
    if orientation in (5, 6, 7, 8):
        values = np.swapaxes(values, 0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values[:, ::-1] if orientation in (2, 3, 6, 7) else values
