"""Who may move off a draining node now, and who waits until others have: so many instances at once as its operator said.

What is on the move follows from what is placed, so that a new leader goes on with the same ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from .membership import Life
from .reconcile import View
from .records import App, Node
from .state import State


def on_the_move(state: State, path: str, node: str, there: int) -> int:
    """Return how many of the instances that an app has on a draining node are on the move: replaced already, or stopping.

    Args:
        state: all of it.
        path: of the app.
        node: its id.
        there: how many instances of the app are there.
    """
    app, instances = state.apps.get(path), state.placed(path).instances
    stopping = sum(item.stop and item.node == node for item in instances)
    if app is not None and (app.paused or state.version(path, app.version).spec.kind != "service"):
        return min(there, stopping)  # what is more than wanted takes nobody's place, or stays as it is
    beyond = sum(app is None or not app.tries(item) for item in instances) - (app.wanted if app is not None else 0)
    return min(there, max(stopping, beyond))


def free(state: State, node: Node, but: str = "") -> int:
    """Return how many instances more may be on the move from a draining node. `but`: an app that does not count."""
    there = Counter(state.owners[instance] for instance in state.placed_on(node.id))
    return max(0, node.parallel - sum(on_the_move(state, path, node.id, count) for path, count in there.items() if path != but))


def is_in_turns(node: Node | None) -> bool:
    """Tell whether what is on a node leaves it in turns."""
    return node is not None and node.admin == Life.DRAINING and node.parallel > 0 and not node.forced


def in_turn(state: State, app: App, views: tuple[View, ...]) -> tuple[View, ...]:
    """Return the instances of an app, those on draining nodes whose turn has not come as ones that stay."""
    nodes = {view.placed.node: state.nodes.get(view.placed.node) for view in views}
    left = {key: _left(state, node, app, views) for key, node in nodes.items() if node is not None and is_in_turns(node)}
    return tuple(_in_turn(view, app, left) for view in views) if left else views


def _left(state: State, node: Node, app: App, views: tuple[View, ...]) -> int:
    stopping = sum(view.placed.stop and view.placed.node == node.id for view in views)
    return free(state, node, but=app.path) - stopping


def _in_turn(view: View, app: App, left: dict[str, int]) -> View:
    """Return one instance; `left` is counted down."""
    placed = view.placed
    if placed.node not in left or placed.stop or placed.serial in app.moving or not view.moving:
        return view
    left[placed.node] -= 1
    return view if left[placed.node] >= 0 else replace(view, moving=False)


class Turns:
    """Knows which apps wait for their turn, so that they are looked at when it comes."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._waiting: set[str] = set()

    @property
    def waiting(self) -> frozenset[str]:
        return frozenset(self._waiting)

    def take(self, app: App, views: tuple[View, ...]) -> tuple[View, ...]:
        """Return the instances of an app as `in_turn` does, and remember whether all that were to move wait.

        Those of a system app do not move: they leave a node last, and are not replaced elsewhere. Those of a job are let end.
        """
        if self._state.version(app.path, app.version).spec.kind != "service":
            return views
        found = in_turn(self._state, app, views)
        held_back = any(before.moving and not after.moving for before, after in zip(views, found, strict=True))
        if held_back and not any(view.moving for view in found):
            self._waiting.add(app.path)
        else:
            self._waiting.discard(app.path)
        return found

    def forget(self, path: str) -> None:
        self._waiting.discard(path)

    def next(self) -> list[str]:
        """Return the apps whose turn has come."""
        if not self._waiting:
            return []
        found: list[str] = []
        for node in self._state.nodes.values():
            if is_in_turns(node):
                here = sorted(self._waiting.intersection(self._state.apps_on(node.id)))
                found += here[: free(self._state, node)]
        return found


def told(waiting: frozenset[str], left: Mapping[str, str], parallel: int) -> str:
    """Say how many of the apps that are left on a node wait for their turn; empty when none does."""
    number = len(waiting.intersection(left.values()))
    if not number:
        return ""
    return f"{number} app{'s wait' if number > 1 else ' waits'} for {'their' if number > 1 else 'its'} turn, {parallel} instances at once"
