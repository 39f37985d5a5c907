"""What goes into placing and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gestalt.spec.schema import Resources

from .shortage import ENOUGH, NOT_READY, Refusal, Shortage

DEFAULT_POOL = "default"
"""The pool of a node whose label `pool` says nothing, and of an app that names none."""


DISK, PIDS, DEVICE = "disk", "pids", "devices."
"""Names of what else is counted; those of devices follow theirs."""

KNOWN_TO_ALL = (DISK, PIDS)
"""What every machine has: a node that does not say how much has plenty."""
PLENTY = 2**62


def demands(resources: Resources) -> dict[str, int]:
    """Return what an instance asks for besides cores, memory and ports, by name."""
    found = {DISK: resources.disk, PIDS: resources.pids}
    if resources.devices:
        found.update({DEVICE + name: number for name, number in resources.devices.items()})
    return {name: number for name, number in found.items() if number}


def with_more(reserved: Mapping[str, int], asked: Mapping[str, int], times: int = 1) -> Mapping[str, int]:
    """Return what is reserved when so much is asked for, too. `times`: -1 = no longer."""
    return {**reserved, **{name: reserved.get(name, 0) + times * number for name, number in asked.items()}} if asked else reserved


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a node offers and what is reserved of it. `cpu` in cores, sizes in bytes; 0 memory = unknown.

    `supply`: what else it offers, as `demands` names it.
    `same_app`: how many instances of the app that is to be placed are there and stay. `beside`: the sum of
    the weights of its wishes to stand beside other apps that are fulfilled there. `attributes`: what constraints look at.
    `incarnation`: of its membership, 0 = it has none. `barred`: by what it is not ready for an app, of the words of a shortage, and by
    which app, if it is one.
    """

    id: str
    name: str
    ready: bool
    why_not: str = ""
    barred: tuple[str, str] = (NOT_READY, "")
    runtimes: frozenset[str] = frozenset()
    cpu: float = 0.0
    memory: int = 0
    cpu_reserved: float = 0.0
    memory_reserved: int = 0
    port_first: int = 3000
    port_last: int = 4000
    ports: frozenset[int] = frozenset()
    port_cursor: int = 0
    same_app: int = 0
    beside: int = 0
    incarnation: int = 0
    attributes: Mapping[str, str] = field(default_factory=dict)
    supply: Mapping[str, int] = field(default_factory=dict)
    supply_reserved: Mapping[str, int] = field(default_factory=dict)

    def supply_of(self, name: str) -> int:
        """Return how much there is of what `demands` names so."""
        return self.supply.get(name, PLENTY if name in KNOWN_TO_ALL else 0)

    def left_of(self, name: str) -> int:
        """Return how much of it is left."""
        return max(self.supply_of(name) - self.supply_reserved.get(name, 0), 0)

    @property
    def pool(self) -> str:
        return self.attributes.get("pool") or DEFAULT_POOL


@dataclass(frozen=True, slots=True)
class Choice:
    """A node and the host ports, in the order of the description's ports."""

    node: str
    ports: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Placing:
    """The outcome for a number of identical instances: choices, and what keeps the rest away."""

    choices: tuple[Choice, ...]
    shortage: Shortage = ENOUGH

    @property
    def missing(self) -> int:
        return self.shortage.missing

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        return self.shortage.refusals

    @property
    def reason(self) -> str:
        """Why some are missing, as a sentence; empty when none is."""
        return str(self.shortage)
