"""What a description would change: field by field, instance by instance, without changing anything."""

from __future__ import annotations

from collections.abc import Iterator, MutableSequence
from dataclasses import dataclass, replace

from gestalt import clock
from gestalt.proto.v1 import api_pb2, model_pb2
from gestalt.spec.load import unhonoured
from gestalt.spec.load import warnings as spec_warnings
from gestalt.spec.schema import AppSpec
from gestalt.spec.template import template_hash
from gestalt.units import show_duration
from gestalt.wire import to_wire

from .canary import number
from .changes import canary_beside, counted
from .claims import conflicts
from .decider import Decider
from .dependencies import Set, mistakes
from .diff import compare
from .eviction import foreseen, makes_room
from .jobs import job_of
from .ledger import Ledger
from .periodic import next_times, told
from .present import described
from .reconcile import stops_first
from .records import App, Placed, Version, instance_id
from .scheduler.place import lacking, place
from .scheduler.shortage import Shortage
from .scheduler.strategies import told as told_strategy
from .scheduler.values import Placing
from .shortages import shortage_message
from .spots import There, spots
from .state import Draft
from .system import SystemPlan, busy_nodes, plan_nodes

_Shortages = MutableSequence[model_pb2.Shortage]


@dataclass(frozen=True, slots=True)
class Planner:
    """Answers what would happen if a description were applied now."""

    ledger: Ledger
    decider: Decider

    def warnings(self, spec: AppSpec) -> list[str]:
        """Return what the operator should know before: what is not honoured, and what cannot be placed right now."""
        found = [*unhonoured(spec), *spec_warnings(spec)]
        taken = conflicts(Draft(self.ledger.state), spec.path, spec)
        found += [f"{detail.field}: {detail.problem}; the change will be refused" for detail in taken]
        app = self.ledger.state.apps.get(spec.path)
        spec = counted(spec, app)
        if spec.kind == "system":
            return [*found, *self._nodes(app, spec).warnings()]
        if spec.kind == "job":
            shortage = self._lonely(spec)
            return [*found, f"no instance could be placed now: {shortage}"] if shortage else found
        if shortage := self._lacking(app, spec):
            found.append(f"{shortage.missing} of {spec.instances} instances cannot be placed now: {shortage}")
        return found

    def _lacking(self, app: App | None, spec: AppSpec) -> Shortage:
        """Return which instances there would be too few, and why."""
        return lacking(spec, _missing(spec, app, self._staying(app) if app else []), self.decider.ground(spec.path, spec))

    async def preempted(self, spec: AppSpec, named: set[str]) -> list[str]:
        """Return who would be stopped to make room, besides what `warnings` returns. In a large cluster that takes a while.

        `named`: the instances that would be for apps of the same request; those of this app are added.
        """
        spec = counted(spec, app := self.ledger.state.apps.get(spec.path))
        is_at_rest = app is not None and bool(app.stopped or app.paused)
        if is_at_rest or not makes_room(spec) or not self._lacking(app, spec).missing:
            return []
        number = _missing(spec, app, self._staying(app) if app else [])
        rooms = await self.decider.preemption.rooms(spec, number, self.decider.ground(spec.path, spec), named)
        named |= {victim.id for room in rooms for victim in room.victims}
        return [sentence] if (sentence := foreseen(self.ledger.state, rooms)) else []

    def plan(self, spec: AppSpec, together: Set) -> api_pb2.AppPlan:
        """Return the plan of one app. `together`: what the apps of the same request depend on."""
        app = self.ledger.state.apps.get(spec.path)
        asked, spec = spec, counted(spec, app)
        before = described(self._described(app, spec).spec, app) if app else None
        changes, strategies = compare(before, spec), self.ledger.state.switches.strategies
        strategy, source = strategies.of(spec.placement)
        result = api_pb2.AppPlan(
            app=spec.path,
            action=self._action(app, spec),
            changes=[to_wire(change, model_pb2.FieldChange) for change in changes],
            warnings=self.warnings(spec),
            strategy=strategy,
            strategy_from=source,
        )
        result.instances.extend(self._instances(app, spec, result.shortages))
        if spec.instances != asked.instances:
            result.notes.append(f"autoscaling owns the number of instances: {spec.instances}, not {asked.instances}")
        if spec.kind != "system" and (said := told_strategy(spec.placement, strategies)):
            result.notes.append(said)
        result.notes.extend(self._notes(app, spec, result.action))
        if result.action in ("launch", "update"):
            wrong = mistakes(Draft(self.ledger.state), spec, together)
            result.warnings.extend(f"{detail.field}: {detail.problem}; the change will be refused" for detail in wrong)
            if spec.depends_on and not wrong:
                result.notes.append(f"nothing of it is started before {' and '.join(spec.depends_on)} {_is_or_are(spec)} healthy")
        return result

    def _notes(self, app: App | None, spec: AppSpec, action: str) -> Iterator[str]:
        """Yield when a job runs next, and what an operator may not expect of the order in which it is done."""
        if (schedule := job_of(spec).schedule) is not None:
            yield told(schedule, next_times(schedule, clock.wall()))
        if app is None or action != "update":
            return
        if self._is_tried(app, spec):
            yield _canary_of(app, spec)
        elif template_hash(spec) != self._wanted(app).hash:
            yield from _order_of(spec)
        if app.canary:
            yield f"the canary of version {app.canary} is dropped"

    def _is_tried(self, app: App, spec: AppSpec) -> bool:
        """Tell whether a description would be tried by a canary."""
        return bool(canary_beside(app, spec)) and self._described(app, spec).hash != template_hash(spec)

    def _wanted(self, app: App) -> Version:
        return self.ledger.state.version(app.path, app.goal)

    def _described(self, app: App, spec: AppSpec) -> Version:
        """Return the version that an app is at: the wanted one, or the one that is tried if that is described."""
        tried = self.ledger.state.version(app.path, app.canary) if app.canary else None
        return tried if tried is not None and tried.hash == template_hash(spec) else self._wanted(app)

    def _staying(self, app: App) -> list[Placed]:
        return [item for item in self.ledger.state.placed(app.path).instances if not item.stop]

    def _action(self, app: App | None, spec: AppSpec) -> str:
        if app is None:
            return "launch"
        at = self._described(app, spec)
        if at.hash != template_hash(spec) or app.canary not in (0, at.number):
            return "update"
        before = described(at.spec, app)
        return "scale" if (before.instances, before.autoscale) != (spec.instances, spec.autoscale) else "none"

    def _placing(self, spec: AppSpec, count: int) -> Placing:
        return place(spec, count, self.decider.ground(spec.path, spec))

    def _replacing(self, spec: AppSpec, old: list[Placed]) -> Placing:
        """Place all instances of a new version: the old ones are in nobody's way, and what stops first leaves its room."""
        ground = self.decider.ground(spec.path, spec).without_own()
        for item in old if stops_first(spec) else ():
            asked = self.ledger.state.version(spec.path, item.version).spec.resources
            ground = ground.without(item.node, item.ports, asked)
        return place(spec, spec.instances, ground)

    def _nodes(self, app: App | None, spec: AppSpec) -> SystemPlan:
        staying = self._staying(app) if app is not None else []
        is_same = app is not None and self._action(app, spec) == "none"
        asked = {item.node: (item, self.ledger.state.version(spec.path, item.version).spec.resources) for item in staying}
        there = There(asked, busy_nodes(self.ledger.state))
        return plan_nodes(spots(spec, self.decider.ground(spec.path, spec), there), staying, is_same=is_same)

    def _lonely(self, spec: AppSpec) -> Shortage:
        """Return what keeps an instance of a job from being placed now."""
        return self._placing(spec.model_copy(update={"instances": 1}), 1).shortage

    def _everywhere(self, app: App | None, spec: AppSpec, lacks: _Shortages) -> list[api_pb2.PlannedInstance]:
        """Return what becomes of a system app on each node."""
        plan = self._nodes(app, spec)
        number = (app.last_version if app else 0) + (0 if plan.is_same else 1)
        planned = [self._planned(app, item, "keep") for item in plan.keep if app is not None]
        planned += [api_pb2.PlannedInstance(action="start", node=spot.name, version=number) for spot in plan.start]
        planned += [api_pb2.PlannedInstance(action="cannot place", reason=plan.why(spot), version=number) for spot in plan.lacking]
        _note(lacks, plan.shortage, number)
        return planned + [self._planned(app, item, "stop") for item in plan.stop if app is not None]

    def _instances(self, app: App | None, spec: AppSpec, lacks: _Shortages) -> list[api_pb2.PlannedInstance]:
        """Return what becomes of the instances; put what has no place among those that lack."""
        if spec.kind == "system":
            return self._everywhere(app, spec, lacks)
        if spec.kind == "job":
            _note(lacks, self._lonely(spec), 0)
            return []
        if app is None:
            return self._starts(self._placing(spec, spec.instances), 1, lacks)
        staying = self._staying(app)
        if self._is_tried(app, spec):
            return self._tried(app, spec, staying, lacks)
        replaced = self._described(app, spec).hash != template_hash(spec)
        kept = [] if replaced else [item for item in staying if not app.tries(item)][: spec.instances]
        if not replaced and self._action(app, spec) != "update":
            kept += [item for item in staying if app.tries(item)]
        missing = spec.instances - sum(not app.tries(item) for item in kept)
        placing = self._replacing(spec, staying) if replaced else self._placing(spec, missing)
        planned = [self._planned(app, item, "keep") for item in kept]
        planned += self._starts(placing, app.last_version + 1 if replaced else app.goal, lacks)
        return planned + [self._planned(app, item, "stop") for item in staying if item not in kept]

    def _tried(self, app: App, spec: AppSpec, staying: list[Placed], lacks: _Shortages) -> list[api_pb2.PlannedInstance]:
        """Return what becomes of the instances when a canary is started beside them."""
        base = self.ledger.state.version(app.path, canary_beside(app, spec))
        kept = [item for item in staying if item.version == base.number][: spec.instances]
        planned = [self._planned(app, item, "keep") for item in kept]
        planned += self._starts(self._placing(base.spec, spec.instances - len(kept)), base.number, lacks)
        ground = self.decider.ground(spec.path, spec).without_own()
        planned += self._starts(place(spec, number(replace(app, count=spec.instances), spec), ground), app.last_version + 1, lacks)
        return planned + [self._planned(app, item, "stop") for item in staying if item not in kept]

    def _starts(self, placing: Placing, version: int, lacks: _Shortages) -> list[api_pb2.PlannedInstance]:
        found = [api_pb2.PlannedInstance(action="start", node=self._node_name(choice.node), version=version) for choice in placing.choices]
        _note(lacks, placing.shortage, version)
        return found + [api_pb2.PlannedInstance(action="cannot place", reason=placing.reason, version=version)] * placing.missing

    def _planned(self, app: App, item: Placed, action: str) -> api_pb2.PlannedInstance:
        return api_pb2.PlannedInstance(
            action=action, instance=instance_id(app, item.serial), node=self._node_name(item.node), version=item.version
        )

    def _node_name(self, node: str) -> str:
        found = self.ledger.state.nodes.get(node)
        return found.name if found else node


