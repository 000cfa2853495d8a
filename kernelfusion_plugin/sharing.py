"""The images of a test divided over processes: who does which, and what came out, by files in a shared folder alone.

    ranks/lock_2          held by rank 2 while it is at work: a process that dies, in whatever way, gives it back
    ranks/0/000004.taken  some rank has begun image 4 of data set 0; holds the rank's number
    ranks/0/000004.json   it is through with it: row of the table, faults, rank, seconds

Each rank begins with its own part, longest first, and then helps with what nobody has begun. So ranks end together, the
images of a dead rank are done by the others, and clocks may differ between machines; locks may not, and are checked. An
image is begun once per run: the one that a rank died at, and perhaps of, is left to the next run.

Nobody waits for a message. The lowest rank that lives waits for the others' locks, and closes the run.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from .atomic import write_text_atomically
from .checkpoints import hold, is_locked

FOLDER = 'ranks'  # in the folder of results, while several ranks are at work
CLOSED = '.ranks_closed'  # while it is being removed


@dataclass(frozen=True)
class Outcome:
    """What came of one image.

    Attributes:
        row: of ``scores.csv``; None: it could not be done.
        faults: lines for ``runlog.failures``.
        rank, seconds: who did it, and how long that took.
    """

    row: dict[str, Any] | None
    faults: list[str] = field(default_factory=list)
    rank: int = 0
    seconds: float = 0.0


def parts(sizes: Sequence[float], count: int) -> list[list[int]]:
    """Places in ``sizes``, divided into ``count`` parts of about the same sum, each with the largest first.

    The longest-processing-time rule (Graham 1969): the largest that is left goes to the part with the smallest sum. The
    largest sum is at most 4/3 of the least possible one.
    """
    divided: list[list[int]] = [[] for _ in range(count)]
    sums = [0.0] * count
    for place in _largest_first(sizes, range(len(sizes))):
        least = min(range(count), key=lambda part: (sums[part], len(divided[part])))
        divided[least].append(place)
        sums[least] += sizes[place]
    return divided


def order(sizes: Sequence[float], rank: int, count: int) -> list[int]:
    """All places in ``sizes`` in the order in which this rank tries them: its own part, then what others have left."""
    own = parts(sizes, count)[rank]
    return own + _largest_first(sizes, set(range(len(sizes))) - set(own))


def _largest_first(sizes: Sequence[float], places: Any) -> list[int]:  # noqa: ANN401
    return sorted(places, key=lambda place: (-sizes[place], place))


def clear(results: Path) -> None:
    """Remove what ranks have left in a folder of results, that nobody is at work in."""
    for name in (FOLDER, CLOSED):
        shutil.rmtree(results / name, ignore_errors=True)


def parse_shard(text: object) -> tuple[int, int]:
    """``shard: 3/8``, the third of eight parts, as (3, 8).

    Raises:
        ValueError: it is none of 1/8 … 8/8.
    """
    match = re.fullmatch(r'(\d+)/(\d+)', str(text))
    number, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= number <= count:
        raise ValueError(f'shard must be 1/8 … 8/8 for the first … last of eight parts, got {str(text)!r}')
    return number, count


class Worker:
    """One of ``count`` processes at the images of a run.

    Args:
        results: the run's folder.
    """

    def __init__(self, results: Path, rank: int, count: int) -> None:
        self.folder, self.rank, self.count = results / FOLDER, rank, count
        self._lock: TextIO | None = None
        self._outcomes: dict[tuple[int, int], Outcome] = {}

    def prepare(self) -> None:
        """Make the folder, empty; before any rank joins."""
        clear(self.folder.parent)
        self.folder.mkdir(parents=True)

    def join(self) -> None:
        """Be at work. Who comes when the run is closed already finds nothing to do."""
        try:
            self._lock = hold(self.folder / f'lock_{self.rank}')
        except FileNotFoundError:
            self._lock = None

    def check_locks(self) -> None:
        """Whether rank 0's lock, which it took before this rank joined, is seen here.

        Raises:
            ValueError: it is not: the run would be closed while other machines are still at work.
        """
        if self._lock is not None and not is_locked(self.folder / 'lock_0') and self.folder.is_dir():
            raise ValueError(f"{self.folder}: rank 0's lock is not seen by rank {self.rank}: either rank 0 has died, "
                             'or this file system has no locks between machines (Lustre: mount it with flock)')

    def leave(self) -> None:
        """Be no more at work."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def take(self, dataset: int, place: int) -> bool:
        """Begin an image, or several that are done together; False: somebody has begun it."""
        if self._lock is None:
            return False
        try:
            self._path(dataset, place, 'taken').parent.mkdir(exist_ok=True)
            with open(self._path(dataset, place, 'taken'), 'x', encoding='utf-8') as file:  # by one process alone
                file.write(str(self.rank))
        except (FileExistsError, FileNotFoundError):
            return False
        return True

    def put(self, dataset: int, place: int, outcome: Outcome) -> None:
        """This rank is through with an image."""
        text = json.dumps(dataclasses.asdict(dataclasses.replace(outcome, rank=self.rank)))
        write_text_atomically(self._path(dataset, place, 'json'), text)

    def outcomes(self) -> dict[tuple[int, int], Outcome]:
        """What has come out so far, of all ranks, by data set and place, sorted."""
        for path in self.folder.glob('[0-9]*/[0-9]*.json'):
            key = int(path.parent.name), int(path.stem)
            if key not in self._outcomes:
                self._outcomes[key] = Outcome(**json.loads(path.read_text(encoding='utf-8')))
        return dict(sorted(self._outcomes.items()))

    def taker(self, dataset: int, place: int) -> int | None:
        """Who has begun it; None: nobody, or it is not known."""
        try:
            return int(self._path(dataset, place, 'taken').read_text(encoding='utf-8'))
        except (OSError, ValueError):
            return None

    def closes(self) -> bool:
        """Whether no lower rank is at work, and none has closed the run: then this one speaks for all."""
        return not any(rank < self.rank for rank in self.others()) and self.folder.is_dir()  # in this order

    def others(self) -> list[int]:
        """The other ranks that are at work."""
        return [rank for rank in range(self.count)
                if rank != self.rank and is_locked(self.folder / f'lock_{rank}')]

    def close(self) -> None:
        """The run is over: remove the folder, at one stroke for a rank that comes late."""
        os.rename(self.folder, self.folder.with_name(CLOSED))
        self.leave()
        clear(self.folder.parent)

    def _path(self, dataset: int, place: int, kind: str) -> Path:
        return self.folder / str(dataset) / f'{place:06d}.{kind}'
