"""Dependencies between apps: what a change waits for before it starts anything, and which changes make no sense. Pure.

An app whose change waits has `awaiting` set: the version that is to be started. What runs meanwhile is decided about as ever, so that lost
instances are replaced and scaling goes on. That something it depends on becomes ill later holds nothing back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from gestalt.errors import Detail, GestaltError, Kind
from gestalt.spec.dependencies import Cycle, in_order
from gestalt.spec.schema import AppSpec

from .reconcile import Decision, Outcome
from .records import App, Verb
from .state import Draft

NAMED = 3
"""So many of the apps that a change waits for are named at most."""

Set = Mapping[str, Collection[str]]
"""What the apps of one request depend on, by path."""


@dataclass(frozen=True, slots=True)
class Needed:
    """An app on which another one depends, as it is known now.

    `app` None: there is none. `version`: the lowest that will do. `healthy`: so many instances of its wanted version are. `proven`: all of
    them were once. `is_job`: a run of it has to have ended well, which is what `proven` means then.
    """

    path: str
    app: App | None
    version: int = 0
    healthy: int = 0
    proven: bool = False
    is_job: bool = False

    @property
    def is_changing(self) -> bool:
        return self.app is not None and bool(self.app.task or self.app.canary_task)

    @property
    def is_ready(self) -> bool:
        if self.is_job:
            return self.app is not None and self.proven and self.app.version >= self.version
        return self.app is not None and 0 < self.app.wanted <= self.healthy and self.app.version >= self.version

    @property
    def failed(self) -> str:
        """Why it is not what was asked for together with the waiting change, and nothing is done about that; empty while there is hope."""
        if not self.version or self.is_changing or self.is_job:
            return ""
        if self.app is None or not self.app.wanted:
            return f"{self.path}, on which it depends, was taken away"
        if self.app.version < self.version:
            return f"{self.path}, on which it depends, went back to version {self.app.version}"
        return "" if self.proven else f"{self.path}, on which it depends, did not become healthy"

    @property
    def lack(self) -> str:
        """What keeps it from being ready, as the second half of a sentence that begins with "waits for"."""
        if self.app is None:
            return f"{self.path}, which does not exist"
        if self.is_job:
            return f"a run of version {self.app.version} of {self.path} that ends well"
        if self.app.deleting or not self.app.wanted:
            state = "is being deleted" if self.app.deleting else "is stopped" if self.app.stopped else "is to have no instance now"
            return f"{self.path}, which {state}"
        if self.app.version < self.version:
            return f"version {self.version} of {self.path}, which is at version {self.app.version}"
        return f"{self.path}, of which {self.healthy} of {self.app.wanted} instances are healthy"


@dataclass(frozen=True, slots=True)
class Wait:
    """What a change waits for. `why`: empty = nothing. `failed`: why that will not come. `is_changing`: something is being done for it."""

    ready: int = 0
    total: int = 0
    why: str = ""
    failed: str = ""
    is_changing: bool = False


def wait_for(needed: Iterable[Needed]) -> Wait:
    """Return what an app that needs these waits for."""
    all_of_them = tuple(needed)
    missing = [item for item in all_of_them if not item.is_ready]
    told = [item.lack for item in missing[:NAMED]]
    if len(missing) > NAMED:
        told.append(f"{len(missing) - NAMED} more")
    return Wait(
        ready=len(all_of_them) - len(missing),
        total=len(all_of_them),
        why="waits for " + "; for ".join(told) if missing else "",
        failed=next((item.failed for item in missing if item.failed), ""),
        is_changing=any(item.is_changing for item in missing),
    )


def held(decision: Decision, wait: Wait, app: App, stalled: float, deadline: float) -> Decision:
    """Return the decision for an app whose change waits: what runs is kept up, nothing new begins, and the change does not end well.

    Args:
        decision: of `reconcile`, about the version that runs, or about none when nothing does yet.
        wait: what the change waits for.
        app: with the version that it awaits.
        stalled: seconds since the change last got on.
        deadline: seconds after which it fails.
    """
    if app.awaiting == app.version:
        decision = replace(decision, start=0, replacing=0, held_back=0, on=(), lacking="")
    if app.paused:
        return replace(decision, outcome=Outcome.GOING_ON, reason="")
    if wait.failed:
        return replace(decision, outcome=Outcome.FAILED, reason=wait.failed)
    if stalled >= deadline and not wait.is_changing:
        return replace(decision, outcome=Outcome.FAILED, reason=f"there was no progress for {deadline:g} s: it {wait.why}")
    left = deadline - stalled if app.task and not wait.is_changing else decision.wake_in
    return replace(decision, outcome=Outcome.GOING_ON, reason="", wake_in=min(decision.wake_in, left))


def begun(app: App) -> App:
    """Return an app whose change waits no more."""
    return replace(app, version=app.goal, awaiting=0, after=())


def ordered(draft: Draft, app: App, kind: Verb) -> App:
    """Return an app that is about to change so that what it depends on comes first. Going back waits for nothing."""
    before = draft.app(app.path)
    version = draft.version(app.path, app.goal)
    if version is None or not _is_to_run(app, version.spec):
        return begun(app)  # what is not to run is at its version at once; starting it waits
    ran = before is not None and _is_to_run(before, version.spec)
    if before is not None and ran and before.goal == app.goal:
        return app
    runs = before is not None and ran and before.awaiting != before.version
    if not version.spec.depends_on or version.spec.kind == "job" or (runs and kind in (Verb.ROLLBACK, Verb.CANCEL)):
        return begun(app)  # a run of a job starts when it is asked for
    after = needed_together(draft, version.spec)
    return replace(app, version=before.version if before is not None and runs else app.goal, awaiting=app.goal, after=after)


def needed_together(draft: Draft, spec: AppSpec) -> tuple[tuple[str, int], ...]:
    """Return what a description depends on and the same request changes, with the versions that are asked for."""
    changed = ((path, draft.app(path)) for path in spec.depends_on if ("app", path) in draft.records)
    return tuple((path, other.canary or other.goal) for path, other in changed if other is not None)


def _is_to_run(app: App, spec: AppSpec) -> bool:
    return app.wanted > 0 or (spec.kind == "system" and not app.stopped and not app.deleting)


def mistakes(draft: Draft, spec: AppSpec, together: Set) -> tuple[Detail, ...]:
    """Return what is wrong with the dependencies of a description, given the apps that there are and those of the same request."""
    found = []
    for index, path in enumerate(spec.depends_on):
        other = draft.app(path)
        if path in together or (other is not None and not other.deleting):
            continue
        problem = f"there is no app {path}" if other is None else f"{path} is being deleted"
        found.append(Detail(f"depends_on[{index}]", problem, _there_is(draft, path)))
    try:
        in_order([spec.path], lambda path: spec.depends_on if path == spec.path else _needs(draft, path, together))
    except Cycle as cycle:
        found.append(Detail("depends_on", f"makes a cycle: {cycle}", "apps that do not need this one themselves"))
    return tuple(found)


def refuse_mistakes(draft: Draft, spec: AppSpec, together: Set) -> None:
    """Refuse a description that depends on what there is not, or on itself by way of others.

    Raises:
        GestaltError: INVALID, with each of them as a detail.
    """
    if found := mistakes(draft, spec, together):
        hint = "describe all of them in one request, or launch what it depends on first"
        raise GestaltError(Kind.INVALID, f"{spec.path}: {found[0].field}: {found[0].problem}", hint=hint, details=found)


def dependants(draft: Draft, path: str) -> tuple[App, ...]:
    """Return the apps that depend on one, but for those that are being deleted."""
    return tuple(app for app in draft.apps() if not app.deleting and app.path != path and path in _needs(draft, app.path, {}))


def refuse_orphans(draft: Draft, path: str) -> None:
    """Refuse to take an app away from those that depend on it.

    Raises:
        GestaltError: REFUSED, naming them.
    """
    if needing := dependants(draft, path):
        names = _names(needing)
        hint = f"delete {names} first, or take {path} out of depends_on there, or add --force"
        raise GestaltError(Kind.REFUSED, f"{path} is not deleted: {names} depend{'' if len(needing) > 1 else 's'} on it", hint=hint)


def left_alone(draft: Draft, path: str) -> tuple[str, ...]:
    """Return what to say when an app stops on which others depend that go on."""
    running = tuple(app for app in dependants(draft, path) if app.wanted)
    if not running:
        return ()
    return (f"{_names(running)} depend{'' if len(running) > 1 else 's'} on it and go{'' if len(running) > 1 else 'es'} on without it",)


def _needs(draft: Draft, path: str, together: Set) -> Collection[str]:
    if path in together:
        return together[path]
    app = draft.app(path)
    version = draft.version(path, app.goal) if app is not None else None
    return version.spec.depends_on if version is not None else ()


def _there_is(draft: Draft, path: str) -> str:
    """Say which apps are where the missing one would be."""
    place = path.rpartition("/")[0] + "/"
    beside = sorted(app.path for app in draft.apps() if app.path.startswith(place) and not app.deleting)
    known = f" (in {place[:-1]}: {', '.join(beside[:NAMED])}{', …' if len(beside) > NAMED else ''})" if beside else ""
    return f"an app that exists{known}, or one of the same request"


def _names(apps: tuple[App, ...]) -> str:
    names = [app.path for app in apps]
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
