"""How many instances of an app are on each node of a large fleet, by row: kept from one look at the app to the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from operator import attrgetter
from weakref import ReferenceType, ref

import numpy as np
import numpy.typing as npt

from ..pieces import Roster
from ..records import Placed
from .columns import Columns

Numbers = npt.NDArray[np.int32]
"""A number for each row."""

_NODE = attrgetter("node")
_FEW = 24
"""Up to so many instances are counted one by one: for so few that is faster."""


class Presence(Mapping[str, int]):
    """The nodes that have instances of an app, and how many. `columns`: whose rows these are; `numbers`: by row, not to be changed."""

    def __init__(self, columns: Columns, numbers: Numbers) -> None:
        self.columns, self.numbers = columns, numbers

    def __getitem__(self, node: str) -> int:
        row = self.columns.rows.get(node)
        if row is None or not self.numbers[row]:
            raise KeyError(node)
        return int(self.numbers[row])

    def __iter__(self) -> Iterator[str]:
        return (self.columns.offers[row].id for row in np.flatnonzero(self.numbers).tolist())

    def __len__(self) -> int:
        return int(np.count_nonzero(self.numbers))


class Presences:
    """What is known of the apps that were looked at. What has changed of their instances since is looked at, not what is there."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[ReferenceType[Columns], Roster, Numbers]] = {}

    def of(self, path: str, instances: Roster, columns: Columns) -> Numbers:
        """Return how many instances of an app are on each node; not to be changed."""
        known = self._known.get(path)
        if known is not None and known[0]() is columns:
            if known[1] is instances:
                return known[2]
            numbers, (gone, come) = known[2].copy(), known[1].differing(instances)
            add(numbers, columns, gone, -1)
        else:
            numbers, come = np.zeros(len(columns.offers), dtype=np.int32), list(instances)
        add(numbers, columns, come)
        self._known[path] = ref(columns), instances, numbers
        return numbers

    def forget(self, path: str) -> None:
        """An app is there no more. Idempotent."""
        self._known.pop(path, None)


def add(numbers: Numbers, columns: Columns, instances: Sequence[Placed], each: int = 1) -> None:
    """Count instances in; those on nodes that have no row are not counted."""
    if len(instances) <= _FEW:
        for placed in instances:
            if (row := columns.rows.get(placed.node)) is not None:
                numbers[row] += each
    else:
        rows = np.fromiter(map(columns.rows.get, map(_NODE, instances), repeat(-1)), dtype=np.intp, count=len(instances))
        numbers += (each * np.bincount(rows[rows >= 0], minlength=len(numbers))).astype(np.int32)
