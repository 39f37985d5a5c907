"""For how long a change has not got on: what makes the difference between slow and stuck."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from gestalt.spec.schema import AppSpec

from .reconcile import View, is_given_up, stays
from .records import App

RIGHT = 3
"""What an instance counts that is as it should be, and ready."""


@dataclass(slots=True)
class _Mark:
    """How far a change got, and since when.

    `goal`: task, version, what was lost, what moves, for whom instances were stopped, and whether it is paused: each of these is measured
    afresh.
    """

    goal: tuple[str, int, frozenset[int], frozenset[int], str, bool]
    best: int
    since: float
    heard: bool


class Progress:
    """Keeps for each app how far its change got. Time in which a node of it was not heard does not count."""

    def __init__(self) -> None:
        self._marks: dict[str, _Mark] = {}
        self._resumed: dict[str, float] = {}

    def stalled(self, app: App, spec: AppSpec, views: tuple[View, ...], now: float, *, settled: int = 0) -> float:
        """Return for how many seconds the change of an app has not got on. `settled`: how many instances more are as they should be."""
        alive = tuple(view for view in views if not is_given_up(view, spec))
        lost = frozenset(view.placed.serial for view in views) - {view.placed.serial for view in alive}
        moving = frozenset(view.placed.serial for view in alive if view.moving)
        goal = app.task, app.version, lost, moving, app.gave_way, bool(app.paused)
        best, heard = score(app, alive) + RIGHT * settled, all(view.heard for view in alive)
        mark = self._marks.get(app.path)
        if app.paused or (mark is not None and mark.goal[-1]):
            self._resumed[app.path] = now
        if mark is None or mark.goal != goal or best > mark.best or (heard and not mark.heard):
            mark = self._marks[app.path] = _Mark(goal, best, now, heard)
        mark.heard = heard
        return now - mark.since

    def since_resumed(self, path: str, views: tuple[View, ...], now: float) -> tuple[View, ...]:
        """Return the instances with no longer a wait than there was since the change was last seen paused: deadlines count from then."""
        resumed_for = now - self._resumed.get(path, -math.inf)
        return tuple(replace(view, waiting=resumed_for) if view.waiting > resumed_for else view for view in views)

    def forget(self, path: str) -> None:
        self._marks.pop(path, None)
        self._resumed.pop(path, None)


def score(app: App, views: tuple[View, ...]) -> int:
    """Return a number that grows as the change gets on: by each instance that became right and each other one that went."""
    right = [view for view in views if not view.placed.stop and stays(app, view)]
    others = len(views) - len(right)
    stopping = sum(view.placed.stop for view in views)
    return (RIGHT - 1) * sum(view.ready for view in right) + len(right) - 2 * others - (others - stopping)
