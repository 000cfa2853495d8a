"""Pictures as people have them, in and out; what is written is read by other programs' readers, too."""

import io
import struct
import zlib
from dataclasses import replace

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps

from kernelfusion_plugin import files
from kernelfusion_plugin.core.degradation import downscale_bicubic, upscale_bicubic
from kernelfusion_plugin.files import (
    WRITABLE,
    BadPicture,
    check_size,
    distinct_names,
    find_pictures,
    read_picture,
    write_picture,
)
from kernelfusion_plugin.files.encode import LARGEST
from kernelfusion_plugin.files.exif import EXIF_IFD, GPS_IFD, ORIENTATION

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


def seen(values):
    """The same with alpha nowhere 0."""
    return np.dstack([values[..., :-1], np.maximum(values[..., -1], 1)]) if values.shape[2:] in ((2,), (4,)) else values


def with_chunk(png, kind, content):
    body = kind + content
    return png[:33] + struct.pack('>I', len(content)) + body + struct.pack('>I', zlib.crc32(body)) + png[33:]


def exif(orientation):
    data = Image.Exif()
    data[ORIENTATION] = orientation
    return data


@pytest.mark.parametrize(('shape', 'mode', 'bits'), [
    ((5, 7), 'L', 8), ((5, 7, 2), 'LA', 8), ((5, 7, 3), 'RGB', 8), ((5, 7, 4), 'RGBA', 8), ((5, 7), 'I;16', 16)])
@pytest.mark.parametrize('kind', ['PNG', 'TIFF', 'WEBP'])
def test_pil_writes_we_read(shape, mode, bits, kind, tmp_path):
    if kind == 'WEBP' and mode != 'RGB' and mode != 'RGBA':
        pytest.skip('WebP has colour only')
    given = seen(values(shape, np.uint16 if bits == 16 else np.uint8))
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
    shown = again.alpha > 0 if see_through else torch.ones(1, 1, 12, 16, dtype=torch.bool)
    assert ((again.y - x).abs() * shown).max() <= 1.01 / (2 ** bits - 1) and shown.float().mean() > 0.7
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


def test_one_file_by_two_paths_is_one_picture(tmp_path, monkeypatch):
    (tmp_path / 'a.png').touch()
    monkeypatch.chdir(tmp_path)
    assert [str(path) for path in find_pictures(['a.png', str(tmp_path), './*.png'])] == ['a.png']


def test_names_that_begin_with_a_tilde(tmp_path, monkeypatch):
    """Editors' copies; and a home folder."""
    (tmp_path / '~draft.png').touch()
    monkeypatch.chdir(tmp_path)
    assert [path.name for path in find_pictures(['~draft.png'])] == ['~draft.png']
    monkeypatch.setenv('HOME', str(tmp_path))
    assert find_pictures(['~']) == [tmp_path / '~draft.png']
    for place in ('~nobody-of-that-name/a.png', ''):
        with pytest.raises(ValueError, match='no such file|picture is empty'):
            find_pictures([place])


def test_photographs_of_other_endings_are_found_and_read(tmp_path):
    """Each ending that a folder is looked through for, as its own format or that of its kind."""
    kinds = {'.jfif': 'JPEG', '.jpe': 'JPEG', '.mpo': 'JPEG', '.TGA': 'TGA', '.apng': 'PNG', '.dib': 'DIB',
             '.pbm': 'PPM', '.j2k': 'JPEG2000', '.avif': 'AVIF'}
    given = values((20, 24, 3))
    for ending, kind in kinds.items():
        Image.fromarray(given).save(tmp_path / f'a{ending}', kind)
    found = {path.suffix: read_picture(path) for path in find_pictures([str(tmp_path)])}
    assert {ending: picture.format for ending, picture in found.items()} == kinds
    for ending in ('.TGA', '.apng', '.dib', '.pbm'):
        assert np.array_equal(as_read(found[ending]), given)


