"""What is reserved on each node: from the state and what agents report to the values that `place` works on."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from operator import attrgetter
from typing import TYPE_CHECKING

from gestalt.proto.v1 import model_pb2
from gestalt.spec.schema import AppSpec

from .beside import avoided, nodes_beside
from .membership import Life, is_emptied
from .nodes import Tracker
from .notices import taken
from .reconcile import is_current
from .records import App, Node, Placed, fixed_ports
from .reservations import Reservations
from .scheduler.attributes import attributes
from .scheduler.fleet import LARGE, Fleet, Ground
from .scheduler.values import DEVICE, DISK, PIDS, Capacity
from .state import State

if TYPE_CHECKING:  # a small fleet does without
    from .scheduler.columns import Columns
    from .scheduler.presence import Numbers, Presences

log = logging.getLogger(__name__)

NOT_CONNECTED = "is not connected"
"""Why a node that is ready as far as its membership goes takes nothing at this moment."""

_NODE = attrgetter("node")
_AT_ONCE = 200
BY_ROW = 64
"""From so many instances on it is kept by row how many of an app each node of a large fleet has: four bytes a node, whatever there is."""

MOST = 2**53
"""Of nothing has a node more than that, whatever its agent says: so much fits into a column of numbers, exactly."""
_MOMENT = 1.0
"""Seconds for which it is known why a node is not ready."""


class Survey:
    """Keeps a fleet in step with what is decided and with what agents report: what changed is looked at, not what is there.

    Args:
        state: what is decided.
        tracker: what is known of the nodes.
        now: the monotonic clock.
        special: tells which instances of an app are not simply there and at work: the others need not be looked at, None = it is not known.
    """

    def __init__(
        self,
        state: State,
        tracker: Tracker,
        now: Callable[[], float],
        special: Callable[[App], Sequence[Placed] | None] = lambda app: None,
    ) -> None:
        self._special = special
        self._now = now
        self._state = state
        self._tracker = tracker
        self._readers = state.touched.reader(), tracker.touched.reader()
        self._readers[0].update(state.nodes)
        self._fleet = Fleet(Reservations())
        self._presences: Presences | None = None
        self._told: dict[str, str] = {}
        self._told_at = -math.inf

    def ground(self, path: str = "", goal: App | None = None, *, spec: AppSpec | None = None) -> Ground:
        """Return all known nodes with what is reserved on them, for placing instances of one app. Good until anything changes.

        Those of its instances that are to be replaced, are on the way out, or of another version, do not stand in the way of new ones.

        Args:
            path: of the app; empty = of none.
            goal: another one than its own.
            spec: its description, if it is to be another than that of the goal's version.
        """
        state = self._state
        self._refresh()
        goal = goal or state.apps.get(path)
        spec = spec or (state.version(path, goal.version).spec if goal is not None else None)
        (away, only_room), beside = avoided(state, path, spec), nodes_beside(state, path, spec)
        ground = Ground(self._fleet, avoided=away, only_room=only_room, strategies=state.switches.strategies, beside=beside)
        if goal is None:
            return ground
        instances = state.placed(path).instances
        same_app = self._here(path, goal, spec)
        moved = {placed.node for placed in instances if placed.serial in goal.moving} if goal.moving else set[str]()
        left = frozenset(moved | {goal.source}) - {""}
        ground = replace(ground, same_app=same_app, target=goal.target, left=left)
        kept = state.version(path, goal.version).spec
        for node in goal.kept_room:  # room that is kept for it is room; a port that somebody still has is not
            ports = [port for port in fixed_ports(kept) if state.reservations.on(node).ports.get(port, 0) < 2]
            ground = ground.without(node, ports, kept.resources)
        return ground

    def _here(self, path: str, goal: App, spec: AppSpec | None) -> Mapping[str, int]:
        """Return how many instances of an app that stay there are on each node."""
        state, instances = self._state, self._state.placed(path).instances
        special = self._special(goal) if goal is state.apps.get(path) else None
        looked_at = instances if special is None else special
        stay = [placed for placed in looked_at if is_current(goal, placed) and _stays(state, goal, placed)]
        given_up = self._given_up({placed.node for placed in stay}, spec)
        stay = [placed for placed in stay if placed.node not in given_up]
        if special is None:
            return Counter(map(_NODE, stay))
        if self._fleet.is_large and len(instances) >= BY_ROW:
            return self._by_row(path, stay, special)
        here = Counter(map(_NODE, instances))
        here.subtract(map(_NODE, special))
        here.update(map(_NODE, stay))
        return +here

    def _by_row(self, path: str, stay: Sequence[Placed], special: Sequence[Placed]) -> Mapping[str, int]:
        from .scheduler.presence import Presence, add  # late: NumPy is large

        columns = self._fleet.columns()
        numbers = self._all_by_row(path, columns)
        if special:
            numbers = numbers.copy()
            add(numbers, columns, special, -1)
            add(numbers, columns, stay)
        return Presence(columns, numbers)

    def _all_by_row(self, path: str, columns: Columns) -> Numbers:
        if self._presences is None:
            from .scheduler.presence import Presences  # late: NumPy is large

            self._presences = Presences()
        return self._presences.of(path, self._state.placed(path).instances, columns)

    def follow(self, paths: Iterable[str]) -> None:
        """Take notice now of what was committed of some apps: when the next instance is to be placed, it may have to be at once."""
        try:
            for path in paths if self._fleet.is_large else ():
                app, is_large = self._state.apps.get(path), len(self._state.placed(path).instances) >= BY_ROW
                if app is not None and is_large and self._state.version(path, app.version).spec.kind == "service":
                    self._all_by_row(path, self._fleet.columns())
        except Exception:  # whoever decides finds out, and says of which app
            log.exception("what was committed is not counted by node yet")

    def forget(self, path: str) -> None:
        """An app is there no more. Idempotent."""
        if self._presences is not None:
            self._presences.forget(path)

    def _given_up(self, nodes: Iterable[str], spec: AppSpec | None) -> set[str]:
        """Return those of these nodes whose instances do not count any more: nothing of them is in anybody's way."""
        after = spec.placement.failover_after if spec is not None else math.inf
        return {node for node in nodes if (away := self._tracker.standing(node).away) is not None and away >= after}

    async def warm_up(self) -> None:
        """Look at all nodes, a few at a time, so that the first decision of a leader need not look at all of them at once."""
        self._changed()
        waiting = list(self._state.nodes)
        if len(waiting) >= LARGE:
            await asyncio.to_thread(import_module, "gestalt.coordinator.scheduler.reasons")
        for begin in range(0, len(waiting), _AT_ONCE):
            self._look_at(waiting[begin : begin + _AT_ONCE])
            await asyncio.sleep(0)
        for path in tuple(self._state.apps):
            self.follow((path,))
            await asyncio.sleep(0)

    def _changed(self) -> set[str]:
        """Return the nodes of which anything changed since the last call."""
        state, changed = self._state, set[str]().union(*map(taken, self._readers))
        if self._fleet.reservations is not state.reservations:  # everything was read anew
            self._fleet = Fleet(state.reservations)
            self._fleet.why_not = self._why_not
        return changed

    def _refresh(self) -> None:
        changed = self._changed()
        if len(self._fleet) != len(self._state.nodes):
            changed |= self._fleet.ids_there ^ self._state.nodes.keys()
        self._look_at(changed)

    def _look_at(self, nodes: Iterable[str]) -> None:
        for id_ in nodes:
            if (node := self._state.nodes.get(id_)) is None:
                self._fleet.remove(id_)
                self._told.pop(id_, None)
            else:
                self._told.pop(id_, None)
                self._fleet.put(_offer(node, self._tracker))

    def _why_not(self, offer: Capacity) -> str:
        """Return why a node is not ready. Some reasons grow with time: they are told as they were a moment ago, at most."""
        now = self._now()
        if now - self._told_at > _MOMENT:
            self._told, self._told_at = {}, now
        if offer.id not in self._told:
            self._told[offer.id] = _why_not(offer.id, offer.name, self._tracker)
        return self._told[offer.id]


