"""How many instances of an app there are for each value of an attribute, and what follows for the next one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from gestalt.spec.schema import Constraint, Spread

from .score import WEIGHT_POINTS, boost
from .values import PLENTY


class Tally:
    """A spread: instances counted by value of one attribute. `values`: of all nodes that could take one if they had room."""

    def __init__(self, spread: Spread, counts: Counter[str], values: Collection[str], wanted: int) -> None:
        self.attribute = spread.attribute
        self._points = spread.weight * WEIGHT_POINTS
        self._counts = counts
        rest = sorted(set(values) - spread.targets.keys() - {""})
        left = 100 - sum(spread.targets.values())
        self._desired = {value: share * wanted / 100 for value, share in spread.targets.items()}
        self._desired.update({value: left * wanted / 100 / len(rest) for value in rest})

    def points(self, value: str) -> float:
        """Return what a node with this value is worth, empty = it has none. It never grows while instances are added."""
        return self._points * boost(self._desired.get(value, 0.0), self._counts[value])

    def add(self, value: str) -> None:
        self._counts[value] += 1


class Limit(ABC):
    """A constraint on how the instances of an app are distributed over the values of an attribute."""

    def __init__(self, constraint: Constraint, counts: Counter[str]) -> None:
        self.attribute = constraint.attribute
        self.operator = constraint.operator
        self._counts = counts

    def add(self, value: str) -> None:
        self._counts[value] += 1

    @abstractmethod
    def refuses(self, value: str) -> str:
        """Return why no instance may be added where the attribute has this value; empty when one may. In words that follow a node."""

    def fitting(self, rooms: Mapping[str, int]) -> int:
        """Return how many instances may be added at most on nodes of which so many fit with each value, if these are all that there are."""
        return PLENTY


class MaxPer(Limit):
    """At most so many instances for each value."""

    def __init__(self, constraint: Constraint, counts: Counter[str]) -> None:
        super().__init__(constraint, counts)
        self._most = int(constraint.value) if constraint.value else 1

    def refuses(self, value: str) -> str:
        there = self._counts[value]
        return f"is in {self.attribute} {value}, which has {there} of at most {self._most}" if there >= self._most else ""

    def fitting(self, rooms: Mapping[str, int]) -> int:
        return sum(min(number, max(self._most - self._counts[value], 0)) for value, number in rooms.items())


class GroupBy(Limit):
    """The numbers of instances of all values differ by one at most. `values`: as for a spread."""

    def __init__(self, constraint: Constraint, counts: Counter[str], values: Collection[str]) -> None:
        super().__init__(constraint, counts)
        self._needed = int(constraint.value or 0)
        self._values = frozenset(values) - {""}
        self.least = self._fewest()

    def only(self, values: Collection[str]) -> None:
        """Have no other values than these count: no instance may be elsewhere."""
        self._values = frozenset(values) - {""}
        self.least = self._fewest()

    def add(self, value: str) -> None:
        super().add(value)
        if value in self._values and self._counts[value] == self.least + 1:
            self.least = self._fewest()

    def _fewest(self) -> int:
        return min((self._counts[value] for value in self._values), default=0) if len(self._values) >= self._needed else 0

    def refuses(self, value: str) -> str:
        there = self._counts[value]
        return f"is in {self.attribute} {value}, which has {there} already, another one only {self.least}" if there > self.least else ""

    def fitting(self, rooms: Mapping[str, int]) -> int:
        known = {value: number for value, number in rooms.items() if value}
        full = {value: self._counts[value] + number for value, number in known.items()}
        least = min(full.values(), default=0) if len(known) >= self._needed else 0
        return sum(max(min(full[value], least + 1) - self._counts[value], 0) for value in known)


class Cluster(Limit):
    """All instances have the same value: that of those that are there, or the one that was settled on for the first.

    `is_open`: what follows for the other limits is not worked out yet, see `settle`.
    """

    def __init__(self, constraint: Constraint, counts: Counter[str]) -> None:
        super().__init__(constraint, counts)
        self._settled: str | None = None
        self.is_open = True

    @property
    def is_free(self) -> bool:
        """No instance is there yet, and nothing is settled."""
        return self._settled is None and not any(self._counts.values())

    def settle(self, value: str) -> None:
        """Have the first one go where the attribute has this value."""
        self._settled = value

    def refuses(self, value: str) -> str:
        if self.is_free:
            return ""
        others = [name for name, count in self._counts.items() if count] or [self._settled or ""]
        return f"is in {self.attribute} {value}, the others are in {min(others)}" if value not in others else ""


def limit_of(constraint: Constraint, counts: Counter[str], values: Collection[str]) -> Limit | None:
    """Return the limit that a constraint sets, None when it looks at one node alone."""
    match constraint.operator:
        case "unique" | "max-per":
            return MaxPer(constraint, counts)
        case "group-by":
            return GroupBy(constraint, counts, values)
        case "cluster":
            return Cluster(constraint, counts)
    return None


def settle(limits: Sequence[Limit], rooms: Iterable[tuple[Mapping[str, str], int]], count: int) -> None:
    """Choose where the first of those goes that are all to be in one place: at the values, found together, where most of them fit.

    Args:
        limits: all of them; those that are open are settled.
        rooms: the attributes of each node that may take one, and how many fit there.
        count: how many are to fit.
    """
    clusters = [limit for limit in limits if isinstance(limit, Cluster)]
    for limit in clusters:
        limit.is_open = False
    free = [limit for limit in clusters if limit.is_free]
    if not (free or (clusters and any(isinstance(limit, GroupBy) for limit in limits))):
        return
    rooms = list(rooms)
    bound = [limit for limit in clusters if not limit.is_free]
    found: dict[tuple[str, ...], list[tuple[Mapping[str, str], int]]] = {}
    for attributes, number in rooms if free else ():
        if not any(limit.refuses(attributes[limit.attribute]) for limit in bound):
            found.setdefault(tuple(attributes[limit.attribute] for limit in free), []).append((attributes, number))
    if found:
        best = min(found, key=lambda values: (-min(_fitting(limits, found[values]), count), values))
        for limit, value in zip(free, best, strict=True):
            limit.settle(value)
    regroup(limits, (attributes for attributes, _ in rooms))


def regroup(limits: Sequence[Limit], nodes: Iterable[Mapping[str, str]]) -> None:
    """Have instances grouped by what is found where they may all be: values that others have keep nobody back.

    Args:
        limits: all of them.
        nodes: the attributes of each that may take an instance.
    """
    clusters = [limit for limit in limits if isinstance(limit, Cluster)]
    groups = [limit for limit in limits if isinstance(limit, GroupBy)]
    if clusters and groups:
        reach = [attributes for attributes in nodes if not any(limit.refuses(attributes[limit.attribute]) for limit in clusters)]
        for limit in groups:
            limit.only({attributes[limit.attribute] for attributes in reach})


def _fitting(limits: Sequence[Limit], rooms: list[tuple[Mapping[str, str], int]]) -> int:
    """Return how many instances fit on some nodes."""
    fits = sum(number for _, number in rooms)
    for limit in limits:
        by_value: Counter[str] = Counter()
        for attributes, number in rooms:
            by_value[attributes[limit.attribute]] += number
        fits = min(fits, limit.fitting(by_value))
    return fits
