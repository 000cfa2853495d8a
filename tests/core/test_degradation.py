"""The forward model against independent implementations, its adjoint, and the published LR files."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage

from kernelfusion_plugin.core.degradation import BORDERS, Degradation, synthesise, to_canvas, upscale_bicubic

SIZES = [(1, 1), (1, 4), (2, 5), (2, 6), (3, 7), (3, 8), (4, 4), (4, 9), (4, 24), (4, 31)]
NUMPY_PAD = {'reflect': 'reflect', 'replicate': 'edge', 'zeros': 'constant'}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_loops(x, k, s, border):
    """y by definition: pad, correlate, keep every s-th value, in numpy."""
    size = k.shape[-1]
    before, after = (size - s) // 2, size - s - (size - s) // 2
    x, k = x.numpy(), k.numpy()
    if border != 'valid':
        x = np.pad(x, [(0, 0), (0, 0), (before, after), (before, after)], mode=NUMPY_PAD[border])
    h, w = (x.shape[-2] - size) // s + 1, (x.shape[-1] - size) // s + 1
    y = np.zeros((*x.shape[:2], h, w))
    for i in range(h):
        for j in range(w):
            y[..., i, j] = (x[..., s * i:s * i + size, s * j:s * j + size] * k).sum((-2, -1))
    return torch.from_numpy(y)


@pytest.mark.parametrize('border', BORDERS)
@pytest.mark.parametrize(('s', 'size'), [(4, 24), (4, 31), (3, 9), (2, 7), (1, 5)])
def test_impulses_return_the_kernel_as_drawn(s, size, border):
    degradation = Degradation(s, size, border)
    k = random(size, size)
    n = math.ceil(size / s) + 4  # LR pixel (n // 2, n // 2) sees the middle of the image only
    height, width = degradation.hr_size((n, n))
    i = n // 2
    first = s * i - (0 if border == 'valid' else degradation.margin[0])  # HR pixel that meets k[0, 0]
    for a, b in [(0, 0), (0, size - 1), (size - 1, 0), (size // 2, size // 3)]:
        x = torch.zeros(1, 1, height, width, dtype=torch.float64)
        x[..., first + a, first + b] = 1
        torch.testing.assert_close(degradation.forward(x, k)[0, 0, i, i], k[a, b])


def test_one_impulse_draws_the_kernel_turned_by_180_degrees_at_scale_1():
    degradation, k = Degradation(1, 5, 'zeros'), random(5, 5)
    x = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    x[..., 4, 4] = 1
    torch.testing.assert_close(degradation.forward(x, k)[0, 0, 2:7, 2:7], k.flip(0, 1))


def test_the_official_phase():
    """k[0, 0] meets HR (4i - 10, 4j - 10): the paper's padding for K = 24 at x4."""
    assert Degradation(4, 24).margin == (10, 10)
    assert Degradation(4, 31).margin == (13, 14)  # centre 15 on HR 4i + 2


@pytest.mark.parametrize('border', BORDERS)
@pytest.mark.parametrize(('s', 'size', 'centre'), [(4, 24, None), (3, 9, 4), (1, 3, 1)])
def test_a_delta_is_decimation(s, size, centre, border):
    degradation = Degradation(s, size, border)
    k = torch.zeros(size, size, dtype=torch.float64)
    at = degradation.margin[0] if centre is None else centre  # margin[0] is the top-left pixel of LR pixel 0
    k[at, at] = 1
    x = random(2, 3, *degradation.hr_size((8, 7)))
    frame = degradation.crop(x)
    phase = at - degradation.margin[0]
    torch.testing.assert_close(degradation.forward(x, k), frame[..., phase::s, phase::s])