def _stays(state: State, goal: App, placed: Placed) -> bool:
    return not (placed.stop or placed.ended or placed.serial in goal.moving or is_emptied(state.nodes.get(placed.node)))


def _offer(node: Node, tracker: Tracker) -> Capacity:
    """Return a node as it would be if nothing were reserved on it."""
    facts, why_not = tracker.node(node.id, node.name).facts, _why_not(node.id, node.name, tracker)
    return Capacity(
        node.id,
        node.name,
        ready=not why_not,
        why_not=why_not,
        runtimes=frozenset(facts.runtimes),
        cpu=_bounded((facts.cpu - facts.reserved.cpu) * (facts.cpu_overcommit or 1.0)),
        memory=max(int(_bounded((facts.memory - facts.reserved.memory) * (facts.memory_overcommit or 1.0))), 1) if facts.memory else 0,
        port_first=facts.port_first or 3000,
        port_last=facts.port_last or 4000,
        incarnation=tracker.incarnation(node.id),
        attributes=attributes(node.id, node.name, node.roles, node.labels, _facts(facts)),
        supply=_supply(facts),
    )


def _why_not(node: str, name: str, tracker: Tracker) -> str:
    """Return why a node is not ready; empty when it is. Nothing but what the state and the tracker note can make one ready, or not."""
    stands = tracker.standing(node)
    if stands.life is not Life.READY:
        return stands.reason
    return "" if tracker.node(node, name).heard else NOT_CONNECTED


def _supply(facts: model_pb2.Facts) -> dict[str, int]:
    """Return what else a node has for apps, as `demands` names it."""
    found = {DISK: (facts.disk, facts.reserved.disk), PIDS: (facts.pids, facts.reserved.pids)}
    known = {name: int(_bounded(there - kept)) for name, (there, kept) in found.items() if there}
    return known | {DEVICE + name: int(_bounded(number)) for name, number in facts.devices.items()}


def _bounded(number: float) -> float:
    """Return how much there may be of what an agent says; nothing, if that is no number."""
    return min(max(number, 0.0), float(MOST)) if not math.isnan(number) else 0.0


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
