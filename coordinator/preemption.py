"""Makes room for apps that may have others stopped: those of higher priority first, node by node, so that the loop is held by nobody."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass

from gestalt import clock
from gestalt.errors import GestaltError
from gestalt.spec.schema import AppSpec

from .advance import LEADER, Case, lacking
from .eviction import Lower, evict, in_parts, keep, makes_room, told, vacated
from .ledger import Ledger
from .membership import Life
from .nodes import Tracker
from .reconcile import Decision
from .records import App
from .scheduler.fleet import Ground
from .scheduler.preempt import Room, Search
from .scheduler.shortage import Why
from .scheduler.strategies import settled as with_strategy
from .state import Draft

log = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds for which a node that is not heard is waited for, before others are stopped because of it."""
REST = 10
"""A search that took a second is followed by the next one for the same app after so many."""
SLICE = 0.005
"""Seconds for which a search goes on without letting others have their turn."""

RETRY = 1.0
"""Seconds until it is tried again after the store refused a commit, something changed in between, or while nobody may be stopped."""

_MAY_COME = (Life.READY, Life.AGENT_DOWN, Life.UNREACHABLE)


@dataclass(slots=True)
class _Shortage:
    """An app that has no room for so many of its instances. `since` when, `due`: when room is to be made for it.

    `held`: why nobody is stopped for it; `in_vain`: nobody could be stopped with whom it had room; `rested`: when to search again at the
    soonest.
    """

    number: int
    since: float
    due: float = math.inf
    held: str = ""
    in_vain: bool = False
    rested: float = 0.0


