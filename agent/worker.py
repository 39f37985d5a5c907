"""The owner of one instance: looks, asks the plan for the next step, has it carried out, and looks again.

All that happens to an instance happens in its one task, so order needs no locks. Events, checks and new wishes only set
flags and wake it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace

from gestalt.clock import boottime
from gestalt.log import about
from gestalt.model import CheckStatus, Health
from gestalt.plugin.runtime import AttemptStatus, DriverUnavailable

from .hands import Hands
from .local import LocalInstance, Surroundings, Target
from .observe import assume, observe, remembered, retry_at, since
from .plan import Action, Count, Forget, Goal, Situation, Stop, Wait, plan
from .records import InstanceRecord
from .watch import CheckWatch

log = logging.getLogger(__name__)

_RETRY_FIRST = 0.5
_RETRY_MAX = 10.0
_SHORTEST_REST = 0.001


class Worker:
    """Takes care of one instance until `close`."""

    def __init__(self, record: InstanceRecord, around: Surroundings) -> None:
        self.local = LocalInstance(record)
        self._around = around
        self._hands = Hands(self.local, around, self._say)
        self._checks = CheckWatch(record.instance, around.settings.address, around.exec_slots, self._checks_changed)
        self._wake = asyncio.Event()
        self._retry = _RETRY_FIRST
        self._trouble = ""
        self._told: tuple[Situation, Action] | None = None
        self._done: tuple[Situation, Action] | None = None
        if remembered(record).ready:
            self._around.traffic.set_local(record.instance, True)
        self._task = asyncio.create_task(self._run(), name=f"instance {record.instance}")

    def aim(self, target: Target) -> None:
        """Take over what is wanted now."""
        if target == self.local.target:
            return
        if target.grant != self.local.target.grant:
            self.local.retry_at = 0.0
        self.local.target = target
        if target.goal is Goal.RUN:
            self.local.gone = False
        else:
            self._hands.interrupt()
        self._wake.set()

    def isolate(self, isolated: bool) -> None:
        """The node is cut off, or is not any more."""
        if isolated != self.local.isolated:
            self.local.isolated = isolated
            self._wake.set()

    def nudge(self) -> None:
        """What the fence says may have changed."""
        if self.local.target.is_exclusive:
            self._wake.set()

    def look_again(self) -> None:
        """Something that the next step depends on has changed."""
        self._wake.set()

    def touch(self, attempt: int) -> None:
        """An attempt may have changed."""
        self.local.unsure.add(attempt)
        self._wake.set()

    def compare(self, listed: Mapping[int, AttemptStatus]) -> None:
        """Take note of what the runtime listed. The list may be older than our last step: what differs is looked at by itself."""
        if self.local.attempts is None:
            self.local.attempts = dict(listed)
            self._wake.set()
            return
        for attempt in listed.keys() | self.local.attempts.keys():
            if _essence(listed.get(attempt)) != _essence(self.local.attempts.get(attempt)):
                self.touch(attempt)

    async def close(self) -> None:
        """Let go; what runs goes on running."""
        self._task.cancel()
        await asyncio.wait((self._task,))
        await self._checks.stop()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            with about(app=self.local.app(), instance=self.local.record.instance):
                pause = await self._try()
            if pause is None or pause > 0:
                await self._rest(pause)

    async def _try(self) -> float | None:
        try:
            return await self._step()
        except (DriverUnavailable, OSError) as error:
            return self._put_off(str(error))
        except Exception:  # a fault of ours or of a driver must not end the care for this instance
            log.exception("a step failed")
            return self._put_off("a step failed, see the log of the agent")

    async def _rest(self, pause: float | None) -> None:
        try:
            async with asyncio.timeout(pause):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _put_off(self, why: str) -> float:
        """Nobody knows how the step ended: look at everything again, a little later."""
        if self._trouble != why:
            log.warning("put off: %s", why)
        self._trouble = why
        self._say(why)
        self.local.doubt()
        self._done = None  # the next try is a new one, not the same step without an effect
        pause, self._retry = self._retry, min(self._retry * 2, _RETRY_MAX)
        return pause

    async def _step(self) -> float | None:
        """Do one thing. Return how long to rest: 0 = look again at once, None = until something changes."""
        local = self.local
        await self._tend_checks()
        if local.attempts is None:
            why = f"{local.record.runtime} has not answered yet"
            told = assume(local.record, self._checks.report, why)
            self._around.board.put(told, since=since(local.record, told))
            return None
        if await self._look(local.attempts):
            await self._tend_checks()
        situation = self._situation(local.attempts)
        action = plan(situation)
        if local.gone:
            return None
        self._told = situation, action
        self._say("")
        if isinstance(action, Wait):
            self._retry, self._trouble = _RETRY_FIRST, ""
            return None if action.until is None else max(action.until - boottime(), _SHORTEST_REST)
        log.debug("next: %s", action)
        if self._is_stuck(situation, action):
            return self._put_off(f"{type(action).__name__.lower()} had no effect on attempt {local.last_attempt()}")
        if isinstance(action, Stop) and self._checks.attempt == action.attempt:
            await self._checks.stop()
        before = local.record.ended
        await self._hands.act(action)
        if local.record.ended > before:  # told by itself: the next attempt may follow at once
            self._told = self._situation(local.attempts), Wait()
            self._say("")
        return 0.0

    def _is_stuck(self, situation: Situation, action: Action) -> bool:
        """A step that changed nothing would be done over and over: such a loop is slowed down."""
        step = replace(situation, now=0.0), action
        stuck, self._done = step == self._done, step
        return stuck

    async def _look(self, attempts: dict[int, AttemptStatus]) -> bool:
        """Look at what may have changed; return whether there was anything."""
        looked = False
        while self.local.unsure:
            attempt = next(iter(self.local.unsure))
            self.local.unsure.discard(attempt)
            try:
                status = await self._hands.driver.inspect(self.local.key(attempt))
            except BaseException:  # cancelled in mid-question, too: it has not been looked at
                self.local.unsure.add(attempt)
                raise
            looked = True
            if status is None:
                attempts.pop(attempt, None)
            else:
                attempts[attempt] = status
                self.local.gone = False
        return looked

    async def _tend_checks(self) -> None:
        """Watch the attempt that runs; one that is to go is not watched anew."""
        local = self.local
        attempt = local.running_attempt()
        if attempt == 0 and local.attempts is None:
            return  # the runtime has not answered yet: what an earlier agent put in place stays
        if attempt == 0 or local.restarting:
            await self._checks.stop()
            self._around.traffic.set_local(local.record.instance, False)
        elif local.target.goal in (Goal.RUN, Goal.KEEP):
            known = local.record.started and local.record.attempt == attempt
            age = boottime() - local.record.started_at if known else 0.0
            checks, host = local.record.checks if known else (), local.host(attempt)
            if known and host != local.record.host:
                local.record = replace(local.record, host=host)
                self._around.records.note(local.record)
            self._around.traffic.set_host(local.record.instance, host)
            await self._checks.watch(attempt, local.target, self._hands.driver, age, checks, host=host)

    def _checks_changed(self) -> None:
        """Take note of what the checks say. As long as they say nothing yet, an adopted attempt gets requests or not as it did."""
        local, report = self.local, self._checks.report
        if report.ready or report.health is not Health.UNKNOWN:
            self._around.traffic.set_local(local.record.instance, report.ready)
        before = {item.name: item.health for item in local.record.checks}
        if {item.name: item.health for item in report.statuses} != before:
            _log_health(report.statuses, before)
            local.record = replace(local.record, checks=report.statuses)
            self._around.records.note(local.record)
        self._wake.set()

    def _situation(self, attempts: Mapping[int, AttemptStatus]) -> Situation:
        target = self.local.target
        return Situation(
            goal=target.goal,
            record=self.local.record,
            attempts=tuple(attempts[number] for number in sorted(attempts)),
            now=boottime(),
            template=target.desired.template if target.desired else "",
            restart=target.restart,
            complaint=self._checks.report.complaint,
            well_since=self._checks.well_since,
            claim=self.local.claim(self._around.exclusive),
            isolated=self.local.isolated and target.stops_when_isolated,
            not_before=self._around.returning.until(),
        )

    def _say(self, activity: str) -> None:
        """Tell the coordinator where the instance is and what is being done."""
        if self._told is None:
            return
        situation, action = self._told
        if isinstance(action, Count) or (isinstance(action, Forget) and not activity) or self.local.gone:
            return  # more is known in a moment, but when forgetting is put off
        told = observe(situation, action, self._checks.report, activity or self.local.target.why)
        if situation.goal is Goal.KEEP:
            told = replace(told, app=self.local.app())
        self._around.board.put(told, retry_at(situation, action), since(self.local.record, told))


def _log_health(statuses: Iterable[CheckStatus], before: Mapping[str, Health]) -> None:
    for item in statuses:
        if item.health is not Health.UNKNOWN and item.health is not before.get(item.name, Health.UNKNOWN):
            level = logging.INFO if item.health is Health.HEALTHY else logging.WARNING
            output = f": {item.output}" if item.output else ""
            log.log(level, "check %s is %s%s", item.name, item.health.name.lower(), output, extra={"check": item.name})


def _essence(status: AttemptStatus | None) -> tuple[object, ...]:
    """Return what a list and a closer look must agree on; a list may know less of the rest."""
    return (status.state, status.runtime_id, status.template, status.exit_code) if status else ()
