"""JPEG's colours against OpenCV's, and there and back."""

import cv2
import numpy as np
import torch

from kernelfusion_plugin.core.colour import to_rgb, to_ycbcr


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
