"""Generates pictures with the edge statistics of photographs, on which the texture prior is trained.

Dead leaves (Lee, Mumford & Huang 2001): overlapping shapes with power-law distributed sizes give sharp edges at every
scale and a spectrum like a photograph's, and denoisers trained on them come close to those trained on photographs
(Achddou, Gousseau & Ladjal 2021). Ours also have shading, noise of several spectra, gratings, lines and letters, since
the prior must tell blur from repetition in the picture itself. No photographs are used.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.random import Generator

Array = np.ndarray
SHIFT = 4  # OpenCV's coordinates are sixteenths of a pixel


def texture(rng: Generator, size: int = 256) -> Array:
    """A picture (size, size, 3), uint8 RGB, drawn two or three times larger and reduced by area averaging."""
    zoom = int(rng.choice([2, 3]))
    canvas = _Canvas(rng, size * zoom, zoom)
    for radius in canvas.radii():
        canvas.add_leaf(radius)
    picture = canvas.picture
    if rng.random() < 0.3:  # uneven lighting
        picture = picture * (1 + 0.3 * rng.random() * power_law_noise(rng, canvas.size, 2.0)[..., None])
    if rng.random() < 0.75:  # photographs are softer than their pixel grid, to varying degrees
        picture = cv2.GaussianBlur(picture, (0, 0), zoom * rng.uniform(0.15, 0.85))
    picture = cv2.resize(np.clip(picture, 0, 1).astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
    return (picture * 255).round().astype(np.uint8)


def generate_pictures(seed: int, count: int, size: int = 256) -> Iterator[Array]:
    """Yield ``count`` pictures by :func:`texture`, each with its own seed."""
    for index in range(count):
        yield texture(np.random.default_rng((seed, index)), size)


def power_law_noise(rng: Generator, size: int, exponent: float) -> Array:
    """(size, size) Gaussian noise of mean 0, variance 1 and amplitude spectrum 1 / f^exponent."""
    spectrum = np.fft.rfft2(rng.standard_normal((size, size)))
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    frequency[0, 0] = 1
    noise = np.fft.irfft2(spectrum / frequency ** exponent, s=(size, size))
    return ((noise - noise.mean()) / noise.std()).astype(np.float32)


class _Canvas:
    """A picture being drawn, float RGB in [0, 1], with properties shared by its leaves."""

    def __init__(self, rng: Generator, size: int, zoom: int) -> None:
        self.rng, self.size, self.zoom = rng, size, zoom
        self.luminance = rng.uniform(0.15, 0.8), rng.uniform(0.08, 0.35)  # mean and standard deviation over leaves
        self.coarse = power_law_noise(rng, size, rng.uniform(0.6, 1.6))[..., None]
        self.fine = power_law_noise(rng, size, rng.uniform(0, 0.6))[..., None]
        self.roughness = rng.choice([0, 0.02, 0.06, 0.15], p=[0.2, 0.4, 0.3, 0.1])
        self.blend = rng.choice([0, 0.5, 1])  # how much of the colour below a leaf may keep
        self.picture = self.colour() + 0.08 * self.coarse

    def radii(self) -> Array:
        """Radii of some large leaves, then of others distributed as r^-(exponent + 1), mostly largest first."""
        rng = self.rng
        least, most = 1.5 * self.zoom, self.size * rng.uniform(0.15, 0.6)
        exponent = rng.choice([0.7, 1.1, 1.5, 2.0])
        share = rng.random(rng.choice([40, 150, 500, 1500], p=[0.15, 0.35, 0.35, 0.15]))
        radii = (least ** -exponent + share * (most ** -exponent - least ** -exponent)) ** (-1 / exponent)
        if rng.random() < 0.7:
            radii = np.sort(radii)[::-1]
        return np.concatenate([rng.uniform(0.1, 0.5, rng.integers(5, 25)) * self.size, radii])

    def colour(self) -> Array:
        """(3,) RGB: luminance and, mostly, little chroma."""
        rng = self.rng
        luminance = np.clip(rng.normal(*self.luminance), 0, 1) if rng.random() < 0.6 else rng.random()
        chroma = rng.normal(0, 1, 3)
        saturation = rng.choice([0.02, 0.06, 0.15, 0.3], p=[0.35, 0.35, 0.2, 0.1])
        return np.clip(luminance + (chroma - chroma.mean()) * saturation, 0, 1).astype(np.float32)

    def add_leaf(self, radius: float) -> None:
        """Draw a leaf at a random place over the picture; a few large ones are out of focus."""
        rng = self.rng
        mask = _shape(rng, radius)
        top, left = rng.integers(-len(mask) // 2, self.size - len(mask) // 2, 2)
        rows, cols = (slice(max(0, at), min(self.size, at + len(mask))) for at in (top, left))
        if rows.start >= rows.stop or cols.start >= cols.stop:
            return
        mask = mask[rows.start - top:rows.stop - top, cols.start - left:cols.stop - left]
        below = self.picture[rows, cols]
        leaf = self._fill(radius, rows, cols, below[below.shape[0] // 2, below.shape[1] // 2])
        if radius > 20 * self.zoom and rng.random() < 0.12:
            mask = cv2.GaussianBlur(mask, (0, 0), rng.uniform(1, 6) * self.zoom)
        weight = mask[..., None].astype(np.float32) / 255
        self.picture[rows, cols] = below + (leaf - below) * weight

    def _fill(self, radius: float, rows: slice, cols: slice, local: Array) -> Array:
        """The leaf's surface: a colour, and on larger leaves also shading and noise or a pattern."""
        rng = self.rng
        colour = self.colour()
        height, width = rows.stop - rows.start, cols.stop - cols.start
        surface = np.broadcast_to(colour + (local - colour) * self.blend * rng.random(), (height, width, 3))
        if radius <= 6 * self.zoom:
            return surface
        if rng.random() < 0.5:
            y, x = np.mgrid[:height, :width].astype(np.float32) / (2 * radius)
            slope = rng.normal(0, 0.25, 2)
            surface = surface + (slope[0] * y + slope[1] * x)[..., None]
        kind = rng.random()
        if kind < 0.45:
            noise = self.coarse[rows, cols] + rng.choice([0, 0.3, 1]) * self.fine[rows, cols]
            surface = surface + self.roughness * noise
        elif kind < 0.65:
            contrast = rng.uniform(0.02, 0.3) * rng.uniform(0.6, 1, 3)
            surface = surface + _pattern(rng, height, width)[..., None] * contrast
        return surface.astype(np.float32)


