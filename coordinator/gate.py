"""Which apps wait for which others, as the leader knows it: soft state around the pure rules of `dependencies`."""

from __future__ import annotations

from .dependencies import Needed, Wait, wait_for
from .nodes import Tracker
from .reconcile import is_given_up, is_steady
from .records import App
from .state import State


class Gate:
    """Says what the change of an app waits for, and whom to look at when an app was looked at."""

    def __init__(self, state: State, tracker: Tracker) -> None:
        self._state = state
        self._tracker = tracker
        self._waiting: dict[str, set[str]] = {}
        self._seen: dict[str, tuple[object, ...]] = {}

    def look(self, app: App) -> Wait:
        """Return what a change waits for now; it will be named by `woken` of each app that it waits for."""
        if not app.awaiting:
            return Wait()
        wanted, after = self._state.version(app.path, app.awaiting).spec.depends_on, dict(app.after)
        wait = wait_for(self._needed(path, after.get(path, 0)) for path in wanted)
        for path in wanted if wait.why else ():
            if path not in self._waiting:
                self._waiting[path], self._seen[path] = set(), self._essence(path)
            self._waiting[path].add(app.path)
        return wait

    def woken(self, path: str) -> set[str]:
        """Return those that wait for an app, if it is to them another than it was, once for each time that they looked."""
        if path not in self._waiting or self._essence(path) == self._seen[path]:
            return set()
        return self._waiting.pop(path)

    def _essence(self, path: str) -> tuple[object, ...]:
        """Return what counts of an app to those that wait for it."""
        found = self._needed(path, 0)
        if found.app is None:
            return ()
        app = found.app
        return found.healthy, found.proven, app.version, app.wanted, app.stopped, app.deleting, app.task, app.canary_task

    def _needed(self, path: str, version: int) -> Needed:
        app = self._state.apps.get(path)
        if app is None:
            return Needed(path, None, version)
        found = self._state.version(path, app.version)
        views = self._tracker.views(app, self._state.placed(path).instances)
        there = [view for view in views if not view.placed.stop and not is_given_up(view, found.spec)]
        healthy = sum(view.placed.version == app.version and is_steady(view, found.spec) for view in there)
        return Needed(path, app, version, healthy, found.proven, is_job=found.spec.kind == "job")
