"""Carries a decision of `reconcile` into records: placements, the task, a rollback. No I/O, no clock."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from gestalt.model import Phase
from gestalt.spec.schema import AppSpec

from .dependencies import Wait
from .eviction import settled
from .grants import grant_name, next_grant
from .pieces import Roster
from .reconcile import Decision, Outcome, View, is_given_up, stays, stops_first, unheard
from .records import App, Grant, Placed, Placements, Step, Task, TaskState, Verb, instance_id
from .scheduler.fleet import Nodes, node_of
from .scheduler.place import place
from .scheduler.shortage import ENOUGH, Shortage, Why
from .scheduler.values import Placing
from .state import Draft, run_key, runs_in, version_key
from .system import place_each

LEADER = "leader"
"""Who asks for what nobody asked for, in tasks and audit records."""


@dataclass(frozen=True, slots=True)
class Case:
    """One app at one moment: its goal, the template of the wanted version, all its instances as they are known.

    `names`: of nodes. `task`: the id for a task that begins now. `strange`: why a copy that no view is of may be at work, else empty;
    `last_generation`: of the grant of such a copy, under the name of this app's. `strategy`: as in the terms of `reconcile`.
    `canaries`: its instances that are tried beside the others, and not among `views`. `settled`: how many more it has, as in the terms.
    """

    app: App
    spec: AppSpec
    views: tuple[View, ...]
    at: str
    names: Mapping[str, str] = field(default_factory=dict)
    task: str = ""
    strange: str = ""
    last_generation: int = 0
    strategy: str = ""
    canaries: tuple[View, ...] = ()
    settled: int = 0

    @property
    def given_up(self) -> tuple[View, ...]:
        """Its instances that do not count any more because of their nodes."""
        return tuple(view for view in self.views if is_given_up(view, self.spec))

    @property
    def is_taken(self) -> bool:
        """It may exist only once, and it is not certain that no copy is at work."""
        return self.spec.placement.exclusive and (bool(self.strange) or not all(view.is_over for view in self.views))

    def nodes_of(self, views: Iterable[View]) -> str:
        """Return the names of the nodes of these instances, for people."""
        names = sorted({self.names.get(view.placed.node, view.placed.node) for view in views})
        return f"node{'s' if len(names) > 1 else ''} {', '.join(names)}"


def advance(draft: Draft, case: Case, decision: Decision, nodes: Nodes) -> Why:
    """Put what was decided into the draft; return why wanted instances could not be placed, if any could not."""
    kept, added, unplaced = put_instances(draft, case, decision, nodes)
    put_grant(draft, case, kept, added, nodes)
    held = _held(case, decision, kept, added, nodes)
    app = replace(case.app, next_serial=case.app.next_serial + len(added), held=held)
    if app.claims:
        app = settled(app, case.spec, lacking(case, (*kept, *added)), [item.node for item in added])
    if decision.replacing and added:
        app = _fail_over(draft, app, case, decision)
    app = _conclude(draft, app, case, decision, str(unplaced))
    if app.deleting and not kept:
        erase(draft, app)
    else:
        draft.put_app(app)
    return unplaced or decision.lacking


def put_instances(draft: Draft, case: Case, decision: Decision, nodes: Nodes) -> tuple[Roster, tuple[Placed, ...], Shortage]:
    """Put the placements that were decided. Return those that there were, those that are new, and which have no place."""
    placements = draft.placed(case.app.path)
    kept = placements.instances
    if decision.stop or decision.forget:
        stopped = (replace(item, stop=True) for item in map(kept.get, decision.stop) if item is not None)
        kept = kept.edited(decision.forget, stopped)
    placing = _place(case, decision, nodes) if decision.start and not case.is_taken else None
    added = tuple(
        Placed(case.app.next_serial + index, case.app.version, choice.node, choice.ports)
        for index, choice in enumerate(placing.choices if placing else ())
    )
    if added or kept != placements.instances:
        draft.put_placements(Placements(case.app.path, kept + added))
    _announce(draft, case, decision, len(added))
    return kept, added, placing.shortage if placing else ENOUGH


def _place(case: Case, decision: Decision, nodes: Nodes) -> Placing:
    if case.spec.kind == "system":
        return place_each(case.spec, nodes, decision.on)
    return place(case.spec.model_copy(update={"instances": case.app.wanted}), decision.start, nodes)


def _held(case: Case, decision: Decision, kept: Iterable[Placed], added: tuple[Placed, ...], nodes: Nodes) -> tuple[str, ...]:
    """Return the nodes on which room is kept for what stops before it can move, until its replacement is placed.

    Args:
        case: the app.
        decision: about it.
        kept: its instances that stay in the records.
        added: those that are new with this decision.
        nodes: all of them, as they are without these, if anything starts, or stops first.
    """
    if not stops_first(case.spec) or case.spec.kind == "system":
        return ()
    missing = case.app.wanted - sum(not item.stop for item in kept if not case.app.tries(item)) - len(added)
    if missing <= 0:
        return ()
    moving = any(view.moving and not view.placed.stop and view.placed.serial in decision.stop for view in case.views)
    useless = any(node is not None and not node.ready for node in (node_of(nodes, held) for held in case.app.held))
    if not moving and not useless:
        taken = {item.node for item in added}
        return tuple(node for node in case.app.held if node not in taken)[:missing]
    placing = place(case.spec.model_copy(update={"instances": case.app.wanted}), len(added) + missing, nodes)
    return tuple(choice.node for choice in placing.choices[len(added) :])


def lacking(case: Case, instances: Iterable[Placed]) -> int:
    """Return how many instances an app has too few, if it has these; what is on nodes that were given up does not count."""
    lost = {view.placed.serial for view in case.given_up}
    return case.app.wanted - sum(not (item.stop or item.serial in lost or case.app.tries(item)) for item in instances)


def waits_for(case: Case, decision: Decision, held: str) -> str:
    """Return why lost instances are not replaced; empty when they are, or there are none."""
    if decision.held_back:
        number = f"{decision.held_back} lost instance{'s are' if decision.held_back > 1 else ' is'}"
        return f"{number} not replaced: {held or 'others come first'}"
    return waits_for_holder(case)


def paused(app: App) -> str:
    """Return by whom a change is paused and what ends that; empty when it is not."""
    return f"paused {app.paused}: nothing is started or stopped for it until `gestaltctl resume {app.path}`" if app.paused else ""


def waits_for_holder(case: Case) -> str:
    """Return why something exclusive is not given to another node yet; empty when nothing waits for that."""
    if case.strange and case.spec.placement.exclusive:
        return case.strange
    for view in case.views:
        if view.verdict is not None and view.verdict.why:
            name = case.names.get(view.placed.node, view.placed.node)
            certain = f"; `gestaltctl node confirm-dead {name}` if the machine is certainly off" if view.away == math.inf else ""
            return f"waits for node {name}: {view.verdict.why}{certain}"
    away = unheard(case.app, (view for view in case.views if not is_given_up(view, case.spec)))
    if case.strategy == "recreate" and case.app.wanted and away:
        return f"waits for {case.nodes_of(away)}: an old instance may be at work there, which is to be gone before a new one starts"
    return ""


def put_grant(draft: Draft, case: Case, kept: Iterable[Placed], added: tuple[Placed, ...], nodes: Nodes) -> None:
    """Give a new instance the right to be the only one, or take it back. Where nodes have no memberships there is nothing to give."""
    before, path = draft.grant(grant_name(case.app)), case.app.path
    holder = node_of(nodes, added[0].node) if case.spec.placement.exclusive and added else None
    if holder is not None and holder.incarnation:
        draft.put(next_grant(before, case.app, added[0].serial, holder.id, holder.incarnation, last=case.last_generation))
    elif before is not None and not before.revoked and (why := _revoked(case, before, kept)):
        draft.put(replace(before, revoked=True))
        draft.tell("app.revoked", path, f"{path}: node {case.names.get(before.node, before.node)} loses the right to run it: {why}", path)


def _revoked(case: Case, grant: Grant, kept: Iterable[Placed]) -> str:
    """Return why nobody may take a grant any more; empty when its holder may."""
    if all(item.serial != grant.serial for item in kept):
        return "its instance is gone"
    holders = (view for view in case.views if view.placed.serial == grant.serial and view.verdict is not None and view.verdict.revoke)
    return next((view.verdict.why for view in holders if view.verdict is not None), "")


def _announce(draft: Draft, case: Case, decision: Decision, added: int) -> None:
    path = case.app.path
    if added:
        draft.tell("app.placed", path, f"placed {added} instance{'s' if added > 1 else ''} of version {case.app.version}", path)
    if number := min(decision.replacing, added):
        draft.tell("app.failover", path, f"{path}: {_replaced(case, number)}", path)
    if lost := [view for view in case.given_up if view.placed.serial in decision.forget and not view.gone]:
        draft.tell("app.lost", path, f"{path}: {len(lost)} of its instances, of {case.nodes_of(lost)}, are given up", path)
    for serial in decision.stop:
        draft.tell("instance.stopping", instance_id(case.app, serial), f"{instance_id(case.app, serial)} is to stop", path)


def _replaced(case: Case, number: int) -> str:
    return f"{number} instance{'s' if number > 1 else ''} of {case.nodes_of(case.given_up)} {'are' if number > 1 else 'is'} replaced"


def _fail_over(draft: Draft, app: App, case: Case, decision: Decision) -> App:
    """Have a task for lost instances that are replaced now. A change that is under way brings the app to its goal with them."""
    running = draft.task(app.task) if app.task else None
    if running is not None and running.state is not TaskState.RUNNING:
        running = None
    if running is not None and running.kind is not Verb.FAILOVER:
        return app
    so_far = sum(not view.placed.stop for view in case.given_up) - decision.held_back
    task = running or Task(case.task, Verb.FAILOVER, app.path, LEADER, case.at)
    draft.put_task(replace(task, message=_replaced(case, max(so_far, decision.replacing))))
    return replace(app, task=task.id)


def _conclude(draft: Draft, app: App, case: Case, decision: Decision, unplaced: str) -> App:
    """Bring the task under way up to date and return the app with what follows for its goal."""
    task = draft.task(app.task) if app.task else None
    if decision.is_proven:
        app = _settle(draft, app)
    if task is None or task.state is not TaskState.RUNNING:
        return app
    if decision.outcome is Outcome.DONE:
        return _succeed(draft, app, case, task, str(decision.lacking))
    if decision.outcome is Outcome.FAILED:
        return _fail(draft, app, case, task, decision.reason if app.awaiting else unplaced or decision.reason)
    return app


def _settle(draft: Draft, app: App) -> App:
    """Note a version as stable, also when it became healthy only after its task had been given up."""
    if not app.wanted or app.stable == app.version:
        return app
    version = draft.version(app.path, app.version)
    if version is not None and not version.proven:
        draft.put_version(replace(version, proven=True))
    return replace(app, stable=app.version)


def _succeed(draft: Draft, app: App, case: Case, task: Task, lacking: str) -> App:
    if task.rolling_back:
        message = f"rolled back to version {app.version}: {task.rolling_back}"
        end(draft, case, task, TaskState.FAILED, message)
    else:
        message = _summary(app, task)
        end(draft, case, task, TaskState.SUCCEEDED, f"{message}; {lacking}" if lacking else message)
    return _rested(app, case)


def _rested(app: App, case: Case) -> App:
    """Return the app with no task under way any more; what is paused stays so for its canary, while that is tried."""
    return replace(app.settled(), task="", paused=app.paused if app.canary_task else "", changed_at=case.at)


def _give_up(draft: Draft, app: App, case: Case, task: Task, reason: str) -> App:
    """End a change of which nothing began. What was to be launched starts by itself should the reason go away."""
    goes_on = app.awaiting != app.version
    end(draft, case, task, TaskState.FAILED, f"{reason}; version {app.version} goes on" if goes_on else reason)
    if goes_on:
        app = replace(app, awaiting=0, after=())
    return _rested(app, case)


def _fail(draft: Draft, app: App, case: Case, task: Task, reason: str) -> App:
    if app.awaiting:
        return _give_up(draft, app, case, task, reason)
    goal = app.stable if app.stable not in (0, app.version) else task.stable  # a version may have been well for a moment
    to_another = bool(app.wanted) and goal not in (0, app.version)  # what is to stop runs no version
    is_change = task.kind not in (Verb.FAILOVER, Verb.MIGRATE)  # where an instance is says nothing against a version
    can_roll_back = case.spec.update.auto_rollback and to_another and is_change and not task.rolling_back
    if can_roll_back:
        draft.put_task(replace(task, rolling_back=reason))
        draft.tell("task.rolling-back", task.id, f"{task.kind} of {app.path} goes back to version {goal}: {reason}", app.path)
        stable = draft.version(app.path, goal)
        count = 1 if stable is not None and stable.spec.placement.exclusive else app.count
        return replace(app.settled(), version=goal, stable=goal, count=min(app.count, count))
    replaced = f"{task.message}; " if task.kind is Verb.FAILOVER else ""
    before = f"{task.rolling_back}; the rollback failed, too: " if task.rolling_back else replaced
    message = before + reason
    end(draft, case, task, TaskState.FAILED, message)
    return _rested(app, case)


def end(draft: Draft, case: Case, task: Task, state: TaskState, message: str) -> None:
    """Put a task with its outcome, and the steps as they are now."""
    ended = replace(task, state=state, message=message, ended_at=case.at)
    draft.put_task(replace(ended, steps=steps(case, ended)))
    draft.tell(f"task.{state}", task.id, f"{task.kind} of {task.app} {state}: {message}", task.app)


def _summary(app: App, task: Task) -> str:
    if task.kind is Verb.DELETE:
        return f"{app.path} is gone"
    if not app.wanted:
        return "no instance runs"
    before = f"{task.message}; " if task.kind is Verb.FAILOVER else ""
    return (
        f"{before}{app.wanted} instance{'s' if app.wanted > 1 else ''} of version {app.version} {'are' if app.wanted > 1 else 'is'} healthy"
    )


def erase(draft: Draft, app: App) -> None:
    """Forget an app with everything that was kept of it."""
    draft.delete("app", app.path)
    draft.delete("placements", app.path)
    draft.delete("grant", grant_name(app))
    for run in runs_in(draft, app.path):
        draft.delete("run", run_key(app.path, run.id))
    for number in range(1, app.last_version + 1):
        draft.delete("version", version_key(app.path, number))
    draft.tell("app.gone", app.path, f"{app.path} is gone", app.path)


def steps(case: Case, task: Task, unplaced: str = "", wait: Wait = Wait()) -> tuple[Step, ...]:  # noqa: B008 (frozen)
    """Return the steps of a task with how far each is, from what is known of the instances."""
    wanted = case.app.wanted
    if case.app.awaiting:
        rest = tuple(Step(name, "pending", 0, wanted) for name in ("place", "start", "healthy"))
        return (_step("dependencies", wait.ready, wait.total, task, wait.why), *rest)
    alive = [view for view in case.views if not is_given_up(view, case.spec)]
    current = [view for view in alive if not view.placed.stop and stays(case.app, view)]
    leaving, number = len(alive) - len(current), len(current) + case.settled
    started = sum(view.observed is not None and view.observed.phase is Phase.RUNNING for view in current) + case.settled
    result = []
    if case.app.paused and task.state is TaskState.RUNNING:
        result.append(Step("paused", "running", 0, 0, paused(case.app)))
    if task.rolling_back:
        result.append(Step("roll back", "running" if task.state is TaskState.RUNNING else "done", 0, 0, task.rolling_back))
    if wanted:
        result.append(_step("place", number, wanted, task, unplaced))
        result.append(_step("start", started, wanted, task))
        result.append(_step("healthy", sum(view.ready for view in current) + case.settled, wanted, task))
    state = "done" if not leaving else "failed" if task.state is TaskState.FAILED else "running"
    result.append(Step("stop others" if wanted else "stop", state, 0, leaving, f"{leaving} left" if leaving else ""))
    return tuple(result)


def _step(name: str, done: int, total: int, task: Task, message: str = "") -> Step:
    if done >= total:
        return Step(name, "done", total, total)
    if task.state is TaskState.FAILED:
        return Step(name, "failed", done, total, message or task.message)
    return Step(name, "running" if done or name in ("place", "dependencies") else "pending", done, total, message)
