"""Chooses as `place` does, over the columns of a large fleet: the same nodes in the same order, a few steps in two heaps an instance.

What a node is worth by itself is worked out for all nodes at once; from then on only those that take instances are looked at one by one.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from dataclasses import replace

import numpy as np

from gestalt.spec.conditions import DISTRIBUTING
from gestalt.spec.schema import AppSpec

from .columns import NOWHERE, Able, Columns, Floats, on_grid, powers_of
from .fleet import Ground
from .groups import Head, groups_of, in_order
from .obstacles import SLACK, free_ports, room
from .presence import Numbers, Presence
from .score import GRID, OWN_POINTS, WEIGHT_POINTS
from .tally import Cluster, Limit, Tally, limit_of, settle
from .values import Choice, demands, with_more


class Runner:
    """A node that takes instances: what is left of it, and what it is worth for the next one."""

    __slots__ = (
        "_cores",
        "_cursor",
        "_liked",
        "_memory",
        "_ports",
        "_race",
        "_range",
        "_supply",
        "memory_used",
        "supply_used",
        "taken",
        "there",
        "used",
    )

    def __init__(self, race: Race, row: int) -> None:
        self._race = race
        node = race.columns.offers[row]
        instead = race.ground.instead.get(node.id)
        use = race.ground.fleet.reservations.on(node.id)
        self._cores, self._memory = node.cpu, node.memory
        self.used = instead.cpu_reserved if instead else use.cpu
        self.memory_used = instead.memory_reserved if instead else use.memory
        self._supply = instead or node
        self.supply_used = instead.supply_reserved if instead else use.supply
        self.there = race.ground.same_app.get(node.id, 0)
        self._liked = float(race.liked[row]) if race.liked is not None else 0.0
        self._range = node.port_first, node.port_last
        self.taken = set(instead.ports if instead else use.ports) if race.asked else set()
        self._cursor = race.ground.fleet.reservations.cursors.get(node.id, 0)
        self._ports = self._free_ports()

    def _free_ports(self) -> tuple[int, ...] | None:
        asked = self._race.asked
        if self._race.has_fixed and any(port in self.taken for port in asked if port):
            return None
        return free_ports(asked, self.taken, self._range, self._cursor) if asked else ()

    def take(self) -> tuple[int, ...]:
        """Take an instance; return its ports."""
        race, ports = self._race, self._ports
        assert ports is not None, "a node without ports does not run"
        self.used += race.cpu
        self.memory_used += race.memory
        self.there += 1
        if race.demands:
            self.supply_used = with_more(self.supply_used, race.demands)
        if ports:
            self.taken.update(ports)
            if race.has_fixed:
                self._ports = None
            else:
                self._cursor = ports[-1] + 1
                self._ports = free_ports(race.asked, self.taken, self._range, self._cursor)
        return ports

    def _lacks(self, demands: Mapping[str, int]) -> bool:
        node = replace(self._supply, supply_reserved=self.supply_used)
        return any(asked > node.left_of(name) for name, asked in demands.items())

    @property
    def has_no_port(self) -> bool:
        return self._ports is None

    def points(self) -> float | None:
        """Return what it is worth for the next one; None when it has no room."""
        race, cores, memory = self._race, self._cores, self._memory
        if self._ports is None or race.cpu > max(cores - self.used, 0.0) + SLACK:
            return None
        if memory and race.memory > max(memory - self.memory_used, 0):
            return None
        if race.demands and self._lacks(race.demands):
            return None
        both = powers_of(cores, self.used + race.cpu, memory, self.memory_used + race.memory)
        if race.binpack:
            return round(((20 - both) / 18 + self._liked) * GRID) / GRID
        return round(((both - 2) / 18 + OWN_POINTS * (-self.there / race.wanted) + self._liked) * GRID) / GRID


class Race:
    """The nodes while instances are placed on them. `left` afterwards: the nodes that took some, by row."""

    def __init__(self, spec: AppSpec, ground: Ground, count: int) -> None:
        self.spec, self.ground = spec, ground
        self.columns: Columns = ground.fleet.columns()
        self.cpu, self.memory = spec.resources.cpu, spec.resources.memory
        self.demands = demands(spec.resources)
        self.wanted, self.binpack = max(spec.instances, 1), spec.placement.strategy == "binpack"
        self.asked = tuple(port.host_port for port in spec.ports)
        self.has_fixed = any(self.asked)
        self.liked = self._liked()
        self._own = _by_row(self.columns, ground.same_app)
        self.left: dict[int, Runner] = {}
        self._able = self._find_able()
        self.able = self._able.mask
        self._count = count
        self._points = self._first_points()
        self.tallies = [
            Tally(item, self._counts(item.attribute), self._values(item.attribute), spec.instances)
            for item in spec.placement.spread
            if item.weight
        ]
        limits = (
            limit_of(item, self._counts(item.attribute), self._values(item.attribute))
            for item in spec.placement.constraints
            if item.operator in DISTRIBUTING
        )
        self.limits: list[Limit] = [limit for limit in limits if limit is not None]
        self._settle_clusters()

    def _liked(self) -> Floats | None:
        """Return what each node is worth by affinities and other apps; None when nothing is."""
        affinities, beside = self.spec.placement.affinities, self.ground.beside
        if not (affinities or beside):
            return None
        weights = self.columns.liked(affinities).copy()
        for node, weight in beside.items():
            if (row := self.columns.rows.get(node)) is not None:
                weights[row] += weight
        return WEIGHT_POINTS * weights

    def _find_able(self) -> Able:
        able, ground = self.columns.able(self.spec), self.ground
        if not (ground.target or ground.left or ground.avoided):
            return able
        here = np.full(len(able.mask), not ground.target)
        if ground.target in self.columns.rows:
            here[self.columns.rows[ground.target]] = True
        here[[self.columns.rows[node] for node in (*ground.left, *ground.avoided) if node in self.columns.rows]] = False
        return Able(able.mask & here)

    def _first_points(self) -> Floats:
        """Return what each node is worth for the first instance."""
        score = self.columns.score(self.cpu, self.memory, binpack=self.binpack)
        points: Floats
        if self.liked is None:
            points = score.points + self._able.bar
        else:
            points = np.where(score.points > NOWHERE, on_grid(score.fit + self.liked), NOWHERE) + self._able.bar
        if self._own is not None and not self.binpack:
            apart: Floats = -self._own / self.wanted  # worked on in place: memory that is new for each step costs more than the step
            apart *= OWN_POINTS
            apart += score.fit
            if self.liked is not None:
                apart += self.liked
            np.copyto(points, on_grid(apart, out=apart), where=points > NOWHERE)
        for name, asked in self.demands.items():
            supply, reserved = self.columns.supply(name)
            points[asked > np.maximum(supply - reserved, 0)] = NOWHERE
        for port in filter(None, self.asked):
            points[self.columns.taken(port)] = NOWHERE
        for row in self._doubtful():
            points[row] = NOWHERE if (worth := Runner(self, row).points()) is None else worth
        return points

    def _doubtful(self) -> Iterator[int]:
        """Yield the nodes that have to be looked at one by one: those that are taken for others, and those that may have no port."""
        if not (self.asked or self.ground.instead):
            return iter(())
        rows = {self.columns.rows[node] for node in self.ground.instead if node in self.columns.rows}
        if not all(self.asked):
            rows.update(np.flatnonzero(self.able & (self.columns.ports - self.columns.ports_used < len(self.asked))).tolist())
        return (row for row in rows if self.able[row])

    def _counts(self, attribute: str) -> Counter[str]:
        """Count the instances that are there by value of an attribute."""
        if self._own is None:
            return Counter()
        column = self.columns.coded(attribute)
        sums = np.bincount(column.codes, weights=self._own, minlength=len(column.values)).tolist()
        return Counter({value: int(number) for value, number in zip(column.values, sums, strict=True) if number and value is not None})

    def _values(self, attribute: str) -> Set[str]:
        return self.columns.values(attribute, self._able)

    def _settle_clusters(self) -> None:
        """Choose where the first of those goes that are all to be in one place: where most of them fit."""
        if any(isinstance(limit, Cluster) and limit.is_open for limit in self.limits):
            count, offers = max(self._count, self.spec.instances), self.columns.offers
            settle(self.limits, ((offers[row].attributes, number) for row, number in zip(*self._rooms(count), strict=True)), count)

    def _rooms(self, most: int) -> tuple[list[int], list[int]]:
        """Return how many instances fit on each node that may take some, counted up to `most`: rows and numbers."""
        rows, columns = np.flatnonzero(self.able), self.columns
        fits = np.full(len(rows), 1 if self.has_fixed else most)
        if self.cpu:
            free = np.maximum(columns.cpu[rows] - columns.cpu_reserved[rows], 0.0) + SLACK
            fits = np.minimum(fits, np.floor(free / self.cpu).astype(np.int64))
        if self.memory:
            known, memory = columns.memory[rows] > 0, columns.memory[rows] - columns.memory_reserved[rows]
            fits = np.where(known, np.minimum(fits, np.maximum(memory, 0) // self.memory), fits)
        for name, asked in self.demands.items():
            supply, reserved = columns.supply(name)
            fits = np.minimum(fits, np.maximum(supply - reserved, 0)[rows] // asked)
        fits = np.where(self._points[rows] > NOWHERE, fits, 0)
        exactly = np.isin(rows, [columns.rows[node] for node in self.ground.instead if node in columns.rows])
        if self.asked and not self.has_fixed:
            exactly |= fits * len(self.asked) > columns.ports[rows] - columns.ports_used[rows]
        for index in np.flatnonzero(exactly).tolist():
            fits[index] = room(self.spec, self.ground.node(columns.offers[rows[index]].id), most)
        return rows.tolist(), fits.tolist()

    def has_plenty(self) -> bool:
        """Tell whether all that are asked for have room, even if on each node one fewer fits than is reckoned."""
        return not self.limits and sum(max(number - 1, 0) for number in self._rooms(self._count)[1]) >= self._count

    def run(self) -> list[Choice]:
        """Place all that can be placed."""
        if not (self.tallies or self.limits):
            return self._run_alone()
        return groups_of(self.columns, self._points, self.tallies, self.limits).run(self.choose, self._count)

    def _run_alone(self) -> list[Choice]:
        """Place where no node's points depend on what another one takes."""
        if self._count == 1:
            best = int(self._points.argmax()) if len(self._points) else 0
            if not len(self._points) or self._points[best] == NOWHERE:
                return []
            return [self.choose(best)[0] if self.asked else Choice(self.columns.offers[best].id, ())]
        heads, chosen = self._heads(), list[Choice]()
        while heads and len(chosen) < self._count:
            row = heads[0][1]
            choice, points = self.choose(row)
            chosen.append(choice)
            if points is None:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, (-points, row))
        return chosen

    def _heads(self) -> list[Head]:
        """Return the nodes in order, each with its points, negative: no more than can be chosen."""
        points = self._points
        least = -np.partition(-points, self._count - 1)[self._count - 1] if self._count < len(points) else NOWHERE
        return in_order(points, np.flatnonzero((points >= least) & (points > NOWHERE)))

    def choose(self, row: int) -> tuple[Choice, float | None]:
        """Have a node take an instance; return what it is worth for another one, None when it has no room for one."""
        runner = self.left.get(row)
        if runner is None:
            runner = self.left[row] = Runner(self, row)
        return Choice(self.columns.offers[row].id, runner.take()), runner.points()


def _by_row(columns: Columns, there: Mapping[str, int]) -> Numbers | None:
    """Return how many instances of the app are on each node, None if there are none. `there`: as many by node."""
    if isinstance(there, Presence) and there.columns is columns:
        return there.numbers
    if not there:
        return None
    numbers = np.zeros(len(columns.offers), dtype=np.int32)
    for node, number in there.items():
        if (row := columns.rows.get(node)) is not None:
            numbers[row] = number
    return numbers
