"""The pictures of a comparison: contact sheets, and the matrix of kernels."""

import numpy as np
import pytest
from comparing import Methods, compare, noise, option_file, rows, write_images
from PIL import Image, ImageDraw

from kernelfusion_plugin.bench.compare import drawings, views
from kernelfusion_plugin.bench.compare.cases import Case
from kernelfusion_plugin.bench.compare.collect import Comparison, Outcome
from kernelfusion_plugin.core.kernels import gaussian, motion
from kernelfusion_plugin.report import kernel_picture


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp('data'))


def test_the_crop_is_where_methods_differ_and_shown_at_whole_pixels(tmp_path, data, monkeypatch):
    def patched(hr, name):
        hr = noise(2)(hr, name)
        hr[40:52, 60:72] = 255 - hr[40:52, 60:72]
        return hr
    Methods(monkeypatch, a=noise(2, seed=1), b=patched)
    two = [option_file(tmp_path / f'{name}.yml', data) for name in 'ab']
    hr = np.full((96, 96, 3), 90, np.uint8)
    crop = views.choose_crop([hr, patched(hr, 'x')], None, side=12)
    assert (crop.row, crop.col, crop.size) == (40, 60, 12)
    assert compare('-opt', *two, '--out', tmp_path / 'out', '--crop', 'ape_k1:8,16,24').exit_code == 0
    sheet = np.array(Image.open(tmp_path / 'out' / 'sheets' / 'ape_k1.png'))
    for method in 'ab':
        picture = np.array(Image.open(next((tmp_path / 'out' / 'runs').rglob(f'ape_k1_{method}.png'))))
        assert holds(sheet, picture[8:32, 16:40].repeat(16, axis=0).repeat(16, axis=1))
    assert not holds(sheet, picture[9:33, 16:40].repeat(16, axis=0).repeat(16, axis=1))


def test_matrix_shows_true_and_saved_kernels(tmp_path, data, monkeypatch):
    wide = motion(21, 8)

    def with_kernels(method, root):
        status = ran.start(method, root)
        folder = root / method.slug / 'visualization' / 'Toy'
        np.save(folder / 'ape_k1_kernel.npy', np.load(data / 'kernels' / 'ape_k1.npy'))
        np.save(folder / 'bee_k2_kernel.npy', wide.numpy())  # a wrong one
        (folder / 'cow_k1_kernel.npy').write_bytes(b'nonsense')
        return status
    ran = Methods(monkeypatch, a=noise(3))
    monkeypatch.setattr('kernelfusion_plugin.bench.compare.runs._start', with_kernels)
    assert compare('-opt', option_file(tmp_path / 'a.yml', data), '--out', tmp_path / 'out').exit_code == 0
    found = {row['image']: row for row in rows(tmp_path / 'out')}
    assert float(found['ape_k1']['kernel_ncc']) == 1 and float(found['bee_k2']['kernel_ncc']) < 0.9
    assert found['cow_k1']['psnr'] and 'cow_k1_kernel.npy' in found['cow_k1']['fault']
    matrix = np.array(Image.open(tmp_path / 'out' / 'kernels.png').convert('L'))
    tiles = [kernel_picture(np.load(data / 'kernels' / f'{name}.npy'), 96) for name in ('ape_k1', 'bee_k2')]
    tiles.append(np.pad(squares(wide.numpy(), 4), 6))  # 21 x 21 among 24 x 24, centre on centre
    assert [holds(matrix, tile, count=True) for tile in tiles] == [3, 1, 1]  # true: 2, 1, 0; saved: 1, 0, 1


def test_columns_of_kernels_can_be_told_apart(tmp_path, monkeypatch):
    """Each name has a line of its own; what is too long loses its middle."""
    path, images = tmp_path / 'kernels.png', [f'a_photograph_of_this_house_or_that_{n}' for n in (1, 2)]
    found = heads(path, [('Mine_gauss15', 'im_1'), ('Mine_gauss15', 'im_2')], monkeypatch)
    assert found == [['im_1', 'k1'], ['im_2', 'k2']]
    keys = [(name, image) for name in ('Mine_gauss15', 'Mine_gauss25') for image in images]
    found = heads(path, keys, monkeypatch)
    assert [column[0] for column in found] == [name for name, _ in keys]
    assert all(column[1][:8] == 'a_photog' and '…' in column[1] and column[1][-5:] == image[-5:]
               for column, (_, image) in zip(found, keys, strict=True))
    assert [column[2] for column in found] == ['k1', 'k2', 'k1', 'k2']


def heads(path, keys, monkeypatch):
    """What stands above each column of the matrix, from left to right and from above, as PIL is told to write it."""
    written = []
    monkeypatch.setattr(ImageDraw.ImageDraw, 'text', lambda pen, at, text, *style: written.append((*at, text)))
    drawings.save_kernel_matrix(path, comparison(keys, motion(24, 1).numpy()))
    monkeypatch.undo()
    starts = sorted(x for x, _, text in written if text == '0.912 / 0.988')
    top = min(y for _, y, text in written if text == '0.912 / 0.988')
    columns = [[text for x, y, text in sorted(written) if x == start and y < top and text] for start in starts]
    assert len({x for x, *_ in written}) == len(keys) + 1  # and the rows' titles
    return columns


def comparison(keys, true):
    """Of one method, which has a Gaussian for each image."""
    cases = {key: Case(key, (), 4, true, f'k{key[1][-1]}') for key in keys}
    scores = {'kernel_ncc': 0.91234, 'kernel_ncc_best_shift': 0.98765}
    outcomes = {('m', key): Outcome(kernel=gaussian(24, sigmas=2.0).numpy(), scores=scores) for key in keys}
    return Comparison([type('Method', (), {'label': 'm'})()], 'm', {}, cases, outcomes, {})


@pytest.mark.parametrize('size', [15, 24, 37, 150])
def test_kernels_of_all_sizes_are_at_one_scale(tmp_path, size):
    """A Gaussian is as wide in every tile, and in its middle; the largest grids are not cut."""
    true, found = gaussian(size, sigmas=2.0).numpy(), gaussian(24, sigmas=2.0).numpy()
    drawings.save_kernel_matrix(tmp_path / 'k.png', comparison([('d', 'im_1')], true))
    sheet = np.array(Image.open(tmp_path / 'k.png').convert('L'))
    grid = max(size, 24)
    zoom = max(1, round(drawings.TILE / grid))
    for kernel in (true, found):
        around = (grid - len(kernel)) * zoom
        assert holds(sheet, np.pad(squares(kernel, zoom), (around // 2, around - around // 2)))


def squares(kernel, zoom):
    """A kernel in grey, each entry a square."""
    grey = np.round(255 * np.clip(kernel, 0, None) / kernel.max()).astype(np.uint8)
    return np.kron(grey, np.ones((zoom, zoom), np.uint8))


def holds(sheet, part, count=False):
    """Whether (how often) a picture holds another, to the last pixel."""
    height, width = part.shape[:2]
    corners = np.ones(tuple(np.array(sheet.shape[:2]) - (height, width) + 1), bool)
    for row, col in ((0, 0), (height - 1, width - 1), (height // 2, width // 3), (height // 3, width // 2)):
        there = sheet[row:row + corners.shape[0], col:col + corners.shape[1]] == part[row, col]
        corners &= there if there.ndim == 2 else there.all(-1)
    found = sum(np.array_equal(sheet[row:row + height, col:col + width], part) for row, col in np.argwhere(corners))
    return found if count else found > 0
