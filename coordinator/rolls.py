"""Which instances of each app are watched: in step with what is committed."""

from __future__ import annotations

from collections.abc import Callable

from .nodes import Tracker
from .records import App, Placed, instance_id
from .state import Moves, State


class Rolls:
    """Keeps what the tracker watches in step with what is placed. `is_stopped`: a node is told to stop what its record lets run."""

    def __init__(self, state: State, tracker: Tracker, is_stopped: Callable[[App, Placed], bool]) -> None:
        self._state = state
        self._tracker = tracker
        self._is_stopped = is_stopped

    def take(self, path: str) -> None:
        """Watch all instances of an app."""
        if (app := self._state.apps.get(path)) is not None:
            for item in self._state.placed(path).instances:
                self._watch(app, item)

    def follow(self, moves: Moves) -> None:
        """Watch the instances that came or changed, and forget those that went."""
        come = {instance_id(app, item.serial) for app, item in moves.come}
        for app, item in moves.gone:
            if (instance := instance_id(app, item.serial)) not in come:
                self._tracker.forget(instance)
        for app, item in (*moves.come, *moves.changed):
            self._watch(app, item)

    def _watch(self, app: App, item: Placed) -> None:
        """Watch an instance; reports that a stopping one is gone count only from now on."""
        self._tracker.watch(instance_id(app, item.serial), stopping=item.stop or self._is_stopped(app, item))
