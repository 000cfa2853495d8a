"""The error that JPEG has left in a picture, estimated from its pixels, against the error itself."""

import cv2
import numpy as np
import pytest
import torch

from kernelfusion_plugin.core.colour import LUMA
from kernelfusion_plugin.core.jpeg import jpeg_error
from kernelfusion_plugin.core.noise import estimate_noise, white_noise


def picture(height=128, width=160, rough=1.0, seed=0):
    """uint8 (h, w, 3): rough patches and quiet ones, of amplitudes that fall with frequency, as in photographs."""
    rng = np.random.default_rng(seed)
    f = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    falls = 1 / np.maximum(f, 1 / 64) ** (2.5 - rough)
    waves = np.fft.ifft2(np.fft.fft2(rng.standard_normal((3, height, width))) * falls).real
    waves = waves / waves.std() + 2 * waves.mean(0) / waves.std()  # mostly grey
    patches = cv2.resize(rng.standard_normal((4, 5)), (width, height), interpolation=cv2.INTER_CUBIC)
    waves = waves * np.exp(patches)
    return np.clip(waves / waves.std() * 40 + 128, 0, 255).round().astype(np.uint8).transpose(1, 2, 0)


def compressed(pixels, quality):
    return cv2.imdecode(cv2.imencode('.jpg', pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


def as_y(pixels):
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float() / 127.5 - 1


def luma_error(pixels, others):
    weights = np.array(LUMA)
    return float(np.sqrt((((pixels.astype(float) - others) @ weights) ** 2).mean())) / 127.5


@pytest.mark.parametrize('quality', [95, 90, 80, 70])
@pytest.mark.parametrize('rough', [0.4, 1.0])
@pytest.mark.parametrize('corner', [(0, 0), (3, 5)])
def test_the_error_is_found_wherever_the_grid_lies(quality, rough, corner):
    pixels = picture(rough=rough)
    after = compressed(pixels[..., ::-1], quality)[..., ::-1]
    top, left = corner
    found = jpeg_error(as_y(after[top:, left:]))
    assert found == pytest.approx(luma_error(pixels, after), rel=0.25)


@pytest.mark.parametrize('name', ['chelsea', 'coffee', 'astronaut'])
@pytest.mark.parametrize('quality', [95, 90])
def test_the_error_of_a_photograph(name, quality):
    skimage = pytest.importorskip('skimage.data')
    photo = getattr(skimage, name)()
    pixels = cv2.resize(photo, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)
    after = compressed(pixels[..., ::-1], quality)[..., ::-1]
    assert jpeg_error(as_y(pixels)) == 0
    assert jpeg_error(as_y(after)) == pytest.approx(luma_error(pixels, after), rel=0.25)


@pytest.mark.parametrize('size', [(24, 24), (40, 33), (64, 96), (128, 160)])
def test_no_alarm_without_jpeg(size):
    for seed in range(8):
        y = as_y(picture(*size, rough=0.2 * seed, seed=seed))
        noisy = y + 0.02 * torch.randn(y.shape, generator=torch.Generator().manual_seed(seed))
        assert jpeg_error(y) == jpeg_error(((noisy + 1) * 127.5).round() / 127.5 - 1) == 0


def test_no_alarm_once_resized():
    pixels = cv2.resize(compressed(picture(256, 320), 75), None, fx=0.61, fy=0.61, interpolation=cv2.INTER_AREA)
    assert jpeg_error(as_y(pixels)) == 0


@pytest.mark.parametrize('size', [(15, 15), (16, 16), (64, 72), (23, 200), (8, 600), (4, 4000)])
def test_small_and_flat_pictures(size):
    found = jpeg_error(as_y(compressed(picture(*size), 90)))
    assert found == 0 if size[0] // 8 * (size[1] // 8) < 64 else 0 <= found < 0.05
    assert jpeg_error(torch.zeros(1, 3, *size)) == 0


def test_it_counts_as_noise():
    y = as_y(compressed(picture(), 90))
    assert estimate_noise(y).level() == jpeg_error(y) > white_noise(y)
    y = as_y(picture()) + 0.06 * torch.randn(1, 3, 128, 160, generator=torch.Generator().manual_seed(0))
    assert estimate_noise(y).level() == white_noise(y) > jpeg_error(y) == 0
