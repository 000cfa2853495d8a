"""What went wrong in this run without ending it: one line per image that could not be done.

A run with such images ends with exit status 1. BasicSR's test program is not ours (it may be the unmodified one), so
the model does that: it calls :func:`end_of_dataset` when it has validated a data set, and behind the last one the
call raises ``SystemExit(1)``, which is where BasicSR's ``test_pipeline`` would have returned. An atexit handler with
``os._exit`` would need no such call, but would also cut off other libraries' handlers, and end whoever calls
``test_pipeline`` from Python, such as a test suite. Our launchers look at :data:`failures` once more at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

failures: list[str] = []


def record_failure(message: str) -> None:
    """Note one image that could not be done; ``message`` is one line with its file."""
    failures.append(message)


def end_of_dataset(opt: Mapping[str, Any], validated: int) -> None:
    """To be called at the end of each ``validation`` of a test run.

    Args:
        opt: BasicSR's options: ``is_train``, ``datasets``.
        validated: how many data sets the model has validated, this one included.

    Raises:
        SystemExit: with status 1, behind the last data set, if there were failures. Never while training.
    """
    if failures and not opt.get('is_train') and validated >= len(opt['datasets']):
        raise SystemExit(1)
