"""Pictures as people have them, in and out; what is written is read by other programs' readers, too."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms, ImageOps

from kernelfusion_plugin import files
from kernelfusion_plugin.core.degradation import upscale_bicubic
from kernelfusion_plugin.files import BadPicture, distinct_names, find_pictures, read_picture, write_picture

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
TURNS = range(1, 9)


def values(shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def as_read(picture):
    """y and alpha of a Picture as (h, w, …) integers of its own depth."""
    top = 2 ** picture.bits - 1
    y = ((picture.y[0].double() + 1) / 2 * top).round().permute(1, 2, 0).numpy().astype(int)
    if picture.grey:
        assert (y == y[..., :1]).all()
        y = y[..., 0]
    return y if picture.alpha is None else np.dstack([y, (picture.alpha[0, 0].double() * top).round().numpy()])


def with_chunk(png, kind, content):
    body = kind + content
    return png[:33] + struct.pack('>I', len(content)) + body + struct.pack('>I', zlib.crc32(body)) + png[33:]


def exif(orientation):
    data = Image.Exif()
    data[files.ORIENTATION] = orientation
    return data


@pytest.mark.parametrize(('shape', 'mode', 'bits'), [
    ((5, 7), 'L', 8), ((5, 7, 2), 'LA', 8), ((5, 7, 3), 'RGB', 8), ((5, 7, 4), 'RGBA', 8), ((5, 7), 'I;16', 16)])
@pytest.mark.parametrize('kind', ['PNG', 'TIFF', 'WEBP'])
def test_pil_writes_we_read(shape, mode, bits, kind, tmp_path):
    if kind == 'WEBP' and mode != 'RGB' and mode != 'RGBA':
        pytest.skip('WebP has colour only')
    given = values(shape, np.uint16 if bits == 16 else np.uint8)
    options = {'lossless': True, 'exact': True} if kind == 'WEBP' else {}
    Image.fromarray(given).save(tmp_path / 'a', kind, icc_profile=PROFILE, **options)
    picture = read_picture(tmp_path / 'a')
    assert (picture.bits, picture.grey, picture.format, picture.profile) == (bits, mode in ('L', 'LA', 'I;16'), kind,
                                                                            PROFILE)
    assert np.array_equal(as_read(picture), given)


@pytest.mark.parametrize('channels', [3, 4])
def test_16_bits_in_colour(channels, tmp_path):
    given = values((5, 7, channels), np.uint16)
    cv2.imwrite(str(tmp_path / 'a.png'), given[..., [2, 1, 0, 3][:channels]])
    tifffile.imwrite(tmp_path / 'a.tif', given, photometric='rgb', extrasamples=[2] * (channels - 3))
    for kind in ('png', 'tif'):
        picture = read_picture(tmp_path / f'a.{kind}')
        assert picture.bits == 16 and np.array_equal(as_read(picture), given), kind
    tifffile.imwrite(tmp_path / 'b.tif', np.moveaxis(given, -1, 0), photometric='rgb', planarconfig='separate',
                     extrasamples=[2] * (channels - 3))
    assert np.array_equal(as_read(read_picture(tmp_path / 'b.tif')), given)


@pytest.mark.parametrize('turn', TURNS)
def test_orientation_is_that_of_pil(turn, tmp_path):
    given = values((5, 7, 3))
    upright = np.asarray(ImageOps.exif_transpose(_with_exif(given, turn)))
    for kind, options in (('PNG', {}), ('WEBP', {'lossless': True}), ('TIFF', {})):
        Image.fromarray(given).save(tmp_path / 'a', kind, exif=exif(turn), **options)
        assert np.array_equal(as_read(read_picture(tmp_path / 'a')), upright), kind
    block = given[:1, :1].repeat(16, 0).repeat(24, 1)  # one colour survives JPEG nearly, and the sides tell
    Image.fromarray(block).save(tmp_path / 'a', 'JPEG', exif=exif(turn))
    assert read_picture(tmp_path / 'a').y.shape[-2:] == ((16, 24) if turn < 5 else (24, 16))
    deep = given.astype(np.uint16) * 257
    png = cv2.imencode('.png', deep[..., ::-1])[1].tobytes()
    (tmp_path / 'deep').write_bytes(with_chunk(png, b'eXIf', exif(turn).tobytes().removeprefix(b'Exif\0\0')))
    assert np.array_equal(as_read(read_picture(tmp_path / 'deep')), upright.astype(int) * 257)
    tifffile.imwrite(tmp_path / 'deep.tif', deep, photometric='rgb', extratags=[(274, 3, 1, turn, True)])
    assert np.array_equal(as_read(read_picture(tmp_path / 'deep.tif')), upright.astype(int) * 257)
    tifffile.imwrite(tmp_path / 'grey.tif', deep[..., 0], extratags=[(274, 3, 1, turn, True)])
    assert np.array_equal(as_read(read_picture(tmp_path / 'grey.tif')), upright[..., 0].astype(int) * 257)


def _with_exif(given, turn):
    content = io.BytesIO()
    Image.fromarray(given).save(content, 'PNG', exif=exif(turn))
    return Image.open(content)


def test_palettes_bits_and_inks(tmp_path):
    colours = Image.fromarray(values((5, 7, 3))).quantize(8)
    colours.save(tmp_path / 'p.png')
    assert np.array_equal(as_read(read_picture(tmp_path / 'p.png')), np.asarray(colours.convert('RGB')))
    colours.save(tmp_path / 't.png', transparency=0)
    picture = read_picture(tmp_path / 't.png')
    assert picture.alpha is not None and float(picture.alpha.min()) == 0 and float(picture.alpha.max()) == 1
    Image.fromarray(values((5, 7)) > 99).save(tmp_path / 'b.png')
    assert read_picture(tmp_path / 'b.png').grey
    Image.fromarray(values((5, 7, 4)), 'CMYK').save(tmp_path / 'c.tif')
    assert read_picture(tmp_path / 'c.tif').profile is None
    tifffile.imwrite(tmp_path / 'f.tif', np.linspace(0, 1, 35, dtype=np.float32).reshape(5, 7))
    assert read_picture(tmp_path / 'f.tif').bits == 16


@pytest.mark.parametrize('channels', [1, 2, 3, 4])
@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('ending', ['.png', '.tif'])
def test_what_is_written_is_like_what_was_read(channels, bits, ending, tmp_path):
    given = values((6, 8, channels) if channels > 1 else (6, 8), np.uint16 if bits == 16 else np.uint8)
    y = torch.from_numpy(given.astype(np.float64) / (2 ** bits - 1)).reshape(6, 8, -1).permute(2, 0, 1)[None]
    grey, see_through = channels < 3, channels in (2, 4)
    like = files.Picture((y[:, :1].expand(-1, 3, -1, -1) if grey else y[:, :3]).float() * 2 - 1, grey, bits,
                         y[:, -1:].float() if see_through else None, PROFILE, '')
    x = upscale_bicubic(like.y.double(), 2).clamp(-1, 1)
    write_picture(tmp_path / f'a{ending}', x, like)
    again = read_picture(tmp_path / f'a{ending}')
    one = grey and (bits, see_through) != (16, True)  # there, grey goes into three equal channels
    assert (again.bits, again.grey, again.profile) == (bits, one, PROFILE)
    assert again.y.shape[-2:] == (12, 16)
    assert (again.y - x).abs().max() <= 1.01 / (2 ** bits - 1)
    if see_through:
        alpha = upscale_bicubic(like.alpha, 2).clamp(0, 1)
        assert (again.alpha - alpha).abs().max() <= 0.51 / (2 ** bits - 1)


def test_jpeg_has_no_alpha_and_8_bits(tmp_path):
    like = files.Picture(torch.full((1, 3, 16, 16), -1.0), False, 16, torch.zeros(1, 1, 16, 16), PROFILE, 'PNG')
    write_picture(tmp_path / 'a.jpg', torch.full((1, 3, 32, 32), -1.0), like)
    again = read_picture(tmp_path / 'a.jpg')
    assert again.alpha is None and again.bits == 8 and again.profile == PROFILE and again.y.min() > 0.98  # on white


@pytest.mark.parametrize(('content', 'words'), [
    (b'', 'empty'), (b'shopping list', 'not an image'), (b'\x89PNG\r\n\x1a\n' + bytes(40), 'damaged|not an image')])
def test_no_image(content, words, tmp_path):
    (tmp_path / 'a.png').write_bytes(content)
    with pytest.raises(BadPicture, match=f'a.png: .*({words})') as error:
        read_picture(tmp_path / 'a.png')
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'TIFF', 'WEBP'])
def test_cut_off(kind, tmp_path):
    content = io.BytesIO()
    Image.fromarray(values((40, 40, 3))).save(content, kind)
    (tmp_path / 'a').write_bytes(content.getvalue()[:-len(content.getvalue()) // 3])
    with pytest.raises(BadPicture, match='damaged|not an image'):
        read_picture(tmp_path / 'a')


def test_a_bomb_is_not_unpacked(tmp_path):
    """20000 x 20000 pixels in a few hundred bytes."""
    header = struct.pack('>IIBBBBB', 20000, 20000, 8, 2, 0, 0, 0)
    png = b'\x89PNG\r\n\x1a\n'
    for kind, content in ((b'IHDR', header), (b'IDAT', zlib.compress(bytes(100_000))), (b'IEND', b'')):
        png += struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))
    (tmp_path / 'a.png').write_bytes(png)
    with pytest.raises(BadPicture, match=r'too large'):
        read_picture(tmp_path / 'a.png')


def test_values_of_unknown_range_and_no_files(tmp_path):
    tifffile.imwrite(tmp_path / 'f.tif', np.full((5, 7), 300.0, np.float32))
    for path, words in ((tmp_path / 'f.tif', 'range'), (tmp_path, 'not a file'), (tmp_path / 'x', 'no such file')):
        with pytest.raises(BadPicture, match=words):
            read_picture(path)


def test_places(tmp_path):
    for name in ('b.jpg', 'a.PNG', 'notes.txt', '.hidden.png', 'we[i]rd *.png'):
        (tmp_path / name).touch()
    inside = [tmp_path / name for name in ('a.PNG', 'b.jpg', 'we[i]rd *.png')]
    assert find_pictures([str(tmp_path)]) == inside
    assert find_pictures([str(tmp_path / '*.jpg'), str(tmp_path / 'we[i]rd *.png'), str(tmp_path)]) == [
        tmp_path / 'b.jpg', inside[2], inside[0]]
    assert find_pictures([str(tmp_path / 'notes.txt')]) == [tmp_path / 'notes.txt']  # who names it, means it
    (tmp_path / 'empty').mkdir()
    for place, words in (('empty', 'no pictures in this folder'), ('none-*', 'no such file')):
        with pytest.raises(ValueError, match=words):
            find_pictures([str(tmp_path / place)])


def test_names(tmp_path):
    paths = [tmp_path / name for name in ('a/x.png', 'a/x.jpg', 'b/x.png', 'a/y.png', 'c/a/x.png')]
    assert distinct_names(paths) == ['a_x_png', 'x_jpg', 'b_x_png', 'y', 'a_x_png_2']
