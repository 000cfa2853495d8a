"""Kernel shapes, alignment and files, against Blind144, scipy and MATLAB files written by scipy and h5py."""

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from scipy import ndimage

from kernelfusion_plugin.core import kernel_files, kernels
from kernelfusion_plugin.core.kernel_align import centre, centre_by_pixels, centre_of_mass, normalise, resize, shift


def blob(size=24, centre=(9.3, 13.1)):
    return kernels.gaussian(size, [[3.0, 1.0], [1.0, 2.0]], centre=centre).double()


ALL = {
    'delta': kernels.delta,
    'gaussian': lambda size: kernels.gaussian(size, sigmas=2.0),
    'motion': lambda size: kernels.motion(size, 3),
    'square': lambda size: kernels.square(size, size - 4),
    'hollow': lambda size: kernels.hollow_square(size, size - 4, size - 8),
    'l': lambda size: kernels.l_shape(size, size - 4, 2),
}


@pytest.mark.parametrize('size', [11, 24, 31])
@pytest.mark.parametrize('name', ALL)
def test_every_shape_is_a_centred_kernel(name, size):
    k = ALL[name](size)
    assert k.shape == (size, size) and k.dtype == torch.float32 and k.min() >= 0
    assert float(k.sum()) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(centre_of_mass(k), torch.full((2,), (size - 1) / 2), atol=1e-3, rtol=0)


def test_gaussian_has_its_moments():
    k = kernels.gaussian(41, [[6.0, 2.5], [2.5, 4.0]]).double()
    at = torch.arange(41).double() - 20
    assert float((k.sum(0) * at ** 2).sum()) == pytest.approx(6, rel=1e-4)  # x to the right
    assert float((k.sum(1) * at ** 2).sum()) == pytest.approx(4, rel=1e-4)
    assert float((k * at[:, None] * at).sum()) == pytest.approx(2.5, rel=1e-4)
    off = kernels.gaussian(41, sigmas=1.5, centre=(18.25, 22.0))
    torch.testing.assert_close(centre_of_mass(off), torch.tensor([18.25, 22.0]), atol=1e-3, rtol=0)


def test_gaussian_by_sigmas_and_theta():
    turned = kernels.gaussian(31, sigmas=(4.0, 1.0), theta=np.pi / 6)
    c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
    same = kernels.gaussian(31, [[16 * c * c + s * s, 15 * c * s], [15 * c * s, 16 * s * s + c * c]])
    torch.testing.assert_close(turned, same)
    torch.testing.assert_close(kernels.gaussian(31, sigmas=(4.0, 1.0), theta=np.pi / 2),
                               kernels.gaussian(31, sigmas=(1.0, 4.0)))


@pytest.mark.parametrize('options', [{}, {'covariance': [[1, 0], [0, 1]], 'sigmas': 1.0}, {'sigmas': 0.0},
                                     {'covariance': [[1, 2], [2, 1]]}, {'covariance': [[1, 0.5], [0, 1]]}])
def test_bad_gaussian(options):
    with pytest.raises(ValueError, match='Gaussian'):
        kernels.gaussian(9, **options)


def test_motion_is_seeded_and_stays_inside():
    a, b = kernels.motion(24, 5), kernels.motion(24, 5)
    assert torch.equal(a, b) and not torch.equal(a, kernels.motion(24, 6))
    torch.testing.assert_close(a, kernels.motion(24, torch.Generator().manual_seed(5)))
    for seed in range(10):
        k = kernels.motion(24, seed)
        frame = k.clone()
        frame[1:-1, 1:-1] = 0
        assert frame.sum() < 1e-3
        at = torch.arange(24.0) - 11.5
        spread = (k * (at[:, None] ** 2 + at ** 2)).sum().sqrt()
        assert 2 < spread < 9, 'neither a dot nor spread over all'
        assert (k > 0.1 * k.max()).float().mean() < 0.4, 'a path, not a blob'


def test_motion_without_room_is_a_dot():
    torch.testing.assert_close(kernels.motion(3, 0, blur=1.0).max(), kernels.motion(3, 0, blur=1.0)[1, 1])
    with pytest.raises(ValueError, match='extent'):
        kernels.motion(24, 0, extent=1.5)