def _missing(spec: AppSpec, app: App | None, staying: list[Placed]) -> int:
    """Return how many instances there are too few."""
    return max(0, spec.instances - sum(app is None or not app.tries(item) for item in staying))


def _note(lacks: _Shortages, shortage: Shortage, version: int) -> None:
    if (found := shortage_message(shortage, version)) is not None:
        lacks.append(found)


def _is_or_are(spec: AppSpec) -> str:
    return "are" if len(spec.depends_on) > 1 else "is"


def _order_of(spec: AppSpec) -> Iterator[str]:
    """Yield what is special about the order in which instances are replaced."""
    if spec.kind == "job":
        yield "runs that are under way go on as they began; the next ones are of the new version"
        return
    if spec.kind == "system":
        yield f"node by node: on at most {spec.update.max_unavailable} at once the old instance stops, and then the new one starts"
        return
    if spec.update.strategy == "recreate":
        yield "all old instances stop before a new one starts: meanwhile nobody answers"
    elif spec.update.strategy == "canary":
        yield "there is nothing healthy to protect: the new version is wanted at once, without a canary"
    elif stops_first(spec):
        yield "each old instance stops before its replacement starts, because of a fixed host port or exclusiveness"
    elif spec.update.strategy == "blue_green":
        yield f"{spec.instances} new instances are started beside the old ones; requests change over when all of them are healthy"


def _canary_of(app: App, spec: AppSpec) -> str:
    """Return what becomes of a canary."""
    count, base = number(replace(app, count=spec.instances), spec), canary_beside(app, spec)
    begun = "1 canary is started" if count == 1 else f"{count} canaries are started"
    after = f"after {show_duration(spec.update.promote_after)} in health, or by" if spec.update.promote == "auto" else "by"
    return (
        f"{begun} beside version {base}, and take{'s' if count == 1 else ''} a share of the requests; version {base} is replaced"
        f" only when it is promoted, {after} `gestaltctl promote {app.path}`"
    )
