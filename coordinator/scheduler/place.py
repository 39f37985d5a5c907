"""Chooses nodes for the instances of one description, one after the other: always the node with the most points.

Only the node that took an instance, and those that share a value of a spread attribute with it, have other points afterwards. So nodes
are kept in groups of equal values, each in order of what a node is worth by itself, and the groups in order of their best: an instance
costs a few steps in two heaps, however many nodes there are.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import replace

from gestalt.spec.schema import AppSpec

from .fleet import Ground, Nodes
from .obstacles import distribution_obstacle, host_ports, room, room_obstacle, standing_obstacle
from .score import OWN_POINTS, WEIGHT_POINTS, affinity, fit, free_shares, own, total
from .shortage import ENOUGH, Obstacle, Refusal, Shortage, counted
from .strategies import settled
from .tally import GroupBy, Limit, Tally, limit_of, settle
from .values import Capacity, Choice, Placing, demands, with_more

Values = tuple[str, ...]
_Entry = tuple[float, str, Values]


def place(spec: AppSpec, count: int, nodes: Nodes) -> Placing:
    """Choose nodes for `count` instances of one description, one after the other.

    Args:
        spec: what to place.
        count: how many.
        nodes: all nodes with what is reserved on them already.
    """
    if count <= 0:
        return Placing(())
    if isinstance(nodes, Ground):
        spec = settled(spec, nodes.strategies)
    if isinstance(nodes, Ground) and nodes.fleet.is_large:
        from .reasons import race  # late: NumPy is large

        choices, found = race(spec, count, nodes)
    else:
        choices, found = _race(spec, count, tuple(nodes))
    return Placing(tuple(choices), Shortage(count - len(choices), found))


def lacking(spec: AppSpec, count: int, nodes: Nodes) -> Shortage:
    """Return which of `count` instances have no place, and why: as `place` does, but nothing is chosen where there is plenty of room."""
    if count > 1 and isinstance(nodes, Ground) and nodes.fleet.is_large:
        from .reasons import has_plenty  # late: NumPy is large

        if has_plenty(spec, count, nodes):
            return ENOUGH
    return place(spec, count, nodes).shortage


def _race(spec: AppSpec, count: int, nodes: tuple[Capacity, ...]) -> tuple[list[Choice], tuple[Refusal, ...]]:
    """Choose node by node: what the columns are compared with, and enough for small fleets."""
    race = _Race(spec, nodes, count)
    choices: list[Choice] = []
    while len(choices) < count and (choice := race.take()) is not None:
        choices.append(choice)
    return choices, counted(race.obstacles()) if len(choices) < count else ()


def points_of(spec: AppSpec, node: Capacity) -> float:
    """Return what a node is worth by itself for one instance more: fit, own instances, affinities and other apps."""
    cpu, memory = free_shares(node, spec.resources.cpu, spec.resources.memory)
    binpack = spec.placement.strategy == "binpack"
    apart = 0.0 if binpack else OWN_POINTS * own(node.same_app, spec.instances)
    liked = WEIGHT_POINTS * (affinity(spec.placement.affinities, node.attributes) + node.beside)
    return total(fit(cpu, memory, binpack=binpack), apart, liked)


class _Race:
    """The nodes while instances are placed on them."""

    def __init__(self, spec: AppSpec, nodes: tuple[Capacity, ...], count: int) -> None:
        self._spec = spec
        self._nodes = {node.id: node for node in nodes}
        self._standing = {node.id: obstacle for node in nodes if (obstacle := standing_obstacle(spec, node)) is not None}
        able = [node for node in nodes if node.id not in self._standing]
        self._tallies = [
            Tally(item, self._counts(item.attribute), _values(item.attribute, able), spec.instances)
            for item in spec.placement.spread
            if item.weight
        ]
        limits = (limit_of(item, self._counts(item.attribute), _values(item.attribute, able)) for item in spec.placement.constraints)
        self._limits = [limit for limit in limits if limit is not None]
        self._counters: tuple[Tally | Limit, ...] = (*self._tallies, *self._limits)
        self._attributes = tuple(dict.fromkeys(item.attribute for item in self._counters))
        self._groups: dict[Values, list[tuple[float, str, str]]] = {}
        for node in able:
            self._enter(node)
        most = max(count, spec.instances)  # the others will want to be there, too
        settle(self._limits, ((node.attributes, room(spec, node, most)) for node in able), most)
        self._may_return = any(isinstance(limit, GroupBy) for limit in self._limits)
        self._parked: list[Values] = []
        self._order: list[_Entry] = []
        for key in self._groups:
            self._queue(key)

    def _counts(self, attribute: str) -> Counter[str]:
        """Count the instances that are there by value of an attribute."""
        counts: Counter[str] = Counter()
        for node in self._nodes.values():
            if node.same_app and (value := node.attributes.get(attribute)) is not None:
                counts[value] += node.same_app
        return counts

    def _enter(self, node: Capacity) -> None:
        """Put a node into its group, if it has room."""
        if room_obstacle(self._spec, node) is None:
            key = tuple(node.attributes.get(attribute, "") for attribute in self._attributes)
            heapq.heappush(self._groups.setdefault(key, []), (-points_of(self._spec, node), node.name, node.id))

    def _entry(self, key: Values) -> _Entry | None:
        """Return a group with its best node's points, negative; None when none of its nodes may take one."""
        if not self._groups[key]:
            return None
        values = dict(zip(self._attributes, key, strict=True))
        if any(limit.refuses(values[limit.attribute]) for limit in self._limits):
            return None
        points, name, _ = self._groups[key][0]
        return -total(-points, *(tally.points(values[tally.attribute]) for tally in self._tallies)), name, key

    def take(self) -> Choice | None:
        """Place one instance; None when there is no node for it."""
        while self._order:
            best = heapq.heappop(self._order)
            if self._entry(best[-1]) == best:
                return self._take_from(best[-1])
            self._queue(best[-1])  # others of its values took some since
        return None

    def _take_from(self, key: Values) -> Choice:
        _, _, chosen = heapq.heappop(self._groups[key])
        node = self._nodes[chosen]
        ports = host_ports(self._spec.ports, node)
        assert ports is not None, "room_obstacle() said that the ports fit"
        left = self._nodes[chosen] = reserve(node, self._spec, ports)
        self._enter(left)
        for attribute, value in zip(self._attributes, key, strict=True):
            for item in self._counters:
                if item.attribute == attribute:
                    item.add(value)
        parked, self._parked = self._parked, []
        for again in (key, *parked):
            self._queue(again)
        return Choice(chosen, ports)

    def _queue(self, key: Values) -> None:
        """Put a group in its place in the order; or aside, if it may be allowed again once others have more instances."""
        if (entry := self._entry(key)) is not None:
            heapq.heappush(self._order, entry)
        elif self._may_return and self._groups[key]:
            self._parked.append(key)

    def obstacles(self) -> list[tuple[str, Obstacle]]:
        """Return why no node takes one instance more."""
        return [(node.name, self._obstacle(node)) for node in self._nodes.values()]

    def _obstacle(self, node: Capacity) -> Obstacle:
        if (found := self._standing.get(node.id) or room_obstacle(self._spec, node)) is not None:
            return found
        for limit in self._limits:
            if (found := distribution_obstacle(limit, node)) is not None:
                return found
        raise AssertionError(f"{node.name} could take an instance")


def _values(attribute: str, nodes: list[Capacity]) -> set[str]:
    return {node.attributes.get(attribute, "") for node in nodes}


def reserve(node: Capacity, spec: AppSpec, ports: tuple[int, ...]) -> Capacity:
    """Return a node as it would be with one instance more."""
    dynamic = [number for port, number in zip(spec.ports, ports, strict=True) if not port.host_port]
    return replace(
        node,
        cpu_reserved=node.cpu_reserved + spec.resources.cpu,
        memory_reserved=node.memory_reserved + spec.resources.memory,
        supply_reserved=with_more(node.supply_reserved, demands(spec.resources)),
        ports=node.ports | set(ports),
        port_cursor=dynamic[-1] + 1 if dynamic else node.port_cursor,
        same_app=node.same_app + 1,
    )
