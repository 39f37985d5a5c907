"""What the fence says of the node and of its lease, as the agent understands it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class HeldHere:
    """Something that the fence holds: under which generation of its grant, and where its processes are.

    `revoked`: it is to end now; `ending`: it is being killed, though that is not written down yet.
    """

    generation: int
    cgroups: tuple[str, ...]
    revoked: bool = False
    ending: bool = False


@dataclass(frozen=True, slots=True)
class LeaseState:
    """What the fence holds for this node, until when (seconds since boot), and the rules that it goes by (seconds).

    `connected`: it reaches ZooKeeper. `closed`: what it has killed and was not handed back. `settled`: for how long a node without a
    membership may yet become a member again before it counts as cut off.
    """

    incarnation: int = 0
    until: float = 0.0
    length: float = 8.0
    kill: float = 2.0
    settled: float = 3.0
    connected: bool = False
    held: Mapping[str, HeldHere] = field(default_factory=dict)
    closed: frozenset[str] = frozenset()

    def standing(self) -> Mapping[str, int]:
        """Return what instances go by: the generation by name, 0 for what was killed."""
        return {name: what.generation for name, what in self.held.items()} | dict.fromkeys(self.closed, 0)

    def document(self) -> dict[str, Any]:
        """Return it as the fence says it."""
        held = {name: asdict(what) for name, what in self.held.items()}
        return {
            **{name: getattr(self, name) for name in ("incarnation", "until", "length", "kill", "settled", "connected")},
            "held": held,
            "closed": sorted(self.closed),
        }


def parse_lease_state(document: Mapping[str, Any]) -> LeaseState:
    """Understand what the fence says of its lease.

    Raises:
        KeyError, ValueError, TypeError, AttributeError: it says something else.
    """
    held = {
        str(name): HeldHere(
            generation=int(what["generation"]),
            cgroups=tuple(str(item) for item in what["cgroups"]),
            revoked=bool(what["revoked"]),
            ending=bool(what.get("ending")),  # an older fence does not say it
        )
        for name, what in document["held"].items()
    }
    return LeaseState(
        incarnation=int(document["incarnation"]),
        until=float(document["until"]),
        length=float(document["length"]),
        kill=float(document["kill"]),
        settled=float(document["settled"]),
        connected=bool(document["connected"]),
        held=held,
        closed=frozenset(str(name) for name in document["closed"]),
    )