@pytest.mark.parametrize('by', [(0.0, 0.0), (1.0, -2.0), (0.25, 0.5), (-1.7, 2.3)])
def test_shift_is_scipys_and_moves_the_centre_of_mass(by):
    k = blob(31, (15.2, 14.1))
    moved = shift(k, by)
    expected = ndimage.shift(k.numpy(), by, order=1, mode='grid-constant')
    np.testing.assert_allclose(moved.numpy(), expected, atol=1e-12)
    torch.testing.assert_close(centre_of_mass(moved) - centre_of_mass(k), torch.tensor(by).double(),
                               atol=1e-6, rtol=0)


def test_centre_of_mass_is_scipys_and_differentiable():
    k = blob() * 3
    np.testing.assert_allclose(centre_of_mass(k).numpy(), ndimage.center_of_mass(k.numpy()))
    assert torch.autograd.gradcheck(centre_of_mass, (blob(5, (2.2, 1.7)).requires_grad_(),))
    assert torch.autograd.gradcheck(lambda z: shift(z, (0.3, -1.2)), (blob(5, (2, 2)).requires_grad_(),))


@pytest.mark.parametrize('size', [23, 24])
def test_centre(size):
    middle = torch.full((2,), (size - 1) / 2).double()
    torch.testing.assert_close(centre_of_mass(centre(blob(size, (9.3, 13.1)))), middle)
    cut = blob(size, (0.5, size - 1.5))  # part of it is beyond the frame
    centred = centre(cut)
    torch.testing.assert_close(centre_of_mass(centred), middle, atol=1e-4, rtol=0)
    assert float(centred.sum()) == pytest.approx(1)


@pytest.mark.parametrize(('size', 'at', 'expected'), [
    (5, (0, 4), (2, 2)), (5, (2, 2), (2, 2)), (4, (0, 3), (1, 2)), (4, (1, 1), (1, 1)), (4, (2, 1), (2, 1)),
    (24, (3, 20), (11, 12)),
])
def test_centre_by_pixels(size, at, expected):
    k = torch.zeros(size, size)
    k[at] = 1
    moved = centre_by_pixels(k)
    assert moved.nonzero().tolist() == [list(expected)] and moved.max() == 1


def test_centre_by_pixels_rolls_without_wrapping():
    k = blob(24, (8.3, 14.4))
    moved = centre_by_pixels(k)
    torch.testing.assert_close(moved, torch.nn.functional.pad(k, (-3, 3, 3, -3)))
    assert (centre_of_mass(moved) - 11.5).abs().max() <= 0.5
    corner = torch.zeros(9, 9)
    corner[0, 0], corner[8, 8] = 3.0, 1.0  # centre of mass at (2, 2): moved by 2, the lower right leaves
    assert centre_by_pixels(corner).nonzero().tolist() == [[2, 2]]


@pytest.mark.parametrize(('old', 'new'), [(12, 24), (24, 12), (13, 27), (24, 24), (31, 20)])
def test_resize_keeps_the_middle_and_scales_the_extent(old, new):
    factor = new / old
    k = kernels.gaussian(old, sigmas=old / 8, centre=((old - 1) / 2 + 0.5, (old - 1) / 2 - 1)).double()
    big = resize(k, new)
    assert big.shape == (new, new) and float(big.sum()) == pytest.approx(1) and big.min() >= 0
    offset = centre_of_mass(big) - (new - 1) / 2
    torch.testing.assert_close(offset, factor * torch.tensor([0.5, -1.0]).double(), atol=0.05, rtol=0)
    even = kernels.gaussian(old, sigmas=old / 8)
    torch.testing.assert_close(resize(even, new), resize(even, new).flip(0, 1))


def test_resize_by_factor_1_is_padding_or_half_a_pixel():
    k = blob(13, (6, 6))
    torch.testing.assert_close(resize(k, 13), k / k.sum())
    torch.testing.assert_close(resize(k, 17, factor=1)[2:15, 2:15], k / k.sum())
    grown = torch.nn.functional.pad(k, (0, 1, 0, 1))
    torch.testing.assert_close(resize(k, 14, factor=1), normalise(shift(grown, (0.5, 0.5))))
    torch.testing.assert_close(resize(resize(k, 21, factor=1), 13, factor=1), k / k.sum())