def test_photographs_that_are_not_read_are_spoken_of(tmp_path, caplog):
    for name in ('e.cr2', 'f.RAF', 'g.heic', 'h.jxl', '._e.cr2', 'notes.txt', 'film.mp4'):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match='no pictures in this folder'):
        find_pictures([str(tmp_path)])
    line = f'{tmp_path}: 4 files skipped, unsupported format: e.cr2, f.RAF, g.heic, …; save as PNG'
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith(line)
    for name in ('f.RAF', 'g.heic', 'h.jxl'):
        (tmp_path / name).unlink()
    (tmp_path / 'a.png').touch()
    assert find_pictures([str(tmp_path)]) == [tmp_path / 'a.png']
    assert '1 file skipped, unsupported format: e.cr2;' in caplog.messages[1]
    assert find_pictures([str(tmp_path / 'e.cr2')]) == [tmp_path / 'e.cr2'] and len(caplog.messages) == 2


def test_names(tmp_path):
    paths = [tmp_path / name for name in ('a/x.png', 'a/x.jpg', 'b/x.png', 'a/y.png', 'c/a/x.png')]
    assert distinct_names(paths) == ['a_x_png', 'x_jpg', 'b_x_png', 'y', 'a_x_png_2']


@pytest.mark.parametrize('names', [('a.png', 'a.jpg', 'a_png.bmp'), ('d/a.png', 'd/a.png', 'a_2.png', 'd/a.png'),
                                   ('x/1.png', 'y/1.png', 'x_1_png.jpg'), ('a.png', 'a.png', 'd_a_png.png')])
def test_no_two_files_get_one_name(names, tmp_path):
    found = distinct_names([tmp_path / 'd' / name for name in names])
    assert len(set(found)) == len(names)


def test_made_smaller(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (31, 42, 4), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / 'a.png')
    picture = read_picture(tmp_path / 'a.png')
    small = picture.smaller(4)
    assert small.y.shape == (1, 3, 7, 10) and small.alpha.shape == (1, 1, 7, 10)
    torch.testing.assert_close(small.y, downscale_bicubic(picture.y[..., :28, :40], 4).clamp(-1, 1))
    assert picture.smaller(1) is picture and (small.bits, small.grey) == (picture.bits, picture.grey)
    with pytest.raises(BadPicture, match='42 x 31 pixels cannot be reduced by 32'):
        picture.smaller(32)


