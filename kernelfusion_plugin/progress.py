"""Progress of a run: a bar on a terminal, otherwise a log line about every ten seconds."""

from __future__ import annotations

import datetime
import logging
import sys
import time
from collections.abc import Callable
from typing import TextIO

from tqdm import tqdm

from .core.phase1 import PHASES as PHASE1
from .core.restore import Progress

# Figures first: terminals cut off the end of long lines, and picture names are long.
BAR = '{percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}] {desc}'
INTERVAL = 10.0  # seconds between two log lines; the last step of a phase is always logged


def label(phase: str) -> str:
    """The name of a phase of Progress for display."""
    return f'phase 1 ({PHASE1[phase].label})' if phase in PHASE1 else f'phase 2 ({phase})'


class ProgressLog:
    """Shows each :class:`~kernelfusion_plugin.core.restore.Progress` of an image: phase, step, time left, loss.

    Args:
        logger: gets the lines if ``stream`` is not a terminal.
        title: prefix, such as ``[2/5] 0802_k05``.
        stream: gets a bar if it is a terminal; default: stderr.
    """

    def __init__(self, logger: logging.Logger, title: str, stream: TextIO | None = None,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.logger = logger
        self.title = title
        self.stream = sys.stderr if stream is None else stream
        self.clock = clock
        self.shown = clock()
        self.bar: tqdm | None = None
        self.phase = ''

    def __call__(self, progress: Progress) -> None:
        if self.stream is not None and self.stream.isatty():  # None: closed, as by "2>&-"
            self._draw(progress)
        elif progress.step == progress.total or self.clock() - self.shown >= INTERVAL:
            self.shown = self.clock()
            self.logger.info(self.line(progress))

    def line(self, progress: Progress) -> str:
        """The log line for one step."""
        left = datetime.timedelta(seconds=round(progress.eta))
        return (f'{self.title}: {label(progress.phase)}, step {progress.step}/{progress.total}, '
                f'{left} left, loss {progress.loss:.4g}')

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _draw(self, progress: Progress) -> None:
        if self.bar is None or self.phase != progress.phase:
            self.close()
            self.phase = progress.phase
            self.bar = tqdm(total=progress.total, file=self.stream, leave=False, dynamic_ncols=True, bar_format=BAR,
                            desc=f'{self.title}: {label(progress.phase)}')
        self.bar.set_postfix_str(f'loss {progress.loss:.4g}', refresh=False)
        self.bar.update(progress.step - self.bar.n)
