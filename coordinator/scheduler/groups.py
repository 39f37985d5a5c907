"""Nodes in groups of equal values of what is counted: only the best of each group can be the next to take an instance.

Where one attribute is counted, what a group takes changes nothing for the others: they stand in order of their best nodes. Where several
are, it does: then what all groups are worth is worked out anew for each instance, in a few steps over arrays.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from .columns import NOWHERE, Columns, Floats, Rows, on_grid
from .score import GRID
from .tally import GroupBy, Limit, Tally
from .values import Choice

Head = tuple[float, int]
"""A node by its row, after its points, negative."""
Values = tuple[str, ...]
Choose = Callable[[int], tuple[Choice, float | None]]
"""Has a node take an instance; returns what it is worth for another one, None when it has no room for one."""


def groups_of(columns: Columns, points: Floats, tallies: Sequence[Tally], limits: Sequence[Limit], count: int) -> Queue | Table:
    """Return the nodes that are worth anything in groups.

    Args:
        columns: the nodes.
        points: what each is worth by itself.
        tallies: what is spread; they are added to.
        limits: what is limited; they are added to.
        count: how many are to be placed.
    """
    counters: list[Tally | Limit] = [*tallies, *limits]
    attributes = list(dict.fromkeys(item.attribute for item in counters))
    groups = _grouped(columns, points, attributes, count)
    return Queue(groups, tallies, limits) if len(attributes) == 1 else Table(groups, attributes, tallies, limits)


def _grouped(columns: Columns, points: Floats, attributes: Sequence[str], count: int) -> dict[Values, list[Head]]:
    """Return the nodes with room by their values, each group in order: so it is a heap.

    Of each group there are no more than the `count` best. That is enough: when the last one is chosen, fewer than `count` nodes have taken
    any, so that one of these is as it was, and no worse than all that are left out.
    """
    rows = np.flatnonzero(points > NOWHERE)
    rows = rows[np.argsort(-points[rows], kind="stable")]
    coded = [_coded(columns, attribute) for attribute in attributes]
    codes = coded[0][0][rows]
    for numbers, texts in coded[1:]:
        codes = np.unique(codes * len(texts) + numbers[rows], return_inverse=True)[1]
    by_code = np.argsort(codes.astype(np.min_scalar_type(int(codes.max(initial=0)))), kind="stable")  # small numbers are faster
    rows, codes = rows[by_code], codes[by_code]
    begins = np.flatnonzero(np.diff(codes, prepend=-1))
    sizes = np.diff(begins, append=len(rows))
    heads = rows[np.arange(len(rows)) - np.repeat(begins, sizes) < count]
    listed = list(zip((-points[heads]).tolist(), heads.tolist(), strict=True))
    ends = np.cumsum(np.minimum(sizes, count)).tolist()
    keys = zip(*([texts[number] for number in numbers[rows[begins]].tolist()] for numbers, texts in coded), strict=True)
    return {key: listed[begin:end] for key, (begin, end) in zip(keys, pairwise([0, *ends]), strict=True)}


def _coded(columns: Columns, attribute: str) -> tuple[Rows, list[str]]:
    """Return the value of an attribute as a number for each node, and what the numbers stand for: a node without one has an empty one."""
    column = columns.coded(attribute)
    numbers, values = column.codes.astype(np.intp), column.values
    if None in values and "" in values:
        numbers[numbers == values.index(None)] = values.index("")
    return numbers, [value or "" for value in values]


class Queue:
    """Groups by the values of one attribute, in order of their best nodes."""

    def __init__(self, groups: dict[Values, list[Head]], tallies: Sequence[Tally], limits: Sequence[Limit]) -> None:
        self._groups = {key[0]: heads for key, heads in groups.items()}
        self._tallies, self._limits = tallies, limits
        self._leasts = [item for item in limits if isinstance(item, GroupBy)]
        self._least = sum(item.least for item in self._leasts)
        self._parked: list[str] = []
        self._order = [entry for value in self._groups if (entry := self._queue(value)) is not None]
        heapq.heapify(self._order)

    def _queue(self, value: str) -> tuple[float, int, str] | None:
        """Return a group with its best node's points, negative; None when none of its nodes may take one.

        If it may have one again once others have more instances, it is put aside.
        """
        heads = self._groups[value]
        if not heads:
            return None
        if self._limits and any(limit.refuses(value) for limit in self._limits):
            if self._leasts:
                self._parked.append(value)
            return None
        points, row = heads[0]
        points = -points
        for tally in self._tallies:
            points += tally.points(value)
        return -(round(points * GRID) / GRID), row, value

    def run(self, choose: Choose, count: int) -> list[Choice]:
        """Place all that can be placed."""
        chosen, order, groups = list[Choice](), self._order, self._groups
        counters: list[Tally | Limit] = [*self._tallies, *self._limits]
        while order and len(chosen) < count:
            _, row, value = order[0]
            choice, points = choose(row)
            chosen.append(choice)
            if points is None:
                heapq.heappop(groups[value])
            else:
                heapq.heapreplace(groups[value], (-points, row))
            for counter in counters:
                counter.add(value)
            if (entry := self._queue(value)) is None:
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
        for value in parked:
            if (entry := self._queue(value)) is not None:
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

    def __init__(
        self, groups: dict[Values, list[Head]], attributes: Sequence[str], tallies: Sequence[Tally], limits: Sequence[Limit]
    ) -> None:
        self._keys, self._heads = list(groups), list(groups.values())
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
        self._points = np.array([-heads[0][0] for heads in self._heads])
        self._rows = np.array([heads[0][1] for heads in self._heads], dtype=np.intp)

    def run(self, choose: Choose, count: int) -> list[Choice]:
        """Place all that can be placed."""
        chosen: list[Choice] = []
        while self._heads and len(chosen) < count:
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
        heads = self._heads[group]
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
