"""Which instances would stand better on another node: from nodes and what is placed to a list of moves, by the scheduler's own points.

Pure. The points of a node for an instance are those that `place` goes by, with the instance taken away first. A move has to be worth at
least so many points to the instance, and as many to all instances together: what one wins on account of the others is no gain. As that
sum grows with each move, and cannot grow for ever, the search ends, and a second one directly after the moves finds nothing.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from types import MappingProxyType

from gestalt.spec.schema import AppSpec, Spread

from .beside import Wishes
from .records import Move, Placed
from .reservations import MICRO, Reservations, Reserved
from .scheduler.fleet import ELSEWHERE, LARGE, Fleet, Ground, released
from .scheduler.obstacles import standing_obstacle
from .scheduler.place import place, points_of, reserve
from .scheduler.score import OWN_POINTS, WEIGHT_POINTS, affinity, fit, free_shares, own
from .scheduler.tally import Tally
from .scheduler.values import Capacity, Choice

BUDGET = 10
"""So many instances move in all if nobody says otherwise."""
BUDGET_MAX = 1000
MIN_GAIN = 0.1
"""Points that a move has to be worth if nobody says otherwise."""

_EPSILON = 1e-6
_SHOWN = 0.005


@dataclass(frozen=True, slots=True)
class Subject:
    """An app whose instances count: at rest, all of them of one version. `spec`: with as many instances as are wanted.

    `may_move`: its instances may be moved; others just see what moves around them. `apart`: the apps with which it shares no node, because
    it or they say so. `wishes`: beside which apps it would rather stand, or rather not.
    """

    path: str
    spec: AppSpec
    placed: Sequence[Placed]
    may_move: bool = True
    apart: frozenset[str] = frozenset()
    wishes: Wishes = ()


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Where an app is besides the instances that a search looks at, by nodes.

    `stays`: instances of it stay there, so that others may wish to stand beside them. `counts`: whoever is kept apart from it must not go
    there: instances of it are there, or room is kept for it.
    """

    stays: Set[str] = frozenset()
    counts: Set[str] = frozenset()


Place = tuple[str, str]
"""An app on a node."""

_NOWHERE = Elsewhere()
_BEGINNING: Place = ("", "")


def plan(subjects: Iterable[Subject], nodes: Iterable[Capacity], budget: int = BUDGET, min_gain: float = MIN_GAIN) -> tuple[Move, ...]:
    """Return at most `budget` moves, each of another instance, in an order in which there is room for each."""
    search = Search(subjects, nodes, budget, min_gain)
    for _ in search.run():
        pass
    return search.moves


