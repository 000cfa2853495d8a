"""Progress of a run: a bar on a terminal, elsewhere a log line every ten seconds or so."""

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

# The figures first: a line that is too long for the terminal loses its end, and names of pictures are long.
BAR = '{percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}] {desc}'


def label(phase: str) -> str:
    """A phase of Progress, in words."""
    return f'phase 1 ({PHASE1[phase].label})' if phase in PHASE1 else f'phase 2 ({phase})'


class ProgressLog:
    """Shows each :class:`~kernelfusion_plugin.core.restore.Progress` of one image: phase, step, time left, loss.

    Args:
        logger: gets the lines where ``stream`` is not a terminal.
        title: goes in front, such as ``[2/5] 0802_k05``.
        stream: where a bar is drawn if it is a terminal.
        interval: seconds between two log lines. The last step of a phase always gives one.
    """

    def __init__(self, logger: logging.Logger, title: str, stream: TextIO | None = None, interval: float = 10.0,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.logger = logger
        self.title = title
        self.stream = sys.stderr if stream is None else stream
        self.interval = interval
        self.clock = clock
        self.shown = clock()
        self.bar: tqdm | None = None
        self.phase = ''

    def __call__(self, progress: Progress) -> None:
        if self.stream is not None and self.stream.isatty():  # None: closed, as by "2>&-"
            self._draw(progress)
        elif progress.step == progress.total or self.clock() - self.shown >= self.interval:
            self.shown = self.clock()
            self.logger.info(self.line(progress))

    def line(self, progress: Progress) -> str:
        """The line for one step, as it is logged."""
        left = datetime.timedelta(seconds=round(progress.eta))
        return (f'{self.title}: {label(progress.phase)}, step {progress.step}/{progress.total}, '
                f'{left} left, loss {progress.loss:.4g}')

    def close(self) -> None:
        """Take the bar away."""
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
