"""Nodes in groups of equal values of what is counted: only the best of each group can be the next to take an instance.

Where one attribute is counted, what a group takes changes nothing for the others: they stand in order of their best nodes. Where several
are, it does: then what all groups are worth is worked out anew for each instance, in a few steps over arrays.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

import numpy as np

from .columns import NOWHERE, Columns, Floats, Grouping, Rows, on_grid
from .score import GRID
from .tally import GroupBy, Limit, Tally
from .values import Choice

Head = tuple[float, int]
"""A node by its row, after its points, negative."""
Choose = Callable[[int], tuple[Choice, float | None]]
"""Has a node take an instance; returns what it is worth for another one, None when it has no room for one."""


def groups_of(columns: Columns, points: Floats, tallies: Sequence[Tally], limits: Sequence[Limit]) -> Queue | Table:
    """Return the nodes that are worth anything in groups.

    Args:
        columns: the nodes.
        points: what each is worth by itself.
        tallies: what is spread; they are added to.
        limits: what is limited; they are added to.
    """
    counters: list[Tally | Limit] = [*tallies, *limits]
    attributes = tuple(dict.fromkeys(item.attribute for item in counters))
    groups = Groups(columns.grouping(attributes), points)
    return Queue(groups, tallies, limits) if len(attributes) == 1 else Table(groups, attributes, tallies, limits)


class Groups:
    """The nodes by their values. `keys`: the values of each group; `best`: what its best node is worth, `first`: the row of that.

    The nodes of a group are put in order when the first of them is chosen: of most groups that is never.
    """

    def __init__(self, grouping: Grouping, points: Floats) -> None:
        self.keys = grouping.keys
        self._points = points
        self._rows, self._bounds = grouping.rows, [*grouping.begins.tolist(), len(grouping.rows)]
        sizes, sorted_points = np.diff(grouping.begins, append=len(grouping.rows)), points[grouping.rows]
        self.best: Floats = np.maximum.reduceat(sorted_points, grouping.begins) if len(self.keys) else sorted_points
        at_best = np.flatnonzero(sorted_points == np.repeat(self.best, sizes))
        self.first: Rows = grouping.rows[at_best[np.searchsorted(at_best, grouping.begins)]]
        self._heads: dict[int, list[Head]] = {}

    def heads(self, group: int) -> list[Head]:
        """Return the nodes of a group that have room, in order: so it is a heap, and stays one with whoever takes from it."""
        if (found := self._heads.get(group)) is None:
            rows = self._rows[self._bounds[group] : self._bounds[group + 1]]
            found = self._heads[group] = in_order(self._points, rows[self._points[rows] > NOWHERE])
        return found


class Queue:
    """Groups by the values of one attribute, in order of their best nodes."""

    def __init__(self, groups: Groups, tallies: Sequence[Tally], limits: Sequence[Limit]) -> None:
        self._groups = groups
        self._tallies, self._limits = tallies, limits
        self._leasts = [item for item in limits if isinstance(item, GroupBy)]
        self._least = sum(item.least for item in self._leasts)
        self._parked: list[int] = []
        best = enumerate(zip(groups.best.tolist(), groups.first.tolist(), strict=True))
        self._order = [
            entry for group, (points, row) in best if points > NOWHERE and (entry := self._entry(group, points, row)) is not None
        ]
        heapq.heapify(self._order)

    def _queue(self, group: int) -> tuple[float, int, int] | None:
        """Return a group as `_entry` does, by its best node now; None when it has none any more."""
        heads = self._groups.heads(group)
        return self._entry(group, -heads[0][0], heads[0][1]) if heads else None

    def _entry(self, group: int, points: float, row: int) -> tuple[float, int, int] | None:
        """Return a group with its best node's points, negative; None when none of its nodes may take one.

        If it may have one again once others have more instances, it is put aside.
        """
        (value,) = self._groups.keys[group]
        if self._limits and any(limit.refuses(value) for limit in self._limits):
            if self._leasts:
                self._parked.append(group)
            return None
        for tally in self._tallies:
            points += tally.points(value)
        return -(round(points * GRID) / GRID), row, group

    def run(self, choose: Choose, count: int) -> list[Choice]:
        """Place all that can be placed."""
        chosen, order, groups = list[Choice](), self._order, self._groups
        counters: list[Tally | Limit] = [*self._tallies, *self._limits]
        while order and len(chosen) < count:
            _, row, group = order[0]
            choice, points = choose(row)
            chosen.append(choice)
            if points is None:
                heapq.heappop(groups.heads(group))
            else:
                heapq.heapreplace(groups.heads(group), (-points, row))
            for counter in counters:
                counter.add(groups.keys[group][0])
            if (entry := self._queue(group)) is None:
                heapq.heappop(order)
            else:
                heapq.heapreplace(order, entry)
            if self._parked:
                self._return_parked()
        return chosen

    def _return_parked(self) -> None:
        """Look again at the groups that were put aside, once the others have more."""
        least = sum(item.least for item in self._leasts)
        if least == self._least:
            return
        parked, self._parked, self._least = self._parked, [], least
        for group in parked:
            if (entry := self._queue(group)) is not None:
                heapq.heappush(self._order, entry)


class _Column:
    """One attribute in a table: the number of each group's value, and what each value is worth now."""

    def __init__(self, values: Sequence[str], tallies: Sequence[Tally], limits: Sequence[Limit]) -> None:
        self._numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
        self._limits = limits
        self._tallies = [(tally, np.array([tally.points(value) for value in self._numbers])) for tally in tallies]
        self._leasts = [item for item in limits if isinstance(item, GroupBy)]
        self._least = sum(item.least for item in self._leasts)
        self._bar = np.zeros(len(self._numbers))
        self.codes = np.array([self._numbers[value] for value in values], dtype=np.intp)
        self.tallied = [points for _, points in self._tallies]
        for value in self._numbers:
            self._judge(value)

    @property
    def bar(self) -> Floats:
        """What is to be added for each group because of the limits: nothing, or `NOWHERE`."""
        return self._bar[self.codes]

    @property
    def is_limited(self) -> bool:
        return bool(self._limits)

    def _judge(self, value: str) -> None:
        self._bar[self._numbers[value]] = NOWHERE if any(limit.refuses(value) for limit in self._limits) else 0.0

    def add(self, value: str) -> None:
        """There is one instance more with this value."""
        for limit in self._limits:
            limit.add(value)
        for tally, points in self._tallies:
            tally.add(value)
            points[self._numbers[value]] = tally.points(value)
        least = sum(item.least for item in self._leasts)
        changed = self._numbers if least != self._least else (value,)
        self._least = least
        for item in changed:
            self._judge(item)


