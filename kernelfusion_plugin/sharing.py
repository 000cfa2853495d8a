"""Divides the images of a test among processes, which coordinate only through files in a shared folder.

    ranks/lock_2          held by rank 2 while it works; released however the process ends
    ranks/0/000004.taken  a rank has begun image 4 of data set 0; contains the rank's number
    ranks/0/000004.json   the image is done: row of the table, faults, rank, seconds

Each rank starts with its own part, largest images first, then takes images that nobody has begun. So all ranks finish
at about the same time, and the images of a dead rank are done by the others. Clocks may differ between machines, but
locks must be visible on all of them, which is checked. An image is begun only once per run: the one at which a rank
died, perhaps because of it, is left to the next run.

No rank waits for messages. The lowest live rank waits for the others' locks and closes the run.
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

FOLDER = 'ranks'  # in the results folder, while several ranks are working
CLOSED = '.ranks_closed'  # while it is being removed


@dataclass(frozen=True)
class Outcome:
    """The outcome for one image.

    Attributes:
        row: its row of ``scores.csv``; None if it failed.
        faults: lines for ``runlog.failures``.
        rank, seconds: which rank did it, and how long it took.
    """

    row: dict[str, Any] | None
    faults: list[str] = field(default_factory=list)
    rank: int = 0
    seconds: float = 0.0


def parts(sizes: Sequence[float], count: int) -> list[list[int]]:
    """Indices into ``sizes``, divided into ``count`` parts of about equal sums, each with the largest first.

    Longest-processing-time rule (Graham 1969): the largest remaining item goes to the part with the smallest sum. The
    largest sum is at most 4/3 of the optimum.
    """
    divided: list[list[int]] = [[] for _ in range(count)]
    sums = [0.0] * count
    for place in _largest_first(sizes, range(len(sizes))):
        least = min(range(count), key=lambda part: (sums[part], len(divided[part])))
        divided[least].append(place)
        sums[least] += sizes[place]
    return divided


def order(sizes: Sequence[float], rank: int, count: int) -> list[int]:
    """All indices into ``sizes`` in the order in which this rank tries them: its own part, then the others'."""
    own = parts(sizes, count)[rank]
    return own + _largest_first(sizes, set(range(len(sizes))) - set(own))


def _largest_first(sizes: Sequence[float], places: Any) -> list[int]:  # noqa: ANN401
    return sorted(places, key=lambda place: (-sizes[place], place))


def clear(results: Path) -> None:
    """Remove what ranks have left in a results folder in which nobody is working."""
    for name in (FOLDER, CLOSED):
        shutil.rmtree(results / name, ignore_errors=True)


def parse_shard(text: object) -> tuple[int, int]:
    """Parse ``shard: 3/8``, the third of eight parts, as (3, 8).

    Raises:
        ValueError: it is not of this form, or out of range.
    """
    match = re.fullmatch(r'(\d+)/(\d+)', str(text))
    number, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= number <= count:
        raise ValueError(f'shard must be 1/8 … 8/8 for the first … last of eight parts, got {str(text)!r}')
    return number, count


class Worker:
    """One of ``count`` processes that share the images of a run.

    Args:
        results: the results folder.
    """

    def __init__(self, results: Path, rank: int, count: int) -> None:
        self.folder, self.rank, self.count = results / FOLDER, rank, count
        self._lock: TextIO | None = None
        self._outcomes: dict[tuple[int, int], Outcome] = {}

    def prepare(self) -> None:
        """Create the folder, empty, before any rank joins."""
        clear(self.folder.parent)
        self.folder.mkdir(parents=True)

    def join(self) -> None:
        """Take this rank's lock. A rank that joins after the run was closed finds nothing to do."""
        try:
            self._lock = hold(self.folder / f'lock_{self.rank}')
        except FileNotFoundError:
            self._lock = None

    def check_locks(self) -> None:
        """Check that rank 0's lock, which it took before this rank joined, is visible here.

        Raises:
            ValueError: it is not; the run would be closed while other machines are still working.
        """
        if self._lock is not None and not is_locked(self.folder / 'lock_0') and self.folder.is_dir():
            raise ValueError(f"{self.folder}: rank 0's lock is not visible to rank {self.rank}: either rank 0 died, "
                             'or this file system does not share locks between machines (Lustre: mount with flock)')

    def leave(self) -> None:
        """Release this rank's lock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def take(self, dataset: int, place: int) -> bool:
        """Claim an image, or a unit of several; False if another rank has."""
        if self._lock is None:
            return False
        try:
            self._path(dataset, place, 'taken').parent.mkdir(exist_ok=True)
            with open(self._path(dataset, place, 'taken'), 'x', encoding='utf-8') as file:  # for one process only
                file.write(str(self.rank))
        except (FileExistsError, FileNotFoundError):
            return False
        return True

    def put(self, dataset: int, place: int, outcome: Outcome) -> None:
        """Record the outcome of an image."""
        text = json.dumps(dataclasses.asdict(dataclasses.replace(outcome, rank=self.rank)))
        write_text_atomically(self._path(dataset, place, 'json'), text)

    def outcomes(self) -> dict[tuple[int, int], Outcome]:
        """Outcomes of all ranks so far, by (data set, place), sorted."""
        for path in self.folder.glob('[0-9]*/[0-9]*.json'):
            key = int(path.parent.name), int(path.stem)
            if key not in self._outcomes:
                self._outcomes[key] = Outcome(**json.loads(path.read_text(encoding='utf-8')))
        return dict(sorted(self._outcomes.items()))

    def taker(self, dataset: int, place: int) -> int | None:
        """The rank that has begun an image; None if nobody or unknown."""
        try:
            return int(self._path(dataset, place, 'taken').read_text(encoding='utf-8'))
        except (OSError, ValueError):
            return None

    def closes(self) -> bool:
        """Whether this rank must close the run: no lower rank is working, and none has closed it."""
        return not any(rank < self.rank for rank in self.others()) and self.folder.is_dir()  # order matters

    def others(self) -> list[int]:
        """The other ranks that are working."""
        return [rank for rank in range(self.count)
                if rank != self.rank and is_locked(self.folder / f'lock_{rank}')]

    def close(self) -> None:
        """End the run: remove the folder, atomically for ranks that come late."""
        os.rename(self.folder, self.folder.with_name(CLOSED))
        self.leave()
        clear(self.folder.parent)

    def _path(self, dataset: int, place: int, kind: str) -> Path:
        return self.folder / str(dataset) / f'{place:06d}.{kind}'
