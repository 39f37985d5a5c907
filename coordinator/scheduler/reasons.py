"""What keeps instances away from the nodes of a large fleet: counted over columns, put into words for the nearest node of each reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from gestalt.spec.schema import AppSpec

from .columns import Floats, Mask
from .fleet import Ground
from .obstacles import SLACK, distribution_obstacle, room_obstacle, standing_obstacle
from .race import Race, Runner
from .shortage import Obstacle, Refusal
from .values import Capacity, Choice


def race(spec: AppSpec, count: int, ground: Ground) -> tuple[list[Choice], tuple[Refusal, ...]]:
    """Choose nodes for `count` instances; return what keeps the rest away besides."""
    running = Race(spec, ground, count)
    chosen = running.run()
    return chosen, _Reasons(running).refusals() if len(chosen) < count else ()


def has_plenty(spec: AppSpec, count: int, ground: Ground) -> bool:
    """Tell whether so many certainly have a place: nothing limits how they are distributed, and each node could do with one fewer."""
    return Race(spec, ground, count).has_plenty()


class _Reasons:
    """The nodes after a race. Each counts with the first of what rules it out, in the order in which `obstacles` looks at them."""

    def __init__(self, after: Race) -> None:
        self._race, self._columns, self._spec, self._ground = after, after.columns, after.spec, after.ground
        self._rest: Mask = np.ones(len(self._columns.offers), dtype=np.bool_)
        self._found: list[tuple[int, int, int]] = []  # how many, the first of them, the nearest of them

    def refusals(self) -> tuple[Refusal, ...]:
        """Count nodes by what rules them out, the most common first, with the node of each that comes nearest."""
        if not len(self._rest):
            return ()
        for step in (self._not_ready, self._elsewhere, self._unfulfilled, self._too_small, self._in_use):
            step()
        assert not self._rest.any(), "a node could take an instance"
        told = []
        for number, _, nearest in sorted(self._found, key=lambda item: (-item[0], item[1])):
            node = self._node(nearest)
            obstacle = standing_obstacle(self._spec, node) or room_obstacle(self._spec, node) or self._limit(node)
            told.append(Refusal(number, node.name, obstacle))
        return tuple(told)

    def _count(self, ruled_out: Mask, lack: Floats | None = None) -> None:
        """Count the nodes that something rules out, of those that nothing else does. `lack`: how far each is from being taken."""
        rows = np.flatnonzero(ruled_out & self._rest)
        if len(rows):
            nearest = rows[np.argmin(lack[rows])] if lack is not None else rows[0]
            self._found.append((len(rows), int(rows[0]), int(nearest)))
            self._rest[rows] = False

    def _count_by_kind(self, kinds: Iterator[tuple[int, str]]) -> None:
        """Count nodes of which each is as near as the others of its kind."""
        found: dict[str, list[int]] = {}
        for row, kind in kinds:
            found.setdefault(kind, []).append(row)
        for rows in found.values():
            self._found.append((len(rows), rows[0], rows[0]))
            self._rest[rows] = False

    def _not_ready(self) -> None:
        columns, ground = self._columns, self._ground
        closed = ~columns.ready
        self._count_by_kind((row, ground.fleet.why_not(columns.offers[row])) for row in np.flatnonzero(closed).tolist())
        left = np.zeros_like(closed)
        left[[columns.rows[node] for node in ground.left if node in columns.rows]] = True
        self._count(left)
        if ground.target:
            left[:] = True
            if ground.target in columns.rows:
                left[columns.rows[ground.target]] = False
            self._count(left)
        rows = sorted((columns.rows[node], ground.told_apart(node)) for node in ground.avoided if node in columns.rows)
        self._count_by_kind((row, why) for row, why in rows if self._rest[row])

    def _elsewhere(self) -> None:
        self._count(~self._columns.in_pool(self._spec.placement.pool))
        self._count(~self._columns.running(self._spec.runtime))

    def _unfulfilled(self) -> None:
        broken = [~self._columns.holding(item) for item in self._spec.placement.constraints]
        lack: Floats | None = np.sum(np.array(broken, dtype=np.float64), axis=0) if broken else None
        for ruled_out in broken:
            self._count(ruled_out, lack)

    def _too_small(self) -> None:
        columns, race = self._columns, self._race
        used, memory_used = columns.cpu_reserved.copy(), columns.memory_reserved.copy()
        for id_, node in self._ground.instead.items():
            if id_ in columns.rows:
                used[columns.rows[id_]], memory_used[columns.rows[id_]] = node.cpu_reserved, node.memory_reserved
        for row, runner in race.left.items():
            used[row], memory_used[row] = runner.used, runner.memory_used
        left, free = np.maximum(columns.cpu - used, 0.0), np.maximum(columns.memory - memory_used, 0)
        if race.cpu:
            self._count(race.cpu > left + SLACK, (race.cpu - left) / race.cpu)
        if race.memory:
            self._count((columns.memory > 0) & (race.memory > free), (race.memory - free) / race.memory)

        for name, asked in race.demands.items():
            supply, reserved = columns.supply(name)
            reserved = reserved.copy()
            for id_, node in self._ground.instead.items():
                if id_ in columns.rows:
                    reserved[columns.rows[id_]] = node.supply_reserved.get(name, 0)
            for row, runner in race.left.items():
                reserved[row] = runner.supply_used.get(name, 0)
            there = np.maximum(supply - reserved, 0)
            self._count(asked > there, (asked - there) / asked)

    def _in_use(self) -> None:
        """What is left of the nodes has no port, or a limit on how the instances are distributed rules it out."""
        for port in filter(None, self._race.asked):
            taken = self._columns.taken(port).copy()
            for id_, node in self._ground.instead.items():
                if id_ in self._columns.rows:
                    taken[self._columns.rows[id_]] = port in node.ports
            for row, runner in self._race.left.items():
                taken[row] = port in runner.taken
            self._count(taken)
        self._count_by_kind(self._crowded())

    def _crowded(self) -> Iterator[tuple[int, str]]:
        race, columns = self._race, self._columns
        for row in np.flatnonzero(self._rest).tolist():
            runner = race.left.get(row) or (Runner(race, row) if race.asked else None)
            if runner is not None and runner.has_no_port:
                yield row, ""
            else:
                yield row, self._limit(columns.offers[row]).kind

    def _limit(self, node: Capacity) -> Obstacle:
        for limit in self._race.limits:
            if (found := distribution_obstacle(limit, node)) is not None:
                return found
        raise AssertionError(f"{node.name} could take an instance")

    def _node(self, row: int) -> Capacity:
        """Return a node with what is reserved on it after the race."""
        node = self._ground.node(self._columns.offers[row].id)
        if (runner := self._race.left.get(row)) is None:
            return node
        return replace(
            node,
            cpu_reserved=runner.used,
            memory_reserved=runner.memory_used,
            supply_reserved=dict(runner.supply_used),
            ports=frozenset(runner.taken),
            same_app=runner.there,
        )
