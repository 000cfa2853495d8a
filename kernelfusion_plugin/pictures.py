"""Draws the two overview pictures of a run: the sheet (bicubic | ours | truth | kernels) and the plot of losses."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .atomic import write_atomically
from .core.phase1 import PHASES as PHASE1
from .files import printable
from .report import kernel_picture, region_kernels_picture, save_picture, shared_grid

PAPER, INK, FAINT = (250, 250, 248), (32, 34, 38), (120, 124, 130)
GAP, PAD, VIEW = 14, 18, 480  # pixels: between panels, around the sheet, longest side of a picture
TITLE, NOTE = 17, 13  # type sizes


@dataclass(frozen=True)
class Panel:
    """One picture of a sheet: uint8 RGB or greyscale, with a title and a line of figures below it."""

    title: str
    note: str
    picture: np.ndarray
    whole: bool = True  # False: shown as it is, such as a kernel


def sheet_panels(bicubic: np.ndarray, sr: np.ndarray, gt: np.ndarray | None, kernel: np.ndarray | None,
                 k_true: np.ndarray | None, scores: Mapping[str, Any], method: str = 'KernelFusion',
                 kernel_title: str = 'kernel', kernels: np.ndarray | None = None) -> list[Panel]:
    """bicubic | ``method`` (unless bicubic) | truth | kernel | regions' kernels | true kernel, as available.

    All kernels are drawn to the same scale, except one with a ``kernel_title`` other than 'kernel', whose entries are
    not HR pixels.
    """
    grid = shared_grid([kernel, k_true]) if kernel_title == 'kernel' else None
    panels = [Panel('bicubic', _quality(scores, '_bicubic'), bicubic)]
    if method != 'bicubic':
        panels.append(Panel(method, _quality(scores, ''), sr))
    if gt is not None:
        panels.append(Panel('ground truth', _size(gt), gt))
    if kernel is not None:
        note = f'correlation {scores["kernel_ncc"]:.3f}' if 'kernel_ncc' in scores else _size(kernel)
        panels.append(Panel(kernel_title, note, kernel_picture(kernel, grid=grid), whole=False))
    if kernels is not None:
        own = sum(not np.array_equal(k, kernel) for row in kernels for k in row)
        panels.append(Panel('regions', f'{own} of {kernels.shape[0]} x {kernels.shape[1]} have their own',
                            region_kernels_picture(kernels, grid=grid), whole=False))
    if k_true is not None:
        panels.append(Panel('true kernel', _size(k_true), kernel_picture(k_true, grid=grid), whole=False))
    return panels


def draw_sheet(panels: list[Panel], title: str = '') -> Image.Image:
    """The panels side by side. Large pictures are shown twice: reduced and, below, as a detail at full resolution.

    The detail is the most varied square of the last picture (the truth if there is one), in the same place for all.
    Small pictures and kernels are enlarged by a whole factor.
    """
    pictures = [panel.picture for panel in panels if panel.whole]
    height, width = pictures[0].shape[:2] if pictures else (0, 0)
    side = min(VIEW, height, width)
    detail = _busiest(pictures[-1], side) if max(height, width) > VIEW else None
    columns = [[whole(panel.picture) if panel.whole else panel.picture] for panel in panels]
    if detail is not None:
        top, left = detail
        for panel, column in zip(panels, columns, strict=True):
            if panel.whole:
                column.append(panel.picture[top:top + side, left:left + side])
    widths = [max(_text_width(panel), *(picture.shape[1] for picture in column))
              for panel, column in zip(panels, columns, strict=True)]
    header = PAD + (2 * NOTE if title else 0)
    captions = TITLE + NOTE + 14
    total = header + captions + max(sum(p.shape[0] + GAP for p in column) for column in columns) - GAP + PAD
    sheet = Image.new('RGB', (2 * PAD + sum(widths) + GAP * (len(panels) - 1), total), PAPER)
    pen = ImageDraw.Draw(sheet)
    if title:
        pen.text((PAD, PAD - 4), fitted(title, NOTE, sheet.width - 2 * PAD), FAINT, font(NOTE))
    x = PAD
    for panel, column, column_width in zip(panels, columns, widths, strict=True):
        pen.text((x, header), panel.title, INK, font(TITLE))
        pen.text((x, header + TITLE + 4), panel.note, FAINT, font(NOTE))
        y = header + captions
        for picture in column:
            sheet.paste(Image.fromarray(picture), (x, y))
            y += picture.shape[0] + GAP
        x += column_width + GAP
    return sheet


def save_sheet(path: str | Path, panels: list[Panel], title: str = '') -> None:
    """Save :func:`draw_sheet` as PNG."""
    save_picture(path, np.asarray(draw_sheet(panels, title)))


def save_kernel_grid(path: str | Path, kernels: Mapping[str, np.ndarray]) -> None:
    """Save named kernels as one PNG on a common grid, each scaled to its own maximum."""
    columns, side = 12, 96  # pictures in a row, pixels
    grid = shared_grid(kernels.values())
    drawn = {name: kernel_picture(k, side, grid) for name, k in kernels.items()}
    cell = max(picture.shape[0] for picture in drawn.values()) + GAP
    rows = -(-len(kernels) // columns)
    sheet = Image.new('RGB', (PAD + cell * min(columns, len(kernels)), PAD + rows * (cell + NOTE)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, (name, picture) in enumerate(drawn.items()):
        x, y = PAD + number % columns * cell, PAD + number // columns * (cell + NOTE)
        sheet.paste(Image.fromarray(picture), (x, y))
        pen.text((x, y + cell - GAP), fitted(name, NOTE, cell - GAP), FAINT, font(NOTE))
    save_picture(path, np.asarray(sheet))


def save_plot(path: str | Path, trace: Iterable[Mapping[str, Any]], title: str = '') -> None:
    """Plot the losses of both phases by step and, if known, the kernel's correlation with the true kernel.

    Args:
        trace: as in Result; ``kernel_ncc`` may be added to its rows. Of Phase 1's networks, only that trained on y
            itself is shown (at most one per run).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes half a second, so only if needed
    from matplotlib.figure import Figure
    trace = list(trace)
    first = [point for point in trace if point['phase'] in PHASE1 and not PHASE1[point['phase']].halved]
    second = [point for point in trace if point['phase'] not in PHASE1]
    figure = Figure(figsize=(10, 3.8), layout='constrained', facecolor='#fafaf8')
    axes = figure.subplots(1, 2)
    _losses(axes[0], first, 'phase 1' if first else 'phase 1: not run')
    _losses(axes[1], second, f'phase 2: {second[0]["phase"]}' if second else 'phase 2')
    known = [point for point in second if 'kernel_ncc' in point]
    if known:
        right = axes[1].twinx()
        right.plot([p['step'] for p in known], [p['kernel_ncc'] for p in known], color='#1d6b3a', linewidth=1.8)
        right.set_ylim(min(0.0, *(p['kernel_ncc'] for p in known)), 1)
        right.set_ylabel('kernel correlation with the truth', color='#1d6b3a')
    figure.suptitle(title, fontsize=11)
    canvas = FigureCanvasAgg(figure)
    write_atomically(path, lambda file: canvas.print_png(file, metadata={'Software': None}))


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans from matplotlib; without that PIL's own font, which has little beyond ASCII."""
    try:
        import matplotlib  # only if something is drawn
        return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf'), size)
    except (ImportError, OSError):  # not installed, or packaged without fonts
        return ImageFont.load_default(size)