class Preemption:
    """Knows which apps have no room, and has others stopped for them.

    Args:
        ledger: of the state.
        tracker: of the nodes.
        ground: returns the nodes as the app of a path finds them.
        held: says why nobody may be stopped now, empty = they may.
    """

    def __init__(self, ledger: Ledger, tracker: Tracker, ground: Callable[[str], Ground], held: Callable[[], str]) -> None:
        self._ledger = ledger
        self._tracker = tracker
        self._ground = ground
        self._held = held
        self._short: dict[str, _Shortage] = {}
        self._silent: dict[str, float] = {}
        self._wake = asyncio.Event()
        self._is_serving = False

    @property
    def is_idle(self) -> bool:
        """Nobody is being stopped, and nothing is to be searched unless something changes."""
        return not self._is_serving and all(math.isinf(item.due) for item in self._short.values())

    def in_order(self, paths: Iterable[str]) -> list[str]:
        """Return apps in the order in which they get room: those of higher priority first."""
        return sorted(paths, key=lambda path: (-self._priority(path), path))

    def _priority(self, path: str) -> int:
        app = self._ledger.state.apps.get(path)
        return self._ledger.state.version(path, app.version).spec.placement.priority if app is not None else 0

    def note(self, draft: Draft, case: Case, decision: Decision, reason: Why) -> None:
        """Take note of what was decided about an app. `reason`: why there is no room for all of its instances; empty = there is."""
        number, app = 0, draft.app(case.app.path) if reason and makes_room(case.spec) else None
        if app is not None and not app.paused:
            instances = draft.placed(app.path).instances
            added = len(instances.since(case.app.next_serial))
            number = min(lacking(case, instances) - len(app.held), decision.start - added)
        if app is None or number <= 0:
            self._short.pop(case.app.path, None)
            return
        shortage = self._short.setdefault(app.path, _Shortage(number, clock.monotonic()))
        shortage.number, shortage.held, shortage.due = number, self._held(), clock.monotonic()
        self._wake.set()

    def forget(self, path: str) -> None:
        self._short.pop(path, None)

    def told(self, path: str, reason: str) -> str:
        """Return why an app has too few instances, with what was or can be done about it."""
        app, shortage = self._ledger.state.apps.get(path), self._short.get(path)
        if app is None:
            return reason
        words = told(self._ledger.state, app, reason, shortage.number if shortage is not None else 0)
        if shortage is not None and shortage.held:
            return f"{words}; nobody is stopped to make room: {shortage.held}"
        if shortage is not None and shortage.in_vain and shortage.number > len(app.claims):
            return f"{words}; stopping what has a lower priority would not make room"
        return words

    async def run(self) -> None:
        """Make room for ever."""
        while True:
            await self._wait()
            now = clock.monotonic()
            for path in self.in_order([path for path, item in self._short.items() if item.due <= now]):
                if (shortage := self._short.get(path)) is not None:
                    await self._try_to_serve(path, shortage)

    async def _wait(self) -> None:
        self._wake.clear()
        nearest = min((item.due for item in self._short.values()), default=math.inf)
        with suppress(TimeoutError):
            async with asyncio.timeout(None if math.isinf(nearest) else max(0.0, nearest - clock.monotonic())):
                await self._wake.wait()

    async def _try_to_serve(self, path: str, shortage: _Shortage) -> None:
        """Make room for one app, or none: what is wrong with one must not be in the way of the others."""
        shortage.due, self._is_serving = math.inf, True
        try:
            await self._serve(path, shortage)
        except GestaltError as error:
            log.error("%s: room was to be made for it, but that was not written: %s", path, error, extra={"app": path})
            shortage.due = clock.monotonic() + RETRY
        except Exception:  # a mistake of ours about one app, and the others go on
            log.exception("%s: no room can be made for it", path, extra={"app": path})
            shortage.due = clock.monotonic() + PATIENCE
        finally:
            self._is_serving = False

    async def _serve(self, path: str, shortage: _Shortage) -> None:
        shortage.held, app = self._held(), self._ledger.state.apps.get(path)
        if shortage.held or app is None:
            shortage.due = clock.monotonic() + RETRY
            return
        found: list[Room] = []
        if shortage.number > len(app.claims):
            now = clock.monotonic()
            if (not_before := max(shortage.rested, self._patient(shortage, now))) > now:
                shortage.due = not_before
                return
            found = await self._search(app, shortage.number)
            took = clock.monotonic() - now
            shortage.rested, shortage.in_vain = now + REST * took, not found
        for part in in_parts(found) or ([[]] if app.claims else []):
            async with self._ledger.draft(LEADER, "make room") as draft:
                made = self._make(draft, app, shortage, part)
            app = self._ledger.state.apps.get(path)
            if app is None or made < len(part):  # something changed since it was searched
                shortage.due = min(shortage.due, clock.monotonic() + RETRY)
                return

    def _patient(self, shortage: _Shortage, now: float) -> float:
        """Return until when a node that is not heard, and may have room, is to be waited for."""
        until = shortage.since + PATIENCE
        return until if until > now and any(self._is_silent(node) for node in self._ledger.state.nodes) else now

    def _is_silent(self, node: str) -> bool:
        view = self._tracker.nodes.get(node)
        return self._tracker.standing(node).life in _MAY_COME and not (view is not None and view.heard)

    async def _search(self, app: App, number: int) -> list[Room]:
        """Return where room for those for which none is kept yet is made best, as far as all stays as it is."""
        spec = _counted(app, self._ledger.state.version(app.path, app.version).spec)
        return await self.rooms(spec, number, self._ground(app.path))

    async def rooms(self, spec: AppSpec, number: int, ground: Ground, spared: Set[str] = frozenset()) -> list[Room]:
        """Return where room can be made for so many instances that have none, without those for which it is kept already.

        Args:
            spec: their description, with as many instances as are wanted.
            number: how many they are.
            ground: the nodes as their app finds them.
            spared: instances that are not to be stopped.
        """
        state, turn, app = self._ledger.state, _Turn(), self._ledger.state.apps.get(spec.path)
        lower = Lower(state, spec.path, spec.placement.priority)
        if not lower.are_there:
            return []
        search, found = Search(with_strategy(spec, ground.strategies), lambda node: lower.on(node, spared)), list[Room]()
        for node in ground.fleet.ids():
            if node in ground.fleet:
                search.add(vacated(state, app, ground.node(node)))
            await turn.over()
        claims = app.claims if app is not None else ()
        for node in claims:
            search.take(node)
        for room in search.rooms(number - len(claims)):
            found += [room] if room is not None else []
            await turn.over()
        return found

    def _make(self, draft: Draft, app: App, shortage: _Shortage, found: Sequence[Room]) -> int:
        """Have instances stop where these were found, and keep room where it is kept already, if all is still so.

        Return for how many room was found again; below 0, nothing was looked at: something changed.
        """
        state, path = self._ledger.state, app.path
        if state.apps.get(path) is not app or self._short.get(path) is not shortage or self._held():
            return -1  # whatever changed, it is looked at again
        version, ground = state.version(path, app.version), self._ground(path)
        spec, chosen = _counted(app, version.spec), {*(room.node for room in found), *app.claims}
        search = Search(with_strategy(spec, ground.strategies), Lower(state, path, spec.placement.priority).on)
        for node in ground.fleet.ids() if search.is_balanced else sorted({*chosen, *ground.same_app} & ground.fleet.ids_there):
            search.add(vacated(state, app, ground.node(node)), takes=node in chosen)
        claims = keep(search, app.claims, self._awaited(app, shortage))
        rooms = search.find(min(len(found), shortage.number - len(claims)))
        evict(draft, app, version, claims, rooms)
        return len(rooms)

    def _awaited(self, app: App, shortage: _Shortage) -> list[str]:
        """Return the nodes on which room is kept for an app that are not heard, but may be soon."""
        now, awaited = clock.monotonic(), []
        for node in app.claims:
            if node not in self._ledger.state.nodes or not self._is_silent(node):
                self._silent.pop(node, None)
            elif now - self._silent.setdefault(node, now) < PATIENCE:
                awaited.append(node)
                shortage.due = min(shortage.due, self._silent[node] + PATIENCE)
        return awaited


class _Turn:
    """A turn of the loop, which is over after a slice of time."""

    def __init__(self) -> None:
        self._since = clock.monotonic()

    async def over(self) -> None:
        """Let others have theirs if it is over."""
        if clock.monotonic() - self._since > SLICE:
            await asyncio.sleep(0)
            self._since = clock.monotonic()


def _counted(app: App, spec: AppSpec) -> AppSpec:
    return spec.model_copy(update={"instances": app.wanted})
