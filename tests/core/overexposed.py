"""Photographs with lights that are brighter than white, for tests."""

import numpy as np
import skimage.data
import torch

from kernelfusion_plugin.core.degradation import Degradation

BRIGHTNESS = (3.0, 10.0)  # in units of white's light


def photograph(name, height=368, width=480):
    """The middle of a photograph of scikit-image, (1, 3, height, width), float64 in [-1, 1]."""
    picture = getattr(skimage.data, name)()
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    middle = np.ascontiguousarray(picture[top:top + height, left:left + width])
    return torch.from_numpy(middle).permute(2, 0, 1)[None].double() / 127.5 - 1


def lamps_over(picture, count=10, seed=0):
    """By night: the picture with half its light, and ``count`` round, warm lamps; [-1, ∞)."""
    random, light = np.random.default_rng(seed), (picture + 1) / 4
    height, width = picture.shape[-2:]
    rows, columns = np.mgrid[:height, :width]
    for _ in range(count):
        row, column, radius = random.uniform(20, height - 20), random.uniform(20, width - 20), random.uniform(1.5, 4)
        disc = torch.from_numpy(np.clip(radius + 0.5 - np.hypot(rows - row, columns - column), 0, 1))
        colour = torch.tensor([1, 0.9, 0.7], dtype=torch.float64)[:, None, None] * random.uniform(*BRIGHTNESS)
        light = light * (1 - disc) + colour * disc
    return 2 * light - 1


def highlights_of(picture):
    """The picture with all that is brighter than 85 % of white up to twice as bright as white; [-1, ∞)."""
    light = (picture + 1) / 2
    return 2 * (light + 6 * (light - 0.85).clamp_min(0)) - 1


def seen_through(picture, kernel, scale=4, rim=4):
    """(x * k)↓s without the ``rim`` outermost LR pixels, which depend on what lies beyond the frame."""
    y = Degradation(scale, len(kernel), 'replicate').forward(picture, kernel.to(picture))
    return y[..., rim:-rim, rim:-rim]


def stored(y):
    """y as it is stored in 8 bits."""
    return ((y.clamp(-1, 1) + 1) * 127.5).round().div(127.5).sub(1).float()
