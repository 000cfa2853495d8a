"""A data set under way: its images, how they can be divided, and what came of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..entries import Entry, entries
from ..sharing import Outcome, order


@dataclass
class Work:
    """What is to be done of a data set. An image is known by its place in ``entries``.

    Attributes:
        entries: the images.
        together: so many of them, one behind the other, make a unit: they may be restored at the same time, by one
            process.
        outcomes: by place.
    """

    name: str
    entries: list[Entry]
    together: int = 1
    outcomes: dict[int, Outcome] = field(default_factory=dict)

    @classmethod
    def of(cls, dataset: Any, together: int = 1) -> Work:  # noqa: ANN401
        """All images of a BasicSR dataset, by name: the order of a folder differs between machines."""
        return cls(dataset.opt['name'], sorted(entries(dataset), key=lambda entry: entry.name), together)

    def part(self, number: int, count: int) -> Work:
        """The first, second … of ``count`` parts: every ``count``-th unit, whatever its size.

        Processes that know nothing of each other must agree on it, even where one cannot read a file just now.
        """
        units = self.units()[number - 1::count]
        return Work(self.name, [self.entries[place] for unit in units for place in unit], self.together)

    def units(self) -> list[range]:
        """Places of each unit."""
        count = len(self.entries)
        return [range(start, min(start + self.together, count)) for start in range(0, count, self.together)]

    def behind(self, place: int) -> list[Entry]:
        """The images of a unit behind this one."""
        return self.entries[place + 1:place - place % self.together + self.together]

    def order(self, rank: int, count: int) -> list[range]:
        """The units in the order in which this rank tries them."""
        units = self.units()
        sizes = [sum(self.entries[place].pixels() for place in unit) for unit in units]
        return [units[unit] for unit in order(sizes, rank, count)]

    def rows(self) -> list[dict[str, Any]]:
        """Of the images that are done."""
        return [outcome.row for _, outcome in sorted(self.outcomes.items()) if outcome.row is not None]

    def failed(self) -> list[str]:
        """Names of the images that were tried in vain."""
        return [self.entries[place].name for place, outcome in sorted(self.outcomes.items()) if outcome.row is None]

    def missing(self) -> list[int]:
        """Places of the images that nobody is through with."""
        return [place for place in range(len(self.entries)) if place not in self.outcomes]