def _pattern(rng: Generator, height: int, width: int) -> Array:
    """(height, width) in [-1, 1]: stripes, checks, bricks, dots or a wave."""
    angle = rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)])
    period = np.exp(rng.uniform(np.log(5), np.log(60)))
    y, x = np.mgrid[:height, :width].astype(np.float32)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    phase, duty = rng.random(2), rng.uniform(0.15, 0.85)
    across = period * rng.uniform(0.5, 3)
    kind = rng.integers(5)
    if kind == 3:
        distance = np.hypot(_folded(u, period, phase[0]), _folded(v, across, phase[1]))
        return 2 * _covered(rng.uniform(0.15, 0.45) * min(period, across) - distance) - 1
    if kind == 4:
        return np.sin(2 * np.pi * u / period).astype(np.float32)
    mask = _covered(duty * period / 2 - _folded(u, period, phase[0]))
    if kind == 1:
        other = _covered(duty * period / 2 - _folded(v, period, phase[1]))
        mask = mask + other - 2 * mask * other
    elif kind == 2:
        mask = mask * _covered(rng.uniform(0.2, 0.8) * across / 2 - _folded(v, across, phase[1]))
    return mask * 2 - 1


def _folded(u: Array, period: float, phase: float) -> Array:
    """Distance from u to the nearest of points spaced ``period`` apart."""
    return np.abs((u / period + phase) % 1 - 0.5) * period


def _covered(distance: Array) -> Array:
    """Fraction of a pixel that is covered, by its distance inside an edge (in pixels)."""
    return np.clip(distance + 0.5, 0, 1).astype(np.float32)


def _shape(rng: Generator, radius: float) -> Array:
    """A square uint8 mask with one shape of about this radius: ellipse, polygon, bar, curve, blob or letters.

    Its edges have subpixel positions; pixels there are partly covered.
    """
    size = int(2.2 * radius) + 4
    centre = size / 2 + rng.uniform(-0.5, 0.5, 2)
    mask = np.zeros((size, size), np.uint8)
    kind = rng.integers(6)
    if kind == 0:
        axes = _fixed(np.array([radius, max(0.7, radius * rng.uniform(0.2, 1))]))
        return cv2.ellipse(mask, _fixed(centre).tolist(), axes.tolist(), rng.uniform(0, 180), 0, 360, 255, -1,
                           cv2.LINE_AA, SHIFT)
    if kind == 3:
        heading = np.cumsum(rng.normal(0, 0.35, 12)) + rng.uniform(0, 2 * np.pi)
        path = np.cumsum(_on_circle(heading), axis=0)
        path = (path - path.mean(0)) * radius / (np.abs(path - path.mean(0)).max() + 1e-6) + centre
        return cv2.polylines(mask, [_fixed(path)], False, 255, max(1, int(radius * rng.uniform(0.02, 0.25))),
                             cv2.LINE_AA, SHIFT)
    if kind == 5:
        letters = ''.join(chr(rng.integers(33, 126)) for _ in range(rng.integers(1, 5)))
        height, thickness = max(0.2, radius / 18 * rng.uniform(0.4, 1)), max(1, int(radius * rng.uniform(0.03, 0.15)))
        return cv2.putText(mask, letters, (0, int(centre[1] + radius * 0.4)), int(rng.integers(0, 8)), height, 255,
                           thickness, cv2.LINE_AA)
    if kind == 1:
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))
        outline = _on_circle(angles) * radius * rng.uniform(0.3, 1, (len(angles), 1))
    elif kind == 2:
        angle = 0 if rng.random() < 0.5 else rng.uniform(0, np.pi)
        half = radius * rng.uniform(0.3, 0.9), radius * rng.uniform(0.05, 0.7)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        outline = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half @ turn.T
    else:
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        waves = [rng.normal(0, 0.2 / n) * np.cos(n * angles + rng.uniform(0, 2 * np.pi)) for n in range(1, 5)]
        outline = _on_circle(angles) * (np.clip(0.6 + sum(waves), 0.1, 1) * radius)[:, None]
    return cv2.fillPoly(mask, [_fixed(outline + centre)], 255, cv2.LINE_AA, SHIFT)


def _fixed(points: Array) -> Array:
    """Fixed-point coordinates for OpenCV: integers with :data:`SHIFT` fractional bits."""
    return (points * 2 ** SHIFT).round().astype(np.int32)


def _on_circle(angles: Array) -> Array:
    """(N, 2) points (x, y) on the unit circle."""
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)
