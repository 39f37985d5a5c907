"""What goes into placing and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

DEFAULT_POOL = "default"
"""The pool of a node whose label `pool` says nothing, and of an app that names none."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a node offers and what is reserved of it. `cpu` in cores, sizes in bytes; 0 memory = unknown.

    `same_app`: how many instances of the app that is to be placed are there and stay. `attributes`: what constraints look at.
    `incarnation`: of its membership, 0 = it has none.
    """

    id: str
    name: str
    ready: bool
    why_not: str = ""
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
    incarnation: int = 0
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def pool(self) -> str:
        return self.attributes.get("pool") or DEFAULT_POOL


@dataclass(frozen=True, slots=True)
class Choice:
    """A node and the host ports, in the order of the description's ports."""

    node: str
    ports: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a node cannot take an instance.

    `kind`: what nodes that are ruled out by the same have in common, in words that follow "2 nodes". `text`: what is so of this node, in
    words that follow its name. `lack`: how far it is from being taken, as a share of what is asked for; infinite when nothing comes near.
    `help`: what would make it fit, empty = nothing that could be asked for instead.
    """

    kind: str
    text: str
    lack: float = float("inf")
    help: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What rules out `nodes` nodes, and which of them comes nearest."""

    kind: str
    nodes: int
    nearest: str
    text: str
    help: str = ""


@dataclass(frozen=True, slots=True)
class Placing:
    """The outcome for a number of identical instances: choices, and what keeps the rest away, most nodes first (empty = all are placed)."""

    choices: tuple[Choice, ...]
    missing: int = 0
    refusals: tuple[Refusal, ...] = ()
    reason: str = ""
