"""What is reserved on each node: from the state and what agents report to the values that `place` works on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set
from dataclasses import replace

from gestalt.proto.v1 import model_pb2
from gestalt.spec.schema import Resources

from .membership import Life, is_emptied
from .nodes import Tracker
from .reconcile import is_current
from .records import App, Node, Placed, fixed_ports
from .reservations import Reservations
from .scheduler.attributes import attributes
from .scheduler.values import Capacity
from .state import State

NOT_CONNECTED = "is not connected"
"""Why a node that is ready as far as its membership goes takes nothing at this moment."""


def capacities(state: State, tracker: Tracker, path: str) -> tuple[Capacity, ...]:
    """Return all known nodes with what is reserved on them, for placing instances of one app.

    Those of its instances that are to be replaced, or are on the way out, do not stand in the way of new ones.
    """
    goal = state.apps.get(path)
    if goal is None:
        return tuple(_capacity(node, tracker, state.reservations, 0) for node in state.nodes.values())
    instances = state.placed(path).instances
    same_app = Counter(placed.node for placed in instances if is_current(goal, placed) and _stays(state, goal, placed))
    left = {goal.source, *(placed.node for placed in instances if placed.serial in goal.moving)}
    found = [_capacity(node, tracker, state.reservations, same_app[node.id]) for node in state.nodes.values()]
    for node_id in goal.held:  # room that is kept for it is room
        spec = state.version(path, goal.version).spec
        kept = Placed(0, goal.version, node_id, fixed_ports(spec))
        found = [released(node, kept, spec.resources) for node in found]
    return tuple(_open_to(node, goal.target, left) for node in found)


def released(node: Capacity, placed: Placed, asked: Resources) -> Capacity:
    """Return a node as it would be without an instance, which may be on another one."""
    if node.id != placed.node:
        return node
    cpu, memory = node.cpu_reserved - asked.cpu, node.memory_reserved - asked.memory
    return replace(node, cpu_reserved=cpu, memory_reserved=memory, ports=node.ports - set(placed.ports))


def _stays(state: State, goal: App, placed: Placed) -> bool:
    return not (placed.stop or placed.serial in goal.moving or is_emptied(state.nodes.get(placed.node)))


def _open_to(node: Capacity, target: str, left: Set[str]) -> Capacity:
    """Return a node as it is for an app that moves to one node, or away from some."""
    if not node.ready or (target in ("", node.id) and node.id not in left):
        return node
    return replace(node, ready=False, why_not="is left by the migration" if node.id in left else "is not where the migration goes")


def _capacity(node: Node, tracker: Tracker, reservations: Reservations, same_app: int) -> Capacity:
    use = reservations.on(node.id)
    view, stands = tracker.node(node.id, node.name), tracker.standing(node.id)
    why_not = stands.reason if stands.life is not Life.READY else "" if view.heard else NOT_CONNECTED
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
        port_cursor=reservations.cursors.get(node.id, 0),
        same_app=same_app,
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