def test_resize_is_half_pixel_bilinear():
    k = blob(12, (6, 5))
    expected = torch.nn.functional.interpolate(torch.nn.functional.pad(k, (1, 1, 1, 1))[None, None], scale_factor=2,
                                               mode='bilinear', align_corners=False)[0, 0, 2:-2, 2:-2]
    torch.testing.assert_close(resize(k, 24), expected / expected.sum())


def test_shrinking_skips_no_pixel():
    for at in range(24):
        k = torch.zeros(24, 24)
        k[at, 11] = 1
        rows = resize(k, 6).sum(1)
        assert float(rows.sum()) == pytest.approx(1) and int(rows.argmax()) == at // 4


def test_resize_carries_a_kernel_between_scales():
    """The blur of the same scene: x4 with K = 24 and x2 with K = 12 see a Gaussian alike."""
    coarse, fine = kernels.gaussian(12, sigmas=1.6), kernels.gaussian(24, sigmas=3.2)
    up = resize(coarse, 24)
    assert float((up * fine).sum() / up.norm() / fine.norm()) > 0.99


@pytest.mark.parametrize(('call', 'words'), [
    (lambda: normalise(torch.zeros(3, 3)), 'sum'),
    (lambda: normalise(torch.full((3, 3), float('nan'))), 'sum'),
    (lambda: centre_of_mass(torch.ones(3, 4)), 'square'),
    (lambda: kernels.square(24, 15), 'cannot be centred'),
    (lambda: kernels.hollow_square(24, 8, 16), 'hole'),
    (lambda: resize(torch.ones(3, 3), 0), 'size'),
    (lambda: kernels.delta(0), 'size'),
])
def test_bad_arguments(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# Files

def write(folder, ending, values):
    path = folder / f'kernel{ending}'
    if ending == '.npy':
        np.save(path, values)
    elif ending == '.mat':
        scipy.io.savemat(path, {'Kernel': values, 'other': np.eye(4)})
    elif ending == '.v73.mat':
        h5py = pytest.importorskip('h5py')
        with h5py.File(path, 'w', userblock_size=512) as file:
            file['Kernel'] = values.T
        with path.open('r+b') as file:
            file.write(b'MATLAB 7.3 MAT-file')
    elif ending == '.png':
        Image.fromarray((values / values.max() * 255).round().astype(np.uint8)).save(path)
    else:
        np.savetxt(path, values, delimiter=',' if ending == '.csv' else ' ')
    return path


@pytest.mark.parametrize('ending', ['.npy', '.mat', '.v73.mat', '.png', '.txt', '.csv'])
def test_load_kernel(tmp_path, ending):
    expected = blob(9, (3, 5))
    k = kernel_files.load_kernel(write(tmp_path, ending, 7 * expected.numpy()))
    assert k.dtype == torch.float32
    torch.testing.assert_close(k.double(), expected, atol=2e-3 if ending == '.png' else 1e-6, rtol=0)


@pytest.mark.parametrize(('values', 'words'), [
    (np.ones((3, 4)), 'square'),
    (np.ones((2, 3, 3)), 'square'),
    (np.zeros((3, 3)), 'positive'),
    (-np.ones((3, 3)), 'positive'),
    (np.array([[1.0, np.nan], [0, 0]]), 'finite'),
    (np.array([[1.0, -0.5], [0, 0]]), 'negative'),
    (np.zeros((0, 0)), 'square'),
    (np.array([['a', 'b'], ['c', 'd']]), 'cannot be read'),
])
def test_bad_kernels_are_named(tmp_path, values, words):
    path = tmp_path / 'kernel.npy'
    np.save(path, values)
    with pytest.raises(ValueError, match=words) as error:
        kernel_files.load_kernel(path)
    assert str(path) in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('name', ['no.npy', 'a.npy', 'a.mat', 'a.png', 'a.txt', 'a.doc', 'ragged.txt', 'v73.mat'])
def test_broken_files_are_named(tmp_path, name):
    path = tmp_path / name
    if name == 'ragged.txt':
        path.write_text('1 2\n3\n')
    elif name == 'v73.mat':
        path.write_bytes(b'MATLAB 7.3 MAT-file, but nothing follows')
    elif name != 'no.npy':
        path.write_bytes(b'')
    with pytest.raises(ValueError) as error:
        kernel_files.load_kernel(path)
    assert str(path) in str(error.value) and '\n' not in str(error.value)


def test_tiny_negatives_become_zero(tmp_path):
    np.save(tmp_path / 'k.npy', np.array([[1.0, -1e-3], [1.0, 0.0]]))
    torch.testing.assert_close(kernel_files.load_kernel(tmp_path / 'k.npy'), torch.tensor([[0.5, 0.0], [0.5, 0.0]]))


def test_a_kernel_that_was_found_with_negative_values_is_read_again(tmp_path):
    """As LinearCnnKernel's may have them: it sums to 1, which tells it from a picture."""
    k = kernels.gaussian(9, sigmas=1.0) - 0.004
    np.save(tmp_path / 'k.npy', (k / k.sum()).numpy())
    torch.testing.assert_close(kernel_files.load_kernel(tmp_path / 'k.npy'), k / k.sum())
    np.save(tmp_path / 'k.npy', 3 * (k / k.sum()).numpy())
    with pytest.raises(ValueError, match='must not be negative'):
        kernel_files.load_kernel(tmp_path / 'k.npy')


def test_a_mat_file_with_one_array_needs_no_name(tmp_path):
    scipy.io.savemat(tmp_path / 'k.mat', {'blur': np.ones((3, 3)), 'size': 3.0})
    assert kernel_files.load_kernel(tmp_path / 'k.mat').shape == (3, 3)
    scipy.io.savemat(tmp_path / 'k.mat', {'blur': np.ones((3, 3)), 'blur2': np.ones((3, 3))})
    with pytest.raises(ValueError, match='2 arrays'):
        kernel_files.load_kernel(tmp_path / 'k.mat')


@pytest.mark.parametrize('name', ['h5py', 'scipy.io'])
def test_a_missing_package_is_named(tmp_path, monkeypatch, name):
    def missing(module):
        raise ImportError(module)
    path = write(tmp_path, '.mat', np.ones((3, 3)))
    if name == 'h5py':
        path.write_bytes(b'MATLAB 7.3 MAT-file')
    monkeypatch.setattr(kernel_files.importlib, 'import_module', missing)
    with pytest.raises(ValueError, match=f'needs {name.split(".")[0]}: pip install'):
        kernel_files.load_kernel(path)


def test_levin_file_that_is_not(tmp_path):
    pytest.importorskip('h5py')
    (tmp_path / 'Levin09.mat').write_bytes(b'nothing')
    for path in (tmp_path / 'Levin09.mat', tmp_path / 'absent.mat'):
        with pytest.raises(ValueError, match='Levin') as error:
            kernel_files.load_levin(path)
        assert '\n' not in str(error.value)


def test_blind144(shared_data):
    truth = torch.from_numpy(np.load(shared_data / 'kernels' / 'blind144_gt.npy'))
    torch.testing.assert_close(kernels.blind144_synthetic(), truth[:4], atol=1e-7, rtol=0)
    pytest.importorskip('h5py')
    torch.testing.assert_close(kernel_files.levin_kernels(shared_data / 'kernels' / 'Levin09.mat'), truth[4:],
                               atol=1e-7, rtol=0)
    native = kernel_files.load_levin(shared_data / 'kernels' / 'Levin09.mat')
    assert [len(k) for k in native] == [19, 17, 15, 27, 13, 21, 23, 23]


def test_div2krk_kernel(shared_data):
    k = kernel_files.load_kernel(shared_data / 'div2krk' / 'kernel_13.mat')
    assert k.shape == (31, 31) and float(k.sum()) == pytest.approx(1, abs=1e-5)
    assert (centre_of_mass(k) - 15).abs().max() < 0.6
