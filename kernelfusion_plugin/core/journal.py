"""The state that lets another process resume a run: the current phase and the results of earlier ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

ROWS = 100  # in the trace of a net that is fitted; single losses are too noisy


class Journal:
    """Collects the contents of a run's snapshots, and provides those of ``resume``.

    Args:
        resume: snapshot of an earlier run, a dict of plain values and tensors; None or empty: start from scratch.

    Attributes:
        weights: weights of the nets that Phase 1 has finished, by phase.
        trace: rows for the steps so far; Phase 2 appends its own.
        phase1: seconds that the finished nets took.
    """

    def __init__(self, resume: Mapping[str, Any] | None) -> None:
        self._resume = resume or {}
        self._nets: dict[str, nn.Module] = {}
        self.weights: dict[str, Mapping[str, Tensor]] = dict(self._resume.get('weights', {}))
        self.trace: list[dict[str, float | str]] = list(self._resume.get('trace', []))
        self.phase1: float = self._resume.get('phase1', 0.0)
        self._losses: list[float] = list(self._resume.get('losses', []))  # since the last row

    def begin(self, phase: str, generator: torch.Generator) -> tuple[dict[str, Any] | None, float]:
        """The snapshot from which the phase's solver resumes and the seconds used before; (None, 0) to start afresh.

        Restores the state of ``generator``.
        """
        if self._resume.get('phase') != phase:
            return None, 0.0
        generator.set_state(self._resume['generator'])
        return self._resume['solver'], self._resume['seconds']

    def note(self, phase: str, step: int, total: int, loss: float) -> None:
        """Record a step of Phase 1: a row of the trace is the mean over a hundredth of the net's steps."""
        self._losses.append(loss)
        if step == total or len(self._losses) >= total / ROWS:
            self.trace.append({'phase': phase, 'step': step, 'loss': fmean(self._losses)})
            self._losses = []

    def finish(self, phase: str, net: nn.Module) -> None:
        """Record that Phase 1 has finished a net."""
        self._nets[phase] = net

    def snapshot(self, phase: str, solver: Callable[[], Mapping[str, Any]], generator: torch.Generator,
                 seconds: float) -> dict[str, Any]:
        """The whole state on the CPU; tensors are copied, without the unused rest of a view's storage."""
        return _copy({'phase': phase, 'solver': solver(), 'generator': generator.get_state(), 'seconds': seconds,
                      'phase1': self.phase1, 'trace': list(self.trace), 'losses': list(self._losses),
                      'weights': {name: net.state_dict() for name, net in self._nets.items()}})


def _copy(value: Any) -> Any:
    """Copy nested dicts, lists and tuples, tensors to the CPU with their strides, on which rounding depends."""
    if isinstance(value, Tensor):
        return value.detach().to('cpu', copy=True)
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copy(item) for item in value)
    return value
