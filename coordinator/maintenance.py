"""Nodes in maintenance: taken out of use for a while, so that their absence is expected. Pure.

First such a node is drained, unless what runs there is to stay. While it is in maintenance it takes nothing new and may go away and come
back as often as is needed: nobody is told that anything is wrong with it. What still runs there is replaced when it is lost, as always.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from gestalt.errors import Detail, GestaltError, Kind

from . import drain
from .changes import Asked
from .membership import Life
from .records import Node, Task, TaskState, Verb
from .state import Draft, State

LASTS_MAX = 30 * 86400.0
REASON_MAX = 200


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for. `lasts`: seconds from its beginning, 0 = until somebody ends it. `keep`: what runs there stays."""

    reason: str = ""
    lasts: float = 0.0
    keep: bool = False
    limits: drain.Limits = drain.AS_IT_IS

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            GestaltError: INVALID.
        """
        if not 0 <= self.lasts <= LASTS_MAX:
            raise no_time(self.lasts)
        if len(self.reason) > REASON_MAX or not self.reason.isprintable():
            raise _invalid("reason", "is too long, or not one line", f"at most {REASON_MAX} printable characters")
        if self.keep and self.limits != drain.AS_IT_IS:
            raise _invalid("keep", "goes with no limits of a drain: nothing is drained", "one of both")


def begin(draft: Draft, node: Node, life: str, asked: Asked, wish: Wish) -> Task:
    """Have a node in maintenance: at once if nothing is to leave it, else once it is drained. Returns the task to follow.

    One that is lost is drained by what replaces its instances; should it come back before that, they leave it all the same.

    Raises:
        GestaltError: what `drain.begin` raises; INVALID: see `Wish`.
    """
    wish.check()
    why = f"by {asked.by}" + (f": {wish.reason}" if wish.reason else "")
    if not wish.keep and life not in (Life.LOST, Life.LEFT):
        running = drain.begin(draft, node, life, asked, wish.limits)
        if running is not None:
            draining = draft.node(node.id) or node
            draft.put_node(replace(draining, maintenance=why, maintenance_for=wish.lasts))
            return running
    is_left = not wish.keep and life == Life.LOST and bool(draft.base.placed_on(node.id))
    after = replace(node, admin=Life.DRAINING if is_left else Life.MAINTENANCE, maintenance=why, maintenance_for=wish.lasts)
    if is_left:
        draft.put_node(after)
        return _done(draft, node, asked, f"{node.name} is lost, and in maintenance once what ran there is replaced")
    draft.put_node(drain.in_maintenance(drain.given_up(draft, node, after, "maintenance", asked.at), asked.at))
    draft.tell("node.maintenance", node.name, f"node {node.name} is in maintenance {why}")
    return _done(draft, node, asked, f"{node.name} is in maintenance")


def end(draft: Draft, node: Node, asked: Asked) -> Task | None:
    """End the maintenance of a node, or the drain before it: it takes instances again. None: it is in none."""
    if not node.maintenance:
        return None
    draft.put_node(drain.given_up(draft, node, replace(node, admin=Life.READY), "the end of the maintenance", asked.at))
    draft.tell("node.maintenance-over", node.name, f"{asked.by} ends the maintenance of node {node.name}")
    return _done(draft, node, asked, f"{node.name} is in maintenance no more")


def _done(draft: Draft, node: Node, asked: Asked, message: str) -> Task:
    task = Task(asked.task, Verb.MAINTENANCE, "", asked.by, asked.at, TaskState.SUCCEEDED, message, asked.at, node=node.name)
    draft.put_task(task)
    return task


def over(state: State, now: datetime) -> list[Node]:
    """Return the nodes whose time in maintenance is over."""
    limited = (node for node in state.nodes.values() if node.admin == Life.MAINTENANCE and node.maintenance_until)
    return [node for node in limited if datetime.fromisoformat(node.maintenance_until) <= now]


def conclude(draft: Draft, nodes: Iterable[Node], at: str) -> None:
    """Let nodes take instances again. One that is away then counts as any other that is."""
    for node in nodes:
        draft.put_node(drain.given_up(draft, node, replace(node, admin=Life.READY), "maintenance", at))
        draft.tell("node.maintenance-over", node.name, f"node {node.name}: the time of its maintenance is over")


def is_expected(node: Node | None) -> bool:
    """Tell whether a node may be away without anybody being told."""
    return node is not None and node.admin == Life.MAINTENANCE


def told(node: Node, away: str) -> str:
    """Say why a node in maintenance is so, until when, and how it ends, to follow its name. `away`: what else is to say of it."""
    until = node.maintenance_until
    ends = f"until {datetime.fromisoformat(until).astimezone(UTC):%Y-%m-%d %H:%M} UTC" if until else "until it is ended"
    also = f"; it {away}" if away else ""
    return f"is in maintenance {node.maintenance}, {ends} (gestaltctl node maintenance {node.name} --end){also}"


def no_time(seconds: float) -> GestaltError:
    """Return the refusal of a time for which no maintenance can last."""
    return _invalid("for", f"{seconds:g} s is no time", "more than 0 s and at most 30d, or none: until somebody ends it")


def _invalid(field: str, problem: str, allowed: str) -> GestaltError:
    return GestaltError(Kind.INVALID, f"{field}: {problem}; allowed: {allowed}", details=[Detail(field, problem, allowed)])
