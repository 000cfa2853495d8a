"""A data set under way: its images, how they can be divided, and what came of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..sharing import Outcome, order
from .images import Entry


@dataclass
class Work:
    """What is to be done of a data set.

    Attributes:
        entries: the images, in the data set's order.
        together: images of the data set that are restored at the same time, one behind the other; never divided.
        outcomes: by place in ``entries``.
    """

    name: str
    entries: list[Entry]
    together: int = 1
    outcomes: dict[int, Outcome] = field(default_factory=dict)

    def part(self, number: int, count: int) -> Work:
        """The first, second … of ``count`` parts: every ``count``-th image, whatever its size.

        Processes that know nothing of each other must agree on it, even where one cannot read a file just now.
        """
        places = [place for unit in self._units()[number - 1::count] for place in unit]
        return Work(self.name, [self.entries[place] for place in places], self.together)

    def order(self, rank: int, count: int) -> list[list[int]]:
        """Places of images that are done together, in the order in which this rank tries them."""
        units = self._units()
        sizes = [sum(self.entries[place].pixels() for place in unit) for unit in units]
        return [units[unit] for unit in order(sizes, rank, count)]

    def rows(self) -> list[dict[str, Any]]:
        """Of the images that are done, in the data set's order."""
        return [outcome.row for _, outcome in sorted(self.outcomes.items()) if outcome.row is not None]

    def failed(self) -> list[str]:
        """Names of the images that were tried in vain."""
        return [self.entries[place].name for place, outcome in sorted(self.outcomes.items()) if outcome.row is None]

    def missing(self) -> list[int]:
        """Places of the images that nobody is through with."""
        return [place for place in range(len(self.entries)) if place not in self.outcomes]

    def _units(self) -> list[list[int]]:
        units: dict[int, list[int]] = {}
        for place, entry in enumerate(self.entries):
            units.setdefault(entry.index // self.together, []).append(place)
        return list(units.values())
