"""Rebalances the cluster on request: searches without holding the loop up, and sees to it that what was begun goes on."""

from __future__ import annotations

import asyncio
import logging
import uuid
from dataclasses import dataclass
from functools import partial

from gestalt import clock
from gestalt.errors import Detail, GestaltError, Kind
from gestalt.proto.v1 import api_pb2

from . import moving
from .advance import LEADER
from .changes import Asked
from .decider import Decider
from .ledger import Ledger
from .nodes import Tracker
from .rebalance import BUDGET, BUDGET_MAX, MIN_GAIN, Search, Subject, obstacle
from .reconcile import is_current, stops_first
from .records import App, Move
from .state import Draft, State

log = logging.getLogger(__name__)

SEARCH_LIMIT = 10.0
"""Seconds after which a search makes do with what it has looked at."""
TICK = 1.0
"""Seconds between looks at whether there is room by now for what is to move."""


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
        ledger.on_commit(self._committed)

    async def search(self, wish: Wish) -> Search:
        """Return a search that has ended, for what is so now."""
        found = subjects(self._ledger.state, self._tracker, stop_first=wish.stop_first)
        search = Search(found, self._decider.ground(), wish.budget, wish.min_gain)
        began = clock.monotonic()
        for _ in search.run():
            await asyncio.sleep(0)
            search.is_late = clock.monotonic() - began > SEARCH_LIMIT
        return search

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
        if any(kind in ("task", "node") for kind, _ in draft.records):
            self._wake.set()


def subjects(state: State, tracker: Tracker, *, stop_first: bool = False) -> list[Subject]:
    """Return the apps that are at rest: all of their instances there, of one version, ready, and no change under way."""
    return [_subject(state, app, stop_first=stop_first) for app in state.apps.values() if _is_at_rest(state, tracker, app)]


def _subject(state: State, app: App, *, stop_first: bool) -> Subject:
    spec = state.version(app.path, app.version).spec.model_copy(update={"instances": app.wanted})
    return Subject(app.path, spec, state.placed(app.path).instances, may_move=stop_first or not stops_first(spec))


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
    return all(not view.placed.stop and is_current(app, view.placed) and view.ready for view in tracker.views(app, state.placed(app.path)))