def cut_out(channels, bits, beneath):
    """Soft textures of all sizes, of which a disc with stripes is to be seen; (h, w, channels)."""
    rng, size = np.random.default_rng(1), (150, 200, channels - 1)
    soft = sum(cv2.GaussianBlur(rng.random(size).astype(np.float32), (0, 0), sigma).reshape(size) * sigma
               for sigma in (1.5, 4, 12, 30))
    rows, columns = np.mgrid[:150, :200]
    shown = ((rows - 70) ** 2 + (columns - 100) ** 2 < 3600) & ((rows // 20 + columns // 20) % 5 > 0)
    colour = np.where(shown[..., None], (soft - soft.min()) / np.ptp(soft) * 0.8 + 0.1, beneath)
    top = 2 ** bits - 1
    return np.round(np.dstack([colour, shown]) * top).astype(np.uint16 if bits == 16 else np.uint8), shown


def png_of(given):
    """Any depth and channels, which neither PIL nor OpenCV writes; lines unfiltered."""
    height, width, channels = given.shape
    lines = b''.join(b'\0' + line.astype(given.dtype.newbyteorder('>')).tobytes() for line in given)
    header = struct.pack('>IIBBBBB', width, height, 8 * given.dtype.itemsize, {2: 4, 4: 6}[channels], 0, 0, 0)
    head = b'\x89PNG\r\n\x1a\n' + struct.pack('>I', 13) + b'IHDR' + header
    head += struct.pack('>I', zlib.crc32(b'IHDR' + header))
    return with_chunk(with_chunk(head, b'IEND', b''), b'IDAT', zlib.compress(lines))


def edge_energy(y, shown):
    """Mean squared difference of neighbours: (of a hidden and a visible one, of two visible ones)."""
    steps = [np.diff(y, axis=axis) ** 2 for axis in (0, 1)]
    beside = [np.diff(shown.astype(int), axis=axis) != 0 for axis in (0, 1)]
    both = [shown[1:] & shown[:-1], shown[:, 1:] & shown[:, :-1]]
    return [np.mean(np.concatenate([step[where].ravel() for step, where in zip(steps, places, strict=True)]))
            for places in (beside, both)]


@pytest.mark.parametrize('beneath', [0, 1])
@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('channels', [2, 4])
def test_what_alpha_hides_has_no_edge_of_its_own(channels, bits, beneath, tmp_path):
    given, shown = cut_out(channels, bits, beneath)
    (tmp_path / 'a.png').write_bytes(png_of(given))
    picture = read_picture(tmp_path / 'a.png')
    found = as_read(picture)
    assert (picture.bits, picture.grey) == (bits, channels == 2)
    assert np.array_equal(found[shown], given[shown]) and np.array_equal(found[..., -1], given[..., -1])
    before, usual = edge_energy(given[..., :-1].astype(float), shown)
    after, _ = edge_energy(found[..., :-1].astype(float), shown)
    assert before > 10 * usual and after < 1.2 * usual
    inside = found[~shown][..., :-1] / (2 ** bits - 1)
    assert 0.1 <= inside.min() and inside.max() <= 0.9  # between the visible ones, not beyond


def test_alpha_that_hides_nothing_or_all_changes_no_value(tmp_path):
    given, _ = cut_out(4, 8, 0)
    for alpha in (1, 255, 0):
        given[..., -1] = alpha
        (tmp_path / 'a.png').write_bytes(png_of(given))
        assert np.array_equal(as_read(read_picture(tmp_path / 'a.png')), given)


def test_one_visible_pixel_gives_its_colour_to_all(tmp_path):
    given = np.zeros((37, 50, 4), np.uint8)
    given[36, 0] = 10, 200, 90, 3
    (tmp_path / 'a.png').write_bytes(png_of(given))
    assert (as_read(read_picture(tmp_path / 'a.png'))[..., :3] == [10, 200, 90]).all()


THUMBNAIL = b'\xff\xd8 a small picture of the old size \xff\xd9'
TAKEN, CAMERA, AUTHOR = '2021:05:06 07:08:09', 'Leica', 'Jürgen'


def camera_exif(turn=6, size=(24, 16), with_thumbnail=True):
    """A camera's EXIF as it stands in a file; PIL does not write the second table, which has the thumbnail."""
    data = exif(turn)
    data[0x010F], data[0x0132], data[0x013B] = CAMERA, TAKEN, AUTHOR.encode()
    data[EXIF_IFD] = {0x9003: TAKEN, 0xA002: size[0], 0xA003: size[1], 0x927C: b'notes of the maker' * 4}
    data[GPS_IFD] = {1: 'N', 2: (48.0, 8.0, 30.0)}
    raw = bytearray(data.tobytes()[6:])
    if with_thumbnail:
        order = '<' if raw[:2] == b'II' else '>'
        first, = struct.unpack_from(order + 'I', raw, 4)
        count, = struct.unpack_from(order + 'H', raw, first)
        struct.pack_into(order + 'I', raw, first + 2 + 12 * count, len(raw))
        places = [(0x0201, len(raw) + 30), (0x0202, len(THUMBNAIL))]
        raw += struct.pack(order + 'H', 2) + b''.join(struct.pack(order + 'HHII', tag, 4, 1, value)
                                                      for tag, value in places) + bytes(4) + THUMBNAIL
    return b'Exif\0\0' + bytes(raw)


def saved(kind, data, shape=(16, 24, 3)):
    """A file with that EXIF, in a TIFF, too, where PIL writes ? for what is not ASCII."""
    content = io.BytesIO()
    Image.fromarray(values(shape)).save(content, kind, exif=data)
    return content.getvalue().replace(AUTHOR.encode('ascii', 'replace').replace(b'?', b'??'), AUTHOR.encode())


@pytest.mark.parametrize('ending', ['.jpg', '.png', '.webp', 'deep.png'])
@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'TIFF'])
def test_exif_is_that_of_the_result(kind, ending, tmp_path):
    raw = saved(kind, camera_exif(with_thumbnail=kind != 'TIFF'))
    assert kind == 'TIFF' or THUMBNAIL in raw
    like = files.decode(raw)
    assert like.y.shape[-2:] == (24, 16)
    like = replace(like, bits=16) if ending == 'deep.png' else like
    path = tmp_path / f'a{ending}'
    write_picture(path, like.y.repeat_interleave(2, -1).repeat_interleave(2, -2), like)
    with Image.open(path) as image:
        assert image.size == (32, 48)
        found = image.getexif()
        inner = found.get_ifd(EXIF_IFD)
        assert found[ORIENTATION] == 1 and (found[0x010F], found[0x0132]) == (CAMERA, TAKEN)
        assert found[0x013B].encode('latin-1').decode() == AUTHOR
        assert inner == {0x9003: TAKEN, 0xA002: 32, 0xA003: 48}
        assert found.get_ifd(GPS_IFD) == {1: 'N', 2: (48.0, 8.0, 30.0)}
        assert not found.get_ifd(ExifTags.IFD.IFD1)
    assert THUMBNAIL not in path.read_bytes() and b'eXIfExif' not in path.read_bytes()  # a PNG has it without its name
    assert read_picture(path).y.shape[-2:] == (48, 32)


