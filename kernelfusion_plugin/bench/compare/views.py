"""What is shown of an image: every method's version, and the square that is enlarged."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...core import metrics
from ...pictures import heaviest_square
from .cases import Case, Key
from .collect import Comparison, read_picture
from .methods import INPUT, TRUTH

SIDE = 96  # side of the default crop, pixels


@dataclass(frozen=True)
class Crop:
    """A square of an HR picture: top left corner and side, in pixels."""

    row: int
    col: int
    size: int

    def of(self, picture: np.ndarray) -> np.ndarray:
        """The crop of a picture."""
        return picture[self.row:self.row + self.size, self.col:self.col + self.size]


@dataclass(frozen=True)
class View:
    """One image: the crop, and pictures of equal size, uint8 RGB, by title in this order: LR (each pixel a square),
    methods that have it, ground truth if there is one.
    """

    key: Key
    pictures: Mapping[str, np.ndarray]
    crop: Crop


def parse_crops(texts: Sequence[str], cases: Mapping[Key, Case]) -> dict[str, Crop]:
    """Parse texts ``NAME:row,col,size`` to crops by image name.

    Raises:
        ValueError: not of that form, no such image, or not inside the image.
    """
    crops = {}
    by_name = {key[1]: case for key, case in cases.items()}
    for text in texts:
        match = re.fullmatch(r'(.+):(\d+),(\d+),(\d+)', text)
        if match is None or int(match[4]) < 1:
            raise ValueError(f'--crop takes NAME:row,col,size (pixels of the HR picture), got {text!r}')
        name, crop = match[1], Crop(*map(int, match.groups()[1:]))
        if name not in by_name:
            close = difflib.get_close_matches(name, by_name, n=1) or sorted(by_name)[:1]
            raise ValueError(f'--crop {text}: there is no image {name!r}, did you mean {close[0]!r}?')
        height, width = (side * by_name[name].scale for side in by_name[name].read()[0].shape[:2])
        if crop.row + crop.size > height or crop.col + crop.size > width:
            raise ValueError(f'--crop {text}: not inside the picture of {height} rows and {width} columns')
        crops[name] = crop
    return crops


def view(comparison: Comparison, key: Key, crops: Mapping[str, Crop]) -> View | None:
    """All versions of an image; None if no method has a picture of it."""
    found = {method.label: read_picture(outcome.picture) for method in comparison.methods
             if (outcome := comparison.outcome(method.label, key)).picture is not None}
    if not found:
        return None
    case = comparison.cases[key]
    lq, gt = case.read()
    pictures = {INPUT: lq.repeat(case.scale, axis=0).repeat(case.scale, axis=1), **found}
    if gt is not None:
        pictures[TRUTH] = gt
    return View(key, pictures, crops.get(key[1]) or choose_crop([*found.values()], gt))


def choose_crop(pictures: Sequence[np.ndarray], gt: np.ndarray | None, side: int = SIDE) -> Crop:
    """The square in which the methods differ most: largest sum over pixels of the variance between them.

    For a single method: between it and the truth or, without truth, the variance of its own pixels. The border that
    scores ignore is ignored here, too.
    """
    shown = [*pictures, gt] if len(pictures) == 1 and gt is not None else list(pictures)
    grey = np.stack([picture.astype(np.float64).mean(-1) for picture in shown])
    weights = grey.var(axis=0) if len(grey) > 1 else (grey[0] - grey[0].mean()) ** 2
    rows, cols = (int(metrics.PAPER_BORDER * length) for length in weights.shape)
    inner = weights[rows:weights.shape[0] - rows, cols:weights.shape[1] - cols]
    side = min(side, *inner.shape)
    top, left = heaviest_square(inner, side)
    return Crop(top + rows, left + cols, side)
