"""The draining of a node: what it decides, and how far it is. Pure; the instances move by `reconcile`, as they do in every change.

A node that drains is durable (`Node.admin`), so a new leader goes on. Its instances count as old ones: each is stopped when its replacement
elsewhere is healthy, and stays when there is no place for one; until the drain's deadline, if it has one. At most so many are on the
move at once (`turns`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from gestalt.errors import Detail, GestaltError, Kind

from . import turns
from .changes import Asked
from .membership import Life
from .records import Node, Step, Task, TaskState, Verb
from .state import Draft, State

NAMED = 3
"""So many apps that a drain waits for are named at most."""

_MOVE = "move"
_NO_DRAIN: dict[str, Any] = {"drain": "", "parallel": 0, "drain_until": "", "forced": False}


PARALLEL = 10
"""So many instances are on the move from one node at once if nobody says otherwise."""
PARALLEL_MAX = 1000
DEADLINE_MAX = 30 * 86400.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What is asked of a drain besides. None: as it is, or the default.

    `deadline`: seconds from now until what is left stops without a replacement; infinite = never. `parallel`: so many instances are on the
    move at once.
    """

    deadline: float | None = None
    parallel: int | None = None

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            GestaltError: INVALID.
        """
        if self.deadline is not None and not (0 < self.deadline <= DEADLINE_MAX or math.isinf(self.deadline)):
            raise _invalid(
                "deadline",
                f"{self.deadline:g} s is not a time to leave",
                "more than 0 s and at most 30d, or none",
            )
        if self.parallel is not None and not 0 < self.parallel <= PARALLEL_MAX:
            raise _invalid("parallel", f"{self.parallel} instances at once move nothing, or too much", f"1 to {PARALLEL_MAX}")

    def put_on(self, node: Node, at: str) -> Node:
        """Return a node with its drain limited so."""
        after = node if self.parallel is None else replace(node, parallel=self.parallel)
        if self.deadline is None:
            return after
        if math.isinf(self.deadline):
            return replace(after, drain_until="", forced=False)
        until = datetime.fromisoformat(at) + timedelta(seconds=self.deadline)
        return replace(after, drain_until=until.isoformat(), forced=False)


AS_IT_IS = Limits()


def begin(draft: Draft, node: Node, life: str, asked: Asked, limits: Limits = AS_IT_IS) -> Task | None:
    """Have a node drained. None: it is already; the task that is under way, with other limits if some are asked for, if it is being.

    Raises:
        GestaltError: REFUSED, when it is lost, or there is no other node. INVALID: see `Limits`.
    """
    limits.check()
    if life in (Life.LOST, Life.LEFT):
        hint = f"take it out of the cluster: gestaltctl node remove {node.name}"
        raise GestaltError(Kind.REFUSED, f"{node.name} is {life}: what ran there runs elsewhere already", hint=hint)
    if len(draft.base.nodes) < 2:
        raise GestaltError(Kind.REFUSED, f"{node.name} is the only node: there is nowhere to go", hint="stop the apps: gestaltctl stop APP")
    if node.admin == Life.DRAINED:
        return None
    if node.admin == Life.DRAINING and (running := draft.task(node.drain)) is not None:
        if (changed := limits.put_on(node, asked.at)) != node:
            draft.put_node(changed)
            draft.tell("node.draining", node.name, f"{asked.by} changes the drain of node {node.name}: {_terms(changed)}")
        return running
    there = len(draft.base.placed_on(node.id))
    task = Task(asked.task, Verb.DRAIN, "", asked.by, asked.at, steps=(Step(_MOVE, "running", 0, there),), node=node.name)
    draft.put_task(task)
    after = limits.put_on(replace(node, admin=Life.DRAINING, drain=task.id, parallel=PARALLEL, drain_until="", forced=False), asked.at)
    draft.put_node(after)
    draft.tell("node.draining", node.name, f"{asked.by} drains node {node.name}, which has {there} instances: {_terms(after)}")
    return task


def in_maintenance(node: Node, at: str) -> Node:
    """Return a node whose maintenance begins now."""
    until = datetime.fromisoformat(at) + timedelta(seconds=node.maintenance_for)
    return replace(node, admin=Life.MAINTENANCE, maintenance_until=until.isoformat() if node.maintenance_for else "")


def _terms(node: Node) -> str:
    return f"{node.parallel} at once, " + (f"until {_shown(node.drain_until)}" if node.drain_until else "without a deadline")


def _shown(at: str) -> str:
    return f"{datetime.fromisoformat(at).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def overdue(state: State, now: datetime) -> list[Node]:
    """Return the nodes that should be drained by now, and of which nobody took note yet."""
    limited = (node for node in state.nodes.values() if node.admin == Life.DRAINING and node.drain_until and not node.forced)
    return [node for node in limited if datetime.fromisoformat(node.drain_until) <= now and state.placed_on(node.id)]


def force(draft: Draft, nodes: Iterable[Node]) -> None:
    """Have what is left on nodes stop, whether there is a replacement or not: their deadlines are over."""
    for node in nodes:
        left = len(draft.base.placed_on(node.id))
        what = f"the deadline was over with {left} instance{'s' if left > 1 else ''} left, stopped without waiting for replacements"
        draft.put_node(replace(node, forced=True))
        draft.tell("node.drain-forced", node.name, f"drain of node {node.name}: {what}")
        if (task := draft.task(node.drain)) is not None and task.state is TaskState.RUNNING:
            draft.put_task(replace(task, message=what))


def given_up(draft: Draft, before: Node, after: Node, verb: str, at: str) -> Node:
    """Return the node as it is to be, its drain ended if it was one that the change ends."""
    if before.maintenance and after.admin != before.admin:
        after = replace(after, maintenance="", maintenance_for=0.0, maintenance_until="")
    if not before.drain or after.admin == Life.DRAINING:
        return after
    if (task := draft.task(before.drain)) is not None and task.state is TaskState.RUNNING:
        draft.put_task(replace(task, state=TaskState.SUPERSEDED, message=f"superseded by {verb}", ended_at=at))
        draft.tell("task.superseded", task.id, f"drain of node {before.name}: superseded by {verb}")
    return replace(after, **_NO_DRAIN)


def done(state: State) -> list[Node]:
    """Return the draining nodes on which nothing is left: their agents have told so, or they were given up."""
    return [node for node in state.nodes.values() if node.admin == Life.DRAINING and not state.placed_on(node.id)]


def conclude(draft: Draft, nodes: Iterable[Node], at: str) -> None:
    """Note that nodes are drained."""
    for node in nodes:
        drained = replace(node, admin=Life.DRAINED, **_NO_DRAIN)
        draft.put_node(in_maintenance(drained, at) if node.maintenance else drained)
        draft.tell("node.drained", node.name, f"node {node.name} is drained")
        if (task := draft.task(node.drain)) is not None and task.state is TaskState.RUNNING:
            given_up = f"node {node.name} is lost: what ran there was given up and is replaced"
            message = given_up if node.lost else f"nothing runs on {node.name} any more" + (f"; {task.message}" if task.message else "")
            ended = replace(task, state=TaskState.SUCCEEDED, message=message, ended_at=at, steps=steps(task, node, {}, {}))
            draft.put_task(ended)
            draft.tell("task.succeeded", task.id, f"drain of node {node.name} succeeded: {message}")


def steps(
    task: Task, node: Node, left: Mapping[str, str], why: Mapping[str, str], waiting: frozenset[str] = frozenset()
) -> tuple[Step, ...]:
    """Return how far a drain is.

    Args:
        task: of the drain.
        node: the node.
        left: what is still placed there: app by instance.
        why: what apps wait for, as far as that is known; empty = nothing.
        waiting: the apps that wait for their turn.
    """
    total = max(task.steps[0].total if task.steps else 0, len(left))
    paths = sorted(set(left.values()) - waiting, key=lambda path: (not why.get(path), path))
    told = [f"{path}: {why[path]}" if why.get(path) else path for path in paths[:NAMED]]
    more = [f"{len(paths) - NAMED} more apps"] if len(paths) > NAMED else []
    parts = ["waits for " + "; ".join([*told, *more])] if paths else []
    parts += filter(None, [turns.told(waiting, left, node.parallel)])
    if node.drain_until:
        parts.append(
            f"the deadline was {_shown(node.drain_until)}" if node.forced else f"what is left then stops at {_shown(node.drain_until)}"
        )
    return (Step(_MOVE, "running" if left else "done", total - len(left), total, "; ".join(parts) if left else ""),)


def _invalid(field: str, problem: str, allowed: str) -> GestaltError:
    return GestaltError(Kind.INVALID, f"{field}: {problem}; allowed: {allowed}", details=[Detail(field, problem, allowed)])