@pytest.mark.parametrize('border', BORDERS)
@pytest.mark.parametrize(('s', 'size'), SIZES)
def test_forward_adjoint_and_windows(s, size, border):
    degradation = Degradation(s, size, border)
    for lr_size in [(5, 4), (8, 9)]:
        x, y = random(2, 3, *degradation.hr_size(lr_size)), random(2, 3, *lr_size, seed=2)
        k = random(size, size, seed=1)
        out = degradation.forward(x, k)
        assert degradation.lr_size(x.shape[-2:]) == lr_size and out.shape == y.shape
        torch.testing.assert_close(out, by_loops(x, k, s, border), rtol=1e-10, atol=1e-10)
        back = degradation.adjoint(y, k)
        assert back.shape == x.shape
        torch.testing.assert_close((out * y).sum(), (x * back).sum(), rtol=1e-10, atol=1e-9)
        torch.testing.assert_close((degradation.windows(x) @ k.reshape(-1)).reshape(out.shape), out)
        assert degradation.crop(x).shape[-2:] == (lr_size[0] * s, lr_size[1] * s)


@pytest.mark.parametrize(('s', 'size'), [(s, size) for s, size in SIZES if (size - s) % 2 == 0])
def test_forward_is_a_strided_conv2d(s, size):
    x, k = random(1, 3, 8 * s, 6 * s), random(size, size, seed=1)
    expected = F.conv2d(x.transpose(0, 1), k[None, None], stride=s, padding=(size - s) // 2).transpose(0, 1)
    torch.testing.assert_close(Degradation(s, size, 'zeros').forward(x, k), expected)


def test_forward_agrees_with_scipy():
    x, k = random(1, 1, 40, 36), random(25, 25, seed=1)
    full = ndimage.correlate(x[0, 0].numpy(), k.numpy(), mode='nearest', origin=0)
    # K = 25 at s = 4: the centre 12 lies on HR 4i + 2
    torch.testing.assert_close(Degradation(4, 25, 'replicate').forward(x, k)[0, 0], torch.from_numpy(full[2::4, 2::4]))


@pytest.mark.parametrize('border', BORDERS)
def test_gradients(border):
    degradation = Degradation(2, 5, border)
    x, k = random(1, 2, *degradation.hr_size((3, 4))).requires_grad_(), random(5, 5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(degradation.forward, (x, k))
    y = random(1, 2, 3, 4, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(degradation.adjoint, (y, k))
    (grad,) = torch.autograd.grad((degradation.forward(x, k) * y).sum(), x)
    torch.testing.assert_close(grad, degradation.adjoint(y, k))


def test_borders_keep_a_flat_image_flat():
    k = torch.rand(24, 24, dtype=torch.float64)
    k = k / k.sum()
    x = torch.full((1, 3, 32, 24), 0.3, dtype=torch.float64)
    for border in ('reflect', 'replicate'):
        torch.testing.assert_close(Degradation(4, 24, border).forward(x, k), torch.full((1, 3, 8, 6), 0.3).double())


@pytest.mark.parametrize('border', ['reflect', 'replicate'])
def test_a_line_of_one_pixel_goes_on_as_it_is(border):
    x = torch.rand(1, 1, 1, 5, dtype=torch.float64)
    k = torch.rand(3, 3, dtype=torch.float64)
    flat = Degradation(1, 3, border).forward(x.expand(1, 1, 3, 5), k)
    torch.testing.assert_close(Degradation(1, 3, border).forward(x, k), flat[..., 1:2, :])


@pytest.mark.parametrize(('call', 'words'), [
    (lambda: Degradation(0, 5), 'scale'),
    (lambda: Degradation(4, 3), 'kernel_size'),
    (lambda: Degradation(4, 24, 'wrap'), 'border'),
    (lambda: Degradation(4, 24, 'zeros').lr_size((30, 32)), 'multiple'),
    (lambda: synthesise(torch.zeros(1, 3, 8, 8), torch.ones(4, 4) / 16, 4), 'uint8'),
])
def test_bad_input_is_a_clear_error(call, words):
    with pytest.raises(ValueError, match=words) as error:
        call()
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(('s', 'size'), [(4, 24), (4, 31), (3, 9), (2, 12), (2, 7), (1, 3)])
def test_canvas_is_aligned_with_bicubic(s, size):
    y = random(2, 3, 12, 11)
    degradation = Degradation(s, size)
    canvas = to_canvas(y, degradation)
    assert canvas.shape[-2:] == degradation.hr_size((12, 11))
    inner, plain = degradation.crop(canvas), upscale_bicubic(y, s)
    edge = 2 * s  # nearer the frame, bicubic renormalises its weights where the canvas continues the edge
    torch.testing.assert_close(inner[..., edge:-edge, edge:-edge], plain[..., edge:-edge, edge:-edge])
    frame = Degradation(s, size, 'reflect')
    torch.testing.assert_close(to_canvas(y, frame), plain)


@pytest.mark.parametrize('s', [2, 3, 4])
def test_upscale_bicubic_is_pils(s):
    y = np.random.default_rng(0).integers(60, 196, (13, 17), dtype=np.uint8)  # far from where PIL clips
    ours = upscale_bicubic(torch.from_numpy(y).double()[None, None], s)[0, 0].numpy()
    exact = np.array(Image.fromarray(y.astype(np.float32)).resize((17 * s, 13 * s), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(ours, exact, atol=1e-3)
    rounded = np.array(Image.fromarray(y).resize((17 * s, 13 * s), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(ours.round() - rounded).max() <= 1  # PIL rounds between its two passes


def read(path):
    return torch.from_numpy(np.array(Image.open(path).convert('RGB'))).permute(2, 0, 1)[None]


def test_published_lr_files(shared_data):
    """Bit for bit to the frame. (Needs oneDNN on a CPU with AVX2 or later: other orders of summation turn ties.)"""
    kernels = torch.from_numpy(np.load(shared_data / 'kernels' / 'blind144_gt.npy'))
    paths = sorted((shared_data / 'div2k' / 'LRx4').glob('*.png'))
    assert paths
    for path in paths:
        hr = read(shared_data / 'div2k' / 'HR' / f'{path.stem[:4]}.png')
        assert torch.equal(synthesise(hr, kernels[int(path.stem[-2:])], 4), read(path)), path.name


def test_degradation_gives_the_published_lr_files_up_to_ties(shared_data):
    kernels = torch.from_numpy(np.load(shared_data / 'kernels' / 'blind144_gt.npy'))
    for name in ('0802_k01', '0813_k07'):
        hr = read(shared_data / 'div2k' / 'HR' / f'{name[:4]}.png')
        lr = read(shared_data / 'div2k' / 'LRx4' / f'{name}.png')
        y = Degradation(4, 24, 'zeros').forward(hr.float(), kernels[int(name[-2:])])
        tie = ((y - y.floor()) - 0.5).abs() < 1e-3
        wrong = y.round() != lr
        assert not (wrong & ~tie).any() and wrong.float().mean() < 0.005
        y = (Degradation(4, 24, 'reflect').forward(hr / 127.5 - 1, kernels[int(name[-2:])]) + 1) * 127.5
        assert ((y.round() - lr).abs()[..., 3:-3, 3:-3] <= 1).all()  # the core's range and border: the interior


def test_published_bicubic_crops(shared_data):
    crops = json.loads((shared_data / 'official_crops' / 'crops.json').read_text())
    for name, crop in crops.items():
        expected = read(shared_data / 'official_crops' / name / 'Bicubic.png').float()
        y = read(shared_data / 'div2k' / 'LRx4' / f'{name}_k{crop["kernel"]:02d}.png')
        rows, cols = (slice(crop[at], crop[at] + n) for at, n in zip(('row', 'col'), crop['size'], strict=True))
        ours = upscale_bicubic(y.float(), 4).clamp(0, 255).round()[..., rows, cols]
        picture = Image.fromarray(y[0].permute(1, 2, 0).numpy())
        pil = picture.resize((4 * picture.width, 4 * picture.height), Image.Resampling.BICUBIC)
        pil = torch.from_numpy(np.array(pil)).permute(2, 0, 1)[None, :, rows, cols].float()
        for name_of, image in (('PIL', pil), ('upscale_bicubic', ours)):
            assert (image - expected).abs().max() <= 2, (name, name_of, float((image - expected).abs().max()))
