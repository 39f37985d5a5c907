"""System apps: one instance on every node that matches. A pure function from the nodes and what is there to what is to be done.

A node has one instance or none. What another kind of app does elsewhere when a node goes, a system app does not do at all; an instance of a
node that is away is kept in mind, and goes on when the node is back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from gestalt.spec.schema import AppSpec, Resources

from .capacity import NOT_CONNECTED
from .membership import is_emptied
from .reconcile import Decision, Outcome, View, given_up_in, hopeless, is_current, is_given_up, is_steady, rest_needed, share
from .records import App, Placed
from .scheduler.fleet import Nodes, node_of
from .scheduler.place import place
from .scheduler.shortage import Shortage, Why, together
from .scheduler.shortage import counted as nodes_counted
from .scheduler.values import Placing
from .spots import Role, Spot, There, spots
from .state import State

NAMED = 5
"""So many nodes without an instance are named at most."""
LOOK_AGAIN = 1.0
"""Seconds until a node that is being drained is looked at again: system apps leave it last."""


def shortage_of(lacking: Iterable[Spot], told: str) -> Shortage:
    """Return what keeps a system app from nodes that are to have an instance. `told`: the same as a sentence."""
    found = [(spot.name, spot.obstacle) for spot in lacking if spot.obstacle is not None]
    return Shortage(len(found), nodes_counted(found), told if found else "")


def busy_nodes(state: State) -> dict[str, bool]:
    """Return the nodes that are being emptied, and whether other things than system apps are still there."""
    emptied = (node.id for node in state.nodes.values() if is_emptied(node))
    return {node: any(not _is_system(state, path) for path in state.apps_on(node)) for node in emptied}


def _is_system(state: State, path: str) -> bool:
    app = state.apps.get(path)
    return app is not None and state.version(path, app.version).spec.kind == "system"


class Live:
    """The instances of a system app that are to go on: `views`; by node those as they are wanted, and those that are to be replaced."""

    def __init__(self, app: App, spec: AppSpec, views: Iterable[View]) -> None:
        self.views = [view for view in views if not (view.placed.stop or _is_misplaced(view, spec))]
        self.current: dict[str, View] = {}
        self.old: dict[str, View] = {}
        for view in self.views:
            (self.current if is_current(app, view.placed) else self.old).setdefault(view.placed.node, view)

    def __contains__(self, node: str) -> bool:
        return node in self.current or node in self.old


def _is_misplaced(view: View, spec: AppSpec) -> bool:
    return view.observed is not None and bool(view.observed.port_taken) and view.is_misplaced(spec)


def replaced(app: App, views: Iterable[View], asked: Mapping[int, Resources]) -> dict[str, tuple[Placed, Resources]]:
    """Return the instances that are to be replaced where they are, by node. `asked`: what each version asks for."""
    old = (view.placed for view in views if not is_current(app, view.placed))
    return {placed.node: (placed, asked[placed.version]) for placed in old}


def place_each(spec: AppSpec, nodes: Nodes, on: Iterable[str]) -> Placing:
    """Choose host ports for one instance on each of these nodes."""
    chosen = (node for id_ in on if (node := node_of(nodes, id_)) is not None)
    placings = [place(spec, 1, (node,)) for node in chosen]
    choices = tuple(choice for placing in placings for choice in placing.choices)
    return Placing(choices, together(placing.shortage for placing in placings))


def counted(app: App, spec: AppSpec, views: Iterable[View], seen: Iterable[Spot]) -> App:
    """Return the app with as many instances wanted as there are nodes for them. What is stopped or being deleted wants what it did."""
    if not app.wanted and (app.stopped or app.deleting):
        return app
    roles = {spot.node: spot.role for spot in seen}
    there = (view.placed for view in views if not view.placed.stop and not is_given_up(view, spec) and is_current(app, view.placed))
    kept = {placed.node for placed in there if roles.get(placed.node) is Role.KEPT}
    return replace(app, count=len(kept) + sum(role is Role.WANTED for role in roles.values()))


def look(state: State, app: App, views: tuple[View, ...], nodes: Nodes, stalled: float) -> tuple[App, Decision]:
    """Return a system app with as many instances wanted as there are nodes for them, and what is to be done."""
    spec = state.version(app.path, app.version).spec
    asked = {number: state.version(app.path, number).spec.resources for number in {view.placed.version for view in views}}
    old, live = replaced(app, views, asked), Live(app, spec, views)
    seen = spots(spec, nodes, There(old, busy_nodes(state), live.current.keys() - old.keys()))
    app = counted(app, spec, views, seen)
    decision = _decide(_Case(app, spec, views, live, seen), stalled)
    return app, _paused(decision, app.paused, views) if app.paused else decision


def _paused(decision: Decision, paused: str, views: Iterable[View]) -> Decision:
    """Return the decision about an app whose change is paused: nothing is started, no deadline ends it, and only what is forced stops."""
    forced = {view.placed.serial for view in views if view.forced}
    stop = tuple(serial for serial in decision.stop if serial in forced)
    outcome = Outcome.DONE if decision.outcome is Outcome.DONE else Outcome.GOING_ON
    return replace(decision, start=0, on=(), stop=stop, outcome=outcome, reason="", lacking=f"paused {paused}")


def _decide(case: _Case, stalled: float) -> Decision:
    """Decide for one system app. `stalled`: seconds since the change last made progress."""
    stop = tuple(view.placed.serial for view in case.to_stop())
    outcome, reason = case.judge(stalled)
    return Decision(
        len(on := case.to_start()),
        stop,
        case.to_forget(),
        outcome,
        reason,
        case.wake_in(outcome, stalled),
        is_proven=0 < len(case.able) == case.steady,
        on=on,
        lacking=case.lacking(),
    )


class _Case:
    """A system app, counted; all its instances, whatever their version, those of them that go on, and what the nodes are to it."""

    def __init__(self, app: App, spec: AppSpec, views: tuple[View, ...], live: Live, seen: Iterable[Spot]) -> None:
        self._app, self._spec, self._views, self._live = app, spec, views, live
        self._seen = {spot.node: spot for spot in seen}
        self._runs = not (app.stopped or app.deleting)
        self._occupied = {view.placed.node for view in views if not (view.placed.stop and view.is_over)}
        self._wanted = [spot for spot in self._seen.values() if spot.role is Role.WANTED] if self._runs else []
        self.able = [spot for spot in self._wanted if not spot.why or spot.node in live]
        """The wanted nodes, without those that have no instance and no room for one: no change waits for them."""
        self._steady = {node for node, view in live.current.items() if is_steady(view, spec)}
        self.steady = sum(spot.node in self._steady for spot in self.able)
        """So many of these have an instance as it is wanted that a change may count on."""

    def _role(self, view: View) -> Role:
        spot = self._seen.get(view.placed.node)
        return spot.role if spot is not None else Role.LEFT

    def to_start(self) -> tuple[str, ...]:
        return tuple(spot.node for spot in self._wanted if spot.node not in self._occupied and not spot.why)

    def to_forget(self) -> tuple[int, ...]:
        """Return what is gone, and what went with a node that is not to have any. An agent removes what it is not told of."""
        lost = (view for view in self._views if is_given_up(view, self._spec) and (view.placed.stop or self._role(view) is Role.LEFT))
        gone = (view for view in self._views if view.placed.stop and view.is_over)
        return tuple(dict.fromkeys(view.placed.serial for view in (*gone, *lost)))

    def to_stop(self) -> list[View]:
        if not self._runs:
            return self._live.views
        going = [view for view in self._views if not view.placed.stop and _is_misplaced(view, self._spec)]
        going += [view for view in self._live.views if self._role(view) is Role.LEFT]
        return [*going, *self._to_replace()]

    def _to_replace(self) -> list[View]:
        """Return the old instances that make way now: bad ones at once, others as long as enough nodes have one that is ready."""
        old = [view for spot in self._wanted if not spot.why and (view := self._live.old.get(spot.node)) is not None]
        if not old:
            return []
        allowed = max(1, share(self._spec.update.max_unavailable, len(self.able), round_up=False))
        spare = allowed - sum(not self._serves(spot.node) for spot in self.able)
        bad = [view for view in old if view.known_bad]
        good = [view for view in old if not view.known_bad and view.heard]
        return bad + good[: max(0, spare)]

    def _serves(self, node: str) -> bool:
        return node in self._steady or (node not in self._live.current and node in self._live.old and self._live.old[node].ready)

    def judge(self, stalled: float) -> tuple[Outcome, str]:
        if not self._runs:
            there = [view for view in self._views if not view.is_over and not is_given_up(view, self._spec)]
            return (Outcome.GOING_ON if there else Outcome.DONE), ""
        going = [view for view in self._views if view.placed.stop and not view.is_over and not is_given_up(view, self._spec)]
        is_steady_all = self.steady == len(self.able) and not (self._live.old and any(spot.node in self._live.old for spot in self.able))
        if not self._is_unproven() and is_steady_all and not going:
            return Outcome.DONE, ""
        for view in self._unsteady():
            if why := hopeless(view, self._spec):
                return Outcome.FAILED, why
        if stalled >= self._spec.update.progress_deadline and all(view.heard for view in going):
            return Outcome.FAILED, str(self.lacking()) or f"there was no progress for {self._spec.update.progress_deadline:g} s"
        return Outcome.GOING_ON, ""

    def _unsteady(self) -> list[View]:
        """Return the instances as they are wanted on which no change may count yet."""
        found = (self._live.current.get(spot.node) for spot in self.able if spot.node not in self._steady)
        return [view for view in found if view is not None]

    def _is_unproven(self) -> bool:
        """Tell whether nothing is known of the wanted version yet, but may be: a change that reached no node is not done by that."""
        if self.able:
            return False
        may_come = bool(self._wanted) or any(spot.why == NOT_CONNECTED for spot in self._seen.values())
        return may_come or self._app.stable not in (0, self._app.version)

    def lacking(self) -> Why:
        """Return on which nodes it is not as it should be, and why; empty when there are none."""
        if not self._runs:
            return ""
        without = [spot for spot in self._wanted if spot.why and spot.node not in self._occupied]
        lacks = [f"not on node {spot.name}: it {spot.why}" for spot in without]
        old = self._live.old
        lacks += [self._stays_old(spot, old[spot.node]) for spot in self._wanted if spot.why and spot.node in old]
        kept = [spot for node in old if (spot := self._seen.get(node)) is not None and spot.role is Role.KEPT and not spot.is_drained]
        lacks += [self._stays_old(spot, old[spot.node]) for spot in kept]
        more = [f"{len(lacks) - NAMED} more nodes"] if len(lacks) > NAMED else []
        told = "; ".join([*lacks[:NAMED], *more])
        return shortage_of(without, told) or told or ("" if self._seen_any else "no node that matches takes one now")

    @property
    def _seen_any(self) -> bool:
        return bool(self._wanted) or any(not view.placed.stop for view in self._views)

    @staticmethod
    def _stays_old(spot: Spot, view: View) -> str:
        return f"node {spot.name} keeps version {view.placed.version}: it {spot.why}"

    def wake_in(self, outcome: Outcome, stalled: float) -> float:
        times = [LOOK_AGAIN] if any(spot.is_drained and spot.node in self._live for spot in self._seen.values()) else []
        update, current = self._spec.update, self._unsteady()
        if outcome is not Outcome.DONE:
            times += [rest_needed(self._spec) - view.ready_for for view in current if view.ready]
        if outcome is Outcome.GOING_ON and self._app.task:
            times += [update.health_deadline - view.waiting for view in current if not view.ready]
            times.append(update.progress_deadline - stalled)
        return min((given_up_in(self._views, self._spec), *(time for time in times if time > 0)))


@dataclass(frozen=True, slots=True)
class SystemPlan:
    """What a description of a system app would change, by node. `is_same`: nothing of the template."""

    keep: tuple[Placed, ...]
    start: tuple[Spot, ...]
    stop: tuple[Placed, ...]
    lacking: tuple[Spot, ...]
    is_same: bool

    @staticmethod
    def why(spot: Spot) -> str:
        """Say why a node gets no instance."""
        return f"not on node {spot.name}: it {spot.why}"

    @property
    def shortage(self) -> Shortage:
        return shortage_of(self.lacking, "; ".join(self.warnings()))

    def warnings(self) -> list[str]:
        """Return what the operator should know before."""
        if not (self.keep or self.start or self.lacking):
            return ["no node that matches takes one now: it starts on each that will"]
        more = [f"{len(self.lacking) - NAMED} more nodes cannot take it now"] if len(self.lacking) > NAMED else []
        return [self.why(spot) for spot in self.lacking[:NAMED]] + more


def plan_nodes(seen: Iterable[Spot], staying: Iterable[Placed], *, is_same: bool) -> SystemPlan:
    """Say what becomes of a system app on each node, whose instances are `staying` now."""
    there, by_node = {placed.node: placed for placed in staying}, {spot.node: spot for spot in seen}
    wanted = [spot for spot in by_node.values() if spot.role is Role.WANTED]
    kept = {node for node, spot in by_node.items() if spot.role is Role.KEPT or (spot.role is Role.WANTED and (is_same or spot.why))}
    start = [spot for spot in wanted if not spot.why and not (is_same and spot.node in there)]
    return SystemPlan(
        tuple(placed for node, placed in there.items() if node in kept),
        tuple(start),
        tuple(placed for node, placed in there.items() if node not in kept),
        tuple(spot for spot in wanted if spot.why and not (is_same and spot.node in there)),
        is_same,
    )
