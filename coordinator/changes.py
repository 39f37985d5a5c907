"""What each verb does to an app's goal: functions from a draft and a request to records in the draft.

They decide only what is *wanted*; how to get there is `reconcile`'s. Nothing here does I/O or reads a clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from gestalt.errors import Detail, GestaltError, Kind
from gestalt.spec.schema import AppSpec, Autoscale
from gestalt.spec.template import template_hash

from .canary import drop, give_way
from .claims import refuse_conflicts
from .dependencies import Set, left_alone, needed_together, ordered, refuse_mistakes, refuse_orphans
from .records import App, Node, Task, Verb, Version, instance_id
from .state import Draft

_CLAIMING = (Verb.LAUNCH, Verb.UPDATE, Verb.START, Verb.ROLLBACK, Verb.CANCEL)
_COUNTING = (*_CLAIMING, Verb.SCALE)
_LEAVING_CANARIES = (Verb.SCALE, Verb.RESTART, Verb.MIGRATE)
"""What goes on beside a canary; every other request takes its place."""

_CALLED = {"system": "system app", "job": "job"}
_WHY_NOT = {
    "system": ("it runs once on every node that matches", "change what nodes match: placement.constraints"),
    "job": ("each of its runs has instances of its own", "start a run: gestaltctl run {path}"),
}
MAX_INSTANCES = 2500
"""Instances of one app: their placements are one document, which the store limits to 512 KiB."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asks, when, under which condition, and the random values that a change may need, made beforehand."""

    by: str
    at: str
    expected: int
    task: str
    uid: str


def describe(
    draft: Draft, verb: Verb | None, spec: AppSpec, warnings: Sequence[str], asked: Asked, *, together: Set = MappingProxyType({})
) -> Task | None:
    """Launch or update an app to a description; verb None does whichever fits. None: it is so already.

    `together`: what the apps of the same request depend on; they are to be described in that order.

    Raises:
        GestaltError: EXISTS for a launch of an app that exists, NOT_FOUND for an update of one that does not,
            CONFLICT when it is not at the expected revision, INVALID when it depends on what there is not, or on itself.
    """
    before = draft.app(spec.path)
    if before is not None and before.deleting:
        raise GestaltError(
            Kind.CONFLICT, f"{spec.path} is being deleted", hint=f"wait until it is gone: gestaltctl wait {spec.path} --for gone"
        )
    if before is None:
        if verb is Verb.UPDATE:
            raise GestaltError(
                Kind.NOT_FOUND, f"there is no app {spec.path}", hint="create it with `launch`, or use `apply`, which does either"
            )
        _expect(spec.path, 0, asked.expected)
        refuse_mistakes(draft, spec, together)
        return _create(draft, spec, warnings, asked)
    if verb is Verb.LAUNCH:
        raise GestaltError(Kind.EXISTS, f"{spec.path} exists already", hint="change it with `update`, or use `apply`, which does either")
    _expect(spec.path, before.revision, asked.expected)
    if template_hash(spec) != _goal(draft, before).hash:
        refuse_mistakes(draft, spec, together)
    return _redescribe(draft, before, spec, warnings, asked)


def _goal(draft: Draft, app: App) -> Version:
    version = draft.version(app.path, app.goal)
    assert version is not None, "the wanted version of an app always exists"
    return version


def _create(draft: Draft, spec: AppSpec, warnings: Sequence[str], asked: Asked) -> Task:
    app = App(spec.path, asked.uid, 0, 1, 0, 1, spec.instances, asked.at, autoscale=spec.autoscale)
    draft.put_version(Version(spec.path, 1, template_hash(spec), spec, asked.at, asked.by))
    many = {"system": "with one instance on every node that matches", "job": "as a job"}.get(spec.kind, f"with {spec.instances} instances")
    draft.tell("app.launched", spec.path, f"{asked.by} launched {spec.path} {many}", spec.path)
    return begin(draft, app, Verb.LAUNCH, asked, warnings)


def _redescribe(draft: Draft, before: App, spec: AppSpec, warnings: Sequence[str], asked: Asked) -> Task | None:
    digest = template_hash(spec)
    wanted = _goal(draft, before)
    if spec.kind != wanted.spec.kind:
        raise _invalid(
            "kind", f"{spec.path} is a {wanted.spec.kind}, which cannot become a {spec.kind}", f"{wanted.spec.kind}; or delete it first"
        )
    count = before.count if spec.kind == "system" else counted(spec, before).instances
    goal = replace(before, count=count, autoscale=spec.autoscale)
    trial = draft.version(before.path, before.canary) if before.canary else None
    if trial is not None and digest == wanted.hash:
        draft.tell("app.cancelled", spec.path, f"{asked.by} goes back to version {before.version} of {spec.path}", spec.path)
        return begin(draft, goal, Verb.CANCEL, asked, warnings)
    if digest in (wanted.hash, trial.hash if trial is not None else ""):
        return _rescale(draft, before, goal, warnings, asked)
    number = before.last_version + 1
    draft.put_version(Version(spec.path, number, digest, spec, asked.at, asked.by))
    draft.tell("app.updated", spec.path, f"{asked.by} updated {spec.path} to version {number}", spec.path)
    app = replace(goal, last_version=number)
    if canary_beside(before, counted(spec, before)):
        return _try(draft, replace(app, version=before.stable, canary=number), before, asked, warnings)
    return begin(draft, replace(app, awaiting=number), Verb.UPDATE, asked, warnings)


