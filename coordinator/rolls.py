"""The rolls of the apps: which instances there are, and which of them have to be looked at.

Most instances of a large cluster are at work, as they should be, at any moment. To a decision all of those are alike: their number says
everything. So a look at an app costs what is not so, and what changed; not what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter

from .nodes import Tracker
from .notices import taken
from .reconcile import View, is_enough, is_settled
from .records import App, Placed, instance_id, serial_of
from .state import Moves, State

_SERIAL = attrgetter("serial")
_Goal = tuple[str, int, int, tuple[int, ...]]


@dataclass(slots=True)
class _Roll:
    """`special`: by serial the instances that were not settled at the last look, or may not be any more. `goal`: of that look."""

    goal: _Goal
    special: dict[int, Placed]


class Rolls:
    """Keeps what the tracker watches, and what has to be looked at, in step with what is committed and reported.

    Args:
        state: what is decided.
        tracker: what is known of instances and nodes.
        is_stopped: tells whether a node is told to stop an instance although its record lets it run.
    """

    def __init__(self, state: State, tracker: Tracker, is_stopped: Callable[[App, Placed], bool]) -> None:
        self._state = state
        self._tracker = tracker
        self._is_stopped = is_stopped
        self._rolls: dict[str, _Roll] = {}
        self._nodes = state.touched.reader(), tracker.touched.reader()
        self._stirred = tracker.stirred.reader()

    def take(self, path: str, *, is_inherited: bool = False) -> None:
        """Watch all instances of an app. `is_inherited`: from the office before."""
        if (app := self._state.apps.get(path)) is not None:
            for item in self._state.placed(path).instances:
                self._watch(app, item, is_inherited=is_inherited)

    def follow(self, moves: Moves) -> None:
        """Watch the instances that came or changed, and forget those that went."""
        come = {instance_id(app, item.serial) for app, item in moves.come}
        for app, item in moves.gone:
            self._strike(app, item)
            if (instance := instance_id(app, item.serial)) not in come:
                self._tracker.forget(instance)
        for app, item in (*moves.come, *moves.changed):
            self._enter(app.path, item)
            self._watch(app, item)

    def _watch(self, app: App, item: Placed, *, is_inherited: bool = False) -> None:
        """Watch an instance; reports that a stopping one is gone count only from now on, unless it is inherited."""
        stopping = item.stop or self._is_stopped(app, item)
        self._tracker.watch(instance_id(app, item.serial), stopping=stopping, is_inherited=is_inherited)

    def views(self, app: App) -> tuple[tuple[View, ...], int]:
        """Return the instances of an app that a decision has to look at, oldest first, and how many more there are: these are settled."""
        version, path = self._state.version(app.path, app.version), app.path
        spec, instances = version.spec, self._state.placed(path).instances
        if spec.kind != "service" or spec.placement.exclusive:
            return self._tracker.views(app, instances), 0
        roll = self._known(app)
        looked_at: Iterable[Placed] = instances if roll is None else tuple(sorted(roll.special.values(), key=_SERIAL))
        views = self._tracker.views(app, looked_at)
        special = tuple(view for view in views if not is_settled(app, view, spec))
        settled = len(instances) - len(special)
        if settled < len(special):
            self._rolls.pop(path, None)  # as long as most are on their way it is no use
            return self._tracker.views(app, instances) if roll is not None else views, 0
        self._rolls[path] = _Roll(_goal(app), {view.placed.serial: view.placed for view in special})
        newest = self._state.version(path, max(app.version, *(view.placed.version for view in special), 0))
        if is_enough(app, spec, newest.spec.update.strategy, special, settled):
            return special, settled
        return self._tracker.views(app, instances), 0

    def special(self, app: App) -> tuple[Placed, ...] | None:
        """Return the instances of an app that may not be settled, None if that is not known."""
        roll = self._known(app)
        return tuple(roll.special.values()) if roll is not None else None

    def _known(self, app: App) -> _Roll | None:
        self._catch_up()
        roll = self._rolls.get(app.path)
        return roll if roll is not None and roll.goal == _goal(app) else None

    def _catch_up(self) -> None:
        """Take notice of what was learnt of nodes and instances."""
        for node in set[str]().union(*map(taken, self._nodes)):
            for instance, item in self._state.placed_on(node).items():
                self._enter(self._state.owners[instance], item)
        for instance in taken(self._stirred):
            path = self._state.owners.get(instance, "")
            if path in self._rolls and (found := self._state.placed(path).instances.get(serial_of(instance))) is not None:
                self._enter(path, found)

    def _enter(self, path: str, *items: Placed) -> None:
        """Have instances looked at."""
        if (roll := self._rolls.get(path)) is not None:
            roll.special.update((item.serial, item) for item in items)

    def _strike(self, app: App, item: Placed) -> None:
        """Look at an instance no more."""
        if (roll := self._rolls.get(app.path)) is not None:
            roll.special.pop(item.serial, None)

    def forget(self, path: str) -> None:
        self._rolls.pop(path, None)


def _goal(app: App) -> _Goal:
    """Return what of an app makes an instance a settled one, or not."""
    return app.uid, app.version, app.renew_below, app.moving
