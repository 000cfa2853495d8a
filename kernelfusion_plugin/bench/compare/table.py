"""Writes the tables: Markdown for reading, CSV for further computation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...atomic import write_text_atomically
from ...report import csv_text
from . import runs
from .cases import Key
from .collect import ELSEWHERE, Comparison
from .statistics import METRICS, Mean, Metric, differing, groups, having, mean, remarks

NONE = '–'


def write_tables(comparison: Comparison, out: Path) -> None:
    """Write comparison.md, means.csv and images.csv to ``out``."""
    texts = {'comparison.md': markdown(comparison), 'means.csv': _csv(mean_rows(comparison)),
             'images.csv': _csv(image_rows(comparison))}
    for name, text in texts.items():
        write_text_atomically(out / name, text)


def mean_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """One row per group of images and method: means, differences, intervals, wins, seconds per image."""
    rows = []
    for group, keys in groups(comparison).items():
        for method in comparison.methods:
            row: dict[str, Any] = {'group': group, 'method': method.label}
            for metric in METRICS:
                row |= _mean_columns(metric, mean(comparison, metric.key, method.label, keys))
            row['failed'] = sum(comparison.outcome(method.label, key).picture is None for key in keys)
            if group == next(iter(groups(comparison))):
                seconds, own = comparison.seconds(method.label)
                row |= {'seconds': seconds, 'seconds_are': 'own' if own else 'wall' if seconds is not None else None}
            rows.append(row)
    return rows


def image_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """One row per image and method."""
    return [{'dataset': key[0], 'image': key[1], 'kernel': case.kernel_name, 'method': method.label,
             **{metric.key: outcome.scores.get(metric.key) for metric in METRICS},
             'seconds': outcome.seconds, 'fault': outcome.fault}
            for key, case in comparison.cases.items() for method in comparison.methods
            for outcome in [comparison.outcome(method.label, key)]]


def state(comparison: Comparison, label: str) -> str:
    """State of a method: 'ok', or how many images are missing and why."""
    method = next(method for method in comparison.methods if method.label == label)
    done = comparison.runs[label]
    lacking = [outcome for (name, _), outcome in comparison.outcomes.items() if name == label and not outcome.picture]
    if not lacking:
        return 'ok, results of an earlier run' if done.reused else 'ok'
    if done.status not in (0, runs.INCOMPLETE) or len(lacking) == len(comparison.cases):
        return lacking[0].fault
    why = ELSEWHERE if all(outcome.fault == ELSEWHERE for outcome in lacking) else f'see runs/{method.slug}.log'
    return f'{len(lacking)} of {len(comparison.cases)} images are missing: {why}'


def made(comparison: Comparison, label: str) -> tuple[str, str, str]:
    """Date, commit and device of a method's results."""
    made_by = comparison.runs[label].made
    return made_by['date'], short_commit(made_by['commit']), runs.device_text(made_by['device'])


def short_commit(commit: str | None) -> str:
    """Twelve digits of a commit, with ``+changes`` if files were changed."""
    return NONE if not commit else commit[:12] + commit[commit.index('+'):] if '+' in commit else commit[:12]


def titled(comparison: Comparison, label: str) -> str:
    """A method's label with a note about failures, for the tables of means."""
    lacking = sum(comparison.outcome(label, key).picture is None for key in comparison.cases)
    failed = lacking == len(comparison.cases)
    return label + (': failed' if failed else f': lacks {lacking} of {len(comparison.cases)}' if lacking else '')


def faults(comparison: Comparison) -> list[str]:
    """One line per fault: method, images, message."""
    found: dict[tuple[str, str], list[str]] = {}
    for (label, key), outcome in comparison.outcomes.items():
        if outcome.fault:
            found.setdefault((label, outcome.fault), []).append(image_name(comparison, key))
    return [f'{label}, {"all images" if len(names) == len(comparison.cases) > 1 else ", ".join(names)}: {fault}'
            for (label, fault), names in found.items()]


def shown_metrics(comparison: Comparison) -> list[Metric]:
    """The metrics for which any method has a value."""
    return [metric for metric in METRICS if having(comparison, metric.key)]


def markdown(comparison: Comparison) -> str:
    """The whole comparison as Markdown: head, methods, means, per kernel, per image."""
    names = list(groups(comparison))
    parts = [f'# Comparison: {", ".join(dict.fromkeys(key[0] for key in comparison.cases))}', _head(comparison),
             '## Methods', _methods(comparison), '## Means', _means(comparison, names[0])]
    parts += ['\n'.join(f'* {_escape(line)}' for line in remarks(comparison))]
    for name in names[1:]:
        parts += [f'### {_escape(name)}', _means(comparison, name)]
    parts.append('## Images')
    for metric in shown_metrics(comparison):
        parts += [f'### {metric.heading}', _images(comparison, metric)]
    missing = [f'* {_escape(line)}' for line in faults(comparison)]
    parts += ['## Missing', '\n'.join(missing)] if missing else []
    return '\n\n'.join(part for part in parts if part) + '\n'


