"""Finds whom to stop so that an instance has room: on all nodes together the fewest instances that do. Pure.

Of sets with equally many, the one with the lowest priorities is taken, added up; then the one that asks for the least cores, then
memory; then the node that is worth the most points by itself. What stands in the way besides room (pools, constraints, apps to stand
apart from) is never moved away: it rules a node out as in `place`.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice

from gestalt.spec.schema import AppSpec, Resources

from .fleet import released
from .obstacles import SLACK, host_ports, standing_obstacle
from .place import points_of, reserve
from .tally import GroupBy, Limit, limit_of, regroup
from .values import Capacity, demands

_STEPS = 5000
"""So many steps a search on one node takes at most. Beyond, its set may be larger than need be, but nothing in it is superfluous."""
_DEEP = 100
"""Sets of more instances than this are put together in one go, with the same promise."""
_MICRO = 1_000_000

_CPU, _MEMORY, _PORTS, _PORT = "cpu", "memory", "port any", "port "

Gives = tuple[int, ...]
"""An amount of each thing that is lacking."""
Chosen = tuple[tuple[int, int], ...]
"""Of which groups how many are chosen, by their places."""
_Asked = tuple[int, tuple[tuple[str, int], ...]]
"""A kind, by identity, and what is lacking."""
Known = dict[tuple[Gives, tuple[tuple[tuple[int, int, int], Gives, int], ...]], Chosen | None]
"""What was chosen for the same lacks from groups of the same sizes: in large clusters many nodes are alike."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What instances that may be stopped have in common: their priority, and what each asks for."""

    priority: int
    resources: Resources
    order: tuple[int, int, int] = field(init=False, default=(0, 0, 0), compare=False)
    """What is lost with one of them: priority, millionths of cores, bytes of memory."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "order", (self.priority, round(self.resources.cpu * _MICRO), self.resources.memory))


@dataclass(frozen=True, slots=True)
class Victim:
    """An instance that may be stopped, with the host ports that it has."""

    id: str
    kind: Kind
    ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Room:
    """A node on which there is room for one instance when these are gone; none = when those are that stop there already."""

    node: str
    victims: tuple[Victim, ...]


Cost = tuple[int, int, int, int]
"""What is lost with a set: how many instances, their priorities added up, their millionths of cores, their bytes of memory."""


def cost(victims: Sequence[Victim]) -> Cost:
    """Return what is lost with a set of instances."""
    orders = [item.kind.order for item in victims]
    return len(victims), sum(item[0] for item in orders), sum(item[1] for item in orders), sum(item[2] for item in orders)


def smallest(spec: AppSpec, node: Capacity, victims: Sequence[Victim]) -> tuple[Victim, ...] | None:
    """Return the smallest set of these instances without which one of a description has room on their node; None: not even without all.

    Args:
        spec: what is to have room.
        node: where, with all of them reserved.
        victims: who may be stopped.
    """
    return _cover(spec, node, victims, {}).best({})


class Search:
    """Looks for room on all nodes for instances of one description, one after the other.

    Args:
        spec: what is to have room.
        victims: returns who may be stopped on a node. It is asked as often as needed, and must answer alike.
    """

    def __init__(self, spec: AppSpec, victims: Callable[[str], Sequence[Victim]]) -> None:
        self._spec = spec
        self._victims = victims
        self._nodes: dict[str, Capacity] = {}
        self._stopped: dict[str, set[str]] = {}
        self._known: Known = {}
        self._given: dict[_Asked, Gives] = {}
        self._counts: dict[str, Counter[str]] = {}
        self._limits: list[Limit] | None = None
        self._order: list[tuple[Cost, float, str, str]] = []
        self._aside: list[tuple[Cost, float, str, str]] = []
        self._distributing = tuple(item for item in spec.placement.constraints if limit_of(item, Counter(), ()) is not None)

    @property
    def is_balanced(self) -> bool:
        """Values count of which no instance is there yet: all nodes have to be added, not only those with instances of the app."""
        return any(item.operator == "group-by" for item in self._distributing)

    def add(self, node: Capacity, *, takes: bool = True) -> None:
        """Have a node looked at, as it is when those are gone that stop there already. All have to be added before room is found.

        `takes`: room may be made there; otherwise only its own instances of the app count.
        """
        for item in self._distributing if node.same_app else ():
            if (value := node.attributes.get(item.attribute)) is not None:
                self._counts.setdefault(item.attribute, Counter())[value] += node.same_app
        if (takes or self._distributing) and standing_obstacle(self._spec, node) is None:
            self._nodes[node.id] = node
            if takes:
                self._estimate(node)

    def take(self, node: str) -> bool:
        """Have one instance stand on a node for which nobody else has to go; return whether there is such room."""
        there = self._nodes.get(node)
        if there is None or self._refused(there) or _lacks(self._spec, there):
            return False
        self._order = [entry for entry in self._order if entry[-1] != node]
        heapq.heapify(self._order)
        self._aside = [entry for entry in self._aside if entry[-1] != node]
        self._settle(there, ())
        return True

    def find(self, count: int) -> tuple[Room, ...]:
        """Return where room for so many instances can be made, and who has to go for it; fewer, when no more can."""
        return tuple(room for room in self.rooms(count) if room is not None)

    def rooms(self, count: int) -> Iterator[Room | None]:
        """Yield the same one by one, and None before each look at another node: there a search can be interrupted."""
        while count > 0 and self._order:
            yield None
            if (room := self._look()) is not None:
                count -= 1
                yield room

    def _look(self) -> Room | None:
        """Look at the node that comes first; return the room there if nothing can be better."""
        entry = heapq.heappop(self._order)
        node = self._nodes[entry[-1]]
        if self._refused(node):
            self._aside.append(entry)
            return None
        best = self._cover(node).best(self._known)
        if best is None:
            return None
        exact = cost(best), -points_of(self._spec, _without(node, best)), node.name, node.id
        if self._order and exact > self._order[0]:
            heapq.heappush(self._order, exact)
            return None
        self._settle(node, best)
        return Room(node.id, best)

    def _left(self, node: str) -> list[Victim]:
        stopped = self._stopped.get(node, ())
        return [item for item in self._victims(node) if item.id not in stopped]

    def _estimate(self, node: Capacity) -> None:
        """Put a node in its place in the order by what it costs at least; it is worked out when its turn comes."""
        if (least := self._cover(node).least()) is not None:
            heapq.heappush(self._order, ((*least, 0, 0), -math.inf, node.name, node.id))

    def _cover(self, node: Capacity) -> _Cover:
        """Return who gives what on a node. It is not kept: in a large cluster that would be millions of objects."""
        return _cover(self._spec, node, self._left(node.id), self._given)

    def _settle(self, node: Capacity, victims: Sequence[Victim]) -> None:
        """Count an instance as placed on a node when these are gone."""
        left = _without(node, victims)
        ports = host_ports(self._spec.ports, left)
        assert ports is not None, "there is room for it"
        self._stopped.setdefault(node.id, set()).update(item.id for item in victims)
        self._nodes[node.id] = after = reserve(left, self._spec, ports)
        for limit in self._all_limits():
            limit.add(node.attributes[limit.attribute])
        self._regroup()
        if any(isinstance(limit, GroupBy) for limit in self._all_limits()):
            aside, self._aside = self._aside, []
            for entry in aside:
                heapq.heappush(self._order, entry)
        self._estimate(after)

    def _refused(self, node: Capacity) -> bool:
        return any(limit.refuses(node.attributes[limit.attribute]) for limit in self._all_limits())

    def _all_limits(self) -> list[Limit]:
        if self._limits is None:
            self._limits = []
            for item in self._distributing:
                values = {node.attributes.get(item.attribute, "") for node in self._nodes.values()}
                limit = limit_of(item, Counter(self._counts.get(item.attribute, {})), values)
                assert limit is not None, "it distributes instances"
                self._limits.append(limit)
            self._regroup()
        return self._limits

    def _regroup(self) -> None:
        regroup(self._all_limits(), (node.attributes for node in self._nodes.values()))


def _without(node: Capacity, victims: Iterable[Victim]) -> Capacity:
    for item in victims:
        node = released(node, item.ports, item.kind.resources)
    return node


def _lacks(spec: AppSpec, node: Capacity) -> dict[str, int]:
    """Return how much a node has too little of for one instance more, by name; as `room_obstacle` judges it."""
    cpu, memory = spec.resources.cpu, spec.resources.memory
    found: dict[str, int] = {}
    if cpu > max(node.cpu - node.cpu_reserved, 0.0) + SLACK:
        found[_CPU] = max(1, math.ceil((node.cpu_reserved + cpu - node.cpu - SLACK) * _MICRO))
    if node.memory and memory > max(node.memory - node.memory_reserved, 0):
        found[_MEMORY] = node.memory_reserved + memory - node.memory
    for name, asked in demands(spec.resources).items():
        if asked > node.left_of(name):
            found[name] = node.supply_reserved.get(name, 0) + asked - node.supply_of(name)
    fixed = {port.host_port for port in spec.ports if port.host_port}
    found.update({f"{_PORT}{number}": 1 for number in sorted(fixed & node.ports)})
    if any(not port.host_port for port in spec.ports):
        taken = sum(node.port_first <= number <= node.port_last for number in node.ports | fixed)
        free = node.port_last - node.port_first + 1 - taken
        if (lack := sum(not port.host_port for port in spec.ports) - free) > 0:
            found[_PORTS] = lack
    return found


def _given(kind: Kind, lacks: Mapping[str, int]) -> Gives:
    """Return how much of what is lacking is free when an instance is gone, ports aside."""
    asked = demands(kind.resources) | {_CPU: kind.order[1], _MEMORY: kind.order[2]}
    return tuple(min(asked.get(name, 0), lack) for name, lack in lacks.items())


def _cover(spec: AppSpec, node: Capacity, victims: Iterable[Victim], given: dict[_Asked, Gives]) -> _Cover:
    """Return who gives what of that which a node lacks. `given`: by kind and lacks, kept from node to node."""
    lacks = _lacks(spec, node)
    asked = tuple(lacks.items())
    kinds: dict[int, tuple[Gives, list[Victim]]] = {}  # by identity: equal ones are few, and are put together below
    for item in victims if lacks else ():
        if (found := kinds.get(id(item.kind))) is None:
            if (gives := given.get((id(item.kind), asked))) is None:
                gives = given[id(item.kind), asked] = _given(item.kind, lacks)
            found = kinds[id(item.kind)] = gives, []
        found[1].append(item)
    ports = any(name.startswith(_PORT) for name in lacks)
    fixed = {port.host_port for port in spec.ports}
    groups: dict[tuple[tuple[int, int, int], Gives], list[Victim]] = {}
    for gives, items in kinds.values():
        order = items[0].kind.order
        if not ports:
            if any(gives):
                groups.setdefault((order, gives), []).extend(items)
            continue
        for item in items:
            in_range = sum(node.port_first <= number <= node.port_last and number not in fixed for number in item.ports)
            freed = {f"{_PORT}{number}": 1 for number in item.ports} | {_PORTS: in_range}
            all_ = tuple(max(given, min(freed.get(name, 0), lack)) for given, (name, lack) in zip(gives, lacks.items(), strict=True))
            if any(all_):
                groups.setdefault((order, all_), []).append(item)
    return _Cover(tuple(lacks.values()), [_Group(*key, groups[key]) for key in sorted(groups)], list(lacks)[:1] == [_CPU])


@dataclass(frozen=True, slots=True)
class _Group:
    """Victims with each of whom as much is lost (`order`), and as much is given of what is lacking."""

    order: tuple[int, int, int]
    gives: Gives
    victims: list[Victim]


class _Cover:
    """Chooses as few victims as possible that give what is lacking: group by group, in order of what is lost with them, leaving out what
    cannot lead to anything better.

    Args:
        lacks: how much, of each.
        groups: who gives how much of it, those first that are lost most easily.
        is_short_of_cores: the first of the lacks is that of cores.
    """

    def __init__(self, lacks: Gives, groups: list[_Group], is_short_of_cores: bool) -> None:
        self._lacks = lacks
        self._groups = groups
        self._is_short_of_cores = is_short_of_cores
        self._tops: list[list[list[int]]] = []
        self._cheapest: list[list[int]] = []
        self._best: tuple[tuple[int, int, int], Chosen] | None = None
        self._steps = 0

    def least(self) -> tuple[int, int] | None:
        """Return how many it takes at least, and at least which priorities, added up; None: all of them do not do."""
        fewest = 0
        for at, lack in enumerate(self._lacks):
            left, number = lack, 0
            for group in sorted(self._groups, key=lambda group: -group.gives[at]):
                if left > 0 and (given := group.gives[at]):
                    taken = min(len(group.victims), -(-left // given))
                    left, number = left - taken * given, number + taken
            if left > 0:
                return None
            fewest = max(fewest, number)
        return fewest, sum(islice((group.order[0] for group in self._groups for _ in group.victims), fewest))

    def best(self, known: Known) -> tuple[Victim, ...] | None:
        """Return the best set, in order of priority and id; None when all of them do not do. `known`: what was worked out before."""
        key = self._lacks, tuple((group.order, group.gives, len(group.victims)) for group in self._groups)
        if key not in known:
            known[key] = self._choose()
        if (chosen := known[key]) is None:
            return None
        found = [(self._groups[at], number) for at, number in chosen]
        return tuple(victim for group, number in found for victim in sorted(group.victims, key=lambda item: item.id)[:number])

    def _choose(self) -> Chosen | None:
        if (least := self.least()) is None:
            return None
        for size in range(least[0], min(sum(len(group.victims) for group in self._groups), _DEEP) + 1):
            self._tops = [self._sums(size, lambda group, at=at: -group.gives[at]) for at in range(len(self._lacks))]  # type: ignore[misc]
            self._cheapest = self._sums(size, lambda group: group.order[0])
            self._extend((), 0, size, self._lacks, (0, 0, 0))
            if self._best is not None:
                return self._best[1]
            if self._steps >= _STEPS:
                break
        return self._greedy()

    def _sums(self, size: int, value: Callable[[_Group], int]) -> list[list[int]]:
        """Return what the 1, 2, … least values are, added up, of the groups from each place on."""
        kept: list[int] = []
        sums: list[list[int]] = []
        for group in reversed(self._groups):
            kept = sorted([*kept, *[value(group)] * min(size, len(group.victims))])[:size]
            sums.append(list(accumulate(kept)))
        return sums[::-1]

    def _extend(self, chosen: Chosen, start: int, size: int, lacks: Gives, lost: tuple[int, int, int]) -> None:
        """Try all ways to go on from some victims with `size` more. `lost`: with those that are chosen."""
        if not size:
            if max(lacks, default=0) <= 0 and (self._best is None or lost < self._best[0]):
                self._best = lost, chosen
            return
        for at in range(start, len(self._groups)):
            cheapest = self._cheapest[at]
            if len(cheapest) < size or any(-tops[at][size - 1] < lack for tops, lack in zip(self._tops, lacks, strict=True)):
                return
            if self._best is not None:
                missing = max(lacks[0], 0) if self._is_short_of_cores else 0
                if (lost[0] + cheapest[size - 1], lost[1] + missing, lost[2]) >= self._best[0]:
                    continue
            group = self._groups[at]
            for number in range(min(size, len(group.victims)), 0, -1):
                if self._steps >= _STEPS:
                    return
                self._steps += 1
                left = tuple(lack - number * given for lack, given in zip(lacks, group.gives, strict=True))
                after = lost[0] + number * group.order[0], lost[1] + number * group.order[1], lost[2] + number * group.order[2]
                self._extend((*chosen, (at, number)), at + 1, size - number, left, after)

    def _greedy(self) -> Chosen:
        """Return a set of which no part would do: the most helpful ones, without those that turn out to be superfluous."""
        lacks, numbers = list(self._lacks), [0] * len(self._groups)
        while max(lacks) > 0:
            able = (at for at, group in enumerate(self._groups) if numbers[at] < len(group.victims))
            helpful = max(able, key=lambda at: self._help(self._groups[at], lacks))
            numbers[helpful] += 1
            lacks = [lack - given for lack, given in zip(lacks, self._groups[helpful].gives, strict=True)]
        for at in reversed(range(len(self._groups))):
            gives = self._groups[at].gives
            while numbers[at] and all(lack + given <= 0 for lack, given in zip(lacks, gives, strict=True)):
                numbers[at] -= 1
                lacks = [lack + given for lack, given in zip(lacks, gives, strict=True)]
        return tuple((at, number) for at, number in enumerate(numbers) if number)

    def _help(self, group: _Group, lacks: Sequence[int]) -> float:
        """Return how much one of a group helps, as a share of what was lacking."""
        shares = zip(group.gives, lacks, self._lacks, strict=True)
        return sum(min(given, max(lack, 0)) / whole for given, lack, whole in shares)
