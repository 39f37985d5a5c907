"""The course of a rebalance: a persisted list of moves, each carried out as a migration of its own. Pure.

The task and its moves are durable, and so is each migration, so that a new leader goes on where the one before stopped. A newer change
of an app takes its move out; a move that fails ends the rebalance: what is left is not begun.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import replace

from gestalt.errors import GestaltError

from . import changes
from .changes import Asked
from .records import Move, Step, Task, TaskState, Verb, instance_id
from .state import Draft, State

PARALLEL = 2
"""So many moves are under way at once if nobody says otherwise."""
NAMED = 3
"""So many moves are named at most."""
ASKED = 20
"""At so many moves for which there is no room one look ends: those behind them have their turn when these went, or were left out."""

_STEP = "move"

Fits = Callable[[Move], str]
"""Says why the instance of a move cannot go to its node now; empty = it can."""


def begin(draft: Draft, moves: Sequence[Move], parallel: int, asked: Asked, cut_off: str = "") -> Task | None:
    """Have moves made. One that is under way gives way. None: there are none to make.

    `cut_off`: that not everything was looked at, empty = it was.
    """
    if not moves and not cut_off:
        return None
    task = Task(asked.task, Verb.REBALANCE, "", asked.by, asked.at, warnings=(cut_off,) if cut_off else ())
    if not moves:
        task = replace(task, state=TaskState.SUCCEEDED, message="nothing was found to move", ended_at=asked.at)
        draft.put_task(task)
        return task
    for running in under_way(draft.base):
        message = f"superseded by rebalance (task {asked.task})"
        draft.put_task(replace(running, state=TaskState.SUPERSEDED, message=message, ended_at=asked.at))
        draft.tell("task.superseded", running.id, f"rebalance: {message}")
    task = replace(task, moves=tuple(moves), parallel=parallel)
    task = replace(task, steps=(_step(draft.base, task),))
    draft.put_task(task)
    draft.tell("cluster.rebalance", "cluster", f"{asked.by} rebalances the cluster: {len(moves)} instances move, {parallel} at once")
    return task


def under_way(state: State) -> list[Task]:
    """Return the rebalances that have not ended; there is one at most."""
    return [task for task in state.tasks.values() if task.kind is Verb.REBALANCE and task.state is TaskState.RUNNING]


def go_on(draft: Draft, task: Task, fits: Fits, asked: Asked) -> Task:
    """Take note of moves that have ended, begin those that are next, and end the task with the last one.

    Args:
        draft: of the state as it is.
        task: the rebalance.
        fits: see there.
        asked: by whom the migrations are begun; its task is the beginning of their ids.
    """
    moves = [_noted(draft, move) for move in task.moves]
    if any(move.state == "failed" for move in moves):
        moves = [_left_out(move, "an earlier move failed") if move.state == "pending" else move for move in moves]
    moves = _begin_next(draft, moves, task.parallel, fits, asked)
    after = replace(task, moves=tuple(moves))
    if all(move.state not in ("pending", "running") for move in moves):
        after = _ended(draft, after, asked.at)
    if after != task:
        after = replace(after, steps=(_step(draft.base, after),))
        draft.put_task(after)
    return after


def _noted(draft: Draft, move: Move) -> Move:
    """Return a move with what became of its migration."""
    task = draft.task(move.task) if move.task else None
    if move.state != "running" or (task is not None and task.state is TaskState.RUNNING):
        return move
    if task is None or task.state is TaskState.SUCCEEDED:
        return replace(move, state="done")
    if task.state is TaskState.SUPERSEDED:
        return _left_out(move, task.message)
    return replace(move, state="failed", message=task.message)


def _left_out(move: Move, why: str) -> Move:
    return replace(move, state="skipped", message=why)


def _begin_next(draft: Draft, moves: list[Move], parallel: int, fits: Fits, asked: Asked) -> list[Move]:
    """Begin as many moves as may be under way, in their order. Where there is no room yet others go first."""
    ours = {move.task for move in moves}
    result = [_left_out(move, why) if move.state == "pending" and (why := _hindered(draft, move, ours)) else move for move in moves]
    no_room: dict[int, str] = {}
    for index, move in enumerate(result):
        if len(no_room) >= ASKED or sum(item.state == "running" for item in result) >= parallel:
            break
        if move.state != "pending" or _is_busy(result, move):
            continue
        if why := fits(move):
            no_room[index] = why
            continue
        result[index] = _begun(draft, move, replace(asked, task=f"{asked.task}{index:x}"))
    if no_room and not any(item.state == "running" for item in result):
        return [_left_out(move, no_room[index]) if index in no_room else move for index, move in enumerate(result)]
    return result


def _begun(draft: Draft, move: Move, asked: Asked) -> Move:
    """Return a move with its migration begun; left out, if it may not begin: what is refused once is refused again."""
    told = len(draft.events)
    try:
        child = changes.relocate(draft, move.app, move.serial, draft.base.nodes[move.target], asked)
    except GestaltError as error:
        del draft.events[told:]
        return _left_out(move, error.message)
    return replace(move, state="running", task=child.id)


def _is_busy(moves: Sequence[Move], move: Move) -> bool:
    """Tell whether another instance of the same app is being moved."""
    return any(item.app == move.app and item.state == "running" for item in moves)


def _hindered(draft: Draft, move: Move, ours: Set[str]) -> str:
    """Return why a move that was not begun makes no sense any more; empty while it does. `ours`: the migrations of this rebalance."""
    app, target = draft.app(move.app), draft.base.nodes.get(move.target)
    if app is None or app.deleting or app.stopped:
        return "the app does not run any more"
    if app.canary or app.paused:
        return "a change of the app is paused, or a canary is tried"
    placed = next((item for item in draft.placed(move.app).instances if item.serial == move.serial and not item.stop), None)
    if placed is None or placed.node != move.source:
        return "the instance is not there any more"
    if target is None or target.admin != "ready":
        return f"node {target.name if target is not None else move.target} takes no instances any more"
    running = draft.task(app.task) if app.task else None
    if running is not None and running.state is TaskState.RUNNING and running.id not in ours:
        return f"a newer change of the app is under way ({running.kind}, task {running.id})"
    return ""


def _ended(draft: Draft, task: Task, at: str) -> Task:
    done, failed, skipped = ([move for move in task.moves if move.state == state] for state in ("done", "failed", "skipped"))
    parts = [f"{len(done)} of {len(task.moves)} instances moved"]
    parts += [f"{shown(draft.base, move)} failed: {move.message}" for move in failed[:NAMED]]
    parts += [f"{shown(draft.base, move)} was left out: {move.message}" for move in skipped[:NAMED]]
    more = len(failed[NAMED:]) + len(skipped[NAMED:])
    message = "; ".join([*parts, *([f"{more} more were not moved"] if more else [])])
    state = TaskState.FAILED if failed else TaskState.SUCCEEDED
    draft.tell(f"task.{state}", task.id, f"rebalance {state}: {message}")
    return replace(task, state=state, message=message, ended_at=at)


def shown(state: State, move: Move) -> str:
    """Return a move as people read it."""
    app, nodes = state.apps.get(move.app), state.nodes
    name = instance_id(app, move.serial) if app is not None else move.app
    source, target = (nodes[node].name if node in nodes else node for node in (move.source, move.target))
    return f"{name} from {source} to {target}"


def _step(state: State, task: Task) -> Step:
    over = sum(move.state not in ("pending", "running") for move in task.moves)
    now = [shown(state, move) for move in task.moves if move.state == "running"]
    more = [f"{len(now) - NAMED} more"] if len(now) > NAMED else []
    word = "failed" if task.state is TaskState.FAILED else "running" if over < len(task.moves) else "done"
    return Step(_STEP, word, over, len(task.moves), "; ".join([*now[:NAMED], *more]))