def _rescale(draft: Draft, before: App, app: App, warnings: Sequence[str], asked: Asked) -> Task | None:
    """Have another number of instances, or another autoscaling. None: both are so already."""
    if (app.count, app.autoscale) == (before.count, before.autoscale):
        return None
    if app.count != before.count:
        draft.tell("app.scaled", app.path, f"{asked.by} scaled {app.path} from {before.count} to {app.count}", app.path)
    if app.autoscale != before.autoscale:
        draft.tell("app.autoscale", app.path, f"{asked.by} changed autoscaling of {app.path}: {_scaling(app.autoscale)}", app.path)
    return begin(draft, app, Verb.SCALE, asked, warnings)


def canary_beside(app: App, spec: AppSpec) -> int:
    """Return the version beside which a new description is tried first; 0: it is wanted at once, as there is nothing to protect."""
    if app.awaiting == app.version:
        return 0  # what is to start first waits for what it depends on
    return app.stable if spec.update.strategy == "canary" and not app.stopped and app.count and spec.instances else 0


def _try(draft: Draft, app: App, before: App, asked: Asked, warnings: Sequence[str]) -> Task:
    """Put a canary beside the last version that was healthy altogether, with a task of its own."""
    _check_count(app)
    base, tried = draft.version(app.path, app.version), draft.version(app.path, app.canary)
    assert base is not None, "the stable version always exists"
    assert tried is not None, "the draft holds it"
    if base.spec.placement.exclusive:
        problem = f"is canary, but version {app.version} is exclusive: nothing may run beside it"
        raise _invalid("update.strategy", problem, "rolling or recreate, which stop it first")
    refuse_conflicts(draft, app.path, tried.spec)
    dropped = drop(draft, before)
    message = f"superseded by {Verb.UPDATE} (task {asked.task})"
    for task in (before.task, before.canary_task):
        give_way(draft, app.path, task, message, asked.at)
    found = Task(
        asked.task, Verb.UPDATE, app.path, asked.by, asked.at, warnings=tuple(warnings), stable=dropped.stable, former=before.count
    )
    draft.put_task(found)
    draft.tell("app.canary", app.path, f"version {app.canary} of {app.path} is tried beside version {app.version}", app.path)
    is_other = (app.count, app.autoscale) != (before.count, before.autoscale)  # they count at once, and no task ends with that
    changed_at = asked.at if is_other else app.changed_at
    beside = replace(app.settled(), task="", canary_task=found.id, paused="", awaiting=0, changed_at=changed_at)
    draft.put_app(replace(beside, after=needed_together(draft, tried.spec)))
    return found


def _check_count(app: App) -> None:
    if app.autoscale is not None and app.autoscale.max > MAX_INSTANCES:
        raise _invalid("autoscale.max", f"{app.autoscale.max} are more than one app may have in this version", f"1 to {MAX_INSTANCES}")
    if app.count > MAX_INSTANCES:
        raise _invalid("instances", f"{app.count} are more than one app may have in this version", f"0 to {MAX_INSTANCES}")


def counted(spec: AppSpec, before: App | None) -> AppSpec:
    """Return a description with the number of instances that it comes to: with autoscaling it stays what it is, within the bounds."""
    scaling = spec.autoscale
    if before is None or scaling is None or scaling.dry_run:
        return spec
    return spec.model_copy(update={"instances": min(max(before.count, scaling.min), scaling.max)})


def _scaling(scaling: Autoscale | None) -> str:
    if scaling is None:
        return "there is none any more"
    goals = ", ".join(f"{metric.kind} {metric.target:g}" for metric in scaling.metrics)
    return f"{scaling.min} to {scaling.max} instances, {goals}" + (", dry run" if scaling.dry_run else "")