@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('kind', ['JPEG', 'TIFF'])
def test_a_tiff_keeps_the_texts_of_exif(kind, bits, tmp_path):
    like = files.decode(saved(kind, camera_exif(with_thumbnail=kind != 'TIFF')))
    write_picture(tmp_path / 'a.tif', like.y, replace(like, bits=bits))
    with Image.open(tmp_path / 'a.tif') as image:
        tags = image.tag_v2
        assert (tags[0x010F], tags[0x0132], tags[0x013B].encode('latin-1').decode()) == (CAMERA, TAKEN, AUTHOR)
        assert tags.get(ORIENTATION, 1) == 1 and image.size == (16, 24)
        assert 0x0131 not in tags  # no other program's name
    assert read_picture(tmp_path / 'a.tif').bits == bits


def test_no_exif_where_there_was_none(tmp_path):
    like = files.decode(saved('JPEG', b''))
    assert not like.exif
    for ending in WRITABLE:
        write_picture(tmp_path / f'a{ending}', like.y, like)
        with Image.open(tmp_path / f'a{ending}') as image:
            assert 'exif' not in image.info and 0x010F not in image.getexif()


def test_broken_exif_costs_neither_the_picture_nor_the_result(tmp_path):
    """Spoilt EXIF of every kind; a text that is a number, which libtiff would take for an address; the other way."""
    sound, rng, kept = camera_exif(1, with_thumbnail=False), np.random.default_rng(0), 0
    expected = files.decode(saved('PNG', b'')).y
    make, north = b'\x01\x0f\0\x02', b'\0\x01\0\x02\0\0\0\x02N'  # tags and their types; then how many, and what
    assert make in sound and north in sound
    blocks = [b'Exif\0\0', b'Exif\0\0no table', sound[:40], sound.replace(make, b'\x01\x0f\0\x04'),
              sound.replace(north, b'\0\x04' + north[2:])]
    for _ in range(150):
        block = bytearray(sound)
        for place in rng.integers(6, len(sound), rng.integers(1, 9)):
            block[place] = rng.integers(256)
        blocks.append(bytes(block))
    for number, block in enumerate(blocks):
        like = files.decode(saved('PNG', block))
        assert like.y.shape == expected.shape or like.y.mT.shape == expected.shape, number
        assert torch.isclose(like.y.mean(), expected.mean()), number
        kept += bool(like.exif)
        for ending in ('.jpg', '.png', '.webp', '.tif'):
            write_picture(tmp_path / f'a{ending}', like.y, like)
            assert read_picture(tmp_path / f'a{ending}').y.shape == like.y.shape, number
    assert kept > 100  # what is sound in them stays


def test_exif_that_no_jpeg_holds_is_left_out(tmp_path):
    data = exif(1)
    data[0x010E] = 'long story ' * 6000
    like = files.decode(saved('PNG', data))
    write_picture(tmp_path / 'a.jpg', like.y, like)
    assert like.exif and read_picture(tmp_path / 'a.jpg').exif == {}


