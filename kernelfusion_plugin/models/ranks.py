"""A test with several ranks: each takes images, all write the same table, the lowest live rank reports for all.

Results equal those of a single process, bit for bit: random numbers depend on the image's name, and rows are in the
data set's order. Ranks synchronise once, at the start (:func:`..distributed.after_rank_0`), and otherwise communicate
through files (see :mod:`..sharing`), so no rank can hang waiting for one that died.
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

PAUSE = 0.2  # seconds between checks of the others' locks


class Ranks:
    """This process's part of a test with several ranks.

    Args:
        model: restores the images; on rank 0 it has already created the results folder.
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
        """Restore this rank's share of a data set; after the last data set, finish the run."""
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
        """Number of images and seconds of work of each rank, as known to this one."""
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
            self.model.logger.info(f'{work.name}: {len(work.outcomes)} of {len(work.entries)} images done')

    def _wait(self) -> None:
        """Wait until no other rank is working."""
        others = self.worker.others()
        if others:
            self.model.logger.info(f'waiting: {_ranks(others)} still working')
        while self.worker.others():
            time.sleep(PAUSE)

    def _gather(self) -> int:
        """Collect the outcomes of all ranks so far; returns their number."""
        outcomes = self.worker.outcomes()
        for (number, place), outcome in outcomes.items():
            if number < len(self.works):
                self.works[number][0].outcomes[place] = outcome
        self.model.rows = [outcome.row for outcome in outcomes.values() if outcome.row is not None]
        return len(outcomes)

    def _write_table(self) -> None:
        """Write the table. Needs no lock: each rank rewrites it until nothing is new, so the last one is complete."""
        written = -1
        while (done := self._gather()) != written:
            self.model.write_table()
            written = done

    def _close(self) -> None:
        """Report for all ranks: tables, means, faults and missing images.

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
        """Leave the run to a lower rank, which also reports this rank's failures (torchrun ends all if one fails)."""
        self.worker.leave()
        runlog.failures.clear()

    def _stopped(self) -> None:
        """Report after a stop (usually of all ranks): by Ctrl-C, or by torchrun when a rank has died."""
        if self.worker.closes():
            self._write_table()
            missing = self._missing()
            if missing:
                self.model.logger.error(f'stopped: {missing}')

    def _missing(self) -> str:
        """One line that lists the images not done; '' if there are none."""
        names = [f'{work.entries[place].name}{self._by(number, place)}'
                 for number, (work, *_) in enumerate(self.works) for place in work.missing()]
        more = f' and {len(names) - 20} more' if len(names) > 20 else ''
        return (f'{len(names)} image{"s are" if len(names) > 1 else " is"} not done: {", ".join(names[:20])}{more}. '
                'Repeat the command to restore them') if names else ''

    def _by(self, number: int, place: int) -> str:
        rank = self.worker.taker(number, place)
        return '' if rank is None else f' (begun by rank {rank})'


def _ranks(numbers: list[int]) -> str:
    return f'rank{"s" if len(numbers) > 1 else ""} {", ".join(map(str, numbers))} {"are" if len(numbers) > 1 else "is"}'


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Turn SIGTERM, which torchrun sends to all ranks when one has died, into an orderly exit."""
    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
