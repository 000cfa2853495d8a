"""Copies the EXIF tags that also apply to a restored picture, one at a time, since many files have broken ones."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from typing import Any

from PIL import Image

ORIENTATION = 0x0112  # EXIF's tag
EXIF_IFD, GPS_IFD = 0x8769, 0x8825  # tags of EXIF's sub-tables
EXIF_TEXT = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x8298)  # camera, program, date, author, host …
# and resolution, Windows' title to subject; no tags about the layout of values in the file
EXIF_KEPT = (*EXIF_TEXT, ORIENTATION, 0x011A, 0x011B, 0x0128, *range(0x9C9B, 0x9CA0))
EXIF_LEFT = (0x927C, 0xA005)  # maker's notes have offsets into the old file, and previews; interoperability table
EXIF_SIZE = (0xA002, 0xA003)  # width and height
EXIF_MAX = 65533  # bytes that fit into a JPEG


def orientation(image: Image.Image) -> int:
    """EXIF orientation 1 … 8; 1 if EXIF is broken, and for TIFFs, which PIL has already rotated."""
    if image.format == 'TIFF':
        return 1
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # noqa: BLE001  (PIL raises anything; the picture itself may be fine)
        return 1


def read_exif(raw: bytes, image: Image.Image) -> dict[int, Any]:
    """The tags that also apply to a restored picture and can be written."""
    found: dict[int, Any] = {}
    with contextlib.suppress(Exception):  # as in orientation; keeps what was found so far
        source = Image.open(io.BytesIO(raw)) if image.format == 'TIFF' else image  # PIL closes decoded TIFFs
        exif = source.getexif()
        for tag in EXIF_KEPT:
            _take(found, tag, exif)
        for tag in (EXIF_IFD, GPS_IFD):
            inner, table = {}, exif.get_ifd(tag)
            for name in table:
                _take(inner, name, table, within=tag)
            if inner:
                found[tag] = inner
    return found


def _take(found: dict[int, Any], tag: int, table: Mapping[int, Any], within: int | None = None) -> None:
    """Copy a tag of a table to ``found``, if present and valid."""
    with contextlib.suppress(Exception):
        value = table.get(tag)
        if value is None or within and tag in EXIF_LEFT:
            return
        if isinstance(value, str) and not within:
            value = value.encode('latin-1')  # as in the file; PIL would replace non-ASCII characters by ?
        _bytes({within: {tag: value}} if within else {tag: value})
        found[tag] = value


def _bytes(tags: Mapping[int, Any]) -> bytes:
    exif = Image.Exif()
    for tag, value in tags.items():
        exif[tag] = value
    return exif.tobytes()


def for_picture(tags: Mapping[int, Any], width: int, height: int) -> dict[int, Any]:
    """The tags for an upright picture of that size; empty if there were none."""
    if not tags:
        return {}
    inner = dict(tags.get(EXIF_IFD, {}))
    inner.update({tag: side for tag, side in zip(EXIF_SIZE, (width, height), strict=True) if tag in inner})
    return {**tags, ORIENTATION: 1, **({EXIF_IFD: inner} if inner else {})}


def block(tags: Mapping[int, Any]) -> bytes:
    """The EXIF block for a file; empty if there is none or it is too large."""
    content = _bytes(tags) if tags else b''
    return content if len(content) <= EXIF_MAX else b''


def texts(tags: Mapping[int, Any]) -> dict[int, bytes]:
    """Text tags (camera, author, date and the like), which a TIFF stores as its own tags."""
    return {tag: value for tag, value in tags.items() if tag in EXIF_TEXT and isinstance(value, bytes)}