def test_pages_are_counted(tmp_path):
    pages = [Image.fromarray(values((8, 9, 3), seed=seed)) for seed in range(3)]
    for kind, options in (('TIFF', {}), ('GIF', {}), ('WEBP', {'lossless': True}), ('PNG', {})):
        for count in (1, 3):
            pages[0].save(tmp_path / 'a', kind, save_all=True, append_images=pages[1:count], **options)
            picture = read_picture(tmp_path / 'a')
            assert picture.pages == count, kind
        if kind != 'GIF':
            assert np.array_equal(as_read(picture)[..., :3], np.asarray(pages[0])), kind
    pages[0].save(tmp_path / 'a', 'MPO', save_all=True, append_images=pages[1:])  # a phone's JPEG and its previews
    assert read_picture(tmp_path / 'a').pages == 1
    with tifffile.TiffWriter(tmp_path / 'b.tif') as file:
        file.write(values((16, 18, 3)), photometric='rgb')
        file.write(values((8, 9, 3)), photometric='rgb', subfiletype=1)
        file.write(values((16, 18, 3)), photometric='rgb')
    assert read_picture(tmp_path / 'b.tif').pages == 2


@pytest.mark.parametrize(('head', 'name'), [
    (b'\0\0\0\x18ftypheic\0\0\0\0mif1heic', 'HEIC'), (b'\0\0\0\x18ftypmif1\0\0\0\0', 'HEIC'),
    (b'\0\0\0\x18ftypavif\0\0\0\0', 'AVIF'), (b'\0\0\0\x18ftypcrx \0\0\0\0', 'camera raw'),
    (b'FUJIFILMCCD-RAW 0201', 'camera raw'), (b'\xff\x0a\xfa\x1f', 'JPEG XL'), (b'%PDF-1.4', 'PDF'),
    (b'II*\0\x08\0\0\0', 'TIFF')])
def test_formats_that_are_not_read_are_named(head, name, tmp_path):
    (tmp_path / 'a.png').write_bytes(head + bytes(40))
    with pytest.raises(BadPicture, match=f'a.png: .*{name}.* is not supported.*: save it as PNG, JPEG') as error:
        read_picture(tmp_path / 'a.png')
    assert '\n' not in str(error.value)
    with pytest.raises(BadPicture, match='not an image'):  # such a beginning alone is a film
        files.decode(b'\0\0\0\x18ftypmp42' + bytes(40))


def test_a_preview_is_not_taken_for_camera_raw(tmp_path):
    """A DNG, NEF or ARW begins with a small copy of itself, which PIL would read."""
    with tifffile.TiffWriter(tmp_path / 'a.dng') as file:
        file.write(values((8, 9, 3)), photometric='rgb', subfiletype=1, subifds=1)
        file.write(values((16, 18), np.uint16), photometric='cfa', extratags=[(33421, 3, 2, (2, 2), True)])
    assert Image.open(tmp_path / 'a.dng').size == (9, 8)
    tifffile.imwrite(tmp_path / 'b.dng', values((16, 18), np.uint16), photometric='cfa')
    for name in ('a.dng', 'b.dng'):
        with pytest.raises(BadPicture, match='camera raw is not supported: save it as'):
            read_picture(tmp_path / name)


@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64, np.uint32])
@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_tiffs_that_pil_does_not_know(dtype, channels, tmp_path):
    given = values((6, 8, channels), np.uint16)
    given[..., -1] = np.maximum(given[..., -1], 40)
    stored = given.astype(dtype) if dtype == np.uint32 else (given / 65535).astype(dtype)
    for planar in ('contig', 'separate'):
        array = np.moveaxis(stored, -1, 0) if planar == 'separate' else stored
        tifffile.imwrite(tmp_path / 'a.tif', array if channels > 1 else stored[..., 0], iccprofile=PROFILE,
                         photometric='rgb' if channels > 2 else 'minisblack', extratags=[(274, 3, 1, 3, True)],
                         extrasamples=[2] if channels in (2, 4) else None,
                         planarconfig=planar if channels > 1 else None)
        picture = read_picture(tmp_path / 'a.tif')
        assert (picture.bits, picture.grey, picture.profile) == (16, channels < 3, PROFILE)
        difference = as_read(picture).reshape(given.shape) - given[::-1, ::-1].astype(int)
        assert np.abs(difference).max() <= (20 if dtype == np.float16 else 0), planar