class Search:
    """A search that can be interrupted: `run` yields before each app and node that it looks at. The most gain comes first.

    Set from outside, `is_late`: what was looked at by now has to do; `is_over`: what was found by now, too.
    `looked_at`: so many of `places`, which are an app on a node each, it has looked at; `reached`: the last of them.

    Args:
        subjects: the apps at rest.
        nodes: all of them, with what is reserved there.
        budget: so many moves at most.
        min_gain: what each is worth at least.
        others: where apps are of which some want to know, by `apart` or `wishes`, besides the instances of `subjects`: by app.
        after: behind which place it begins, for one that goes on where another was cut off. What is before comes last.
        large: from how many nodes on they are looked at as columns.
    """

    def __init__(
        self,
        subjects: Iterable[Subject],
        nodes: Iterable[Capacity],
        budget: int,
        min_gain: float,
        others: Mapping[str, Elsewhere] = MappingProxyType({}),
        *,
        after: Place = _BEGINNING,
        large: int = LARGE,
    ) -> None:
        self._board = _Board(subjects, nodes, others, large)
        self._after = self.reached = after
        self._budget, self._min_gain = budget, min_gain
        self.is_late = self.is_over = False
        self.looked_at = 0
        self.places = len(self._board.stands())
        self._found: dict[tuple[str, int], tuple[Move, Mapping[str, float]]] = {}

    @property
    def moves(self) -> tuple[Move, ...]:
        return tuple(move for move, _ in self._found.values())

    @property
    def is_full(self) -> bool:
        return len(self._found) >= self._budget

    @property
    def may_be_more(self) -> bool:
        """The budget is used up, or the time: there may be more to gain."""
        return self.is_full or self.is_late

    @property
    def score(self) -> float:
        """The points of all instances that count, with the moves."""
        return self._board.score()

    def run(self) -> Iterator[None]:
        """Look until nothing is to be gained any more, or the budget is used up."""
        is_better = True
        while is_better and not self.may_be_more:
            is_better = False
            heap: list[tuple[float, str, str]] = []
            for path, node in self._board.stands(self._after):
                yield
                if self.is_late:
                    break
                self.reached = path, node
                self.looked_at = min(self.looked_at + 1, self.places)
                if (offer := self._board.best(path, node, self._min_gain)) is not None:
                    heapq.heappush(heap, (-offer.gain, path, node))
            while heap and not self.is_full:
                yield
                if self.is_over:
                    return
                _, path, node = heapq.heappop(heap)
                offer = self._board.best(path, node, self._min_gain)  # anew: what has moved since may have changed it
                if offer is None:
                    continue
                if not heap or offer.gain >= -heap[0][0] - _EPSILON:
                    self._take(offer)
                    is_better = True
                heapq.heappush(heap, (-offer.gain, path, node))

    def _take(self, offer: _Offer) -> None:
        """Make a move. One that goes on from where an earlier one went takes its place."""
        placed = self._board.move(offer)
        key = (offer.path, placed.serial)
        before, gain, source = offer.before, offer.gain, offer.source
        if (earlier := self._found.pop(key, None)) is not None:
            before, gain, source = earlier[1], gain + earlier[0].gain, earlier[0].source
        if source != offer.target:
            move = Move(offer.path, placed.serial, source, offer.target, round(gain, 3), told(before, offer.after))
            self._found[key] = move, before


