"""Has the machine reset when the fence cannot prove that what is exclusive here is under control: what hangs is not fed.

The kernel's watchdog device is open only while something exclusive may be at work. Each renewal of the lease is worth one feed, so that the
machine ends when lease and kill budget have passed without another one, and nothing said that all of it was killed. A fence that dies
leaves the device as it is: the next life feeds on, or the machine resets. One that is asked to end disarms it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from math import inf
from types import MappingProxyType
from typing import TypeVar

from gestalt.clock import boottime

from .settings import WATCHDOG, TimingSettings
from .watchdog_device import SHORTEST, Device, Marker

log = logging.getLogger(__name__)

T = TypeVar("T")

SLACK = 0.25
"""Seconds that a scheduler may be late by before a feed counts as one that comes too late."""

AGAIN = 1.0
LAST_LIMIT = 2.0


@dataclass(frozen=True, slots=True)
class Guarded:
    """What may be at work, until when the lease of it goes (seconds since boot), and what of it is to end at once."""

    live: frozenset[str] = frozenset()
    until: float = 0.0
    revoked: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Watch:
    """How the watchdog stands. Times in seconds since boot.

    `ticking`: the machine resets unless it is fed, perhaps since a former life of the fence. `deadline`: for which it was fed last; `at`:
    when this life did so. `timeout`: after which it resets; none = this life has not opened it. `revoked`: since when we know of it.
    """

    ticking: bool = False
    deadline: float = -inf
    at: float = -inf
    timeout: float | None = None
    revoked: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Feed:
    """Open it if it is not open, and feed it, but not after `deadline`."""

    deadline: float


@dataclass(frozen=True, slots=True)
class Disarm:
    """Have it stop: there is nothing to guard."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before `until` (None: before something changes)."""

    until: float | None = None


def noticed(watch: Watch, guarded: Guarded, now: float) -> Watch:
    """Return how it stands with what is to end at once noted."""
    over = guarded.revoked & guarded.live
    return replace(watch, revoked=MappingProxyType({name: watch.revoked.get(name, now) for name in over}))


def deadline_of(guarded: Guarded, watch: Watch, kill: float) -> float | None:
    """Return when all that is over must have ended, and nothing else may be at work without a renewal; None: nothing is at work."""
    if not guarded.live:
        return None
    return min([guarded.until, *watch.revoked.values()]) + kill


def decide(deadline: float | None, watch: Watch, now: float) -> Feed | Disarm | Wait:
    """Return what to do about the watchdog.

    A later deadline than the last one is proof of a renewal and is worth a feed. A watchdog that is too short to wait for the next one is
    fed in between as far as it resets no later than the deadline.
    """
    if deadline is None:
        return Disarm() if watch.ticking else Wait()
    if now >= deadline:
        return Wait()
    if deadline > watch.deadline:
        return Feed(deadline)
    if watch.timeout is None:
        return Wait(deadline)
    due = min(watch.at + watch.timeout / 2, deadline - watch.timeout)
    if due <= watch.at or now + watch.timeout > deadline + SLACK:
        return Wait(deadline)
    return Feed(deadline) if now >= due else Wait(due)


def wanted_timeout(timing: TimingSettings) -> int:
    """Return the whole seconds after which a machine should reset: those of lease and kill budget."""
    return max(SHORTEST, math.floor(timing.lease + timing.kill))


class Watchdog:
    """A task of its own. `guarded`: what there is to guard now. `changed` is called when `problem` is another: why it does not guard."""

    def __init__(
        self, path: str, timing: TimingSettings, marker: Marker, guarded: Callable[[], Guarded], changed: Callable[[], None]
    ) -> None:
        self._guarded = guarded if path else Guarded
        self._kill = timing.kill
        self._changed = changed
        left = marker.read()
        self._strangers = [Device(left, marker, wanted_timeout(timing))] if left not in ("", path) else []
        self._device = Device(path, marker, wanted_timeout(timing))
        begun = deadline_of(self._guarded(), Watch(), self._kill)
        self._watch = Watch(True, -inf if begun is None else begun) if path and left == path else Watch()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gestalt-watchdog")
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._told = ""
        self._starves = False
        self.problem = ""

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="watchdog")

    def wake(self) -> None:
        """What there is to guard may have changed."""
        self._woken.set()

    async def close(self) -> None:
        """Disarm it: who is asked to end does not hang. What is due is ended by the next life of the fence, or by the agent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        if self._device.path:
            try:
                async with asyncio.timeout(LAST_LIMIT):
                    await self._disarm()
            except TimeoutError:
                log.error("the watchdog does not let itself be disarmed in time")
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        while True:
            self._woken.clear()
            try:
                pause = await self._step()
            except Exception:  # whatever it is, the machine should not reset for it
                log.exception("a step of the watchdog failed")
                pause = AGAIN
            await self._rest(pause)

    async def _rest(self, pause: float | None) -> None:
        try:
            async with asyncio.timeout(pause):
                await self._woken.wait()
        except TimeoutError:
            pass

    async def _step(self) -> float | None:
        """Take a step; return after how many seconds the next one is due, None = when something changes."""
        while self._strangers:
            await self._in_thread(self._strangers.pop().disarm)
        guarded, now = self._guarded(), boottime()
        self._watch = noticed(self._watch, guarded, now)
        deadline = deadline_of(guarded, self._watch, self._kill)
        self._tell_hunger(guarded, deadline is not None and now >= deadline)
        action = decide(deadline, self._watch, now)
        if isinstance(action, Feed):
            await self._feed(action.deadline)
            return 0.0
        if isinstance(action, Disarm):
            return 0.0 if await self._disarm() else AGAIN
        if not guarded.live:
            self._tell("")
        return None if action.until is None else max(action.until - now, 0.0)

    async def _feed(self, deadline: float) -> None:
        self._watch = replace(self._watch, deadline=max(deadline, self._watch.deadline))
        try:
            fed = await self._in_thread(lambda: self._device.feed(deadline))
        except OSError as error:
            self._watch = replace(self._watch, ticking=self._watch.ticking or self._device.armed, timeout=None)
            is_none = isinstance(error, FileNotFoundError) and self._device.path == WATCHDOG
            self._tell("" if is_none else str(error.strerror))
        else:
            if fed is not None:
                self._watch = replace(self._watch, ticking=True, at=fed, timeout=self._device.timeout)
                self._tell(self._device.note)

    async def _disarm(self) -> bool:
        """Have it stop; return whether it has."""
        try:
            await self._in_thread(self._device.disarm)
        except OSError as error:
            self._tell(f"{self._device.path} cannot be disarmed: {error.strerror}")
            return False
        self._watch = Watch()
        return True

    async def _in_thread(self, call: Callable[[], T]) -> T:
        """Drivers may block for as long as the hardware pleases."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def _tell_hunger(self, guarded: Guarded, starves: bool) -> None:
        if starves and self._watch.ticking and not self._starves:
            names = ", ".join(sorted(guarded.live))
            log.critical("the watchdog is not fed any more: %s should have ended; the machine resets", names)
        self._starves = starves

    def _tell(self, problem: str) -> None:
        """Say why it does not guard: on the node as long as it is so, in the log once."""
        if problem and problem != self._told:
            self._told = problem
            log.warning("the watchdog: %s", problem)
        if problem != self.problem:
            self.problem = problem
            self._changed()
