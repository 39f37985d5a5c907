"""What a description would change: field by field, instance by instance, without changing anything."""

from __future__ import annotations

from dataclasses import dataclass

from gestalt.proto.v1 import api_pb2, model_pb2
from gestalt.spec.load import unhonoured
from gestalt.spec.load import warnings as spec_warnings
from gestalt.spec.schema import AppSpec
from gestalt.spec.template import template_hash
from gestalt.wire import to_wire

from .changes import counted
from .claims import conflicts
from .decider import Decider
from .dependencies import Set, mistakes
from .diff import compare
from .ledger import Ledger
from .present import described
from .reconcile import stops_first
from .records import App, Placed, instance_id
from .scheduler.place import place
from .scheduler.values import Placing
from .state import Draft
from .system import SystemPlan, busy_nodes, plan_nodes, spots


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
            return [*found, *self._fits(spec)]
        placing = self._placing(spec, max(0, spec.instances - (len(self._staying(app)) if app else 0)))
        if placing.missing:
            found.append(f"{placing.missing} of {spec.instances} instances cannot be placed now: {placing.reason}")
        return found

    def plan(self, spec: AppSpec, together: Set) -> api_pb2.AppPlan:
        """Return the plan of one app. `together`: what the apps of the same request depend on."""
        app = self.ledger.state.apps.get(spec.path)
        before, described = self._described(app) if app else None, spec
        spec = counted(spec, app)
        changes = compare(before, spec)
        result = api_pb2.AppPlan(
            app=spec.path,
            action=self._action(app, spec, before),
            changes=[to_wire(change, model_pb2.FieldChange) for change in changes],
            instances=self._instances(app, spec),
            warnings=self.warnings(spec),
        )
        if spec.instances != described.instances:
            result.notes.append(f"autoscaling owns the number of instances: {spec.instances}, not {described.instances}")
        if result.action == "update" and (note := _order_of(spec)):
            result.notes.append(note)
        if result.action in ("launch", "update"):
            wrong = mistakes(Draft(self.ledger.state), spec, together)
            result.warnings.extend(f"{detail.field}: {detail.problem}; the change will be refused" for detail in wrong)
            if spec.depends_on and not wrong:
                result.notes.append(f"nothing of it is started before {' and '.join(spec.depends_on)} {_is_or_are(spec)} healthy")
        return result

    def _described(self, app: App) -> AppSpec:
        return described(self.ledger.state.version(app.path, app.goal).spec, app)

    def _staying(self, app: App) -> list[Placed]:
        return [item for item in self.ledger.state.placed(app.path).instances if not item.stop]

    def _action(self, app: App | None, spec: AppSpec, before: AppSpec | None) -> str:
        if app is None or before is None:
            return "launch"
        if template_hash(before) != template_hash(spec):
            return "update"
        return "scale" if (before.instances, before.autoscale) != (spec.instances, spec.autoscale) else "none"

    def _placing(self, spec: AppSpec, count: int) -> Placing:
        return place(spec, count, self.decider.ground(spec.path))

    def _replacing(self, spec: AppSpec, old: list[Placed]) -> Placing:
        """Place all instances of a new version: the old ones are in nobody's way, and what stops first leaves its room."""
        ground = self.decider.ground(spec.path).without_own()
        for item in old if stops_first(spec) else ():
            asked = self.ledger.state.version(spec.path, item.version).spec.resources
            ground = ground.without(item.node, item.ports, asked)
        return place(spec, spec.instances, ground)

    def _nodes(self, app: App | None, spec: AppSpec) -> SystemPlan:
        staying = self._staying(app) if app is not None else []
        is_same = app is not None and self._action(app, spec, self._described(app)) == "none"
        asked = {item.node: (item, self.ledger.state.version(spec.path, item.version).spec.resources) for item in staying}
        state = self.ledger.state
        return plan_nodes(spots(spec, tuple(self.decider.ground(spec.path)), asked, busy_nodes(state)), staying, is_same=is_same)

    def _fits(self, spec: AppSpec) -> list[str]:
        """Return what keeps an instance of a job from being placed now."""
        placing = self._placing(spec.model_copy(update={"instances": 1}), 1)
        return [f"no instance could be placed now: {placing.reason}"] if placing.missing else []

    def _everywhere(self, app: App | None, spec: AppSpec) -> list[api_pb2.PlannedInstance]:
        """Return what becomes of a system app on each node."""
        plan = self._nodes(app, spec)
        number = (app.last_version if app else 0) + (0 if plan.is_same else 1)
        planned = [self._planned(app, item, "keep") for item in plan.keep if app is not None]
        planned += [api_pb2.PlannedInstance(action="start", node=spot.name, version=number) for spot in plan.start]
        planned += [api_pb2.PlannedInstance(action="cannot place", reason=plan.why(spot), version=number) for spot in plan.lacking]
        return planned + [self._planned(app, item, "stop") for item in plan.stop if app is not None]

    def _instances(self, app: App | None, spec: AppSpec) -> list[api_pb2.PlannedInstance]:
        if spec.kind != "service":
            return self._everywhere(app, spec) if spec.kind == "system" else []
        staying = self._staying(app) if app is not None else []
        replaced = app is not None and self._action(app, spec, self._described(app)) == "update"
        kept = [] if replaced else staying[: spec.instances]
        placing = self._replacing(spec, staying) if replaced else self._placing(spec, spec.instances - len(kept))
        number = (app.last_version if app else 0) + (1 if replaced or app is None else 0)
        planned = [self._planned(app, item, "keep") for item in kept if app is not None]
        planned += [
            api_pb2.PlannedInstance(action="start", node=self._node_name(choice.node), version=number) for choice in placing.choices
        ]
        planned += [api_pb2.PlannedInstance(action="cannot place", reason=placing.reason, version=number)] * placing.missing
        planned += [self._planned(app, item, "stop") for item in staying if item not in kept and app is not None]
        return planned

    def _planned(self, app: App, item: Placed, action: str) -> api_pb2.PlannedInstance:
        return api_pb2.PlannedInstance(
            action=action, instance=instance_id(app, item.serial), node=self._node_name(item.node), version=item.version
        )

    def _node_name(self, node: str) -> str:
        found = self.ledger.state.nodes.get(node)
        return found.name if found else node


def _is_or_are(spec: AppSpec) -> str:
    return "are" if len(spec.depends_on) > 1 else "is"


def _order_of(spec: AppSpec) -> str:
    """Return what an operator may not expect of the order in which instances are replaced; empty when nothing."""
    if spec.kind == "job":
        return "runs that are under way go on as they began; the next ones are of the new version"
    if spec.kind == "system":
        return f"node by node: on at most {spec.update.max_unavailable} at once the old instance stops, and then the new one starts"
    if spec.update.strategy == "recreate":
        return "all old instances stop before a new one starts: meanwhile nobody answers"
    if stops_first(spec):
        return "each old instance stops before its replacement starts, because of a fixed host port or exclusiveness"
    if spec.update.strategy == "blue_green":
        return f"{spec.instances} new instances are started beside the old ones; requests change over when all of them are healthy"
    return ""