def fitted(text: str, size: int, width: int) -> str:
    """The text, shortened in the middle to fit into ``width`` pixels, as names often differ at either end.

    On one line, with "?" for what cannot be printed: line breaks and undecodable bytes of file names.
    """
    text = printable(text)
    shown, keep = text, len(text)
    while keep > 1 and font(size).getlength(shown) > width:
        keep -= 1
        shown = f'{text[:keep - keep // 2]}…{text[len(text) - keep // 2:]}'
    return shown


def whole(picture: np.ndarray) -> np.ndarray:
    """The picture for a panel, its longest side at most VIEW: enlarged by a whole factor or reduced; idempotent."""
    longest = max(picture.shape[:2])
    if longest <= VIEW:
        zoom = max(1, VIEW // 2 // longest)
        return picture.repeat(zoom, axis=0).repeat(zoom, axis=1)
    size = [max(1, round(n * VIEW / longest)) for n in (picture.shape[1], picture.shape[0])]
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def _losses(axes: Any, points: list[Mapping[str, Any]], title: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel('step')
    axes.grid(alpha=0.25)
    names = [name for point in points for name in point if name not in ('phase', 'step', 't', 'kernel_ncc')]
    for name in dict.fromkeys(names):
        drawn = [(point['step'], point[name]) for point in points
                 if isinstance(point.get(name), float) and math.isfinite(point[name]) and point[name] > 0]
        if drawn:
            axes.plot(*zip(*drawn, strict=True), label=name, linewidth=1.2, marker='.' if len(drawn) < 40 else None)
    if axes.lines:
        axes.set_yscale('log')
        axes.set_ylabel('loss')
        axes.legend(fontsize=8, frameon=False)


def _size(picture: np.ndarray) -> str:
    return f'{picture.shape[1]} x {picture.shape[0]}'


def _quality(scores: Mapping[str, Any], suffix: str) -> str:
    if f'psnr{suffix}' not in scores:
        return ''
    return f'{scores[f"psnr{suffix}"]:.2f} dB, SSIM {scores[f"ssim{suffix}"]:.3f}'


def _busiest(picture: np.ndarray, side: int) -> tuple[int, int]:
    """Top left corner of the square of side ``side`` in which neighbouring pixels differ most."""
    grey = picture.astype(np.float64).reshape(*picture.shape[:2], -1).mean(-1)
    edges = np.zeros_like(grey)
    edges[:, 1:] += np.abs(np.diff(grey, axis=1))
    edges[1:] += np.abs(np.diff(grey, axis=0))
    return heaviest_square(edges, side)


def heaviest_square(weights: np.ndarray, side: int) -> tuple[int, int]:
    """Top left corner of the square of side ``side`` with the largest sum of ``weights`` (H, W); the first if tied."""
    table = np.pad(weights, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    sums = table[side:, side:] - table[:-side, side:] - table[side:, :-side] + table[:-side, :-side]
    top, left = np.unravel_index(int(np.argmax(sums)), sums.shape)
    return int(top), int(left)


def _text_width(panel: Panel) -> int:
    return math.ceil(max(font(TITLE).getlength(panel.title), font(NOTE).getlength(panel.note)))