def told(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Say which points a move changes, those that it changes most first."""
    changes = {name: after.get(name, 0.0) - before.get(name, 0.0) for name in {**before, **after}}
    names = sorted((name for name, change in changes.items() if abs(change) >= _SHOWN), key=lambda name: (-abs(changes[name]), name))
    return ", ".join(f"{name} {before.get(name, 0.0):.2f} -> {after.get(name, 0.0):.2f}" for name in names)


def obstacle(spec: AppSpec, placed: Placed, ground: Ground, target: str) -> str:
    """Return why an instance cannot move to a node now; empty when it can.

    Args:
        spec: of the instance.
        placed: where it is.
        ground: all nodes, as `place` needs them for its app.
        target: where it is to go.
    """
    same_app = {**ground.same_app, placed.node: max(0, ground.same_app.get(placed.node, 0) - 1)}
    left = ground.without(placed.node, placed.ports, spec.resources)
    placing = place(spec, 1, replace(left, same_app=same_app, target=target))
    if not placing.missing:
        return ""
    return next((refusal.text for refusal in placing.refusals if refusal.kind != ELSEWHERE), placing.reason)


@dataclass(frozen=True, slots=True)
class _Offer:
    """A move that would be worth it. `before`, `after`: the points of the instance, by what they are for."""

    path: str
    source: str
    target: str
    choice: Choice
    gain: float
    before: Mapping[str, float]
    after: Mapping[str, float]


class _Board:
    """The nodes with all that is placed, while instances move."""

    def __init__(self, subjects: Iterable[Subject], nodes: Iterable[Capacity], others: Mapping[str, Elsewhere], large: int) -> None:
        self._others = others
        self._nodes = {node.id: replace(node, same_app=0) for node in nodes}
        self._subjects = {subject.path: subject for subject in subjects}
        self._on: dict[str, dict[str, list[Placed]]] = {path: {} for path in self._subjects}
        self._here: dict[str, Counter[str]] = {node: Counter() for node in self._nodes}
        self._values: dict[tuple[str, str], frozenset[str]] = {}
        self._fleet = Fleet(Reservations(), large=large)
        for item in self._nodes.values():
            self._fleet.reservations.take(item.id, _reserved(item), item.port_cursor)
            self._fleet.put(item)
        for path, subject in self._subjects.items():
            for placed in subject.placed:
                if placed.node in self._nodes:
                    self._put(path, placed)

    def _put(self, path: str, placed: Placed) -> None:
        self._on[path].setdefault(placed.node, []).append(placed)
        self._here[placed.node][path] += 1

    def stands(self, after: Place = _BEGINNING) -> list[Place]:
        """Return where instances are that may move, in an order that is always the same, from behind a place on and round to it."""
        found: list[Place] = []
        for path in sorted(path for path, subject in self._subjects.items() if subject.may_move):
            found += [(path, node) for node, there in sorted(self._on[path].items()) if there and self._nodes[node].ready]
        first = bisect_right(found, after)
        return found[first:] + found[:first]

    def best(self, path: str, source: str, min_gain: float) -> _Offer | None:
        """Return where an instance of an app would best move from a node; None when it is not worth it."""
        subject, there = self._subjects[path], self._on[path].get(source)
        if not there:
            return None
        spec, placed = subject.spec, there[-1]
        others = Counter({node: len(items) for node, items in self._on[path].items() if items})
        others[source] -= 1
        avoided = dict.fromkeys(self._avoided(subject) - {source}, "another app")
        left = _without(self._nodes[source], spec, placed)
        same_app = {node: count for node, count in others.items() if count}
        ground = Ground(self._fleet, same_app, instead={source: left}, avoided=avoided, beside=self._wished(subject))
        placing = place(spec, 1, ground)
        if not placing.choices or placing.choices[0].node == source:
            return None
        choice = placing.choices[0]
        before, after = (self._parts(path, self._seen(path, node, others[node], placed), others) for node in (source, choice.node))
        if sum(after.values()) - sum(before.values()) < min_gain:
            return None
        offer = _Offer(path, source, choice.node, choice, 0.0, before, after)
        gain = self._gain(offer)
        return replace(offer, gain=gain) if gain >= min_gain else None

    def _avoided(self, subject: Subject) -> set[str]:
        """Return the nodes that have instances of apps with which one shares no node, or keep room for them."""
        found: set[str] = set()
        for other in subject.apart:
            found |= self._nodes_of(other) | self._others.get(other, _NOWHERE).counts
        return found & self._nodes.keys()

    def _seen(self, path: str, node: str, same_app: int, placed: Placed) -> Capacity:
        """Return a node without an instance, which may be on another one."""
        found = self._nodes[node]
        if placed.node == node:
            found = _without(found, self._subjects[path].spec, placed)
        beside = self._beside(self._subjects[path], node)
        return replace(found, same_app=same_app, beside=beside) if same_app or beside or found.same_app or found.beside else found

    def _wished(self, subject: Subject) -> dict[str, int]:
        """Return the sum of the weights of the wishes that each node fulfils, as instances are now."""
        found: Counter[str] = Counter()
        for apps, weight in subject.wishes:
            there = {node for other in apps for node in self._nodes_of(other) | self._others.get(other, _NOWHERE).stays}
            found.update(dict.fromkeys(there, weight))
        return dict(found)

    def _nodes_of(self, other: str) -> set[str]:
        return {node for node, items in self._on.get(other, {}).items() if items}

    def _beside(self, subject: Subject, node: str) -> int:
        """Return the same of one node."""
        here, others = self._here[node], self._others
        return sum(
            weight for apps, weight in subject.wishes if any(here[other] or node in others.get(other, _NOWHERE).stays for other in apps)
        )

    def _parts(self, path: str, node: Capacity, others: Counter[str]) -> dict[str, float]:
        """Return what a node is worth for an instance, by what the points are for."""
        spec = self._subjects[path].spec
        binpack = spec.placement.strategy == "binpack"
        parts = {"fit": fit(*free_shares(node, spec.resources.cpu, spec.resources.memory), binpack=binpack)}
        if not binpack:
            parts["apart"] = OWN_POINTS * own(node.same_app, spec.instances)
        if spec.placement.affinities:
            parts["affinities"] = WEIGHT_POINTS * affinity(spec.placement.affinities, node.attributes)
        if spec.placement.beside:
            parts["beside"] = WEIGHT_POINTS * node.beside
        for tally in self._tallies(path, others):
            parts[f"spread {tally.attribute}"] = tally.points(node.attributes.get(tally.attribute, ""))
        return parts

    def _tallies(self, path: str, there: Mapping[str, int]) -> Iterator[Tally]:
        for item in self._subjects[path].spec.placement.spread:
            if item.weight:
                yield self._tally(path, item, self._counts(item.attribute, there))

    def _tally(self, path: str, item: Spread, counts: Counter[str]) -> Tally:
        spec, key = self._subjects[path].spec, (path, item.attribute)
        if key not in self._values:
            able = (node for node in self._nodes.values() if standing_obstacle(spec, node) is None)
            self._values[key] = frozenset(node.attributes.get(item.attribute, "") for node in able)
        return Tally(item, counts, self._values[key], spec.instances)

    def _counts(self, attribute: str, there: Mapping[str, int]) -> Counter[str]:
        counts: Counter[str] = Counter()
        for node, count in there.items():
            if (value := self._nodes[node].attributes.get(attribute)) is not None:
                counts[value] += count
        return counts

    def _gain(self, offer: _Offer) -> float:
        """Return by how many points all instances together stand better after a move."""
        before, was = self._around(offer), self._on[offer.path][offer.source][-1]
        placed = self.move(offer)
        after = self._around(offer)
        self._shift(offer.path, placed, was)
        return after - before

    def _around(self, offer: _Offer) -> float:
        """Return the points of all instances that a move touches."""
        return self._local(offer.source) + self._local(offer.target) + self._spread(offer.path)

    def score(self) -> float:
        """Return the points of all instances."""
        return sum(map(self._local, self._nodes)) + sum(map(self._spread, self._subjects))

    def _local(self, node: str) -> float:
        """Return the points of the instances on a node, spreads aside."""
        points = 0.0
        for path, count in self._here[node].items():
            if count:
                seen = self._seen(path, node, count - 1, self._on[path][node][-1])
                points += count * points_of(self._subjects[path].spec, seen)
        return points

    def _spread(self, path: str) -> float:
        """Return the points of all instances of an app for its spreads: each as if it were to come to where it is."""
        there = {node: len(items) for node, items in self._on[path].items() if items}
        points = 0.0
        for item in self._subjects[path].spec.placement.spread:
            if item.weight:
                counts = self._counts(item.attribute, there)
                tally = self._tally(path, item, Counter({value: count - 1 for value, count in counts.items()}))
                points += sum(count * tally.points(value) for value, count in counts.items())
                points += (sum(there.values()) - counts.total()) * tally.points("")
        return points

    def move(self, offer: _Offer) -> Placed:
        """Make a move; return the instance as it is then."""
        was = self._on[offer.path][offer.source][-1]
        placed = replace(was, node=offer.target, ports=offer.choice.ports)
        self._shift(offer.path, was, placed)
        return placed

    def _shift(self, path: str, before: Placed, after: Placed) -> None:
        spec = self._subjects[path].spec
        self._on[path][before.node].remove(before)
        self._here[before.node][path] -= 1
        self._nodes[before.node] = _without(self._nodes[before.node], spec, before)
        self._put(path, after)
        self._nodes[after.node] = _with(self._nodes[after.node], spec, after)
        for node in (before.node, after.node):
            self._fleet.reservations.take(node, _reserved(self._nodes[node]), self._nodes[node].port_cursor)


def _reserved(node: Capacity) -> Reserved:
    return Reserved(0, round(node.cpu_reserved * MICRO), node.memory_reserved, dict.fromkeys(node.ports, 1), dict(node.supply_reserved))


def _without(node: Capacity, spec: AppSpec, placed: Placed) -> Capacity:
    left = released(node, placed.ports, spec.resources)
    return replace(left, cpu_reserved=round(left.cpu_reserved, 6), same_app=max(0, node.same_app - 1))


def _with(node: Capacity, spec: AppSpec, placed: Placed) -> Capacity:
    taken = reserve(node, spec, placed.ports)
    return replace(taken, cpu_reserved=round(taken.cpu_reserved, 6), same_app=0)
