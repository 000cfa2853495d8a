"""Means over the same images for all methods, and paired differences with bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .cases import Key
from .collect import Comparison

LEVEL = 0.95
RESAMPLES = 9999
SEED = 0
LEAST = 5  # images; with fewer, bootstrap intervals are far too short
BLOCK = 1 << 20  # numbers drawn at a time, to limit memory


@dataclass(frozen=True)
class Metric:
    """A column: key in ``Outcome.scores``, title, unit, digits shown. Higher is better for all metrics."""

    key: str
    title: str
    unit: str
    digits: int

    @property
    def heading(self) -> str:
        """Title and unit."""
        return f'{self.title} ({self.unit})' if self.unit else self.title


METRICS = (Metric('psnr', 'PSNR', 'dB', 2), Metric('psnr_best_shift', 'PSNR at best shift', 'dB', 2),
           Metric('ssim', 'SSIM', '', 4), Metric('kernel_ncc', 'kernel correlation', '', 3),
           Metric('kernel_ncc_best_shift', 'kernel correlation at best shift', '', 3))


@dataclass(frozen=True)
class Difference:
    """Mean of method - reference over the images, its 95 % interval (None with fewer than :data:`LEAST` images), and
    the number of images on which the method is better.
    """

    mean: float
    interval: tuple[float, float] | None
    wins: int


@dataclass(frozen=True)
class Mean:
    """A method's mean of a metric over ``images`` images, the same ones for every method."""

    value: float
    images: int
    difference: Difference | None  # None: for the reference, or if the reference lacks the metric