def test_lzw_is_read_without_another_package(tmp_path):
    for dtype, top in ((np.uint16, 1), (np.float32, 65535)):
        given = values((6, 8, 3), np.uint16)
        cv2.imwrite(str(tmp_path / 'a.tif'), (given[..., ::-1] / top).astype(dtype), [cv2.IMWRITE_TIFF_COMPRESSION, 5])
        with tifffile.TiffFile(tmp_path / 'a.tif') as file:
            assert file.pages[0].compression == 5
        assert np.array_equal(as_read(read_picture(tmp_path / 'a.tif')), given), dtype


def test_floats_in_colour_of_unknown_range(tmp_path):
    tifffile.imwrite(tmp_path / 'f.tif', np.full((5, 7, 3), 300.0, np.float32), photometric='rgb')
    with pytest.raises(BadPicture, match=r'f\.tif: its values \(float32\).*8 or 16 bits'):
        read_picture(tmp_path / 'f.tif')


def test_lab_is_opaque(tmp_path):
    """Its second band is called A."""
    given = np.full((5, 7, 3), (128, 0, 0), np.uint8)
    Image.fromarray(given, 'LAB').save(tmp_path / 'a.tif')
    picture = read_picture(tmp_path / 'a.tif')
    assert picture.alpha is None and not picture.grey
    assert np.ptp(as_read(picture)) <= 1 and abs(as_read(picture).mean() - 119) < 2  # L of 50 in sRGB


@pytest.mark.parametrize('depth', [np.uint8, np.uint16])
@pytest.mark.parametrize('colours', [1, 3])
def test_a_tiffs_channel_of_no_stated_meaning_is_not_transparency(tmp_path, colours, depth):
    """A selection, say: it hides nothing."""
    pixels = values((20, 24, colours + 1), depth)
    pixels[..., -1] = 0
    tifffile.imwrite(tmp_path / 'a.tif', pixels, photometric='rgb' if colours == 3 else 'minisblack', extrasamples=[0],
                     planarconfig='contig')
    picture = read_picture(tmp_path / 'a.tif')
    assert picture.alpha is None and picture.grey == (colours == 1)
    assert np.array_equal(as_read(picture), pixels[..., :-1] if colours == 3 else pixels[..., 0])


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
def test_a_tiff_whose_zero_is_white_is_no_negative(dtype, tmp_path):
    given = values((6, 8), np.uint8 if dtype == np.uint8 else np.uint16)
    stored = np.iinfo(given.dtype).max - given
    stored = (stored / 65535).astype(dtype) if dtype == np.float32 else stored
    for packed in (None, 'zlib'):
        tifffile.imwrite(tmp_path / 'a.tif', stored, photometric='miniswhite', compression=packed)
        assert np.array_equal(as_read(read_picture(tmp_path / 'a.tif')), given), packed


@pytest.mark.parametrize(('dtype', 'byteorder'), [(np.uint16, '>'), (np.float16, '<'), (np.float32, '>')])
def test_nor_is_one_that_only_tifffile_reads(dtype, byteorder, tmp_path):
    given = np.array([[0, 65535, 32768]], np.uint16).repeat(4, 0)
    stored = 65535 - given if dtype == np.uint16 else (1 - given / 65535).astype(dtype)
    tifffile.imwrite(tmp_path / 'a.tif', stored, photometric='miniswhite', byteorder=byteorder)
    assert np.abs(as_read(read_picture(tmp_path / 'a.tif')).astype(int) - given).max() <= (dtype == np.float16)


def test_a_tiff_in_unknown_colours_is_refused_by_their_name(tmp_path):
    tifffile.imwrite(tmp_path / 'a.tif', np.zeros((6, 8, 4), np.float32), photometric='separated')
    with pytest.raises(BadPicture, match=r'TIFF, is not supported \(photometric interpretation SEPARATED\): save it'):
        read_picture(tmp_path / 'a.tif')


