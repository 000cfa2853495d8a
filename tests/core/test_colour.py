"""JPEG's colours against OpenCV's, there and back, and what is gained by telling them apart."""

import cv2
import numpy as np
import pytest
import torch

from kernelfusion_plugin.core import noise
from kernelfusion_plugin.core.colour import to_rgb, to_ycbcr
from kernelfusion_plugin.core.degradation import Degradation, synthesise
from kernelfusion_plugin.core.em import solve_em
from kernelfusion_plugin.core.em_config import EmConfig
from kernelfusion_plugin.core.kernels import gaussian
from kernelfusion_plugin.core.texture_prior import load_texture_prior


def test_the_colours_are_jpegs():
    rgb = np.random.default_rng(0).random((5, 7, 3)).astype(np.float32)
    luma, cr, cb = cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb).transpose(2, 0, 1)  # in [0, 1], of three and four digits
    found = to_ycbcr(torch.from_numpy(2 * rgb - 1).permute(2, 0, 1)[None])[0].numpy()
    np.testing.assert_allclose(found, 2 * np.stack([luma, cb, cr]) - 1, atol=1e-3)


def test_there_and_back():
    x = torch.rand(2, 3, 4, 5, dtype=torch.float64) * 2 - 1
    torch.testing.assert_close(to_rgb(to_ycbcr(x)), x, rtol=0, atol=1e-14)
    grey = torch.rand(1, 1, 4, 5, dtype=torch.float64).expand(-1, 3, -1, -1)
    torch.testing.assert_close(to_ycbcr(grey), torch.cat([grey[:, :1], torch.zeros(1, 2, 4, 5)], 1), rtol=0, atol=1e-14)


@pytest.mark.parametrize('name', ['coffee', 'astronaut'])
def test_the_colours_of_a_jpeg_come_out_better_where_they_are_trusted_less(monkeypatch, name):
    """And luma as good as before."""
    photo = torch.from_numpy(getattr(pytest.importorskip('skimage.data'), name)()).permute(2, 0, 1)[None]
    x = photo[..., 100:356, 150:406]
    degradation, k = Degradation(4, 16, 'reflect'), gaussian(16, sigmas=2.0)
    lr = synthesise(x, k, 4, 'reflect')[0].permute(1, 2, 0).numpy()
    jpeg = cv2.imdecode(cv2.imencode('.jpg', lr[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])[1], cv2.IMREAD_COLOR)
    y = torch.from_numpy(jpeg[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    prior, config, errors = load_texture_prior(y.device, 'float32'), EmConfig(final_steps=6), {}
    for share in (1.0, 2.0):
        monkeypatch.setattr(noise, 'JPEG_COLOUR', share)
        *_, last = solve_em(y, prior, degradation, config, torch.Generator(), k)
        error = to_ycbcr(degradation.crop(last.x0_hat) - (x / 127.5 - 1)).square().mean((0, 2, 3)).sqrt()
        errors[share] = float(error[0]), float(error[1:].mean())
    assert errors[2.0][0] < 1.01 * errors[1.0][0]
    assert errors[2.0][1] < 0.985 * errors[1.0][1]