def scale(draft: Draft, path: str, count: int, asked: Asked, *, why: str = "") -> Task | None:
    """Change the number of instances. None: it is so already. `why`: what asks for it, if nobody does."""
    app = existing(draft, path, asked)
    _refuse(draft, app, "scaled", "system", "job")
    if count < 0:
        raise _invalid("count", f"{count} is not a number of instances", f"0 to {MAX_INSTANCES}")
    scaling = app.autoscale
    if scaling is not None and not scaling.dry_run and not scaling.min <= count <= scaling.max:
        allowed = f"{scaling.min} to {scaling.max}; or change autoscale in the description; `gestaltctl stop` stops all"
        raise _invalid("count", f"{count} is outside of the bounds of autoscaling", allowed)
    if app.count == count:
        return None
    draft.tell("app.scaled", path, f"{asked.by} scaled {path} from {app.count} to {count}" + (f": {why}" if why else ""), path)
    return begin(draft, replace(app, count=count), Verb.SCALE, asked, () if count else left_alone(draft, path))


def migrate(draft: Draft, path: str, source: Node | None, target: Node | None, asked: Asked) -> Task | None:
    """Replace instances by some on other nodes: those on `source` (None: all), by instances on `target` (None: wherever they fit best).

    None: there is nothing to move.

    Raises:
        GestaltError: INVALID when both are None, or the same; REFUSED when the app is stopped, or nothing may be placed on the target.
    """
    app = existing(draft, path, asked)
    if source is None and target is None:
        raise _invalid("from_node, to_node", "both are missing", "a node to leave, or a node to go to, or both")
    if source is not None and source == target:
        raise _invalid("to_node", f"{source.name} is the node to leave", "another node")
    _refuse(draft, app, "migrated", "system", "job")
    if app.stopped:
        raise GestaltError(Kind.REFUSED, f"{path} is stopped", hint=f"start it: gestaltctl start {path}")
    if target is not None and target.admin != "ready":
        hint = f"let it take instances again: gestaltctl node uncordon {target.name}"
        raise GestaltError(
            Kind.REFUSED, f"{target.name} is {'in ' * (target.admin == 'maintenance')}{target.admin}: nothing is placed there", hint=hint
        )
    there = [item for item in draft.placed(path).instances if not item.stop and (source is None or item.node == source.id)]
    serials = tuple(item.serial for item in there if target is None or item.node != target.id)
    if not serials:
        return None
    words = " ".join(f"{word} {node.name}" for word, node in (("from", source), ("to", target)) if node is not None)
    draft.tell("app.migrated", path, f"{asked.by} migrates {len(serials)} instances of {path} {words}", path)
    moved = replace(app, moving=serials, source=source.id if source is not None else "", target=target.id if target is not None else "")
    return begin(draft, moved, Verb.MIGRATE, asked)


def relocate(draft: Draft, path: str, serial: int, target: Node, asked: Asked) -> Task:
    """Replace one instance by one on another node."""
    app = existing(draft, path, asked)
    draft.tell("app.migrated", path, f"{asked.by} migrates {instance_id(app, serial)} to {target.name}", path)
    return begin(draft, replace(app, moving=(serial,), source="", target=target.id), Verb.MIGRATE, asked)


def stop(draft: Draft, path: str, asked: Asked) -> Task | None:
    """Stop all instances and keep the description. None: it is stopped already."""
    app = existing(draft, path, asked)
    if app.stopped:
        return None
    draft.tell("app.stopped", path, f"{asked.by} stopped {path}", path)
    return begin(draft, replace(app, stopped=True), Verb.STOP, asked, left_alone(draft, path))


def start(draft: Draft, path: str, asked: Asked) -> Task | None:
    """Start a stopped app again. None: it is not stopped."""
    app = existing(draft, path, asked)
    if not app.stopped:
        return None
    draft.tell("app.started", path, f"{asked.by} started {path}", path)
    return begin(draft, replace(app, stopped=False), Verb.START, asked)


def restart(draft: Draft, path: str, asked: Asked) -> Task | None:
    """Replace all instances, one by one, by new ones of the same version."""
    app = existing(draft, path, asked)
    _refuse(draft, app, "restarted", "job")
    if app.stopped:
        raise GestaltError(Kind.REFUSED, f"{path} is stopped", hint=f"start it: gestaltctl start {path}")
    draft.tell("app.restarted", path, f"{asked.by} restarted {path}", path)
    return begin(draft, replace(app, renew_below=app.next_serial), Verb.RESTART, asked)


def rollback(draft: Draft, path: str, number: int, asked: Asked) -> Task | None:
    """Go back to a version; 0 = the last that was healthy altogether: with a canary, the one beside which it is tried.

    Run state stays as it is.
    """
    app = existing(draft, path, asked)
    target = number or (app.version if app.canary else _before(draft, app))
    if draft.version(path, target) is None:
        raise _invalid("to_version", f"{path} has no version {target}", f"see `gestaltctl history {path}`")
    if target == app.goal and not app.canary:
        return None
    draft.tell("app.rolled-back", path, f"{asked.by} rolled {path} back from version {app.canary or app.goal} to {target}", path)
    return begin(draft, app if target == app.goal else replace(app, awaiting=target), Verb.ROLLBACK, asked)