def test_a_tiff_of_12_bits_is_as_bright_as_it_is_seen(tmp_path):
    """As scanners and microscopes write them, two values in three bytes."""
    given = values((6, 8), np.uint16) >> 4
    given[0, 0] = 4095
    first, second = given.reshape(-1, 2).T
    body = np.stack([first >> 4, first % 16 << 4 | second >> 8, second % 256], -1).astype(np.uint8).tobytes()
    numbers = {256: 8, 257: 6, 258: 12, 259: 1, 262: 1, 273: 122, 277: 1, 278: 6, 279: len(body)}
    table = b''.join(struct.pack('<HHII', tag, 4, 1, number) for tag, number in numbers.items())
    content = struct.pack('<2sHIH', b'II', 42, 8, len(numbers)) + table + bytes(4) + body
    assert len(content) == 122 + len(body)
    (tmp_path / 'a.tif').write_bytes(content)
    picture = read_picture(tmp_path / 'a.tif')
    assert picture.bits == 16 and np.array_equal(as_read(picture), np.round(given * (65535 / 4095)))


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
def test_colours_that_alpha_has_been_multiplied_into(dtype, tmp_path):
    """What is seen through is not darker than what is not."""
    top = 1 if dtype == np.float32 else np.iinfo(dtype).max
    pixels = np.full((6, 8, 4), (0.5, 0.25, 0.125, 0.5)) * top
    pixels[3:] = np.array((1, 0.5, 0.25, 1)) * top
    pixels[0, 0] = 0
    tifffile.imwrite(tmp_path / 'a.tif', pixels.astype(dtype), photometric='rgb', extrasamples=[1])
    picture = read_picture(tmp_path / 'a.tif')
    assert float(picture.alpha[0, 0, 0, 0]) == 0 and abs(float(picture.alpha[0, 0, 1, 1]) - 0.5) < 0.01
    assert (picture.y[0] - torch.tensor([1, 0, -0.5])[:, None, None]).abs().max() < 0.02


@pytest.mark.parametrize('top', [255, 1023, 65535])
@pytest.mark.parametrize('kind', ['P3', 'P6'])
def test_colours_of_a_ppm_keep_their_bits(top, kind, tmp_path):
    """As raw converters write them."""
    given = values((6, 8, 3), np.uint16).astype(int) % (top + 1)
    given[0, 0] = top
    numbers = (' '.join(map(str, given.ravel())) + '\n').encode()
    body = numbers if kind == 'P3' else given.astype('>u2' if top > 255 else 'u1').tobytes()
    (tmp_path / 'a.ppm').write_bytes(f'{kind}\n# by hand\r8 6\n{top}\n'.encode() + body)
    picture = read_picture(tmp_path / 'a.ppm')
    assert picture.bits == (16 if top > 255 else 8)
    assert np.array_equal(as_read(picture), np.round(given * ((2 ** picture.bits - 1) / top)))


@pytest.mark.parametrize('ending', ['.jpg', '.webp'])
def test_the_largest_picture_of_a_format_is_known(ending, tmp_path):
    kind = WRITABLE[ending]
    most = LARGEST[kind]
    Image.new('L', (most, 1)).save(tmp_path / f'a{ending}')
    check_size(tmp_path / f'a{ending}', 1, most)
    with pytest.raises((OSError, ValueError)):
        Image.new('L', (most + 1, 1)).save(tmp_path / f'b{ending}')
    with pytest.raises(BadPicture, match=f'{kind} allows only {most} a side'):
        check_size(tmp_path / f'b{ending}', most + 1, 1)


def test_a_picture_as_saved_is_rounded_and_compressed_as_opencv_does():
    noise = torch.rand(3, 37, 53, generator=torch.Generator().manual_seed(0))
    y = torch.linspace(-9, 264, noise.numel()).reshape(noise.shape) + 20 * noise
    rounded = y.clamp(0, 255).round().permute(1, 2, 0).numpy().astype(np.uint8)
    assert files.as_saved(y).dtype == np.uint8 and np.array_equal(files.as_saved(y), rounded)
    for quality in (10, 90):
        coded = cv2.imencode('.jpg', rounded[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        truth = cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1].astype(float)
        error = np.abs(files.as_saved(y, quality) - truth)
        assert error.mean() < 0.5 < np.abs(truth - rounded).mean()  # 0, unless the two have different libraries of JPEG
