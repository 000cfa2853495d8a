"""Fills in pixels hidden by transparency from visible ones."""

from __future__ import annotations

import cv2
import numpy as np


def fill_hidden(values: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """(h, w, …) with pixels hidden by alpha filled in smoothly from the visible ones, which do not change.

    Editors leave hidden pixels black or white. Their edge is invisible but sharp, and would mislead the kernel search,
    as it was never blurred.
    """
    if visible.all() or not visible.any():
        return values
    colour = values.reshape(*visible.shape, -1).astype(np.float32) * visible[..., None]
    filled = np.rint(_push_pull(colour, visible.astype(np.float32))).reshape(values.shape)
    return np.where(visible if values.ndim == 2 else visible[..., None], values, filled.astype(values.dtype))


def _push_pull(colour: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Fill pixels of (h, w, c) that are not ``known`` (1 or 0; unknown ones are 0 in ``colour``) from half resolution.

    Gortler et al., The Lumigraph (1996), 3.4; smoothed at each resolution, so that no edge remains at the known pixels.
    """
    unknown = known == 0
    if not unknown.any():
        return colour
    height, width, channels = colour.shape
    half = ((width + 1) // 2, (height + 1) // 2)
    share = cv2.resize(known, half, interpolation=cv2.INTER_AREA)
    mean = _resize(colour, half, cv2.INTER_AREA) / np.maximum(share, 1e-6)[..., None]
    coarse = _push_pull(mean * (share > 0)[..., None], (share > 0).astype(np.float32))
    colour = np.where(unknown[..., None], _resize(coarse, (width, height), cv2.INTER_LINEAR), colour)
    for _ in range(4):  # towards the mean of the neighbours
        colour[unknown] = cv2.blur(colour, (3, 3)).reshape(colour.shape)[unknown]
    return colour


def _resize(x: np.ndarray, size: tuple[int, int], how: int) -> np.ndarray:
    """cv2.resize, but keeping a single channel."""
    return cv2.resize(x, size, interpolation=how).reshape(size[1], size[0], -1)
