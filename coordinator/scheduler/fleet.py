"""All nodes with what is reserved on them, kept from decision to decision: what changed is looked at, not what is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from gestalt.spec.schema import Resources

from ..reservations import Reservations
from .shortage import APART_FROM, MIGRATION
from .strategies import NOTHING_SAID, Strategies
from .values import Capacity, demands, with_more

if TYPE_CHECKING:  # a small fleet does without
    from .columns import Columns

ELSEWHERE = "is not where the migration goes"
"""Why a node takes nothing of an app whose instances are to go to another one."""

LARGE = 100
"""From so many nodes on they are looked at as columns: below, that is not worth the memory of NumPy."""


class Fleet:
    """The nodes of a cluster.

    Args:
        reservations: what is reserved. It is read; of what it says has changed, notice is taken here and by nobody else.
        large: from how many nodes on there are columns.
    """

    def __init__(self, reservations: Reservations, *, large: int = LARGE) -> None:
        self.reservations = reservations
        self.why_not: Callable[[Capacity], str] = lambda offer: offer.why_not
        """Says why a node is not ready, as of now."""
        self._large = large
        self._offers: dict[str, Capacity] = {}
        self._sorted: tuple[str, ...] | None = None
        self._columns: Columns | None = None

    def __len__(self) -> int:
        return len(self._offers)

    def __contains__(self, node: str) -> bool:
        return node in self._offers

    @property
    def ids_there(self) -> Set[str]:
        return self._offers.keys()

    @property
    def is_large(self) -> bool:
        return len(self._offers) >= self._large

    def put(self, offer: Capacity) -> None:
        """A node is there, or is another than before; what is reserved there is known already. Costs next to nothing if it is the same."""
        before = self._offers.get(offer.id)
        if before == offer:
            return
        self._offers[offer.id] = offer
        if before is None or before.name != offer.name:
            self._columns = self._sorted = None
        elif self._columns is not None:
            columns, self._columns = self._columns, None  # what is changed by half is not used
            columns.change(offer)
            self._columns = columns

    def remove(self, node: str) -> None:
        """A node is there no more. Idempotent."""
        if self._offers.pop(node, None) is not None:
            self._columns = self._sorted = None

    def node(self, node: str) -> Capacity:
        """Return a node with what is reserved there now."""
        offer, use = self._offers[node], self.reservations.on(node)
        why_not = "" if offer.ready else self.why_not(offer)
        cursor = self.reservations.cursors.get(node, 0)
        return replace(
            offer,
            why_not=why_not,
            cpu_reserved=use.cpu,
            memory_reserved=use.memory,
            supply_reserved=dict(use.supply),
            ports=frozenset(use.ports),
            port_cursor=cursor,
        )

    def ids(self) -> Sequence[str]:
        """Return the nodes in order of their names."""
        if self._sorted is None:
            self._sorted = tuple(item.id for item in sorted(self._offers.values(), key=lambda item: (item.name, item.id)))
        return self._sorted

    def columns(self) -> Columns:
        """Return the nodes as columns with what is reserved there now."""
        from .columns import Columns  # late: NumPy is large

        changed, self.reservations.changed = self.reservations.changed, set()
        if self._columns is None:
            self._columns = Columns(self._offers.values(), self.reservations)
        else:
            self._columns.settle(changed)
        return self._columns


def released(node: Capacity, ports: Sequence[int], asked: Resources) -> Capacity:
    """Return a node as it would be without an instance that is there."""
    cpu, memory = node.cpu_reserved - asked.cpu, node.memory_reserved - asked.memory
    supply = with_more(node.supply_reserved, demands(asked), -1)
    return replace(node, cpu_reserved=cpu, memory_reserved=memory, supply_reserved=supply, ports=node.ports - set(ports))


@dataclass(frozen=True, slots=True)
class Ground:
    """A fleet as one app finds it: the nodes in order of their names, each with what is reserved there and how much of the app it has.

    `same_app`: instances of the app by node that are there and stay. `target`: the node where it is to go, empty = any. `left`: where it
    must not go. `avoided`: the app because of which it must not go to some more, by node; `only_room`: those of them where nothing is of it
    but room that is kept for it. `instead`: nodes that are looked at as if they were these. `strategies`: what operators said of apps that
    name none.
    `beside`: the sum of the weights of the wishes to stand beside other apps that are fulfilled there, by node.
    """

    fleet: Fleet
    same_app: Mapping[str, int] = field(default_factory=dict)
    target: str = ""
    left: frozenset[str] = frozenset()
    instead: Mapping[str, Capacity] = field(default_factory=dict)
    avoided: Mapping[str, str] = field(default_factory=dict)
    only_room: Set[str] = frozenset()
    strategies: Strategies = NOTHING_SAID
    beside: Mapping[str, int] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Capacity]:
        return (self.node(node) for node in self.fleet.ids())

    def __len__(self) -> int:
        return len(self.fleet)

    def node(self, node: str) -> Capacity:
        """Return a node."""
        found = self.instead.get(node) or self.fleet.node(node)
        if node in self.same_app:
            found = replace(found, same_app=self.same_app[node])
        if node in self.beside:
            found = replace(found, beside=self.beside[node])
        if not found.ready:
            return found
        if node in self.left or self.target not in ("", node):
            why_not = "is left by the migration" if node in self.left else ELSEWHERE
            return replace(found, ready=False, why_not=why_not, barred=(MIGRATION, ""))
        if node in self.avoided:
            return replace(found, ready=False, why_not=self.told_apart(node), barred=(APART_FROM, self.avoided[node]))
        return found

    def told_apart(self, node: str) -> str:
        """Say why the app must not go to a node because of another one."""
        what = "keeps room for" if node in self.only_room else "has an instance of"
        return f"{what} {self.avoided[node]}, from which it is kept apart"

    def without(self, node: str, ports: Sequence[int], asked: Resources) -> Ground:
        """Return the ground as it would be without an instance."""
        if node not in self.fleet:
            return self
        left = released(self.instead.get(node) or self.fleet.node(node), ports, asked)
        return replace(self, instead={**self.instead, node: left})

    def without_own(self) -> Ground:
        """Return the ground as it is for an app of which nothing stays."""
        return replace(self, same_app={})


Nodes = tuple[Capacity, ...] | Ground


def node_of(nodes: Nodes, node: str) -> Capacity | None:
    """Return the node of an id; None when there is none."""
    if isinstance(nodes, Ground):
        return nodes.node(node) if node in nodes.fleet else None
    return next((item for item in nodes if item.id == node), None)


def without(nodes: Nodes, node: str, ports: Sequence[int], asked: Resources) -> Nodes:
    """Return nodes as they would be without an instance that is on one of them."""
    if isinstance(nodes, Ground):
        return nodes.without(node, ports, asked)
    return tuple(released(item, ports, asked) if item.id == node else item for item in nodes)
