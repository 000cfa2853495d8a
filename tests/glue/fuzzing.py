"""Spoilt copies of sound files, by number: the same number gives the same bytes."""

import io
import struct

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageCms

SIZE = (20, 22)


def sound_pictures():
    """Small pictures of each kind: (ending, bytes)."""
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)[:SIZE[0], :SIZE[1]]
    deep, alpha = rgb.astype(np.uint16) * 257, np.dstack([rgb, rgb[..., 0]])
    exif, profile = Image.Exif(), ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    exif[0x0112] = 6
    found = []
    for array, kind, options in (
            (rgb, 'PNG', {'icc_profile': profile}), (alpha, 'PNG', {}), (rgb[..., 0], 'PNG', {'exif': exif}),
            (rgb, 'JPEG', {'exif': exif, 'icc_profile': profile}), (rgb, 'JPEG', {'progressive': True}),
            (rgb[..., 0], 'JPEG', {}), (rgb, 'TIFF', {'compression': 'tiff_lzw', 'exif': exif}), (alpha, 'TIFF', {}),
            (rgb, 'TIFF', {'compression': 'jpeg'}), (deep[..., 0], 'TIFF', {}), (rgb, 'WEBP', {'exif': exif}),
            (alpha, 'WEBP', {'lossless': True}), (rgb, 'GIF', {}), (rgb, 'BMP', {}), (rgb, 'PPM', {}),
            (rgb, 'JPEG2000', {})):
        content = io.BytesIO()
        Image.fromarray(array).save(content, kind, **options)
        found.append(({'JPEG2000': 'jp2', 'JPEG': 'jpg', 'TIFF': 'tif'}.get(kind, kind.lower()), content.getvalue()))
    palette = io.BytesIO()
    Image.fromarray(rgb).quantize(16).save(palette, 'PNG', transparency=3)
    tiff = io.BytesIO()
    tifffile.imwrite(tiff, deep, photometric='rgb', compression='zlib')
    return [*found, ('png', palette.getvalue()), ('tif', tiff.getvalue()),
            ('png', cv2.imencode('.png', deep)[1].tobytes())]


def spoil(raw, number):
    """One of many ways to spoil bytes, by its number."""
    rng = np.random.default_rng(number)
    data = bytearray(raw)

    def place():  # headers decide more than pixels do
        return int(rng.integers(len(data) if rng.random() < 0.5 else min(len(data), 120)))

    for _ in range(int(rng.choice([1, 1, 2, 5, 20]))):
        way = int(rng.integers(7))
        at = place() if data else 0
        if way == 0 and data:
            data[at] ^= 1 << int(rng.integers(8))
        elif way == 1 and data:
            data[at] = int(rng.integers(256))
        elif way == 2:
            del data[at:]
        elif way == 3:
            del data[at:at + int(rng.integers(1, 30))]
        elif way == 4:
            data[at:at] = rng.bytes(int(rng.integers(1, 30)))
        elif way == 5:
            data[at:at + 4] = struct.pack(str(rng.choice(['>I', '<I'])), int(rng.choice(
                [0, 1, 255, 65535, 20000, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1])))
        else:
            end = at + int(rng.integers(1, 60))
            data[at:at] = data[at:end]
    return bytes(data)


def spoilt_picture(number, sound):
    """(ending, bytes) of the picture of that number."""
    ending, raw = sound[number % len(sound)]
    return ending, spoil(raw, number)
