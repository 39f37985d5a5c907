"""Who may be decided about in one commit: the loss of a node that concerns a thousand apps should not take a thousand commits.

What one decision places is reserved before the next is made. Nothing else of it is seen before the commit, so that apps stand alone which
look at more of each other than at room.
"""

from __future__ import annotations

from collections.abc import Set

from gestalt import clock

from .beside import rivals
from .membership import Life
from .pieces import Roster
from .reconcile import stops_first
from .records import App
from .state import Draft, State

SLICE = 0.1
"""Seconds after which a commit is made: so long others may have to wait for theirs."""
LARGE = 12_000
"""Instances in all pieces of placements that one commit writes, from which on it is large enough: ZooKeeper takes a megabyte at most."""

MOVED = 2_000
"""Instances that come or go with one commit, from which on it is large enough: what follows is worked out in one turn of the loop."""
TOLD = 250
"""Events of one commit, from which on nothing more is put in: its audit record is to keep them."""


class Company:
    """The apps that are decided about in one draft, one after the other.

    Args:
        state: all of it.
        draft: what they are decided about in.
        alone: those that have a commit for themselves, whatever they are.
    """

    def __init__(self, state: State, draft: Draft, alone: Set[str]) -> None:
        self._state = state
        self._draft = draft
        self._alone = alone
        self._end = clock.monotonic() + SLICE
        self._moved = self._written = 0
        self.leaves_room = False
        """Instances are forgotten: their room is there after the commit, and not before."""
        self._is_quiet = not any(node.admin == Life.DRAINING for node in state.nodes.values())  # those that leave one take turns

    def goes_on(self, path: str) -> bool:
        """Tell, after an app was decided about, whether others may follow."""
        if ("placements", path) in self._draft.records:
            there, after = self._state.placed(path).instances, self._draft.placed(path).instances
            come, gone = self._moves(path, there, after)
            self._moved += come + gone
            self._written += sum(map(len, there.changed(after).values()))
            self.leaves_room |= gone > 0
        is_small = self._moved < MOVED and self._written < LARGE and len(self._draft.events) < TOLD
        return is_small and clock.monotonic() < self._end and not self._stands_alone(path)

    def _moves(self, path: str, there: Roster, after: Roster) -> tuple[int, int]:
        """Return how many instances of an app come, and how many go. New ones have later serials."""
        app = self._state.apps.get(path)
        come = len(after.since(app.next_serial)) if app is not None else len(after)
        return come, len(there) + come - len(after)

    def admits(self, path: str) -> bool:
        """Tell whether an app may follow."""
        return self._is_quiet and not self._stands_alone(path)

    def _stands_alone(self, path: str) -> bool:
        return path in self._alone or stands_alone(self._state, path)


def stands_alone(state: State, path: str) -> bool:
    """Tell whether what is decided about an app depends on more of what is decided about others than on the room that they take."""
    app = state.apps.get(path)
    if app is None:
        return False
    spec = state.version(path, app.version).spec
    is_plain = spec.kind == "service" and not spec.placement.exclusive and not stops_first(spec)
    return not is_plain or _is_on_the_move(app) or bool(spec.placement.beside) or path in state.apart or bool(rivals(state, path, spec))


def _is_on_the_move(app: App) -> bool:
    return bool(app.moving or app.kept_room or app.awaiting or app.canary or app.paused)
