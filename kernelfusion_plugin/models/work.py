"""The images of a data set being processed, how they are divided into units, and their outcomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..entries import Entry, entries
from ..sharing import Outcome, order


@dataclass
class Work:
    """The work on a data set. Images are identified by their place (index) in ``entries``.

    Attributes:
        name: the data set's name.
        entries: the images.
        together: number of consecutive images in a unit, which one process may restore together.
        outcomes: by place.
    """

    name: str
    entries: list[Entry]
    together: int = 1
    outcomes: dict[int, Outcome] = field(default_factory=dict)

    @classmethod
    def of(cls, dataset: Any, together: int = 1) -> Work:  # noqa: ANN401
        """All images of a BasicSR dataset, sorted by name, since folder order differs between machines."""
        return cls(dataset.opt['name'], sorted(entries(dataset), key=lambda entry: entry.name), together)

    def part(self, number: int, count: int) -> Work:
        """Part ``number`` (from 1) of ``count``: every ``count``-th unit, regardless of its size.

        Sizes are not used because independent processes must agree on the parts even if one cannot read a file.
        """
        units = self.units()[number - 1::count]
        return Work(self.name, [self.entries[place] for unit in units for place in unit], self.together)

    def units(self) -> list[range]:
        """The places in each unit."""
        count = len(self.entries)
        return [range(start, min(start + self.together, count)) for start in range(0, count, self.together)]

    def behind(self, place: int) -> list[Entry]:
        """The images after this one in its unit."""
        return self.entries[place + 1:place - place % self.together + self.together]

    def order(self, rank: int, count: int) -> list[range]:
        """The units in the order in which this rank tries to take them."""
        units = self.units()
        sizes = [sum(self.entries[place].pixels() for place in unit) for unit in units]
        return [units[unit] for unit in order(sizes, rank, count)]

    def rows(self) -> list[dict[str, Any]]:
        """Rows of the images that are done."""
        return [outcome.row for _, outcome in sorted(self.outcomes.items()) if outcome.row is not None]

    def failed(self) -> list[str]:
        """Names of the images that failed."""
        return [self.entries[place].name for place, outcome in sorted(self.outcomes.items()) if outcome.row is None]

    def missing(self) -> list[int]:
        """Places of the images without an outcome."""
        return [place for place in range(len(self.entries)) if place not in self.outcomes]
