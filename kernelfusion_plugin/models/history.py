"""Losses and kernel correlation recorded for the plot of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..core import metrics
from ..core.phase1 import PHASES as PHASE1
from ..core.restore import Progress

POINTS = 100  # in Phase 1, where single losses are too noisy: each point is a mean over steps


class History:
    """Losses by step in both phases, and the kernel's correlation with the true kernel, if known.

    Args:
        k_true: the true kernel (K, K).
        resume: an earlier :meth:`state` to continue from.
    """

    def __init__(self, k_true: np.ndarray | None = None, resume: Mapping[str, Any] | None = None) -> None:
        self._k_true = None if k_true is None else torch.from_numpy(k_true)
        state = resume or {}
        self._points: list[dict[str, Any]] = list(state.get('points', []))
        self._sum: float = state.get('sum', 0.0)
        self._count: int = state.get('count', 0)

    def state(self) -> dict[str, Any]:
        """The history so far as plain values, for a checkpoint."""
        return {'points': self._points, 'sum': self._sum, 'count': self._count}

    def add(self, progress: Progress) -> None:
        """Record one step."""
        if progress.phase in PHASE1:
            self._sum += progress.loss
            self._count += 1
            if progress.step == progress.total or self._count >= progress.total / POINTS:
                self._points.append({'phase': progress.phase, 'step': progress.step, 'loss': self._sum / self._count})
                self._sum, self._count = 0.0, 0
            return
        parts = {name: float(value) for name, value in progress.losses.items()} or {'loss': float(progress.loss)}
        point = {'phase': progress.phase, 'step': progress.step, **parts}
        if self._k_true is not None and progress.kernel is not None:
            point['kernel_ncc'] = metrics.kernel_ncc(progress.kernel, self._k_true)
        self._points.append(point)

    def points(self) -> list[dict[str, Any]]:
        """One dict per point: ``phase``, ``step``, losses by name, and ``kernel_ncc`` if known."""
        return list(self._points)