def delete(draft: Draft, path: str, asked: Asked, *, force: bool = False) -> Task | None:
    """Stop all instances, then forget the app. None: that is under way already.

    Raises:
        GestaltError: REFUSED, when others depend on it, unless it is to be done by `force`.
    """
    app = existing(draft, path, asked, deleting=True)
    if app.deleting:
        return None
    if not force:
        refuse_orphans(draft, path)
    draft.tell("app.deleted", path, f"{asked.by} deleted {path}", path)
    return begin(draft, replace(app, deleting=True), Verb.DELETE, asked)


def begin(draft: Draft, app: App, kind: Verb, asked: Asked, warnings: Sequence[str] = ()) -> Task:
    """Put the new goal with a task for it; a task that is under way is superseded, a pause is over: the newest request wins."""
    _check_count(app)
    before = draft.base.apps.get(app.path)
    if kind is not Verb.MIGRATE:
        app = app.settled()
    app = _calendar(draft, ordered(draft, app, kind), kind, asked)
    version = draft.version(app.path, app.goal)
    if version is not None and version.spec.placement.exclusive and app.count > 1 and kind in _COUNTING:
        problem = f"{app.count} of version {version.number}, which is exclusive (placement.exclusive)"
        raise _invalid("instances", problem, "0 or 1: never two at work at once")
    if version is not None and kind in _CLAIMING and not app.stopped:
        refuse_conflicts(draft, app.path, version.spec)
    message = f"superseded by {kind} (task {asked.task})"
    give_way(draft, app.path, app.task, message, asked.at)
    if app.canary and kind not in _LEAVING_CANARIES:
        give_way(draft, app.path, app.canary_task, message, asked.at)
        app = drop(draft, app)
    former = before.count if before is not None else -1
    task = Task(asked.task, kind, app.path, asked.by, asked.at, warnings=tuple(warnings), stable=app.stable, former=former)
    draft.put_task(task)
    draft.put_app(replace(app, task=task.id, paused=""))
    return task


def _refuse(draft: Draft, app: App, done: str, *kinds: str) -> None:
    """Refuse what means nothing to an app of its kind."""
    version = draft.version(app.path, app.version)
    kind = version.spec.kind if version is not None else ""
    if kind in kinds:
        why, hint = _WHY_NOT[kind]
        raise GestaltError(Kind.REFUSED, f"{app.path} is a {_CALLED[kind]} and cannot be {done}: {why}", hint=hint.format(path=app.path))


def _calendar(draft: Draft, app: App, kind: Verb, asked: Asked) -> App:
    """Return a job whose calendar begins now, if its schedule is new, or it starts again: what was before is not made up for."""
    before, version = draft.app(app.path), draft.version(app.path, app.version)
    old = draft.version(app.path, before.version) if before is not None else None
    if version is None or version.spec.job is None:
        return app
    is_same = old is not None and old.spec.job is not None and old.spec.job.schedule == version.spec.job.schedule
    return app if is_same and kind is not Verb.START else replace(app, fired=asked.at)


def existing(draft: Draft, path: str, asked: Asked, *, deleting: bool = False) -> App:
    """Return an app that may be changed: it is at the expected revision, and not being deleted unless that is asked for.

    Raises:
        GestaltError: NOT_FOUND, CONFLICT.
    """
    app = draft.app(path)
    if app is None:
        raise GestaltError(Kind.NOT_FOUND, f"there is no app {path}", hint="`gestaltctl ps` lists what there is")
    if app.deleting and not deleting:
        raise GestaltError(Kind.CONFLICT, f"{path} is being deleted", hint=f"wait until it is gone: gestaltctl wait {path} --for gone")
    _expect(path, app.revision, asked.expected)
    return app


def _expect(path: str, found: int, expected: int) -> None:
    if expected and expected != found:
        message = f"{path} is at revision {found}, not {expected}" if found else f"{path} does not exist, revision {expected} was expected"
        raise GestaltError(Kind.CONFLICT, message, hint=f"look at it again: gestaltctl inspect {path}")


def _before(draft: Draft, app: App) -> int:
    if app.goal != app.version:
        return app.version
    if app.stable and app.stable != app.version:
        return app.stable
    for number in range(app.version - 1, 0, -1):
        version = draft.version(app.path, number)
        if version is not None and version.proven:
            return number
    message = f"{app.path} has no version before {app.version} that was ever healthy"
    raise GestaltError(Kind.REFUSED, message, hint=f"name one with --to-version; `gestaltctl history {app.path}` lists them")


def _invalid(field: str, problem: str, allowed: str) -> GestaltError:
    return GestaltError(Kind.INVALID, f"{field}: {problem}; allowed: {allowed}", details=[Detail(field, problem, allowed)])
