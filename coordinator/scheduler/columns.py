"""All nodes as columns of numbers, so that a question about all of them is a few steps over arrays: NumPy, for large fleets only.

Rows are in order of the nodes' names, so that the first of equal ones is the first by name. What was worked out for a description, which
nodes may take it and what each is worth for it, is kept; a node that changed is worked out anew, not the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gestalt.spec.schema import Affinity, AppSpec, Constraint

from ..reservations import Reservations
from .attributes import holds
from .obstacles import SLACK
from .score import GRID
from .values import DEFAULT_POOL, Capacity

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]

NOWHERE = -np.inf
"""The points of a node that cannot take an instance."""

KEPT = 128
"""So many answers of each kind are kept, and columns of each kind that somebody asked for: descriptions ask for much the same."""
_FEW = 24
"""Up to so many nodes that changed are worked out one by one."""
_MANY = 0.5
"""With more than this share of the nodes changed, all are worked out anew."""


class Coded:
    """One thing about all nodes as small numbers, equal for nodes of which it is equal."""

    def __init__(self, of: Callable[[Capacity], Any], offers: Sequence[Capacity]) -> None:
        self._of = of
        self._begin(offers)

    def _begin(self, offers: Sequence[Capacity]) -> None:
        self._numbers: dict[Any, int] = {}
        self._answers: dict[Any, list[bool]] = {}
        self.codes = np.array([self._number(self._of(item)) for item in offers], dtype=np.int32)

    @property
    def values(self) -> list[Any]:
        """What the numbers stand for."""
        return list(self._numbers)

    def change(self, row: int, offers: Sequence[Capacity]) -> None:
        """Take over what a node is now. Values that no node has any more are forgotten when they are many."""
        self.codes[row] = self._number(self._of(offers[row]))
        if len(self._numbers) > 2 * len(offers) + KEPT:
            self._begin(offers)

    def where(self, key: Any, holds_for: Callable[[Any], bool]) -> Mask:
        """Return the nodes of whose value something holds. `key`: the same for the same question."""
        if len(self._answers) > KEPT:
            self._answers.clear()
        answers = self._answers.setdefault(key, [])
        if len(answers) < len(self._numbers):
            answers.extend(holds_for(value) for value in self.values[len(answers) :])
        found: Mask = np.array(answers, dtype=np.bool_)[self.codes]
        return found

    def among(self, rows: Mask) -> list[Any]:
        """Return the values that some nodes have."""
        there = np.bincount(self.codes[rows], minlength=len(self._numbers)) > 0
        return [value for value, is_there in zip(self._numbers, there.tolist(), strict=True) if is_there]

    def _number(self, value: Any) -> int:
        return self._numbers.setdefault(value, len(self._numbers))


@dataclass(frozen=True, slots=True)
class Grouping:
    """The nodes by the values of some attributes. `keys`: the values of each group, empty = its nodes have none; `rows`: the nodes of the
    first group, then those of the next; `begins`: where each begins."""

    keys: list[tuple[str, ...]]
    rows: Rows
    begins: Rows


class Score:
    """What each node is worth by its fit for one request. `points`: on the grid, `NOWHERE` for nodes without room."""

    def __init__(self, cpu: float, memory: int, *, binpack: bool) -> None:
        self.cpu, self.memory, self.binpack = cpu, memory, binpack
        self.fit: Floats = np.zeros(0)
        self.points: Floats = np.zeros(0)
        self.seen = 0

    def work_out(self, columns: Columns, rows: Rows | slice) -> None:
        """Work some rows out anew."""
        total, reserved = columns.cpu[rows], columns.cpu_reserved[rows]
        memory, used = columns.memory[rows], columns.memory_reserved[rows]
        has_room = (self.cpu <= np.maximum(total - reserved, 0.0) + SLACK) & ((memory == 0) | (self.memory <= np.maximum(memory - used, 0)))
        cores = 1 - (reserved + self.cpu) / np.where(total == 0, 1.0, total)
        bytes_ = 1 - (used + self.memory) / np.where(memory == 0, 1, memory)
        nothing = np.zeros_like(cores)
        shares = np.where(total == 0, np.where(memory == 0, nothing, bytes_), cores)
        others = np.where(memory == 0, np.where(total == 0, nothing, cores), bytes_)
        powers = _powers(shares) + _powers(others)
        self.fit[rows] = fit = (20 - powers if self.binpack else powers - 2) / 18
        self.points[rows] = np.where(has_room, on_grid(fit), NOWHERE)

    def work_out_each(self, columns: Columns, rows: Iterable[int]) -> None:
        """Work a few rows out anew, one by one: for so few that is faster."""
        for row in rows:
            cores, used, memory, memory_used = columns.left(row)
            both = powers_of(cores, used + self.cpu, memory, memory_used + self.memory)
            self.fit[row] = fit = (20 - both if self.binpack else both - 2) / 18
            has_room = self.cpu <= max(cores - used, 0.0) + SLACK and (not memory or self.memory <= max(memory - memory_used, 0))
            self.points[row] = round(fit * GRID) / GRID if has_room else NOWHERE


def powers_of(cores: float, used: float, memory: int, memory_used: int) -> float:
    """Return what the fit of a node of which so much is used comes from: ten to the powers of both free shares, added."""
    free = 1 - used / cores if cores else None
    free_memory = 1 - memory_used / memory if memory else free if free is not None else 0.0
    if free is None:
        free = free_memory
    power = 10.0 if free >= 1.0 else 1.0 if free <= 0.0 else 10**free
    return power + (10.0 if free_memory >= 1.0 else 1.0 if free_memory <= 0.0 else 10**free_memory)


class Able:
    """The nodes that may take instances of a description, until one of them changes. `bar`: 0 where they may, `NOWHERE` where not.

    `values`: of the attributes that were asked for, those that these nodes have, empty = one has none.
    """

    def __init__(self, mask: Mask) -> None:
        self.mask, self.bar = mask, bar_of(mask)
        self.values: dict[str, Set[str]] = {}


class Columns:
    """The nodes. `offers`: what they are, by row; `rows`: the row of each id. What is public is for reading only."""

    def __init__(self, offers: Iterable[Capacity], reservations: Reservations) -> None:
        self.offers = sorted(offers, key=lambda item: (item.name, item.id))
        self.rows = {item.id: row for row, item in enumerate(self.offers)}
        self.ready = np.array([item.ready for item in self.offers], dtype=np.bool_)
        self.cpu = np.array([item.cpu for item in self.offers], dtype=np.float64)
        self.memory = np.array([item.memory for item in self.offers], dtype=np.int64)
        self.ports = np.array([item.port_last - item.port_first + 1 for item in self.offers], dtype=np.int64)
        self.cpu_reserved, self.memory_reserved = np.zeros_like(self.cpu), np.zeros_like(self.memory)
        self.ports_used = np.zeros_like(self.ports)
        self._supplies: dict[str, tuple[Counts, Counts]] = {}
        self._taken: dict[int, Mask] = {}
        self._changed: list[int] = []
        self._coded: dict[str, Coded] = {}
        self._runtimes = Coded(lambda offer: offer.runtimes, self.offers)
        self._reservations = reservations
        self._able: dict[Any, Able] = {}
        self._liked: dict[Any, Floats] = {}
        self._groupings: dict[tuple[str, ...], Grouping] = {}
        self._scores: dict[tuple[float, int, bool], Score] = {}
        self.settle(reservations.nodes)

    def left(self, row: int) -> tuple[float, float, int, int]:
        """Return the cores and the memory of a node, each with what is reserved of it."""
        offer = self.offers[row]
        use = self._reservations.on(offer.id)
        return offer.cpu, use.cpu, offer.memory, use.memory

    def settle(self, nodes: Iterable[str]) -> None:
        """Take over what is reserved on some nodes now."""
        for node in nodes:
            if (row := self.rows.get(node)) is not None:
                use = self._reservations.on(node)
                self.cpu_reserved[row], self.memory_reserved[row], self.ports_used[row] = use.cpu, use.memory, len(use.ports)
                self._changed.append(row)
                for name, (_, reserved) in self._supplies.items():
                    reserved[row] = use.supply.get(name, 0)
                for port, taken in self._taken.items():
                    taken[row] = port in use.ports

    def change(self, offer: Capacity) -> None:
        """Take over what a node is now; its id and its name are as before."""
        row = self.rows[offer.id]
        self.offers[row] = offer
        self.ready[row], self.cpu[row], self.memory[row] = offer.ready, offer.cpu, offer.memory
        self.ports[row] = offer.port_last - offer.port_first + 1
        self._changed.append(row)
        for name, (supply, _) in self._supplies.items():
            supply[row] = offer.supply_of(name)
        for coded in (self._runtimes, *self._coded.values()):
            coded.change(row, self.offers)
        for kept in (self._able, self._liked, self._groupings):
            kept.clear()

    def supply(self, name: str) -> tuple[Counts, Counts]:
        """Return how much each node has of what `demands` names so, and how much of it is reserved; not to be changed."""
        if (found := self._supplies.pop(name, None)) is None:
            reserved = [self._reservations.on(item.id).supply.get(name, 0) for item in self.offers]
            supply = [item.supply_of(name) for item in self.offers]
            found = np.array(supply, dtype=np.int64), np.array(reserved, dtype=np.int64)
        _keep(self._supplies, name, found)
        return found

    def taken(self, port: int) -> Mask:
        """Return the nodes on which a host port is in use; not to be changed."""
        if (found := self._taken.pop(port, None)) is None:
            found = np.zeros(len(self.offers), dtype=np.bool_)
            found[[self.rows[node] for node, use in self._reservations.nodes.items() if port in use.ports and node in self.rows]] = True
        _keep(self._taken, port, found)
        return found

    def coded(self, attribute: str) -> Coded:
        """Return an attribute; the value None = a node has none."""
        if (found := self._coded.pop(attribute, None)) is None:
            found = Coded(lambda offer: offer.attributes.get(attribute), self.offers)
        _keep(self._coded, attribute, found)
        return found

    def grouping(self, attributes: tuple[str, ...]) -> Grouping:
        """Return all nodes by the values of these attributes; not to be changed."""
        if (found := self._groupings.get(attributes)) is None:
            coded = [self._texts(attribute) for attribute in attributes]
            codes = coded[0][0]
            for numbers, texts in coded[1:]:
                codes = np.unique(codes * len(texts) + numbers, return_inverse=True)[1]
            rows = np.argsort(codes, kind="stable")
            begins = np.flatnonzero(np.diff(codes[rows], prepend=-1))
            keys = zip(*([texts[number] for number in numbers[rows[begins]].tolist()] for numbers, texts in coded), strict=True)
            found = Grouping(list(keys), rows, begins)
            _keep(self._groupings, attributes, found)
        return found

    def _texts(self, attribute: str) -> tuple[Rows, list[str]]:
        """Return the value of an attribute as a number for each node, and what the numbers stand for: empty = a node has none."""
        column = self.coded(attribute)
        numbers, values = column.codes.astype(np.intp), column.values
        if None in values and "" in values:
            numbers[numbers == values.index(None)] = values.index("")
        return numbers, [value or "" for value in values]

    def in_pool(self, pool: str) -> Mask:
        return self.coded("pool").where(("in pool", pool), lambda value: (value or DEFAULT_POOL) == (pool or DEFAULT_POOL))

    def running(self, runtime: str) -> Mask:
        """Return the nodes on which a runtime works."""
        return self._runtimes.where(runtime, lambda value: runtime in value)

    def holding(self, condition: Constraint | Affinity) -> Mask:
        """Return the nodes that fulfil a condition."""
        attribute, key = condition.attribute, (condition.operator, condition.value)
        return self.coded(attribute).where(key, lambda value: holds(condition, {} if value is None else {attribute: value}))

    def values(self, attribute: str, able: Able) -> Set[str]:
        """Return the values of an attribute that some nodes have, empty = one has none; not to be changed."""
        if (found := able.values.get(attribute)) is None:
            found = able.values[attribute] = {value or "" for value in self.coded(attribute).among(able.mask)}
        return found

    def able(self, spec: AppSpec) -> Able:
        """Return the nodes that may take instances of a description, however full they are; not to be changed."""
        asked = spec.placement.constraints
        key = (spec.placement.pool, spec.runtime, *((item.attribute, item.operator, item.value) for item in asked))
        if (found := self._able.get(key)) is None:
            able = self.ready & self.in_pool(spec.placement.pool) & self.running(spec.runtime)
            for item in asked:
                able &= self.holding(item)
            found = Able(able)
            _keep(self._able, key, found)
        return found

    def liked(self, affinities: Sequence[Affinity]) -> Floats:
        """Return the sum of the weights of the affinities that each node fulfils; not to be changed."""
        key = tuple((item.attribute, item.operator, item.value, item.weight) for item in affinities)
        if (found := self._liked.get(key)) is None:
            found = np.zeros(len(self.offers))
            for item in affinities:
                found += np.where(self.holding(item), item.weight, 0)
            _keep(self._liked, key, found)
        return found

    def score(self, cpu: float, memory: int, *, binpack: bool) -> Score:
        """Return what each node is worth for a request; not to be changed, and good until the next node changes."""
        key = cpu, memory, binpack
        if (found := self._scores.get(key)) is None:
            found = Score(cpu, memory, binpack=binpack)
            found.fit, found.points = np.zeros(len(self.offers)), np.zeros(len(self.offers))
            found.work_out(self, slice(None))
            _keep(self._scores, key, found)
        elif found.seen < len(self._changed):
            changed = set(self._changed[found.seen :])
            if len(changed) <= _FEW:
                found.work_out_each(self, changed)
            else:
                all_ = len(changed) > _MANY * len(self.offers)
                found.work_out(self, slice(None) if all_ else np.fromiter(changed, dtype=np.intp))
        found.seen = len(self._changed)
        self._forget()
        return found

    def _forget(self) -> None:
        """Keep the list of changes short: a score that has seen nothing of so many is no better than none."""
        if len(self._changed) > 8 * len(self.offers) + 1000:
            latest = len(self._changed)
            self._scores = {key: item for key, item in self._scores.items() if item.seen == latest}
            self._changed.clear()
            for item in self._scores.values():
                item.seen = 0


def bar_of(able: Mask) -> Floats:
    """Return 0 where nodes may take instances, `NOWHERE` where not."""
    return np.where(able, 0.0, NOWHERE)


def on_grid(points: Floats, out: Floats | None = None) -> Floats:
    """Return points as `score.total` does. `out`: what they are put into, None = something new."""
    found: Floats = np.multiply(points, GRID, out=out)
    np.rint(found, out=found)
    found /= GRID
    return found


def _powers(shares: Floats) -> Floats:
    """Return ten to the power of each share. Python's own power, one by one: NumPy's is another one in the last digit."""
    return np.array([10**share for share in np.clip(shares, 0.0, 1.0).tolist()])


def _keep(kept: dict[Any, Any], key: Any, value: Any) -> None:
    """Keep something, instead of the oldest if there are many."""
    while len(kept) >= KEPT:
        del kept[next(iter(kept))]
    kept[key] = value
