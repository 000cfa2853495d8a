"""Pictures as people have them: grey, 16 bits, alpha, EXIF orientation, colour profile; PNG, JPEG, TIFF, WebP and more.

PIL reads, but for 16 bits in colour, which it would cut to 8: OpenCV reads those. A picture is turned as its EXIF
orientation says; what is written needs no such tag. Values are taken as they are and the colour profile is handed
on. Whatever is wrong with a file is a :class:`BadPicture`, in one line.
"""

from __future__ import annotations

import contextlib
import glob
import io
import logging
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tifffile
import torch
from PIL import Image, ImageCms, UnidentifiedImageError
from torch import Tensor

from .core.degradation import upscale_bicubic
from .report import write_atomically

ENDINGS = ('.png', '.jpg', '.jpeg', '.tif', '.tiff', '.webp', '.bmp', '.gif', '.ppm', '.pgm', '.pnm', '.jp2', '.avif')
WRITABLE = {'.png': 'PNG', '.tif': 'TIFF', '.tiff': 'TIFF', '.jpg': 'JPEG', '.jpeg': 'JPEG', '.webp': 'WEBP'}
MAX_PIXELS = 100_000_000  # a file that claims more is not unpacked
ORIENTATION = 0x0112  # EXIF's tag


class BadPicture(ValueError):
    """A file that cannot be used; the message is one line."""


class UnknownFormat(BadPicture):
    """PIL does not know what this is."""


@dataclass(frozen=True)
class Picture:
    """A picture and what it takes to write another one like it.

    Attributes:
        y: (1, 3, h, w) float32 RGB in [-1, 1], upright.
        grey: it had one channel; the three of ``y`` are equal.
        bits: 8 or 16 per channel.
        alpha: (1, 1, h, w) in [0, 1], None: opaque.
        profile: ICC colour profile, None: none.
        format: PIL's name of the file's format.
    """

    y: Tensor
    grey: bool
    bits: int
    alpha: Tensor | None
    profile: bytes | None
    format: str


def read_picture(path: Path) -> Picture:
    """The picture in a file; the first, where there are several.

    Raises:
        BadPicture: it is no file, not an image, damaged, too large, or of values whose range is not known.
    """
    if not path.is_file():  # a device or a pipe might never end
        raise BadPicture(f'{path}: {"no such file" if not path.exists() else "not a file"}')
    try:
        return decode(path.read_bytes())
    except OSError as error:
        raise BadPicture(f'{path}: cannot be read: {error.strerror or first_line(error)}') from error
    except BadPicture as error:
        raise BadPicture(f'{path}: {error}') from error


def decode(raw: bytes) -> Picture:
    """:func:`read_picture` of a file's content."""
    image = load(raw)
    try:
        with _silence():
            values, alpha = _channels(raw, image)
        profile = image.info.get('icc_profile')
        if image.mode in ('CMYK', 'LAB'):
            profile = None  # it was that of the inks; see _plain
        bits = 16 if values.dtype != np.uint8 else 8
        top = np.iinfo(values.dtype).max if values.dtype.kind == 'u' else 1.0
    except BadPicture:
        raise
    except Exception as error:  # noqa: BLE001  (decoders of broken files raise whatever they like)
        raise BadPicture(f'the image is damaged: {first_line(error)}') from error
    y = torch.from_numpy(np.ascontiguousarray(values.astype(np.float64) / top * 2 - 1)).float()
    y = y.expand(3, -1, -1) if y.ndim == 2 else y.permute(2, 0, 1)
    if alpha is not None:
        alpha = torch.from_numpy(alpha.astype(np.float64) / np.iinfo(alpha.dtype).max).float()[None, None]
    return Picture(y[None].contiguous(), values.ndim == 2, bits, alpha, profile or None, image.format or '')


