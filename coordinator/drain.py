"""The draining of a node: what it decides, and how far it is. Pure; the instances move by `reconcile`, as they do in every change.

A node that drains is durable (`Node.admin`), so a new leader goes on. Its instances count as old ones: each is stopped when its replacement
elsewhere is healthy, and stays when there is no place for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from gestalt.errors import GestaltError, Kind

from .changes import Asked
from .membership import Life
from .records import Node, Step, Task, TaskState, Verb
from .state import Draft, State

NAMED = 3
"""So many apps that a drain waits for are named at most."""

_MOVE = "move"


def begin(draft: Draft, node: Node, life: str, asked: Asked) -> Task | None:
    """Have a node drained. None: it is already; the task that is under way, if it is being.

    Raises:
        GestaltError: REFUSED, when it is lost, or there is no other node.
    """
    if life in (Life.LOST, Life.LEFT):
        hint = f"take it out of the cluster: gestaltctl node remove {node.name}"
        raise GestaltError(Kind.REFUSED, f"{node.name} is {life}: what ran there runs elsewhere already", hint=hint)
    if len(draft.base.nodes) < 2:
        raise GestaltError(Kind.REFUSED, f"{node.name} is the only node: there is nowhere to go", hint="stop the apps: gestaltctl stop APP")
    if node.admin == Life.DRAINED:
        return None
    if node.admin == Life.DRAINING and (running := draft.task(node.drain)) is not None:
        return running
    there = len(draft.base.placed_on(node.id))
    task = Task(asked.task, Verb.DRAIN, "", asked.by, asked.at, steps=(Step(_MOVE, "running", 0, there),), node=node.name)
    draft.put_task(task)
    draft.put_node(replace(node, admin=Life.DRAINING, drain=task.id))
    draft.tell("node.draining", node.name, f"{asked.by} drains node {node.name}, which has {there} instances")
    return task


def given_up(draft: Draft, before: Node, after: Node, verb: str, at: str) -> Node:
    """Return the node as it is to be, its drain ended if it was one that the change ends."""
    if not before.drain or after.admin == Life.DRAINING:
        return after
    if (task := draft.task(before.drain)) is not None and task.state is TaskState.RUNNING:
        draft.put_task(replace(task, state=TaskState.SUPERSEDED, message=f"superseded by {verb}", ended_at=at))
        draft.tell("task.superseded", task.id, f"drain of node {before.name}: superseded by {verb}")
    return replace(after, drain="")


def done(state: State) -> list[Node]:
    """Return the draining nodes on which nothing is left: their agents have told so, or they were given up."""
    return [node for node in state.nodes.values() if node.admin == Life.DRAINING and not state.placed_on(node.id)]


def conclude(draft: Draft, nodes: Iterable[Node], at: str) -> None:
    """Note that nodes are drained."""
    for node in nodes:
        draft.put_node(replace(node, admin=Life.DRAINED, drain=""))
        draft.tell("node.drained", node.name, f"node {node.name} is drained")
        if (task := draft.task(node.drain)) is not None and task.state is TaskState.RUNNING:
            given_up = f"node {node.name} is lost: what ran there was given up and is replaced"
            message = given_up if node.lost else f"nothing runs on {node.name} any more"
            ended = replace(task, state=TaskState.SUCCEEDED, message=message, ended_at=at, steps=steps(task, {}, lambda path: ""))
            draft.put_task(ended)
            draft.tell("task.succeeded", task.id, f"drain of node {node.name} succeeded: {message}")


def steps(task: Task, left: Mapping[str, str], why: Callable[[str], str]) -> tuple[Step, ...]:
    """Return how far a drain is.

    Args:
        task: of the drain.
        left: what is still placed there: app by instance.
        why: what an app waits for, as far as that is known; empty = nothing.
    """
    total = max(task.steps[0].total if task.steps else 0, len(left))
    paths = sorted(set(left.values()))
    told = [f"{path}: {reason}" if (reason := why(path)) else path for path in paths[:NAMED]]
    more = [f"{len(paths) - NAMED} more apps"] if len(paths) > NAMED else []
    message = "waits for " + "; ".join([*told, *more]) if left else ""
    return (Step(_MOVE, "running" if left else "done", total - len(left), total, message),)