class Table:
    """Groups by the values of several attributes."""

    def __init__(self, groups: Groups, attributes: Sequence[str], tallies: Sequence[Tally], limits: Sequence[Limit]) -> None:
        self._groups, self._keys = groups, groups.keys
        self._columns = [
            _Column(
                [key[at] for key in self._keys],
                [item for item in tallies if item.attribute == attribute],
                [item for item in limits if item.attribute == attribute],
            )
            for at, attribute in enumerate(attributes)
        ]
        by_attribute = {attribute: iter(column.tallied) for attribute, column in zip(attributes, self._columns, strict=True)}
        codes = {attribute: column.codes for attribute, column in zip(attributes, self._columns, strict=True)}
        self._tallied = [(next(by_attribute[item.attribute]), codes[item.attribute]) for item in tallies]  # added up in their order
        self._points, self._rows = groups.best, groups.first

    def run(self, choose: Choose, count: int) -> list[Choice]:
        """Place all that can be placed."""
        chosen: list[Choice] = []
        while self._keys and len(chosen) < count:
            points = self._points
            for tallied, codes in self._tallied:
                points = points + tallied[codes]
            points = on_grid(points)
            for column in self._columns:
                if column.is_limited:
                    points = points + column.bar
            best = points.max()
            if best == NOWHERE:
                break
            equal = np.flatnonzero(points == best)
            chosen.append(self._take(int(equal[self._rows[equal].argmin()]), choose))
        return chosen

    def _take(self, group: int, choose: Choose) -> Choice:
        heads = self._groups.heads(group)
        row = heads[0][1]
        choice, points = choose(row)
        if points is None:
            heapq.heappop(heads)
        else:
            heapq.heapreplace(heads, (-points, row))
        self._points[group], self._rows[group] = (-heads[0][0], heads[0][1]) if heads else (NOWHERE, row)
        for column, value in zip(self._columns, self._keys[group], strict=True):
            column.add(value)
        return choice


def in_order(points: Floats, rows: Rows) -> list[Head]:
    """Return some nodes with their points, negative, the best first."""
    negative = -points[rows]
    order = np.argsort(negative, kind="stable")
    return list(zip(negative[order].tolist(), rows[order].tolist(), strict=True))
