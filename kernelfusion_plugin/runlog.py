"""Failures that did not end the run: one line per image that could not be restored.

A run with failures ends with exit status 1. BasicSR's test program may be the unmodified one, so the model sees to
that: it calls :func:`end_of_dataset` after validating a data set, which raises ``SystemExit(1)`` after the last one,
where ``test_pipeline`` would have returned. (An atexit handler with ``os._exit`` would not need that call, but would
skip other libraries' handlers and kill callers of ``test_pipeline``, such as a test suite.) Our launchers check
:data:`failures` again at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SKIPPED = '. The image is skipped'  # ends the log's line about a failure; ``kernelfusion compare`` looks for it

failures: list[str] = []


def record_failure(message: str) -> None:
    """Record an image that failed; ``message`` is one line that names its file."""
    failures.append(message)


def end_of_dataset(opt: Mapping[str, Any], validated: int) -> None:
    """Call at the end of each ``validation`` of a test run.

    Args:
        opt: BasicSR's options: ``is_train``, ``datasets``.
        validated: number of data sets validated so far, including this one.

    Raises:
        SystemExit: with status 1, after the last data set, if there were failures. Never in training.
    """
    if failures and not opt.get('is_train') and validated >= len(opt['datasets']):
        raise SystemExit(1)