def bootstrap_interval(differences: Sequence[float], resamples: int = RESAMPLES,
                       seed: int = SEED) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the mean (Efron and Tibshirani 1993, ch. 13), resampling images.

    Gives the same numbers as ``scipy.stats.bootstrap(…, method='percentile')`` with the same generator.

    Args:
        differences: one per image, between the two methods' scores of that image.

    Returns:
        Lower and upper end; None with fewer than two differences.
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.size < 2:
        return None
    generator, means = np.random.default_rng(seed), []
    rows = max(1, BLOCK // d.size)
    for start in range(0, resamples, rows):
        drawn = generator.integers(0, d.size, (min(rows, resamples - start), d.size))
        means.append(d[drawn].mean(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def common(comparison: Comparison, metric: str, keys: Sequence[Key]) -> list[Key]:
    """The images with a finite score from all methods, ignoring methods without any score of that metric."""
    labels = having(comparison, metric)
    return [key for key in keys if labels and all(
        math.isfinite(comparison.outcome(label, key).scores.get(metric, math.nan)) for label in labels)]


def having(comparison: Comparison, metric: str) -> list[str]:
    """The methods that have a score of that metric for at least one image."""
    return [method.label for method in comparison.methods
            if any(metric in comparison.outcome(method.label, key).scores for key in comparison.cases)]


def differing(comparison: Comparison, metric: str) -> bool:
    """Whether there are differences, that is, the reference and another method have that score."""
    labels = having(comparison, metric)
    return comparison.reference in labels and len(labels) > 1


def mean(comparison: Comparison, metric: str, label: str, keys: Sequence[Key]) -> Mean | None:
    """A method's mean over the :func:`common` images, and its difference to the reference; None without scores."""
    labels, shared = having(comparison, metric), common(comparison, metric, keys)
    if label not in labels or not shared:
        return None
    mine = [comparison.outcome(label, key).scores[metric] for key in shared]
    difference = None
    if label != comparison.reference and comparison.reference in labels:
        theirs = [comparison.outcome(comparison.reference, key).scores[metric] for key in shared]
        paired = [a - b for a, b in zip(mine, theirs)]
        interval = bootstrap_interval(paired) if len(paired) >= LEAST else None
        difference = Difference(float(np.mean(paired)), interval, sum(d > 0 for d in paired))
    return Mean(float(np.mean(mine)), len(shared), difference)


def groups(comparison: Comparison) -> dict[str, list[Key]]:
    """Groups for means: all images, each data set, and each kernel (unless every image has its own kernel).

    Groups with the same images are listed once, under the first of these names.
    """
    keys = list(comparison.cases)
    found = {'all images': keys}
    parts = {f'data set {name}': [key for key in keys if key[0] == name] for name in dict.fromkeys(k[0] for k in keys)}
    for name, part in {**parts, **kernel_groups(comparison)}.items():
        if part not in found.values():
            found[name] = part
    return found


def kernel_groups(comparison: Comparison) -> dict[str, list[Key]]:
    """The images with each kernel, by its name; {} if every image has its own kernel."""
    names = [case.kernel_name for case in comparison.cases.values() if case.kernel_name]
    return {f'kernel {name.removeprefix("kernel ")}': [key for key, case in comparison.cases.items()
                                                       if case.kernel_name == name]
            for name in dict.fromkeys(names if len(set(names)) < len(names) else [])}


def remarks(comparison: Comparison) -> list[str]:
    """Sentences that a reader needs to understand the means."""
    pictures = bool(having(comparison, 'psnr'))
    if pictures:
        said = ['PSNR and SSIM are on Y, without 5 % of height and width on each side.']
    elif any(outcome.picture for outcome in comparison.outcomes.values()):
        said = ['There is no ground truth, so pictures have no scores.']
    else:
        said = ['No method has a picture of any image.']
    if having(comparison, 'kernel_ncc'):
        said.append('Kernel correlation is normalised and at zero shift, so a misplaced kernel scores less.')
    if having(comparison, 'psnr_best_shift') or having(comparison, 'kernel_ncc_best_shift'):
        said.append('At best shift: the highest score over shifts by whole pixels, up to 4. The LR image does not '
                    'determine a common shift of picture and kernel, so results of blind methods may be shifted.')
    said += _what_is_left_out(comparison) + _about_intervals(comparison)
    wall = [method.label for method in comparison.methods if comparison.seconds(method.label)[0] is not None
            and not comparison.seconds(method.label)[1]]
    if wall:
        said.append(f'Seconds of {_listed(wall)}: wall time of the process, including start-up, per image.')
    return said


def _what_is_left_out(comparison: Comparison) -> list[str]:
    keys, said = list(comparison.cases), {}
    for metric in METRICS:
        labels, shared = having(comparison, metric.key), common(comparison, metric.key, keys)
        if labels and len(shared) < len(keys):
            said.setdefault((tuple(shared), tuple(labels)), []).append(metric.title)
    sentences = [f'Means of {_listed(titles)} are over the {len(shared)} of {len(keys)} images with '
                 f'finite values from {_those(labels, comparison)}.' for (shared, labels), titles in said.items()]
    same = sum(math.isinf(outcome.scores.get('psnr', 0.0)) for outcome in comparison.outcomes.values())
    return sentences + ([f'Pictures identical to the truth, with infinite PSNR: {same}.'] if same else [])


def _about_intervals(comparison: Comparison) -> list[str]:
    counts = {len(common(comparison, metric.key, keys)) for metric in METRICS if differing(comparison, metric.key)
              for keys in groups(comparison).values()} - {0}
    said = []
    if any(count >= LEAST for count in counts):
        said.append('Intervals: 95 %, percentile bootstrap of the paired differences over n images '
                    f'({RESAMPLES} resamples, seed {SEED}); images are treated as independent, even if a scene '
                    'occurs with several kernels.')
    if any(count < LEAST for count in counts):
        said.append(f'Differences over fewer than {LEAST} images have no interval, as it would be far too short.')
    return said


def _those(labels: Sequence[str], comparison: Comparison) -> str:
    return 'all methods' if len(labels) == len(comparison.methods) else _listed(labels)


def _listed(words: Sequence[str]) -> str:
    return ' and '.join(filter(None, (', '.join(words[:-1]), words[-1])))
