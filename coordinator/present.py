"""From records and soft state to the messages of the public API."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import cast

from google.protobuf.timestamp_pb2 import Timestamp

from gestalt import clock
from gestalt.model import Phase
from gestalt.proto.v1 import model_pb2, spec_pb2
from gestalt.spec.schema import AppSpec
from gestalt.wire import spec_to_wire, to_wire

from . import maintenance, periodic, run_cancel, runs
from .advance import Case
from .decider import Decider
from .diff import compare
from .grants import complaint
from .jobs import job_of
from .ledger import Ledger
from .membership import Life, Member
from .nodes import Sighting, Tracker
from .reconcile import View, is_current, is_given_up
from .records import App, Event, Move, Node, Placed, Run, RunState, Step, Task, TaskState, Verb, Version, bindings, instance_id
from .reservations import Reserved
from .scheduler.values import DEVICE, DISK, PIDS
from .shortages import shortage_now
from .state import Draft, State


def timestamp(text: str) -> Timestamp | None:
    """Return a stored time as a message; None for an empty one."""
    if not text:
        return None
    result = Timestamp()
    result.FromDatetime(datetime.fromisoformat(text).replace(tzinfo=None))
    return result


def event(item: Event) -> model_pb2.Event:
    return model_pb2.Event(
        token=item.token, kind=item.kind, subject=item.subject, message=item.message, at=timestamp(item.at), app=item.app
    )


def versions(app: App, found: list[Version]) -> list[model_pb2.Version]:
    """Return the history of an app, newest first, each with what it changed."""
    result = []
    before = None
    for item in found:
        message = model_pb2.Version(
            number=item.number,
            spec=spec_to_wire(item.spec),
            created_at=timestamp(item.created_at),
            created_by=item.created_by,
            current=item.number == app.version,
            stable=item.number == app.stable,
            canary=item.number == app.canary,
        )
        if before is not None:
            message.changes.extend(to_wire(change, model_pb2.FieldChange) for change in compare(before, item.spec))
        before = item.spec
        result.append(message)
    return result[::-1]


def described(spec: AppSpec, app: App) -> AppSpec:
    """Return the description of an app as it is now: the template with its number of instances, where that is asked for."""
    return spec if spec.kind != "service" else spec.model_copy(update={"instances": app.count, "autoscale": app.autoscale})


def move_message(state: State, move: Move) -> model_pb2.Move:
    """Return one move of a rebalance."""
    app, names = state.apps.get(move.app), {node: state.nodes[node].name for node in (move.source, move.target) if node in state.nodes}
    return model_pb2.Move(
        app=move.app,
        instance=instance_id(app, move.serial) if app is not None else "",
        from_node=names.get(move.source, move.source),
        to_node=names.get(move.target, move.target),
        gain=move.gain,
        why=move.why,
        state=move.state,
        task=move.task,
        message=move.message,
    )


@dataclass(frozen=True, slots=True)
class Presenter:
    """Gives the messages for what the coordinator knows at this moment."""

    ledger: Ledger
    tracker: Tracker
    decider: Decider
    autoscaling: Callable[[str], str] = lambda path: ""
    """Says what autoscaling does with an app."""

    def app(self, app: App) -> model_pb2.App:
        state = self.ledger.state
        spec = state.version(app.path, app.version).spec
        views = self.tracker.views(app, state.placed(app.path).instances)
        staying = [view for view in views if not (view.placed.stop or view.placed.ended or is_given_up(view, spec))]
        word, why = self.health(app)
        strategy, source = state.switches.strategies.of(spec.placement)
        return model_pb2.App(
            path=app.path,
            uid=app.uid,
            revision=app.revision,
            version=app.version,
            stable_version=app.stable,
            count=app.count,
            stopped=app.stopped,
            spec=spec_to_wire(described(spec, app)),
            task=app.task or app.canary_task,
            created_at=timestamp(app.created_at),
            running=sum(view.observed is not None and view.observed.phase is Phase.RUNNING for view in staying),
            healthy=sum(is_serving(view) for view in staying),
            state=word,
            message=why,
            autoscaling=self.autoscaling(app.path),
            canary_version=app.canary,
            canary=self.canary(app),
            paused=app.paused,
            shortage=shortage_now(self.decider, app.path),
            strategy=strategy,
            strategy_from=source,
            next_runs=[at for time in self.next_runs(app) if (at := timestamp(time.isoformat())) is not None],
        )

    def canary(self, app: App) -> str:
        """Say how the canary of an app stands; empty when it has none."""
        trial = self._trial(app)
        return self.decider.trials.sentence(app, trial) if trial is not None else ""

    def _trial(self, app: App) -> Case | None:
        return self.decider.trials.case(Draft(self.ledger.state), self.decider.case(app, "")) if app.canary else None

    def unready(self, path: str) -> str:
        """Return why the canary of an app cannot be promoted yet; empty when it can, or there is none."""
        app = self.ledger.state.apps.get(path)
        trial = self._trial(app) if app is not None else None
        return self.decider.trials.unready(trial) if trial is not None else ""

    def health(self, app: App) -> tuple[str, str]:
        """Return in one word how an app is, and why in a sentence when it is not well."""
        state = self.ledger.state
        spec = state.version(app.path, app.version).spec
        if spec.kind == "job":
            return self.job_health(app)
        there = self.tracker.views(app, state.placed(app.path).instances)
        views = [view for view in there if not view.placed.stop and not is_given_up(view, spec)]
        if any(view.away is None and not self.tracker.node(view.placed.node, "").ever_heard for view in views):
            return "unknown", "its node has not reported yet"
        good = sum(is_serving(view) for view in views if is_current(app, view.placed))
        trouble = next((view.observed.reason for view in views if view.observed and not view.observed.ready and view.observed.reason), "")
        why = self.decider.lacks(app.path) or trouble
        task = state.tasks.get(app.task)
        if app.deleting:
            return "deleting", why
        canary = self.canary(app)
        if task is not None:
            told = f"{task.kind}: {task.rolling_back or why}".rstrip(": ")
            return "deploying", f"{told}; {canary}" if canary else told
        if app.stopped:
            return "stopped", ""
        if canary and good >= app.count:
            return "deploying", canary
        if good >= app.count:
            return "running", why if not app.count else ""
        why = "; ".join(filter(None, (why, canary)))
        lack = f"{good} of {app.count} instances are healthy" + (f": {why}" if why else "")
        return ("failed" if not good else "degraded"), lack

    def job_health(self, app: App) -> tuple[str, str]:
        """Return the same of a job: what its runs do, or how the last one ended."""
        found, why = self.ledger.state.runs_of(app.path), self.decider.lacks(app.path)
        going = [run for run in found if run.state is RunState.RUNNING]
        if app.deleting or (app.stopped and not going):
            return ("deleting" if app.deleting else "stopped"), why
        if going:
            steps = [runs.step_of(run, self.ledger.state.version(app.path, run.version).spec, 0) for run in going]
            told = (
                f"{len(going)} runs are under way"
                if len(going) > 1
                else f"run {going[0].id}: {steps[0].done} of {steps[0].total} ended well"
            )
            return "running", f"{told}; {why}" if why else told
        last = max(found, key=lambda run: run.ended_at, default=None)
        schedule = job_of(self.ledger.state.version(app.path, app.version).spec).schedule
        coming = f"; {periodic.told(schedule, self.next_runs(app))}" if schedule is not None else ""
        if last is None:
            return "idle", f"it never ran{coming}"
        word = "degraded" if last.state is RunState.FAILED else "idle"
        return word, f"the last run, {last.id}, {last.state}: {last.message}{coming}"

    def next_runs(self, app: App) -> tuple[datetime, ...]:
        """Return when the schedule of a job comes next."""
        schedule = job_of(self.ledger.state.version(app.path, app.version).spec).schedule
        return periodic.next_times(schedule, clock.wall()) if schedule is not None and not (app.stopped or app.deleting) else ()

    def runs(self, app: App) -> list[model_pb2.Run]:
        """Return the runs of a job, newest first."""
        return [self._run(app, run) for run in reversed(self.ledger.state.runs_of(app.path))]

    def _run(self, app: App, run: Run) -> model_pb2.Run:
        state = self.ledger.state
        end = datetime.fromisoformat(run.ended_at) if run.ended_at else clock.wall()
        message = model_pb2.Run(
            id=run.id,
            app=run.app,
            version=run.version,
            state=run.state,
            message=run.message,
            requested_by=run.requested_by,
            created_at=timestamp(run.created_at),
            ended_at=timestamp(run.ended_at),
            elapsed=max(0.0, (end - datetime.fromisoformat(run.created_at)).total_seconds()),
            parameters=run.parameters,
            completions=job_of(state.version(run.app, run.version).spec).completions,
            succeeded=run.succeeded,
            failed=run.failed,
            lost=run.lost,
            running=runs.at_work(state, run),
            cancelled_by=run.cancelled_by,
        )
        for item in run.results:
            at, instance = timestamp(item.at), instance_id(app, item.serial)
            message.results.add(
                instance=instance, node=item.node, state=item.state, exit_code=item.exit_code, message=item.message, ended_at=at
            )
        return message

    def instances(self, app: App) -> list[model_pb2.Instance]:
        return [self.instance(app, placed) for placed in self.ledger.state.placed(app.path).instances]

    def instance(self, app: App, placed: Placed) -> model_pb2.Instance:
        identity = instance_id(app, placed.serial)
        view = self.tracker.nodes.get(placed.node)
        spec = self.ledger.state.version(app.path, placed.version).spec
        return model_pb2.Instance(
            id=identity,
            app=app.path,
            serial=placed.serial,
            version=placed.version,
            node=view.name if view else placed.node,
            ports=[to_wire(item, model_pb2.PortBinding) for item in bindings(spec, placed)],
            stopping=placed.stop,
            canary=app.tries(placed),
            observed=self._observed(identity),
            reachability=cast("model_pb2.Reachability.ValueType", self.tracker.reachability(placed.node).value),
            address=view.address if view else "",
            run=placed.run,
            ended=placed.ended,
            usage=self._usage(identity, placed, spec),
        )

    def _usage(self, identity: str, placed: Placed, spec: AppSpec) -> model_pb2.Usage | None:
        used = self.tracker.usages.used(placed.node, identity)
        if used is None:
            return None
        given, asked = self.tracker.usages.given(identity), spec.resources
        return model_pb2.Usage(
            cpu=used.cpu,
            cpu_share=used.cpu / asked.cpu if asked.cpu else 0.0,
            memory=used.memory,
            memory_share=used.memory / asked.memory if asked.memory else 0.0,
            requests=given.requests,
            queue=given.queue,
            age=used.age,
        )

    def _observed(self, identity: str) -> model_pb2.Observed:
        sighting = self.tracker.sightings.get(identity)
        if sighting is None or sighting.observed is None:
            return model_pb2.Observed(instance=identity, phase=model_pb2.PHASE_PLACED, age=self._since(sighting))
        now = clock.monotonic()
        aged = replace(sighting.observed, age=sighting.observed.age + now - sighting.observed_at)
        return to_wire(aged, model_pb2.Observed)

    @staticmethod
    def _since(sighting: Sighting | None) -> float:
        return clock.monotonic() - sighting.since if sighting is not None else 0.0

    def task(self, task: Task) -> model_pb2.Task:
        steps = _steps(self.ledger.state, self.decider, task) if task.state is TaskState.RUNNING else task.steps
        end = datetime.fromisoformat(task.ended_at) if task.ended_at else clock.wall()
        message = model_pb2.Task(
            id=task.id,
            kind=task.kind,
            app=task.app,
            state=task.state,
            message=task.message or task.rolling_back,
            requested_by=task.requested_by,
            created_at=timestamp(task.created_at),
            ended_at=timestamp(task.ended_at),
            elapsed=max(0.0, (end - datetime.fromisoformat(task.created_at)).total_seconds()),
            warnings=task.warnings,
            node=task.node,
        )
        message.steps.extend(to_wire(step, model_pb2.Step) for step in steps)
        message.moves.extend(move_message(self.ledger.state, move) for move in task.moves)
        if task.state is TaskState.RUNNING and task.app in self.ledger.state.apps:
            message.instances.extend(self._progress(self.ledger.state.apps[task.app], task.id if task.kind is Verb.RUN else ""))
            if (shortage := shortage_now(self.decider, task.app)) is not None:
                message.shortage.CopyFrom(shortage)
        return message

    def _progress(self, app: App, run: str) -> list[model_pb2.InstanceProgress]:
        return [
            model_pb2.InstanceProgress(
                instance=item.id,
                node=item.node,
                phase=item.observed.phase,
                health=item.observed.health,
                message=item.observed.reason,
                version=item.version,
            )
            for item in self.instances(app)
            if not run or (item.run == run and not item.ended)
        ]

    def nodes(self) -> Iterator[model_pb2.Node]:
        """Yield all nodes, each as it is by then."""
        yield from (self.node(node) for node in tuple(self.ledger.state.nodes) if node in self.ledger.state.nodes)

    def node(self, node: str) -> model_pb2.Node:
        record, use = self.ledger.state.nodes[node], self.ledger.state.reservations.on(node)
        view, stands = self.tracker.node(node, record.name), self.tracker.standing(node)
        why = stands.reason
        if maintenance.is_expected(record):
            why = maintenance.told(record, why if stands.life is not Life.MAINTENANCE else "")
        return model_pb2.Node(
            id=node,
            name=record.name,
            state=Life.MAINTENANCE if maintenance.is_expected(record) else stands.life,
            reason=f"{record.name} {why}" if why else "",
            address=view.address or record.address,
            agent_version=view.agent_version,
            facts=view.facts,
            instances=len(self.ledger.state.placed_on(node)),
            allocated=_allocated(use),
            problems=(*view.problems, *_refusal(record), *self._times(view.member)),
            last_seen=clock.monotonic() - view.last_seen if view.last_seen else 0.0,
            labels=record.labels,
            roles=record.roles,
            incarnation=view.member.incarnation if view.member is not None else 0,
        )

    def _times(self, member: Member | None) -> tuple[str, ...]:
        """Return what is wrong with the times of a node's fence, as far as is known."""
        problem = complaint(member.lease, member.kill, self.decider.grants.timing) if member is not None else ""
        return (problem,) if problem else ()

    def node_state(self, node: str) -> str:
        """Return the state of a node in the words of the design."""
        return self.tracker.standing(node).life


def _steps(state: State, decider: Decider, task: Task) -> tuple[Step, ...]:
    """Return the steps of a task that is under way."""
    of_run = run_cancel.steps_of(state, task) if task.kind is Verb.CANCEL else ()
    return of_run or decider.task_steps(task)


def _allocated(use: Reserved) -> spec_pb2.Resources:
    """Return what the instances of a node ask for."""
    devices = {name.removeprefix(DEVICE): number for name, number in use.supply.items() if name.startswith(DEVICE) and number}
    return spec_pb2.Resources(cpu=use.cpu, memory=use.memory, disk=use.supply.get(DISK, 0), pids=use.supply.get(PIDS, 0), devices=devices)


def _refusal(record: Node) -> tuple[str, ...]:
    """Return what to say of a node that the others are to refuse."""
    if not record.refused:
        return ()
    return (f"the other nodes refuse its packets until it is back with nothing of its membership {record.refused} at work",)


def is_serving(view: View) -> bool:
    """Tell whether an instance was ready when it was last heard of, and its node is not lost since."""
    return view.observed is not None and view.observed.ready and view.away != math.inf
