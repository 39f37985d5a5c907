"""What is reserved on each node: from the state and what agents report to the values that `place` works on."""

from __future__ import annotations

from dataclasses import dataclass, field

from gestalt.proto.v1 import model_pb2

from .membership import Life, is_emptied
from .nodes import Tracker
from .reconcile import is_current
from .records import Node
from .scheduler.attributes import attributes
from .scheduler.values import Capacity
from .state import State


@dataclass(slots=True)
class _Use:
    cpu: float = 0.0
    memory: int = 0
    ports: set[int] = field(default_factory=set)
    same_app: int = 0


def capacities(state: State, tracker: Tracker, path: str) -> tuple[Capacity, ...]:
    """Return all known nodes with what is reserved on them, for placing instances of one app.

    Those of its instances that are to be replaced, or are on the way out, do not stand in the way of new ones.
    """
    goal = state.apps.get(path)
    uses: dict[str, _Use] = {}
    for app, placements in state.placements.items():
        for placed in placements.instances:
            spec = state.version(app, placed.version).spec
            use = uses.setdefault(placed.node, _Use())
            use.cpu += spec.resources.cpu
            use.memory += spec.resources.memory
            use.ports.update(placed.ports)
            if app == path and goal is not None and not is_emptied(state.nodes.get(placed.node)):
                use.same_app += is_current(goal, placed) and not placed.stop
    cursors = _cursors(state)
    return tuple(_capacity(node, tracker, uses.get(node.id, _Use()), cursors) for node in state.nodes.values())


def _cursors(state: State) -> dict[str, int]:
    """Return by node the port of its newest instance: new ones go on from there, so that a port is not taken again at once."""
    newest: dict[str, tuple[int, int]] = {}
    for placements in state.placements.values():
        for placed in placements.instances:
            if placed.ports and placed.serial >= newest.get(placed.node, (0, 0))[0]:
                newest[placed.node] = (placed.serial, max(placed.ports))
    return {node: port + 1 for node, (_, port) in newest.items()}


def _capacity(node: Node, tracker: Tracker, use: _Use, cursors: dict[str, int]) -> Capacity:
    view, stands = tracker.node(node.id, node.name), tracker.standing(node.id)
    why_not = stands.reason if stands.life is not Life.READY else "" if view.heard else "is not connected"
    facts = view.facts
    return Capacity(
        node.id,
        node.name,
        ready=not why_not,
        why_not=why_not,
        runtimes=frozenset(facts.runtimes),
        cpu=facts.cpu,
        memory=facts.memory,
        cpu_reserved=use.cpu,
        memory_reserved=use.memory,
        port_first=facts.port_first or 3000,
        port_last=facts.port_last or 4000,
        ports=frozenset(use.ports),
        port_cursor=cursors.get(node.id, 0),
        same_app=use.same_app,
        incarnation=tracker.incarnation(node.id),
        attributes=attributes(node.id, node.name, node.roles, node.labels, _facts(facts)),
    )


def _facts(facts: model_pb2.Facts) -> dict[str, str]:
    """Return what a node's agent says of it as attributes."""
    known = {
        "hostname": facts.hostname,
        "os": facts.os,
        "kernel": facts.kernel,
        "architecture": facts.architecture,
        "cpu": f"{facts.cpu:g}" if facts.cpu else "",
        "memory": str(facts.memory or ""),
        "disk": str(facts.disk or ""),
    }
    return {**facts.attributes, **{name: value for name, value in known.items() if value}}
