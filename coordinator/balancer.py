"""Rebalances the cluster on request: searches without holding the loop up, and sees to it that what was begun goes on."""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from gestalt import clock
from gestalt.errors import Detail, GestaltError, Kind
from gestalt.proto.v1 import api_pb2

from . import moving
from .advance import LEADER
from .beside import all_rivals, wishes
from .changes import Asked
from .decider import Decider
from .ledger import Ledger
from .nodes import Tracker
from .rebalance import BUDGET, BUDGET_MAX, MIN_GAIN, Elsewhere, Place, Search, Subject, obstacle
from .reconcile import is_current, stops_first
from .records import App, Move, Node, Task, Verb
from .scheduler.strategies import settled
from .scheduler.values import Capacity
from .state import Draft, State

log = logging.getLogger(__name__)

SEARCH_LIMIT = 10.0
"""Seconds after which a search makes do with what it has looked at."""
CHOICE_LIMIT = 5.0
"""Seconds more for choosing among what it has looked at."""
AT_ONCE = 200
"""So many nodes are looked at without letting others have their turn."""
TICK = 1.0
"""Seconds between looks at whether there is room by now for what is to move."""
_OURS = (Verb.REBALANCE, Verb.MIGRATE)


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked of a rebalance."""

    budget: int = BUDGET
    parallel: int = moving.PARALLEL
    min_gain: float = MIN_GAIN
    stop_first: bool = False

    @classmethod
    def of(cls, request: api_pb2.RebalanceRequest) -> Wish:
        """Return what a request asks for.

        Raises:
            GestaltError: INVALID.
        """
        budget = request.budget if request.HasField("budget") else BUDGET
        parallel = request.parallel if request.HasField("parallel") else moving.PARALLEL
        min_gain = request.min_gain if request.HasField("min_gain") else MIN_GAIN
        wrong = []
        if not 1 <= budget <= BUDGET_MAX:
            wrong.append(Detail("budget", f"{budget} instances are nothing to move, or too many", f"1 to {BUDGET_MAX}"))
        if not 1 <= parallel <= BUDGET_MAX:
            wrong.append(Detail("parallel", f"{parallel} instances at once move nothing, or too much", f"1 to {BUDGET_MAX}"))
        if not 0.001 <= min_gain <= 1000:
            wrong.append(Detail("min_gain", f"{min_gain:g} points are too few, or too many", "0.001 to 1000"))
        if wrong:
            message = "; ".join(f"{item.field}: {item.problem}; allowed: {item.allowed}" for item in wrong)
            raise GestaltError(Kind.INVALID, message, details=wrong)
        return cls(budget, parallel, min_gain, request.stop_first)


class Balancer:
    """Owns the rebalances. `run` for as long as the office lasts."""

    def __init__(self, ledger: Ledger, tracker: Tracker, decider: Decider) -> None:
        self._ledger, self._tracker, self._decider = ledger, tracker, decider
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()
        self._after: Place = "", ""
        ledger.on_commit(self._committed)

    async def search(self, wish: Wish, *, is_trial: bool) -> Search:
        """Return a search that has ended, for what is so now. Searches go one after the other, beside the loop.

        One that is cut off is gone on with by the next, unless it is a trial, whose moves nobody makes: the next is to find the same.
        """
        async with self._turn:
            found = await self._subjects(stop_first=wish.stop_first)
            others = elsewhere(self._ledger.state, found)
            nodes = await self._nodes()
            is_unwanted = threading.Event()
            try:
                make = partial(Search, found, nodes, wish.budget, wish.min_gain, others, after=self._after)
                search = await asyncio.to_thread(_searched, make, is_unwanted)
            finally:
                is_unwanted.set()
            if not is_trial:
                self._after = search.reached if search.is_late else ("", "")
            return search

    async def _subjects(self, *, stop_first: bool) -> list[Subject]:
        """Return the apps that are at rest: all of their instances there, of one version, ready, and no change under way."""
        state, found = self._ledger.state, list[Subject]()
        rivals = all_rivals(state)
        for app in list(state.apps.values()):
            if state.apps.get(app.path) is app and _is_at_rest(state, self._tracker, app):
                found.append(subject_of(state, app, rivals.get(app.path, frozenset()), stop_first=stop_first))
            await asyncio.sleep(0)
        return found

    async def _nodes(self) -> list[Capacity]:
        ground, found = self._decider.ground(), list[Capacity]()
        for number, node in enumerate(ground.fleet.ids()):
            if node in ground.fleet:  # it may have gone meanwhile
                found.append(ground.node(node))
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
        return found

    async def run(self) -> None:
        """Let rebalances go on, for ever."""
        while True:
            self._wake.clear()
            if moving.under_way(self._ledger.state):
                try:
                    await self._go_on()
                except GestaltError as error:
                    log.error("a rebalance could not go on: %s", error)
            try:
                async with asyncio.timeout(TICK if moving.under_way(self._ledger.state) else None):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _go_on(self) -> None:
        at = clock.wall().isoformat()
        async with self._ledger.draft(LEADER, "rebalance") as draft:
            for task in moving.under_way(self._ledger.state):
                moving.go_on(draft, task, partial(self._fits, draft), Asked(LEADER, at, 0, uuid.uuid4().hex[:10], ""))

    def _fits(self, draft: Draft, move: Move) -> str:
        state = self._ledger.state
        app = state.apps[move.app]
        spec = state.version(app.path, app.version).spec.model_copy(update={"instances": app.wanted})
        placed = next(item for item in draft.placed(app.path).instances if item.serial == move.serial)
        return obstacle(spec, placed, self._decider.ground(app.path), move.target)

    def _committed(self, draft: Draft) -> None:
        """Look again when something is known of a rebalance or of one of its moves, and when a node is another one."""
        if any(isinstance(item, Node) or (isinstance(item, Task) and item.kind in _OURS) for item in draft.records.values()):
            self._wake.set()


def _searched(make: Callable[[], Search], is_unwanted: threading.Event) -> Search:
    """Have a search come to its end, or to that of its time. What it looks at never changes, so it may be done in any thread."""
    began, search = clock.monotonic(), make()
    for _ in search.run():
        took = clock.monotonic() - began
        search.is_over = is_unwanted.is_set() or took > SEARCH_LIMIT + CHOICE_LIMIT
        search.is_late = search.is_over or took > SEARCH_LIMIT
    return search


def cut_off(search: Search, *, is_trial: bool) -> str:
    """Say that a search has not looked at everything; empty when it has."""
    if not search.is_late:
        return ""
    share = f"{search.looked_at} of {search.places} places where instances are were looked at"
    follows = "a rebalance begins with the same ones" if is_trial else "the next rebalance goes on with the others"
    return f"the search was cut off after {SEARCH_LIMIT:g} s: {share}, so there may be more to gain, or more than by these moves; {follows}"


def elsewhere(state: State, found: Iterable[Subject]) -> dict[str, Elsewhere]:
    """Return where apps are of which others want to know: with the instances of those that are not at rest, and the room that is kept."""
    found = tuple(found)
    paths = {other for subject in found for other in subject.apart.union(*(apps for apps, _ in subject.wishes))}
    at_rest = {subject.path for subject in found}
    return {path: _where(state, path, is_at_rest=path in at_rest) for path in paths}


def _where(state: State, path: str, *, is_at_rest: bool) -> Elsewhere:
    app, there = state.apps.get(path), () if is_at_rest else state.placed(path).instances
    kept = app.kept_room if app is not None else ()
    return Elsewhere(
        frozenset(placed.node for placed in there if not (placed.stop or placed.ended)),
        frozenset(placed.node for placed in there if not placed.ended).union(kept),
    )


def subject_of(state: State, app: App, apart: frozenset[str], *, stop_first: bool) -> Subject:
    """Return an app that is at rest as a search looks at it: with the strategy by which it is placed."""
    spec = state.version(app.path, app.version).spec.model_copy(update={"instances": app.wanted})
    spec = settled(spec, state.switches.strategies)
    return Subject(
        app.path, spec, state.placed(app.path).instances, stop_first or not stops_first(spec), apart, wishes(state, app.path, spec)
    )


def _is_at_rest(state: State, tracker: Tracker, app: App) -> bool:
    instances = state.placed(app.path).instances
    if (
        app.task
        or app.canary
        or app.paused
        or not app.wanted
        or len(instances) != app.wanted
        or state.version(app.path, app.version).spec.kind != "service"
    ):
        return False
    return all(not view.placed.stop and is_current(app, view.placed) and view.ready for view in tracker.views(app, instances))