def _head(comparison: Comparison) -> str:
    said = {**comparison.head, 'images': len(comparison.cases), 'differences are to': comparison.reference}
    return '\n'.join(f'* {key}: {_escape(str(value))}' for key, value in said.items())


def _methods(comparison: Comparison) -> str:
    rows = [[method.label, str(method.file), str(method.opt['model_type']), state(comparison, method.label),
             *made(comparison, method.label)]
            for method in comparison.methods]
    return _table(['method', 'option file', 'model', 'state', 'made', 'commit', 'device'], rows)


def _means(comparison: Comparison, group: str) -> str:
    metrics, keys = shown_metrics(comparison), groups(comparison)[group]
    head = ['method']
    for metric in metrics:
        head += [metric.heading, *(['difference [95 %] (n), better on'] if differing(comparison, metric.key) else [])]
    rows = []
    for method in comparison.methods:
        row = [titled(comparison, method.label)]
        for metric in metrics:
            shown = cells(metric, mean(comparison, metric.key, method.label, keys))
            row += shown if differing(comparison, metric.key) else shown[:1]
        rows.append([*row, _seconds(comparison, method.label)])
    return _table([*head, 'seconds per image, all images'], rows)


def cells(metric: Metric, found: Mean | None) -> tuple[str, str]:
    """A mean, and its difference to the reference, as text."""
    if found is None:
        return NONE, NONE
    value = f'{found.value:.{metric.digits}f}'
    if found.difference is None:
        return value, NONE
    d, sign = found.difference, f'+.{metric.digits}f'
    interval = f' [{d.interval[0]:{sign}}, {d.interval[1]:{sign}}]' if d.interval else ''
    return value, f'{d.mean:{sign}}{interval} (n = {found.images}), {d.wins} of {found.images}'


def score_text(metric: Metric, value: float | None) -> str:
    """One score as text."""
    return NONE if value is None else f'{value:.{metric.digits}f}' if math.isfinite(value) else 'identical'


def scores_line(comparison: Comparison, title: str, key: Key) -> str:
    """The line below a picture: its scores, with units."""
    outcome = comparison.outcomes.get((title, key))  # None: LR or ground truth
    scores = outcome.scores if outcome else {}
    parts = {'psnr': '{} dB', 'ssim': 'SSIM {}', 'kernel_ncc': 'kernel {}'}
    return ', '.join(parts[metric.key].format(score_text(metric, scores[metric.key]))
                     for metric in METRICS if metric.key in parts and metric.key in scores)


def _seconds(comparison: Comparison, label: str) -> str:
    seconds, own = comparison.seconds(label)
    return NONE if seconds is None else f'{seconds:.1f}' + ('' if own else ' (wall)')


def _images(comparison: Comparison, metric: Metric) -> str:
    kernels = any(case.kernel_name for case in comparison.cases.values())
    labels = [method.label for method in comparison.methods]
    rows = [[image_name(comparison, key), *([case.kernel_name or NONE] if kernels else []),
             *(_score(comparison, metric, label, key) for label in labels)]
            for key, case in comparison.cases.items()]
    return _table(['image', *(['kernel'] if kernels else []), *labels], rows)


def image_name(comparison: Comparison, key: Key) -> str:
    """An image's name, prefixed by its data set if there are several; undecodable bytes become "?"."""
    several = len({key[0] for key in comparison.cases}) > 1
    return (f'{key[0]}: {key[1]}' if several else key[1]).encode(errors='replace').decode()


def _score(comparison: Comparison, metric: Metric, label: str, key: Key) -> str:
    outcome = comparison.outcome(label, key)
    return 'missing' if outcome.picture is None else score_text(metric, outcome.scores.get(metric.key))


def _mean_columns(metric: Metric, found: Mean | None) -> dict[str, Any]:
    d = found and found.difference
    low, high = (d.interval if d and d.interval else (None, None))
    values = (found and found.value, found.images if found else 0, d and d.mean, low, high, d and d.wins)
    suffixes = ('', '_images', '_difference', '_low', '_high', '_better_on')
    return dict(zip((metric.key + suffix for suffix in suffixes), values))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join('| ' + ' | '.join(_escape(cell) for cell in line) + ' |' for line in lines)


def _escape(text: str) -> str:
    """Escape Markdown markup (underscores within words need no escape)."""
    for mark in '\\|*`<':
        text = text.replace(mark, '\\' + mark)
    return ' '.join(text.split())


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    return csv_text(dict.fromkeys(key for row in rows for key in row), rows)
