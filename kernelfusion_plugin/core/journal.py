"""What a run has to remember so that another process can go on with it: the phase under way and those before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Journal:
    """Collects what a snapshot of a whole run holds, and hands it out again where ``resume`` is one.

    Args:
        resume: an earlier run's snapshot, a dict of plain values and tensors; None or empty: a run from the start.

    Attributes:
        weights: by phase, those of the nets that Phase 1 had finished.
        trace: rows of the steps so far; the run adds to it.
        phase1: seconds that the finished nets took.
    """

    def __init__(self, resume: Mapping[str, Any] | None) -> None:
        self._resume = resume or {}
        self._nets: dict[str, nn.Module] = {}
        self.weights: dict[str, Mapping[str, Tensor]] = dict(self._resume.get('weights', {}))
        self.trace: list[dict[str, float | str]] = list(self._resume.get('trace', []))
        self.phase1: float = self._resume.get('phase1', 0.0)

    def begin(self, phase: str, generator: torch.Generator) -> tuple[dict[str, Any] | None, float]:
        """What the phase's solver goes on from and the seconds it had used; (None, 0) from the start.

        ``generator`` is put where it was.
        """
        if self._resume.get('phase') != phase:
            return None, 0.0
        generator.set_state(self._resume['generator'])
        return self._resume['solver'], self._resume['seconds']

    def finish(self, phase: str, net: nn.Module) -> None:
        """A net of Phase 1 is ready."""
        self._nets[phase] = net

    def snapshot(self, phase: str, solver: Callable[[], Mapping[str, Any]], generator: torch.Generator,
                 seconds: float) -> dict[str, Any]:
        """Everything, on the CPU: the tensors are copies, and only as large as what they show."""
        return _copy({'phase': phase, 'solver': solver(), 'generator': generator.get_state(), 'seconds': seconds,
                      'phase1': self.phase1, 'trace': list(self.trace),
                      'weights': {name: net.state_dict() for name, net in self._nets.items()}})


def _copy(value: Any) -> Any:
    """Nested dicts, lists and tuples with every tensor copied to the CPU, its strides kept (they decide roundings)."""
    if isinstance(value, Tensor):
        return value.detach().to('cpu', copy=True)
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copy(item) for item in value)
    return value