def load(raw: bytes) -> Image.Image:
    """Open and unpack an image file.

    Raises:
        UnknownFormat, BadPicture: as it says; without the file's name, which is not known here.
    """
    if not raw:
        raise BadPicture('the file is empty')
    try:
        with _silence():
            image = Image.open(io.BytesIO(raw))
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f'{image.width} x {image.height} pixels')
            image.load()
    except UnidentifiedImageError as error:
        raise UnknownFormat('not an image') from error
    except Image.DecompressionBombError as error:
        raise BadPicture(f'the image is too large to be unpacked: {first_line(error)}') from error
    except Exception as error:  # noqa: BLE001  (as in decode)
        raise BadPicture(f'the image is damaged: {first_line(error)}') from error
    return image


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Without the remarks of PIL and tifffile on what is odd in a file."""
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


def _channels(raw: bytes, image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """(h, w) or (h, w, 3) of uint8, uint16 or floats in [0, 1], upright, and alpha (h, w) or None."""
    turn = 1 if image.format == 'TIFF' else image.getexif().get(ORIENTATION, 1)  # PIL has turned a TIFF already
    if _has_deep_colour(raw, image):
        values = _deep_colour(raw, image)
    else:
        values = _plain(image)
    if values.dtype not in (np.uint8, np.uint16):
        values = _from_floats(values)
    values = _upright(values, turn)
    if values.ndim == 2:
        return values, None
    colour = values[..., 0] if values.shape[2] == 2 else values[..., :3]
    return colour, values[..., -1] if values.shape[2] in (2, 4) else None


def _plain(image: Image.Image) -> np.ndarray:
    """Values of an image that PIL reads without loss: L, LA, RGB, RGBA, 16-bit grey, floats; others become these."""
    if image.mode in ('I', 'F') or image.mode.startswith('I;16'):
        return np.asarray(image)
    if image.mode in ('CMYK', 'LAB') and image.info.get('icc_profile'):
        inks = ImageCms.ImageCmsProfile(io.BytesIO(image.info['icc_profile']))
        return np.asarray(ImageCms.profileToProfile(image, inks, ImageCms.createProfile('sRGB'), outputMode='RGB'))
    see_through = 'A' in image.getbands() or 'a' in image.getbands() or 'transparency' in image.info
    grey = image.mode in ('1', 'L', 'LA', 'La')
    return np.asarray(image.convert(('LA' if see_through else 'L') if grey else 'RGBA' if see_through else 'RGB'))


def _has_deep_colour(raw: bytes, image: Image.Image) -> bool:
    """Whether there are 16 bits in several channels, of which PIL keeps 8."""
    if image.format == 'PNG':
        return raw[24] == 16 and raw[25] != 0  # IHDR: bits, and colour type 0 for grey alone
    if image.format == 'TIFF':
        bits = image.tag_v2.get(258, (1,))  # BitsPerSample
        return image.mode in ('LA', 'RGB', 'RGBA', 'RGBX') and max(bits) > 8
    return False


def _deep_colour(raw: bytes, image: Image.Image) -> np.ndarray:
    """16 bits of several channels, RGB."""
    if image.format == 'TIFF':
        with tifffile.TiffFile(io.BytesIO(raw)) as file:
            page = file.pages[0]
            values, turn = page.asarray(), page.tags.get(ORIENTATION)
            values = np.moveaxis(values, 0, -1) if page.axes == 'SYX' else values  # plane by plane
        return _upright(values, turn.value if turn else 1)
    values = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise BadPicture('the image is damaged: its 16-bit values cannot be read')
    if raw[25] == 4:  # grey and alpha, which OpenCV gives as BGRA
        return values[..., [0, -1]]
    return cv2.cvtColor(values, cv2.COLOR_BGRA2RGBA if values.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def _from_floats(values: np.ndarray) -> np.ndarray:
    """Integers of 32 bits and floats: what range they are meant in must show."""
    if values.dtype.kind in 'iu' and values.size and 0 <= values.min() and values.max() <= 65535:
        return values.astype(np.uint16)
    if values.dtype.kind == 'f' and values.size and 0 <= values.min() <= values.max() <= 1:  # NaN is not
        return np.round(values * 65535.0).astype(np.uint16)
    raise BadPicture(f'its values ({values.dtype}) are not in a range that is known: save it with 8 or 16 bits')


def _upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """(h, w, …) turned and mirrored as EXIF's orientation 1 … 8 says."""
    if orientation in (5, 6, 7, 8):
        values = np.swapaxes(values, 0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values[:, ::-1] if orientation in (2, 3, 6, 7) else values


def write_picture(path: Path, x: Tensor, like: Picture) -> None:
    """x (1, 3, H, W) in [-1, 1] as a file like the one that ``like`` was read from; the format follows the ending.

    Grey stays grey. 16 bits stay in PNG and TIFF. Alpha is enlarged (bicubic) and put back, in JPEG, which has none,
    the picture is laid on white. The colour profile goes along.
    """
    kind = WRITABLE[path.suffix.lower()]
    bits = like.bits if kind in ('PNG', 'TIFF') else 8
    x = (x.detach().double().cpu()[0] + 1) / 2
    x = x.mean(0, keepdim=True) if like.grey else x
    if like.alpha is not None:
        alpha = upscale_bicubic(like.alpha, x.shape[-1] // like.alpha.shape[-1])[0].double().clamp(0, 1)
        x = x.clamp(0, 1) * alpha + 1 - alpha if kind == 'JPEG' else torch.cat([x, alpha])
    values = (x * (2 ** bits - 1)).clamp(0, 2 ** bits - 1).round().permute(1, 2, 0).numpy()
    values = np.ascontiguousarray(values.astype(np.uint16 if bits == 16 else np.uint8).squeeze())
    content = _encode_deep(values, kind, like.profile) if bits == 16 else _encode(values, kind, like.profile)
    write_atomically(path, lambda file: file.write(content))


def _encode(values: np.ndarray, kind: str, profile: bytes | None) -> bytes:
    options = {'JPEG': {'quality': 95, 'subsampling': 0}, 'WEBP': {'quality': 95, 'method': 4},
               'TIFF': {'compression': 'tiff_adobe_deflate'}}.get(kind, {})
    if profile:
        options['icc_profile'] = profile
    content = io.BytesIO()
    Image.fromarray(values).save(content, format=kind, **options)
    return content.getvalue()


def _encode_deep(values: np.ndarray, kind: str, profile: bytes | None) -> bytes:
    """16 bits, which PIL writes in grey only."""
    if values.shape[2:] == (2,):  # grey with alpha: OpenCV does not write it, PIL does not read it
        values = values[..., [0, 0, 0, 1]]
    channels = 1 if values.ndim == 2 else values.shape[2]
    if kind == 'TIFF':
        content = io.BytesIO()
        tifffile.imwrite(content, values, photometric='rgb' if channels > 1 else 'minisblack', metadata=None,
                         planarconfig='contig' if channels > 1 else None, compression='zlib', iccprofile=profile,
                         extrasamples=['unassalpha'] if channels == 4 else None)
        return content.getvalue()
    if channels > 1:
        values = cv2.cvtColor(values, cv2.COLOR_RGBA2BGRA if values.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    content = cv2.imencode('.png', values)[1].tobytes()
    return _with_profile(content, profile) if profile else content


def _with_profile(png: bytes, profile: bytes) -> bytes:
    """A PNG with the chunk iCCP behind its header, which has 33 bytes."""
    body = b'iCCP' + b'profile\0\0' + zlib.compress(profile)
    chunk = struct.pack('>I', len(body) - 4) + body + struct.pack('>I', zlib.crc32(body))
    return png[:33] + chunk + png[33:]


def find_pictures(places: Sequence[str]) -> list[Path]:
    """Files of each place, in order, none twice: a file, a folder (its pictures, by name) or a pattern (``*.jpg``).

    Raises:
        ValueError: there is nothing at a place.
    """
    found: dict[Path, None] = {}
    for place in places:
        path = Path(place).expanduser()
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if p.suffix.lower() in ENDINGS and not p.name.startswith('.'))
        elif path.exists():
            files = [path]
        else:
            files = sorted(Path(p) for p in glob.glob(str(path)) if not Path(p).is_dir())
        if not files:
            raise ValueError(f'{place}: {"no pictures in this folder" if path.is_dir() else "no such file"}')
        found.update(dict.fromkeys(files))
    return list(found)


def distinct_names(paths: Iterable[Path]) -> list[str]:
    """A name for each file: without its ending where that is enough, then with it, then with its folder's, a number."""
    paths = list(paths)
    names = [path.stem for path in paths]
    for longer in (lambda p: f'{p.stem}_{p.suffix[1:]}', lambda p: f'{p.parent.name}_{p.stem}_{p.suffix[1:]}'):
        often = Counter(names)
        names = [longer(path) if often[name] > 1 else name for name, path in zip(names, paths, strict=True)]
    seen: Counter[str] = Counter()
    for index, name in enumerate(names):
        seen[name] += 1
        names[index] = f'{name}_{seen[name]}' if seen[name] > 1 else name
    return names


def printable(path: Path) -> str:
    """A file's name for a message or a title: line ends, control characters and bytes that are no text become ?."""
    return ''.join(c if c.isprintable() else '?' for c in path.name)


def first_line(error: BaseException) -> str:
    """What an exception says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
