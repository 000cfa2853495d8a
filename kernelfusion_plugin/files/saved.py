"""The values that a picture has once it is saved, without writing a file: 8 bits, perhaps after JPEG compression."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def as_saved(y: Tensor, jpeg: int | None = None) -> np.ndarray:
    """y (3, h, w), RGB on a scale of 0 to 255, as uint8 (h, w, 3): rounded, clamped, and compressed if asked for.

    Args:
        jpeg: quality of JPEG compression, 1 to 100, with PIL's other settings (chroma at half the resolution); None: no
            compression.
    """
    picture = y.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    if jpeg is None:
        return picture
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format='JPEG', quality=jpeg)
    with Image.open(file) as coded:
        return np.array(coded)
