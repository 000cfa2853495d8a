"""Writes the page, a self-contained HTML file; its markup, style and script are in page.html."""

from __future__ import annotations

import base64
import importlib.resources
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...atomic import write_text_atomically
from .cases import Key
from .collect import Comparison
from .methods import INPUT
from .statistics import Mean, Metric, differing, groups, having, mean, remarks
from .table import (
    NONE,
    cells,
    faults,
    image_name,
    made,
    score_text,
    scores_line,
    shown_metrics,
    state,
    titled,
)
from .views import View

WINDOW = 256  # side of the part of a picture that the page contains, pixels
DATA = '{"the": "comparison"}'  # placeholder for the data in page.html


def write_page(path: Path, comparison: Comparison, views: Iterable[Mapping[str, Any]], kernels: Path | None,
               boxes: Path | None) -> None:
    """Write comparison.html: tables, slider and crops of ``views`` (from :func:`view_data`), and the two pictures."""
    data = {
        'title': ', '.join(dict.fromkeys(key[0] for key in comparison.cases)),
        'images': len(comparison.cases), 'reference': comparison.reference,
        'head': {key: str(value) for key, value in comparison.head.items()}, 'remarks': remarks(comparison),
        'methods': _methods(comparison), 'means': _means(comparison),
        'groups': [_by_group(comparison, metric) for metric in shown_metrics(comparison)],
        'scores': [_by_image(comparison, metric) for metric in shown_metrics(comparison)],
        'faults': faults(comparison),
        'views': list(views),
        **{name: None if file is None else _encoded(file.read_bytes(), 'png')
           for name, file in (('kernels', kernels), ('boxes', boxes))},
    }
    write_text_atomically(path, fill(data))


def fill(data: Mapping[str, Any]) -> str:
    """page.html with the data filled in, escaped so that it cannot end the script element that holds it."""
    template = importlib.resources.files(__package__).joinpath('page.html').read_text(encoding='utf-8')
    text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    return template.replace(DATA, text.replace('<', '\\u003c').replace('\u2028', '\\u2028'))


def spread(keys: Sequence[Key], number: int) -> list[Key]:
    """At most ``number`` of the images, evenly spaced in their order."""
    if len(keys) <= number:
        return list(keys)
    return [keys[round(place)] for place in np.linspace(0, len(keys) - 1, number)] if number else []


