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

    def most(self, value: str) -> int:
        """Return how many instances may be added with this value at most, as far as that is certain."""
        return PLENTY


class MaxPer(Limit):
    """At most so many instances for each value."""

    def __init__(self, constraint: Constraint, counts: Counter[str]) -> None:
        super().__init__(constraint, counts)
        self._most = int(constraint.value) if constraint.value else 1

    def refuses(self, value: str) -> str:
        there = self._counts[value]
        return f"is in {self.attribute} {value}, which has {there} of at most {self._most}" if there >= self._most else ""

    def most(self, value: str) -> int:
        return max(self._most - self._counts[value], 0)


class GroupBy(Limit):
    """The numbers of instances of all values differ by one at most. `values`: as for a spread."""

    def __init__(self, constraint: Constraint, counts: Counter[str], values: Collection[str]) -> None:
        super().__init__(constraint, counts)
        self._values = frozenset(values) - {""}
        self._are_enough = len(self._values) >= int(constraint.value or 0)
        self.least = self._fewest()

    def add(self, value: str) -> None:
        super().add(value)
        if value in self._values and self._counts[value] == self.least + 1:
            self.least = self._fewest()

    def _fewest(self) -> int:
        return min((self._counts[value] for value in self._values), default=0) if self._are_enough else 0

    def refuses(self, value: str) -> str:
        there = self._counts[value]
        return f"is in {self.attribute} {value}, which has {there} already, another one only {self.least}" if there > self.least else ""


class Cluster(Limit):
    """All instances have the same value: that of those that are there, or the one that was settled on for the first."""

    def __init__(self, constraint: Constraint, counts: Counter[str]) -> None:
        super().__init__(constraint, counts)
        self._settled: str | None = None

    @property
    def is_open(self) -> bool:
        """No instance is there yet, and nothing is settled."""
        return self._settled is None and not any(self._counts.values())

    def settle(self, value: str) -> None:
        """Have the first one go where the attribute has this value."""
        self._settled = value

    def refuses(self, value: str) -> str:
        if self.is_open:
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
    bound = [limit for limit in limits if isinstance(limit, Cluster)]
    free = [limit for limit in bound if limit.is_open]
    if not free:
        return
    bound = [limit for limit in bound if not limit.is_open]
    found: dict[tuple[str, ...], list[tuple[Mapping[str, str], int]]] = {}
    for attributes, number in rooms:
        if not any(limit.refuses(attributes[limit.attribute]) for limit in bound):
            found.setdefault(tuple(attributes[limit.attribute] for limit in free), []).append((attributes, number))
    if found:
        best = min(found, key=lambda values: (-min(_fitting(limits, found[values]), count), values))
        for limit, value in zip(free, best, strict=True):
            limit.settle(value)


def _fitting(limits: Sequence[Limit], rooms: list[tuple[Mapping[str, str], int]]) -> int:
    """Return how many instances fit on some nodes."""
    fits = sum(number for _, number in rooms)
    for limit in limits:
        by_value: Counter[str] = Counter()
        for attributes, number in rooms:
            by_value[attributes[limit.attribute]] += number
        fits = min(fits, sum(min(number, limit.most(value)) for value, number in by_value.items()))
    return fits
