"""Draws the pictures of a comparison: contact sheets, kernel matrix, box plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ...atomic import write_atomically
from ...pictures import FAINT, GAP, INK, NOTE, PAD, PAPER, TITLE, Panel, draw_sheet, fitted, font
from ...report import kernel_picture, save_picture, shared_grid
from .cases import Key
from .collect import Comparison, Outcome
from .statistics import METRICS, kernel_groups
from .table import image_name, score_text, scores_line, shown_metrics
from .views import Crop, View

PANEL = 384  # approximate side of an enlarged crop, pixels
COLUMNS = 4  # panels in a row of a contact sheet
TILE, MOST_KERNELS = 96, 16  # side of a kernel, pixels; images above which there is one column per kernel
LINE, NAMES, LABELS = NOTE + 4, 200, 240  # pixels: height of a header line; maximum widths of column and row names
FRAME = (235, 64, 52)
COLOURS = ('#0072b2', '#e69f00', '#009e73', '#cc79a7', '#56b4e9', '#d55e00', '#7f7f7f', '#b8a800')  # Okabe and Ito


@dataclass(frozen=True)
class _KernelRow:
    """A row of the kernel matrix: title and, per column, a kernel or None with the note below it."""

    title: str
    tiles: Sequence[tuple[np.ndarray | None, str]]


def save_contact_sheet(path: Path, comparison: Comparison, view: View) -> None:
    """Save the whole picture with the crop's frame, and the crop of every version, enlarged by a whole factor."""
    zoom = max(1, PANEL // view.crop.size)
    overview = Panel('whole picture', f'{view.crop.size} px from row {view.crop.row}, column {view.crop.col}; '
                     f'x{zoom}', _framed(list(view.pictures.values())[-1], view.crop), whole=False)
    panels = [overview]
    for title, picture in view.pictures.items():
        enlarged = view.crop.of(picture).repeat(zoom, axis=0).repeat(zoom, axis=1)
        note = scores_line(comparison, title, view.key)
        panels.append(Panel(fitted(title, TITLE, PANEL), note, enlarged, whole=False))
    rows = [draw_sheet(panels[start:start + COLUMNS], image_name(comparison, view.key) if start == 0 else '')
            for start in range(0, len(panels), COLUMNS)]
    save_picture(path, np.asarray(_stacked(rows)))


def save_kernel_matrix(path: Path, comparison: Comparison) -> Path | None:
    """Save the kernel matrix. Rows: true kernels and each method's; columns: images or, if many, one per true kernel.

    All kernels have the same scale, each with its own maximum white; below are its correlations with the true kernel
    at zero shift and at the best shift. If no method saved kernels, removes an older file and returns None.
    """
    estimating = [method.label for method in comparison.methods
                  if any(comparison.outcome(method.label, key).kernel is not None for key in comparison.cases)]
    path.unlink(missing_ok=True)  # from an older comparison
    if not estimating:
        return None
    save_picture(path, np.asarray(_kernel_matrix(comparison, estimating)))
    return path


def _kernel_matrix(comparison: Comparison, estimating: Sequence[str]) -> Image.Image:
    keys = kernel_columns(comparison)
    rows = _kernel_rows(comparison, keys, estimating)
    grid = shared_grid(kernel for row in rows for kernel, _ in row.tiles)
    tile = max(1, round(TILE / grid)) * grid if grid else TILE  # as kernel_picture draws them
    heads = [_head(comparison, key) for key in keys]
    margin = 2 * PAD + math.ceil(max(font(TITLE).getlength(row.title) for row in rows))
    under = [[row.tiles[column][1] for row in rows] for column in range(len(keys))]
    widths = [max(tile, *(math.ceil(font(NOTE).getlength(line)) for line in [*head, *notes]))
              for head, notes in zip(heads, under)]
    above, height = PAD + LINE * len(heads[0]), tile + NOTE + GAP + 4
    sheet = Image.new('RGB', (margin + sum(widths) + GAP * len(keys) + PAD, above + height * len(rows) + PAD), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        pen.text((PAD, above + number * height + tile // 2 - TITLE), row.title, INK, font(TITLE))
    for column, head in enumerate(heads):
        x = margin + sum(widths[:column]) + GAP * column
        for number, line in enumerate(head):
            pen.text((x, PAD - 6 + LINE * number), line, FAINT if number == len(head) - 1 else INK, font(NOTE))
        for number, row in enumerate(rows):
            _tile(sheet, pen, (x, above + number * height), tile, grid, *row.tiles[column])
    return sheet


def _kernel_rows(comparison: Comparison, keys: Sequence[Key], estimating: Sequence[str]) -> list[_KernelRow]:
    """Rows of the true kernels, if any is known, and of each method's."""
    true = [(comparison.cases[key].kernel, '') for key in keys]
    rows = [_KernelRow('true', true)] if any(kernel is not None for kernel, _ in true) else []
    for label in estimating:
        outcomes = [comparison.outcome(label, key) for key in keys]
        tiles = [(outcome.kernel, _correlations(outcome)) for outcome in outcomes]
        rows.append(_KernelRow(fitted(label, TITLE, LABELS), tiles))
    return rows


def _correlations(outcome: Outcome) -> str:
    """``0.912 / 0.987``: correlation at zero shift and at the best shift."""
    return ' / '.join(score_text(metric, outcome.scores[metric.key]) for metric in METRICS
                      if metric.key in ('kernel_ncc', 'kernel_ncc_best_shift') and metric.key in outcome.scores)


def _head(comparison: Comparison, key: Key) -> list[str]:
    """Header of a column of kernels: data set (if there are several), image, true kernel."""
    several = len({dataset for dataset, _ in comparison.cases}) > 1
    names = [*([key[0]] if several else []), key[1], comparison.cases[key].kernel_name]
    return [fitted(name, NOTE, NAMES) for name in names]


def kernel_columns(comparison: Comparison) -> list[Key]:
    """All images or, if many, for each true kernel the image with most estimates (the first if tied)."""
    keys = list(comparison.cases)
    kernels = {comparison.cases[key].kernel_name for key in keys} - {''}
    if len(keys) <= MOST_KERNELS or not kernels:
        return keys[:MOST_KERNELS]

    def estimates(key: Key) -> int:
        return sum(comparison.outcome(method.label, key).kernel is not None for method in comparison.methods)
    chosen = [max((key for key in keys if comparison.cases[key].kernel_name == kernel), key=estimates)
              for kernel in dict.fromkeys(comparison.cases[key].kernel_name for key in keys) if kernel]
    return chosen[:MOST_KERNELS]


def save_box_plots(path: Path, comparison: Comparison) -> Path | None:
    """Save box plots of the scores by kernel and method: quartiles, median, and every image as a point.

    Infinite scores (identical pictures) are omitted. If there are no scores, removes an older file and returns None.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes half a second, so only if needed
    from matplotlib.figure import Figure
    metrics, parts = shown_metrics(comparison), _parts(comparison)
    path.unlink(missing_ok=True)  # from an older comparison
    if not metrics:
        return None
    labels = [method.label for method in comparison.methods]
    width = min(40.0, max(7.0, 1.5 + 0.18 * len(parts) * (len(labels) + 1)))
    figure = Figure(figsize=(width, 2.7 * len(metrics) + 0.6), layout='constrained', facecolor='#fafaf8')
    for axes, metric in zip(figure.subplots(len(metrics), 1, squeeze=False)[:, 0], metrics):
        for number, label in enumerate(labels):
            values = [[value for key in keys if math.isfinite(
                value := comparison.outcome(label, key).scores.get(metric.key, math.nan))] for keys in parts.values()]
            _boxes(axes, values, number, len(labels))
        axes.set_ylabel(metric.heading)
        axes.set_xticks(range(len(parts)), [_plain(fitted(part, NOTE, 120)) for part in parts])
        axes.set_xlim(-0.6, len(parts) - 0.4)
        axes.grid(axis='y', alpha=0.25)
        axes.spines[['top', 'right']].set_visible(False)
    figure.align_ylabels()
    figure.legend(handles=_handles(labels), loc='outside upper left', ncols=4, frameon=False, fontsize=9)
    canvas = FigureCanvasAgg(figure)
    write_atomically(path, lambda file: canvas.print_png(file, metadata={'Software': None}))
    return path


def _parts(comparison: Comparison) -> dict[str, list[Key]]:
    """Images by kernel; all images as one group if kernels are unknown."""
    kernels = {name.removeprefix('kernel '): keys for name, keys in kernel_groups(comparison).items()}
    return kernels or {'all images': list(comparison.cases)}


def _boxes(axes: Any, values: Sequence[Sequence[float]], number: int, methods: int) -> None:  # noqa: ANN401
    width, colour = 0.8 / methods, COLOURS[number % len(COLOURS)]
    at = [place + (number - (methods - 1) / 2) * width for place in range(len(values))]
    drawn = [(x, part) for x, part in zip(at, values) if part]
    if not drawn:
        return
    line = {'color': colour, 'linewidth': 1.4}
    axes.boxplot([part for _, part in drawn], positions=[x for x, _ in drawn], widths=0.7 * width, showfliers=False,
                 boxprops=line, whiskerprops=line, capprops=line, medianprops={**line, 'linewidth': 2.4},
                 manage_ticks=False)
    for x, part in drawn:
        axes.plot([x] * len(part), part, 'o', color=colour, markersize=4.5, markeredgecolor='white',
                  markeredgewidth=0.7, zorder=3)


def _handles(labels: Sequence[str]) -> list[Any]:
    from matplotlib.lines import Line2D
    return [Line2D([], [], color=COLOURS[number % len(COLOURS)], linewidth=2.4, label=_plain(f' {label}'))
            for number, label in enumerate(labels)]


def _plain(text: str) -> str:
    """Escape dollar signs, between which matplotlib would expect formulas."""
    return text.replace('$', r'\$')


def _tile(sheet: Image.Image, pen: ImageDraw.ImageDraw, at: tuple[int, int], side: int, grid: int | None,
          kernel: np.ndarray | None, note: str) -> None:
    x, y = at
    if kernel is None:
        pen.rectangle((x, y, x + side - 1, y + side - 1), outline=FAINT)
        note = 'none'
    else:
        sheet.paste(Image.fromarray(kernel_picture(kernel, TILE, grid)), at)
    pen.text((x, y + side + 2), note, FAINT, font(NOTE))


def _framed(picture: np.ndarray, crop: Crop) -> np.ndarray:
    """The whole picture, resized to a panel, with the crop's frame."""
    height, width = picture.shape[:2]
    factor = PANEL / max(height, width)
    image = Image.fromarray(picture).resize([max(1, round(side * factor)) for side in (width, height)],
                                            Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.NEAREST)
    left, top = round(crop.col * factor), round(crop.row * factor)
    side = max(3, round(crop.size * factor))
    ImageDraw.Draw(image).rectangle((left, top, left + side - 1, top + side - 1), outline=FRAME, width=2)
    return np.asarray(image)


def _stacked(rows: Sequence[Image.Image]) -> Image.Image:
    sheet = Image.new('RGB', (max(row.width for row in rows), sum(row.height for row in rows)), PAPER)
    y = 0
    for row in rows:
        sheet.paste(row, (0, y))
        y += row.height
    return sheet
