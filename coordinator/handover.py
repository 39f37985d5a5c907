"""What has to be ready before an instance stops for its successor: images are there before anything is given up for them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from gestalt.spec.schema import Resources

from .advance import Case
from .reconcile import Decision, Outcome, View, is_current, is_given_up, stays, stops_first
from .records import Placed
from .scheduler.fleet import Nodes, without
from .scheduler.place import place

Ways = Mapping[int, frozenset[str]]
"""The serials of the instances that stop before their successors start, each with the nodes to which these would go."""


def ways(case: Case, decision: Decision, nodes: Callable[[], Nodes], asked: Callable[[Placed], Resources]) -> Ways:
    """Return which of the instances that are to stop now make way for their successors, and for where.

    Args:
        case: the app.
        decision: which are to stop.
        nodes: gives all nodes with what is reserved on them.
        asked: what an instance asks for.
    """
    is_recreated = case.strategy == "recreate" and any(view.placed.version != case.app.version for view in case.views)
    if not case.app.wanted or not (case.spec.kind == "system" or is_recreated or stops_first(case.spec)):
        return {}
    stopping = [view for view in case.views if view.placed.serial in decision.stop and _makes_way(case, view)]
    if not stopping:
        return {}
    if case.spec.kind == "system":
        updated = (view.placed for view in stopping if not is_current(case.app, view.placed))
        return {placed.serial: frozenset({placed.node}) for placed in updated}
    if is_recreated:
        room = _without(nodes(), [view.placed for view in case.views], asked)
        there = frozenset(choice.node for choice in place(case.spec, case.app.wanted, room).choices)
        return {view.placed.serial: there for view in stopping}
    found = nodes()
    return {view.placed.serial: _successor(case, view.placed, found, asked) for view in stopping}


def _makes_way(case: Case, view: View) -> bool:
    return not (stays(case.app, view) or view.forced or view.is_misplaced(case.spec) or is_given_up(view, case.spec))


def _successor(case: Case, placed: Placed, nodes: Nodes, asked: Callable[[Placed], Resources]) -> frozenset[str]:
    return frozenset(choice.node for choice in place(case.spec, 1, _without(nodes, [placed], asked)).choices)


def _without(nodes: Nodes, gone: Iterable[Placed], asked: Callable[[Placed], Resources]) -> Nodes:
    for placed in gone:
        nodes = without(nodes, placed.node, placed.ports, asked(placed))
    return nodes


def unprepared(case: Case, decision: Decision, missing: Mapping[str, str], found: Ways, refused: str) -> Decision:
    """Return the decision without the stops whose successors are not prepared for, or have no place.

    Args:
        case: the app.
        decision: as it would be.
        missing: the nodes that are not ready for a successor.
        found: who stops, for whom.
        refused: why one of them never will be; empty = none has said so.
    """
    kept = frozenset(serial for serial, nodes in found.items() if not nodes or nodes & missing.keys())
    decision = replace(decision, stop=tuple(serial for serial in decision.stop if serial not in kept))
    is_update = any(view.placed.serial in kept and not is_current(case.app, view.placed) for view in case.views)
    if refused and is_update and decision.outcome is Outcome.GOING_ON:
        return replace(decision, outcome=Outcome.FAILED, reason=refused)
    return decision
