"""A test by several ranks: each takes images, all write one table, the lowest that lives speaks for all.

Results are those of one process, to the bit: an image's random numbers follow from its name, and rows are put together
in the data set's order. Nothing is sent between ranks but one sign at the start (:func:`..distributed.after_rank_0`);
the rest goes through files, see :mod:`..sharing`, so no rank can hang for another that died.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from .. import runlog
from ..distributed import after_rank_0
from ..sharing import Worker
from .work import Work

if TYPE_CHECKING:
    from .validation import ImageByImage

PAUSE = 0.2  # seconds between two looks at the others' locks


class Ranks:
    """This process's side of a test by several.

    Args:
        model: restores the images; rank 0's has made the folder of results when it comes here.
    """

    def __init__(self, model: ImageByImage) -> None:
        self.model, opt = model, model.opt
        self.worker = Worker(model.results, opt['rank'], opt['world_size'])
        if opt['rank'] == 0:
            self.worker.prepare()
            self.worker.join()
        after_rank_0(opt['rank'])
        if opt['rank'] > 0:
            self.worker.join()
            self.worker.check_locks()
        self.works: list[tuple[Work, Any, Any]] = []

    def validate(self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool) -> None:  # noqa: ANN401
        """Do of a data set what this rank can get; behind the last one, see to the end of the run."""
        work = self.model.open_dataset(dataloader, current_iter)
        self.works.append((work, current_iter, tb_logger))
        last = len(self.works) == len(self.model.opt['datasets'])
        closing = False
        with _ended_by_sigterm():
            try:
                self._restore(work, save_img)
                closing = last and self.worker.closes()
                if closing:
                    self._wait()
            except (SystemExit, KeyboardInterrupt):
                self._stopped()
                raise
        if not last:
            return
        if closing:
            self._close()
        else:
            self._leave()

    def shares(self) -> list[dict[str, float]]:
        """Images and seconds of work of each rank, as far as they are known here."""
        done = [outcome for work, *_ in self.works for outcome in work.outcomes.values()]
        seconds = [[outcome.seconds for outcome in done if outcome.rank == rank] for rank in range(self.worker.count)]
        return [{'images': len(each), 'seconds': sum(each)} for each in seconds]

    def _restore(self, work: Work, save_img: bool) -> None:
        number = len(self.works) - 1
        for unit in work.order(self.worker.rank, self.worker.count):
            if not self.worker.take(number, unit[0]):
                continue
            for place in unit:
                self.worker.put(number, place, self.model.attempt(work, place, save_img))
                self._write_table()
            self.model.logger.info(f'{work.name}: {len(work.outcomes)} of {len(work.entries)} images are done')

    def _wait(self) -> None:
        """Until no other rank is at work."""
        others = self.worker.others()
        if others:
            self.model.logger.info(f'{_ranks(others)} still at work: waiting')
        while self.worker.others():
            time.sleep(PAUSE)

    def _gather(self) -> int:
        """What all ranks have done so far; returns of how many images."""
        outcomes = self.worker.outcomes()
        for (number, place), outcome in outcomes.items():
            if number < len(self.works):
                self.works[number][0].outcomes[place] = outcome
        self.model.rows = [outcome.row for outcome in outcomes.values() if outcome.row is not None]
        return len(outcomes)

    def _write_table(self) -> None:
        """No lock is needed: who finds, having written, that there is more, writes again; so the last one has all."""
        written = -1
        while (done := self._gather()) != written:
            self.model.write_table()
            written = done

    def _close(self) -> None:
        """Speak for all: tables and means, faults of all ranks, and what is missing.

        Raises:
            SystemExit: with status 1, if an image failed or is missing.
        """
        model = self.model
        self._write_table()
        faults = [fault for work, *_ in self.works for outcome in work.outcomes.values() for fault in outcome.faults]
        for fault in dict.fromkeys(faults):
            if fault not in runlog.failures:
                runlog.record_failure(fault)
        model.logger.info('; '.join(f'rank {rank}: {share["images"]} images, {share["seconds"]:.1f} s'
                                    for rank, share in enumerate(self.shares())))
        for work, current_iter, tb_logger in self.works:
            model.conclude(work, current_iter, tb_logger)
        missing = self._missing()
        if missing:
            model.logger.error(missing)
            runlog.record_failure(missing)
        self.worker.close()
        for _ in self.works:
            model.end_dataset()

    def _leave(self) -> None:
        """A lower rank will close the run, and tell of this one's failures: torchrun ends a run when a rank fails."""
        self.worker.leave()
        runlog.failures.clear()

    def _stopped(self) -> None:
        """This rank is stopped, and with it, as a rule, all: by Ctrl-C, or by torchrun when one has died."""
        if self.worker.closes():
            self._write_table()
            missing = self._missing()
            if missing:
                self.model.logger.error(f'stopped: {missing}')

    def _missing(self) -> str:
        """One line about the images that are not done, '' if there are none."""
        names = [f'{work.entries[place].name}{self._by(number, place)}'
                 for number, (work, *_) in enumerate(self.works) for place in work.missing()]
        more = f' and {len(names) - 20} more' if len(names) > 20 else ''
        return (f'{len(names)} image{"s are" if len(names) > 1 else " is"} not done: {", ".join(names[:20])}{more}. '
                'The same command does what is missing') if names else ''

    def _by(self, number: int, place: int) -> str:
        rank = self.worker.taker(number, place)
        return '' if rank is None else f' (rank {rank} had begun it)'


def _ranks(numbers: list[int]) -> str:
    return f'rank{"s" if len(numbers) > 1 else ""} {", ".join(map(str, numbers))} {"are" if len(numbers) > 1 else "is"}'


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM, which torchrun sends to all ranks when one has died, ends the program in order."""
    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
