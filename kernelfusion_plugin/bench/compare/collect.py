"""Collects and scores every method's picture and kernel for every case, as saved by BasicSR's models."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ... import report
from ...core import metrics, shift_metrics
from ...core.kernel_files import load_kernel
from ...entries import BadImage
from . import runs
from .cases import Case, Data, Key
from .methods import Method
from .runs import Run

SSIM_WINDOW = 11  # pixels; smaller pictures have no SSIM
ELSEWHERE = "not in this method's data"  # fault of an image that only other methods have


@dataclass(frozen=True)
class Outcome:
    """The outcome of one method for one image.

    Attributes:
        picture: file of the picture; None if there is none that can be scored.
        kernel: the kernel that the method saved as NAME_kernel.npy.
        scores: ``psnr`` in dB (inf: identical to the truth), ``ssim``, those of :func:`~...report.kernel_scores` and,
            if any method is blind, ``psnr_best_shift``; unknown ones are missing.
        seconds: as reported in the method's scores.csv; None: unknown for single images.
        fault: why there is no picture or no score; '' if there is no fault.
    """

    picture: Path | None = None
    kernel: np.ndarray | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None
    fault: str = ''


@dataclass(frozen=True)
class Comparison:
    """All data for tables, pictures and page.

    Attributes:
        methods: in the given order.
        reference: label of the method that the others are compared with.
        runs: by label.
        cases: by data set and image.
        outcomes: by label and case.
        head: provenance: command, date, commit, versions, device.
    """

    methods: Sequence[Method]
    reference: str
    runs: Mapping[str, Run]
    cases: Mapping[Key, Case]
    outcomes: Mapping[tuple[str, Key], Outcome]
    head: Mapping[str, Any]

    def outcome(self, label: str, key: Key) -> Outcome:
        """The outcome of the method for the image."""
        return self.outcomes[label, key]

    def seconds(self, label: str) -> tuple[float | None, bool]:
        """Seconds per image, and whether the method reported them (else: wall time of its process / images)."""
        mine = [outcome for (name, _), outcome in self.outcomes.items() if name == label and outcome.picture]
        own = [outcome.seconds for outcome in mine if outcome.seconds is not None]
        if own:
            return sum(own) / len(own), True
        return (self.runs[label].seconds / len(mine) if mine else None), False

    def complete(self) -> bool:
        """Whether every method has every image."""
        return all(outcome.picture for outcome in self.outcomes.values())


def collect(methods: Sequence[Method], data: Data, done: Mapping[str, Run], root: Path
            ) -> dict[tuple[str, Key], Outcome]:
    """Find and score all results; missing or invalid ones give an :class:`Outcome` with a fault.

    Args:
        root: the folder of :mod:`.runs`.
    """
    seconds = {method.label: _own_seconds(root / method.slug / 'scores.csv') for method in methods}
    outcomes: dict[tuple[str, Key], Outcome] = {}
    blind = any(_estimates(root / method.slug) for method in methods)
    for key, case in data.cases.items():
        try:
            lq, gt = case.read()
        except BadImage as error:
            outcomes |= {(method.label, key): Outcome(fault=str(error)) for method in methods}
            continue
        size = tuple(case.scale * side for side in lq.shape[:2])
        for method in methods:
            folder = data.folders.get((method.label, key))
            if folder is None:
                outcomes[method.label, key] = Outcome(fault=ELSEWHERE)
                continue
            outcome = _outcome(method, case, root, folder, gt, size, blind)
            if outcome.picture is None and not outcome.fault:
                outcome = Outcome(fault=_why(method, case, done[method.label], root))
            own = seconds[method.label].get((folder, key[1]))
            outcomes[method.label, key] = replace(outcome, seconds=own)
    return outcomes


def read_picture(path: Path) -> np.ndarray:
    """Read a picture as uint8 RGB (H, W, 3).

    Raises:
        OSError: it is not a picture, or is damaged.
    """
    with Image.open(path) as image:
        return np.array(image.convert('RGB'))


def _outcome(method: Method, case: Case, root: Path, folder: str, gt: np.ndarray | None, size: tuple[int, ...],
             blind: bool) -> Outcome:
    place, name = root / method.slug / 'visualization' / folder, case.key[1]
    path, kernel_path = place / f'{name}_{method.suffix}.png', place / f'{name}_kernel.npy'
    if not path.is_file():
        return Outcome()
    kernel, fault = None, ''
    try:
        picture = read_picture(path)
    except (OSError, ValueError, SyntaxError) as error:  # PIL raises SyntaxError for a broken PNG
        return Outcome(fault=' '.join(f'{path.name}: {error}'.split()))
    try:
        kernel = load_kernel(kernel_path).numpy() if kernel_path.is_file() else None
    except ValueError as error:
        fault = str(error)
    if picture.shape[:2] != size:
        return Outcome(fault=f'{path.name} has {_text(picture.shape)} pixels (width x height), but {case.scale} times '
                             f'the LR image is {_text(size)}')
    scores = {**_picture_scores(picture, gt, blind), **report.kernel_scores(kernel, case.kernel)}
    return Outcome(path, kernel, scores, fault=fault)


def _estimates(folder: Path) -> bool:
    """Whether a method saved kernels, on the HR or the LR grid (NAME_lr_kernel.npy), as blind methods do."""
    return next(folder.glob('visualization/**/*_kernel.npy'), None) is not None


def _picture_scores(picture: np.ndarray, gt: np.ndarray | None, blind: bool) -> dict[str, float]:
    if gt is None:
        return {}
    x, truth = report.to_tensor(picture), report.to_tensor(gt)
    scores = {'psnr': metrics.psnr_y(x, truth)}
    if blind:
        scores['psnr_best_shift'] = shift_metrics.psnr_best_shift(x, truth).psnr
    if min(metrics.crop_border(x, metrics.PAPER_BORDER).shape[-2:]) >= SSIM_WINDOW:
        scores['ssim'] = metrics.ssim_y(x, truth)
    return scores


def _why(method: Method, case: Case, done: Run, root: Path) -> str:
    """Why a method has no picture of an image in its data."""
    told = next((line for entry in case.entries if (line := runs.fault(method, entry.path, root))), '')
    if told:
        return told
    return runs.reason(method, done, root) if done.status else f'{case.key[1]}_{method.suffix}.png was not written'


def _own_seconds(path: Path) -> dict[tuple[str, str], float]:
    """Seconds of Phase 1 + Phase 2 by data set and image, from our scores.csv."""
    if not path.is_file():
        return {}
    with open(path, newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    seconds = {}
    for row in rows:
        parts = [row[column] for column in row if column and column.startswith('seconds_') and row[column]]
        if parts:
            seconds[row['dataset'], row['image']] = sum(map(float, parts))
    return seconds


def _text(size: Sequence[int]) -> str:
    return f'{size[1]} x {size[0]}'