def view_data(comparison: Comparison, view: View) -> dict[str, Any]:
    """An image's data for the page: a window around the crop, aligned to LR pixels, of every version."""
    scale = comparison.cases[view.key].scale
    height, width = next(iter(view.pictures.values())).shape[:2]
    side = max(WINDOW, view.crop.size + 4 * scale) // scale * scale
    top, left = (max(0, min(start + (view.crop.size - side) // 2, length - side)) // scale * scale
                 for start, length in ((view.crop.row, height), (view.crop.col, width)))
    pictures = []
    for title, picture in view.pictures.items():
        part = picture[top:top + side, left:left + side]
        part = part[::scale, ::scale] if title == INPUT else part  # the page enlarges its pixels to squares
        pictures.append({'title': title, 'note': scores_line(comparison, title, view.key),
                         'src': _uri(part)})
    return {'name': image_name(comparison, view.key), 'kernel': comparison.cases[view.key].kernel_name,
            'height': min(side, height - top), 'width': min(side, width - left), 'top': top, 'left': left,
            'whole': [height, width], 'pictures': pictures,
            'crop': {'row': view.crop.row - top, 'col': view.crop.col - left, 'size': view.crop.size}}


def _methods(comparison: Comparison) -> list[dict[str, str]]:
    rows = []
    for method in comparison.methods:
        date, commit, device = made(comparison, method.label)
        rows.append({'method': method.label, 'option file': str(method.file), 'model': str(method.opt['model_type']),
                     'state': state(comparison, method.label), 'made': date, 'commit': commit, 'device': device})
    return rows


def _means(comparison: Comparison) -> dict[str, Any]:
    """Rows: methods; columns: scores and, if any, differences."""
    keys, metrics = list(comparison.cases), shown_metrics(comparison)
    columns, rows = ['method'], [[_method_cell(comparison, method.label)] for method in comparison.methods]
    for metric in metrics:
        found = [mean(comparison, metric.key, method.label, keys) for method in comparison.methods]
        texts = [cells(metric, one) for one in found]
        values = [_cell(text, one and one.value) for (text, _), one in zip(texts, found)]
        _mark_best(values)
        added = [values]
        columns.append(_title(metric))
        if differing(comparison, metric.key):
            added.append([_difference_cell(text, one) for (_, text), one in zip(texts, found)])
            columns.append('difference')
        for row, *new in zip(rows, *added):
            row += new
    for row, method in zip(rows, comparison.methods):
        seconds, own = comparison.seconds(method.label)
        row.append(_cell(NONE if seconds is None else f'{seconds:.1f}', seconds, '' if own else 'wall'))
    return {'columns': [*columns, 'seconds per image'], 'rows': rows}


def _method_cell(comparison: Comparison, label: str) -> dict[str, Any]:
    title = titled(comparison, label)
    return {**_cell(title), 'bad': title != label}


def _by_group(comparison: Comparison, metric: Metric) -> dict[str, Any]:
    """Rows: groups of images; columns: methods that have the metric."""
    labels, rows = having(comparison, metric.key), []
    for group, keys in groups(comparison).items():
        found = [mean(comparison, metric.key, label, keys) for label in labels]
        count = next((one.images for one in found if one), 0)
        row = [_cell(group), _cell(f'{count} of {len(keys)}', count)]
        for one in found:
            value, difference = cells(metric, one)
            row.append(_cell(value, one and one.value, difference.rpartition(', ')[0]))
        rows.append(row)
        _mark_best(row[2:])
    return {'metric': _title(metric), 'columns': ['images', 'scored', *labels], 'rows': rows}


def _by_image(comparison: Comparison, metric: Metric) -> dict[str, Any]:
    """Rows: images; columns: all methods."""
    kernels = any(case.kernel_name for case in comparison.cases.values())
    rows = []
    for key, case in comparison.cases.items():
        row = [_cell(image_name(comparison, key)), *([_cell(case.kernel_name or NONE)] if kernels else [])]
        values = []
        for method in comparison.methods:
            outcome = comparison.outcome(method.label, key)
            value = outcome.scores.get(metric.key)
            text = 'missing' if outcome.picture is None else score_text(metric, value)
            values.append({**_cell(text, None if value is None else min(value, 1e9)), 'bad': outcome.picture is None})
        _mark_best(values)
        rows.append([*row, *values])
    columns = ['image', *(['kernel'] if kernels else []), *(method.label for method in comparison.methods)]
    return {'metric': _title(metric), 'columns': columns, 'rows': rows}


def _difference_cell(text: str, found: Mean | None) -> dict[str, Any]:
    """``+0.08 [-0.32, +0.49] (n = 6), 2 of 6`` on three lines."""
    if found is None or found.difference is None:
        return _cell(text)
    value, *interval = text.partition(' (n')[0].split(' ', 1)
    return _cell(value, found.difference.mean, *interval, f'n = {found.images}, better on {found.difference.wins}')


def _cell(text: str, value: float | None = None, *under: str) -> dict[str, Any]:
    """A cell: text, the number to sort by, and lines below; with typographic minus signs in numbers."""
    if value is None:
        return {'text': text}
    return {'text': text.replace('-', '−'), 'value': value, 'under': [line.replace('-', '−') for line in under if line]}


def _mark_best(found: Sequence[dict[str, Any]]) -> None:
    values = [cell['value'] for cell in found if 'value' in cell]
    for cell in found:
        if len(values) > 1 and cell.get('value') == max(values):
            cell['best'] = True


def _title(metric: Metric) -> str:
    return f'{metric.title}, {metric.unit}' if metric.unit else metric.title


def _uri(picture: np.ndarray) -> str:
    """A picture as lossless WebP, three quarters of the size of PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, format='WEBP', lossless=True)
    return _encoded(buffer.getvalue(), 'webp')


def _encoded(raw: bytes, kind: str) -> str:
    return f'data:image/{kind};base64,{base64.b64encode(raw).decode()}'


