"""Writes restored pictures to files like their sources."""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
import torch
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from torch import Tensor

from ..atomic import write_atomically
from ..core.degradation import upscale_bicubic
from .decode import Picture
from .exif import block, for_picture, texts
from .faults import BadPicture

WRITABLE = {'.png': 'PNG', '.tif': 'TIFF', '.tiff': 'TIFF', '.jpg': 'JPEG', '.jpeg': 'JPEG', '.webp': 'WEBP'}
LARGEST = {'WEBP': 16383, 'JPEG': 65500}  # maximum side in pixels


def check_size(path: Path, height: int, width: int) -> None:
    """Check that the file format can hold a picture of that size.

    Raises:
        BadPicture: it cannot.
    """
    kind = WRITABLE[path.suffix.lower()]
    if max(height, width) > LARGEST.get(kind, math.inf):
        raise BadPicture(f'the result would have {width} x {height} pixels, but {kind} allows only {LARGEST[kind]} a '
                         'side: choose .png or .tif')


def write_picture(path: Path, x: Tensor, like: Picture) -> None:
    """Write x (1, 3, H, W) in [-1, 1] to a file like that of ``like``; the extension sets the format.

    Greyscale is kept, and 16 bits in PNG and TIFF. Alpha is enlarged bicubically and restored; for JPEG, which has
    none, the picture is composited on white. Colour profile and EXIF are kept, with orientation and size updated; in
    TIFF only the EXIF texts.
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
    exif = for_picture(like.exif, x.shape[-1], x.shape[-2])
    encode = _encode_deep if bits == 16 else _encode
    content = encode(values, kind, like.profile, exif)
    write_atomically(path, lambda file: file.write(content))


def _encode(values: np.ndarray, kind: str, profile: bytes | None, exif: Mapping[int, Any]) -> bytes:
    options = {'JPEG': {'quality': 95, 'subsampling': 0}, 'WEBP': {'quality': 95, 'method': 4},
               'TIFF': {'compression': 'tiff_adobe_deflate'}}.get(kind, {})
    if profile:
        options['icc_profile'] = profile
    if kind == 'TIFF':  # libtiff, which compresses, takes no tables within, and crashes at values of wrong types
        options['tiffinfo'] = ImageFileDirectory_v2()
        for tag, value in texts(exif).items():
            options['tiffinfo'][tag] = value
    elif written := block(exif):
        options['exif'] = written
    content = io.BytesIO()
    Image.fromarray(values).save(content, format=kind, **options)
    return content.getvalue()


def _encode_deep(values: np.ndarray, kind: str, profile: bytes | None, exif: Mapping[int, Any]) -> bytes:
    """Encode 16 bits, which PIL can only write for greyscale."""
    if values.shape[2:] == (2,):  # grey with alpha, which OpenCV cannot write and PIL cannot read
        values = values[..., [0, 0, 0, 1]]
    channels = 1 if values.ndim == 2 else values.shape[2]
    if kind == 'TIFF':
        content = io.BytesIO()
        tifffile.imwrite(content, values, photometric='rgb' if channels > 1 else 'minisblack', metadata=None,
                         planarconfig='contig' if channels > 1 else None, compression='zlib', iccprofile=profile,
                         extrasamples=['unassalpha'] if channels == 4 else None, software=False,
                         extratags=[(tag, 's', 0, value, True) for tag, value in texts(exif).items()])
        return content.getvalue()
    if channels > 1:
        values = cv2.cvtColor(values, cv2.COLOR_RGBA2BGRA if values.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    png = cv2.imencode('.png', values)[1].tobytes()
    written = block(exif).removeprefix(b'Exif\0\0')
    png = _with_chunk(png, b'eXIf', written) if written else png
    return _with_chunk(png, b'iCCP', b'profile\0\0' + zlib.compress(profile)) if profile else png


def _with_chunk(png: bytes, kind: bytes, content: bytes) -> bytes:
    """Insert a chunk into a PNG after its header, which has 33 bytes."""
    chunk = struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))
    return png[:33] + chunk + png[33:]
