"""Health checks of one running attempt: what results mean (pure), and who runs them when.

`judge` folds one result into the state of one check, `verdict` says what all states mean for the instance, and
`CheckRunner` runs the drivers and reports when the meaning changed.
"""

from __future__ import annotations

import asyncio
import logging
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Protocol, cast

from gestalt.clock import monotonic
from gestalt.model import CheckStatus, Health
from gestalt.plugin.check import CheckDriver, CheckResult, CheckTarget
from gestalt.plugin.registry import find_driver
from gestalt.plugin.runtime import DriverUnavailable
from gestalt.spec.schema import Check

log = logging.getLogger(__name__)

OUTPUT_MAX = 500
EXEC_AT_ONCE = 4
_RETRY_FIRST = 0.02
_RETRY_FIRST_EXEC = 0.1
_RETRY_GROWTH = 1.25


@dataclass(frozen=True, slots=True)
class CheckState:
    """What is known of one check. `started` is when the attempt started; `failures` and `successes` are those in a row that count."""

    started: float
    health: Health = Health.UNKNOWN
    failures: int = 0
    successes: int = 0
    output: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the checks mean for the instance.

    `health`: unhealthy if any check is, healthy if all are. `ready`: it may get requests. `restart_reason`: why it should
    be restarted, as a sentence, or None.
    """

    health: Health
    ready: bool
    restart_reason: str | None = None


def judge(state: CheckState, check: Check, result: CheckResult, now: float) -> CheckState:
    """Return the state after one more result.

    Until a check was healthy for the first time, failures within `grace` seconds after the start do not count. While it
    goes well the output stays that of the first success, so that a changing text is no change.
    """
    if result.ok:
        successes = state.successes + 1
        health = Health.HEALTHY if successes >= check.successes else state.health
        output = state.output if state.successes else result.output
        return replace(state, health=health, failures=0, successes=successes, output=output)
    if state.health is Health.UNKNOWN and now < state.started + check.grace:
        return replace(state, successes=0, output=result.output)
    failures = state.failures + 1
    health = Health.UNHEALTHY if failures >= check.failures else state.health
    return replace(state, health=health, failures=failures, successes=0, output=result.output)


def verdict(checks: Sequence[Check], states: Mapping[str, CheckState]) -> Verdict:
    """Return what the states, by the name of their check, mean together; without checks all is well."""
    healths = [states[check.name].health for check in checks]
    reason = next((_reason(check, states[check.name]) for check in checks if _wants_restart(check, states[check.name])), None)
    health = next((worst for worst in (Health.UNHEALTHY, Health.UNKNOWN) if worst in healths), Health.HEALTHY)
    gates = [states[check.name].health for check in checks if check.purpose != "liveness"]
    return Verdict(health, reason is None and all(gate is Health.HEALTHY for gate in gates), reason)


def _wants_restart(check: Check, state: CheckState) -> bool:
    return check.purpose != "readiness" and state.health is Health.UNHEALTHY


def _reason(check: Check, state: CheckState) -> str:
    times = f"{check.failures} times in a row" if check.failures > 1 else "once"
    return f"check {check.name} failed {times}: {state.output}"


def next_run(check: Check, state: CheckState, now: float, phase: float, retry: float) -> float:
    """Return when to run next.

    While the app is coming up (in grace, never yet well) that is after `retry` seconds, at most an interval. Otherwise on
    a grid of one interval that `phase` (0 to 1) shifts: with different phases the checks of a node do not come all at once.
    """
    coming_up = state.health is Health.UNKNOWN and not state.successes and now < state.started + check.grace
    if coming_up:
        return now + min(retry, check.interval)
    shift = phase * check.interval
    return (math.floor((now - shift) / check.interval) + 1) * check.interval + shift


@cache
def installed_driver(kind: str) -> CheckDriver:
    """Return the driver of a kind of check; drivers are stateless, so one of each is enough."""
    return cast(CheckDriver, find_driver("check", kind)())


class OnChange(Protocol):
    """Called in the loop with everything that the checks say, whenever any of it changed. Must not block nor raise."""

    def __call__(self, statuses: tuple[CheckStatus, ...], health: Health, ready: bool, restart_reason: str | None) -> None: ...


class CheckRunner:
    """Runs the checks of one running attempt, each at its own interval and never twice at once.

    A run that reaches `timeout` is cancelled and counts as a failure. A driver that cannot tell (`DriverUnavailable`, or
    a fault of the driver itself) counts neither way. At rest it costs one timer a check.
    """

    def __init__(
        self,
        instance: str,
        checks: Sequence[Check],
        target: CheckTarget,
        on_change: OnChange,
        *,
        exec_slots: asyncio.Semaphore,
        age: float = 0.0,
        known: Sequence[CheckStatus] = (),
        driver: Callable[[str], CheckDriver] = installed_driver,
    ) -> None:
        """Prepare; nothing runs before `start`.

        Args:
            instance: its id: names the runs in the log and spreads their times.
            checks: of the app, with unique names.
            target: where the instance is reached.
            on_change: gets the first report from within `start`.
            exec_slots: shared by all runners of the node; bounds the commands that run at once.
            age: seconds since the attempt started, when it is an adopted one.
            known: what was last known of an adopted attempt; it holds until the checks say otherwise.
            driver: finds the driver of a kind.
        """
        self._instance = instance
        self._checks = tuple(checks)
        self._target = target
        self._on_change = on_change
        self._exec_slots = exec_slots
        self._driver = driver
        before = {status.name: status for status in known}
        started = monotonic() - age
        self._states = {check.name: _first_state(started, check, before.get(check.name)) for check in checks}
        self._reported: tuple[tuple[CheckStatus, ...], Verdict] | None = None
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    def start(self) -> None:
        """Report what is known and begin. To be called once."""
        self._report()
        self._tasks = tuple(asyncio.create_task(self._watch(check), name=f"check {self._instance} {check.name}") for check in self._checks)
        for task in self._tasks:
            task.add_done_callback(_log_death)

    async def stop(self) -> None:
        """Cancel what runs; nothing is reported any more. Idempotent."""
        tasks, self._tasks = self._tasks, ()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def verdict(self) -> Verdict:
        return verdict(self._checks, self._states)

    async def _watch(self, check: Check) -> None:
        phase = zlib.crc32(f"{self._instance}/{check.name}".encode()) / 2**32
        retry = _RETRY_FIRST_EXEC if check.kind == "exec" else _RETRY_FIRST
        while True:
            result = await self._run(check)
            now = monotonic()
            state = self._states[check.name]
            self._states[check.name] = _no_result(state, result) if isinstance(result, str) else judge(state, check, result, now)
            self._report()
            await asyncio.sleep(next_run(check, self._states[check.name], now, phase, retry) - now)
            retry *= _RETRY_GROWTH

    async def _run(self, check: Check) -> CheckResult | str:
        """Return the result of one run, or why there is none."""
        if check.kind != "exec":
            return await self._bounded(check)
        async with self._exec_slots:
            return await self._bounded(check)

    async def _bounded(self, check: Check) -> CheckResult | str:
        limit = asyncio.timeout(check.timeout)
        try:
            async with limit:
                return await self._driver(check.kind).run(check, self._target)
        except DriverUnavailable as error:
            return f"cannot tell: {error}"
        except Exception as error:  # a fault of one driver must not end the checks of the others, and says nothing about the instance
            if isinstance(error, TimeoutError) and limit.expired():
                return CheckResult(False, f"did not answer within {check.timeout:g} s")
            log.exception("check %s of %s: the driver %s raised", check.name, self._instance, check.kind, extra={"check": check.name})
            return f"cannot tell: the check driver failed ({type(error).__name__})"

    def _report(self) -> None:
        statuses = tuple(
            CheckStatus(check.name, self._states[check.name].health, self._states[check.name].output[:OUTPUT_MAX]) for check in self._checks
        )
        seen = (statuses, self.verdict)
        if seen == self._reported:
            return
        self._reported = seen
        self._on_change(statuses, seen[1].health, seen[1].ready, seen[1].restart_reason)


def _no_result(state: CheckState, why: str) -> CheckState:
    """Only before the first result is it worth telling that there is none; it never changes what a check says."""
    return replace(state, output=why) if state.health is Health.UNKNOWN and not state.successes else state


def _log_death(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s ended: no more results from it", task.get_name(), exc_info=error)


def _first_state(started: float, check: Check, known: CheckStatus | None) -> CheckState:
    if known is None:
        return CheckState(started)
    state = CheckState(started, known.health, output=known.output)
    if known.health is Health.HEALTHY:
        return replace(state, successes=check.successes)
    return replace(state, failures=check.failures) if known.health is Health.UNHEALTHY else state
