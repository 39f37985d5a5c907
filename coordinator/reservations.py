"""What is reserved on each node, kept up to date as instances come and go: adding it all up anew takes longer the more there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gestalt.spec.schema import AppSpec

from .scheduler.values import demands

MICRO = 1_000_000


@dataclass(slots=True)
class Reserved:
    """What the instances of one node ask for. `micro_cores`: millionths of a core, so that sums are exact; `memory`: bytes."""

    instances: int = 0
    micro_cores: int = 0
    memory: int = 0
    ports: dict[int, int] = field(default_factory=dict)
    supply: dict[str, int] = field(default_factory=dict)
    """Of what else is counted, as `demands` names it."""

    @property
    def cpu(self) -> float:
        return self.micro_cores / MICRO


@dataclass(slots=True)
class Reservations:
    """What is reserved, by node; nodes without any instance are not named.

    `cursors`: the port after that of a node's newest instance: the next one goes on from there, so that a port is not taken again at once.
    Of them a new leader knows only what it can see. `changed`: the nodes where anything came or went since somebody took notice.
    """

    nodes: dict[str, Reserved] = field(default_factory=dict)
    cursors: dict[str, int] = field(default_factory=dict, compare=False)
    changed: set[str] = field(default_factory=set, compare=False)

    def on(self, node: str) -> Reserved:
        """Return what is reserved on a node; for reading only."""
        return self.nodes.get(node) or Reserved()

    def take(self, node: str, reserved: Reserved, cursor: int) -> None:
        """So much is reserved on a node, whatever was before."""
        self.nodes[node], self.cursors[node] = reserved, cursor
        self.changed.add(node)

    def add(self, node: str, spec: AppSpec, ports: Sequence[int]) -> None:
        """An instance of this description is placed."""
        there = self.nodes.setdefault(node, Reserved())
        self.changed.add(node)
        there.instances += 1
        there.micro_cores += round(spec.resources.cpu * MICRO)
        there.memory += spec.resources.memory
        for name, number in demands(spec.resources).items():
            there.supply[name] = there.supply.get(name, 0) + number
        for port in ports:
            there.ports[port] = there.ports.get(port, 0) + 1
        if ports:
            self.cursors[node] = max(ports) + 1

    def remove(self, node: str, spec: AppSpec, ports: Sequence[int]) -> None:
        """An instance of this description is placed no more."""
        there = self.nodes[node]
        self.changed.add(node)
        there.instances -= 1
        there.micro_cores -= round(spec.resources.cpu * MICRO)
        there.memory -= spec.resources.memory
        for name, number in demands(spec.resources).items():
            there.supply[name] -= number
            if not there.supply[name]:
                del there.supply[name]
        for port in ports:
            there.ports[port] -= 1
            if not there.ports[port]:
                del there.ports[port]
        if not there.instances:
            del self.nodes[node]
