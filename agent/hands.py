"""Carries out the steps of the plan for one instance. Every step may be cut short anywhere and simply done again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from gestalt.clock import boottime
from gestalt.plugin.runtime import DriverUnavailable, Launch, LaunchRefused, PortTaken, RuntimeDriver

from .attempts import describe_ending, read_tail
from .confinement import is_confined, kill_attempt
from .exclusive import OVER
from .local import LocalInstance, Surroundings
from .plan import Action, Adopt, Count, Forget, Goal, Remove, Settle, Start, Stop, Take
from .records import Ending, ended, launching, running, settled

log = logging.getLogger(__name__)

TAKE_AGAIN = 0.5
"""Seconds until a grant that could not be taken is asked for again."""


class Hands:
    """Acts on one instance, for its worker. `say` tells what is being done right now."""

    def __init__(self, local: LocalInstance, around: Surroundings, say: Callable[[str], None]) -> None:
        self._local = local
        self._around = around
        self._say = say
        self._preparing: asyncio.Future[None] | None = None

    @property
    def driver(self) -> RuntimeDriver:
        return self._around.drivers[self._local.record.runtime]

    def interrupt(self) -> None:
        """It is not to be started any more: give up waiting for its image."""
        if self._preparing is not None:
            self._preparing.cancel()

    async def act(self, action: Action) -> None:
        """Do one step.

        Raises:
            DriverUnavailable: nobody knows whether it was done.
            OSError: a record cannot be written, so nothing was done.
        """
        match action:
            case Start(attempt):
                await self._start(attempt)
            case Take(attempt):
                await self._take(attempt)
            case Adopt(attempt):
                self._adopt(attempt)
            case Count(attempt):
                await self._count(attempt)
            case Stop(attempt, why, at_once=True):
                await self._kill(attempt, why)
            case Stop(attempt, why, drain):
                await self._stop(attempt, why, drain=drain)
            case Remove(attempt):
                await self._remove(attempt)
            case Settle():
                self._local.record = settled(self._local.record)
                self._around.records.note(self._local.record)
            case Forget():
                await self._forget()

    async def _start(self, attempt: int) -> None:
        local, target = self._local, self._local.target
        assert target.spec is not None
        assert target.desired is not None
        if local.record.attempt != attempt:
            local.record = launching(local.record, attempt)
            await self._around.records.save(local.record)
        wanted = target.desired
        confined = local.claim(self._around.exclusive).needed
        spec = target.spec.model_copy(update={"env": {**target.spec.env, **wanted.env}}) if wanted.env else target.spec
        launch = Launch(local.key(attempt), wanted.app, wanted.version, wanted.template, spec, wanted.ports, confined)
        try:
            if await self._prepared(launch):
                await self._launch(launch)
        except LaunchRefused as error:
            self._refused(attempt, error)

    async def _take(self, attempt: int) -> None:
        local, grant = self._local, self._local.target.grant
        assert grant is not None
        try:
            cgroups = await self.driver.cgroups(local.key(attempt))
            problem = await self._around.exclusive.hold(local.record.instance, cgroups, grant)
        except LaunchRefused as error:
            problem = str(error)
        if problem and problem != local.refusal:
            log.warning("it cannot start: %s", problem)
        local.taken, local.refusal = (0 if problem else attempt), problem
        local.retry_at = boottime() + TAKE_AGAIN if problem else 0.0

    async def _prepared(self, launch: Launch) -> bool:
        """Have everything that the launch needs; False when the wish changed meanwhile."""
        if self._around.is_pulled(launch.template):
            return True
        self._preparing = asyncio.ensure_future(self.driver.prepare(launch.spec, self._say))
        try:
            await self._preparing
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return False
        finally:
            self._preparing = None
        return True

    async def _launch(self, launch: Launch) -> None:
        local, attempt = self._local, launch.key.attempt
        async with self._around.launch_slots:
            if local.target.goal is not Goal.RUN or local.attempts is None or not local.claim(self._around.exclusive).covers(attempt):
                return
            status = await self.driver.launch(launch)
        if launch.confined and not await is_confined(self.driver, launch.key):
            await self.driver.stop(launch.key, "SIGKILL", 0.0)
            raise LaunchRefused("its processes are not in the cgroups that its runtime named, so the fence could not end it")
        local.attempts[attempt] = status
        local.restarting = ""
        log.info("attempt %d was launched", attempt)
        self._adopt(attempt)

    def _adopt(self, attempt: int) -> None:
        self._local.record = running(self._local.record, attempt, boottime())
        self._around.records.note(self._local.record)

    def _refused(self, attempt: int, error: LaunchRefused) -> None:
        log.warning("attempt %d cannot be launched: %s", attempt, error)
        taken = error.port if isinstance(error, PortTaken) else 0
        self._end(attempt, Ending(str(error), failed=True, refused=True, port_taken=taken))
        self._local.unsure.add(attempt)

    async def _count(self, attempt: int) -> None:
        local = self._local
        status = (local.attempts or {}).get(attempt)
        tail = await read_tail(self.driver, status.key) if status else ()
        ending = describe_ending(status, local.restarting, tail, interrupted=local.record.interrupted)
        if self._around.exclusive.standing(local.record.instance).closed:
            ending = replace(ending, reason=OVER, failed=True)
        local.restarting = ""
        self._end(attempt, ending)
        verdict = ", and keeps doing so" if local.record.crash_loop else ""
        log.warning("attempt %d ended: %s%s", attempt, ending.reason, verdict)

    def _end(self, attempt: int, ending: Ending) -> None:
        self._local.record = ended(self._local.record, attempt, ending, self._local.target.restart, boottime())
        self._around.records.note(self._local.record)

    async def _stop(self, attempt: int, why: str, *, drain: bool) -> None:
        local, rules = self._local, self._local.target.stop
        log.info("attempt %d is stopped: %s", attempt, why)
        if drain and rules.drain > 0:
            self._say("its connections get time to end")
            self._around.traffic.set_local(local.record.instance, False, draining=True)
            await self._around.traffic.wait_drained(local.record.instance, rules.drain)
            self._say("stops")
        self._around.traffic.set_local(local.record.instance, False)
        if local.target.goal is Goal.RUN:
            local.restarting = why
        local.unsure.add(attempt)
        await self.driver.stop(local.key(attempt), rules.signal, rules.grace)

    async def _kill(self, attempt: int, why: str) -> None:
        """End it now, without its runtime where that can be: somebody else may run it already."""
        local = self._local
        log.error("attempt %d is killed: %s", attempt, why)
        self._around.traffic.set_local(local.record.instance, False)
        if local.target.goal is Goal.RUN:
            local.restarting = why
        local.unsure.add(attempt)
        await kill_attempt(self.driver, local.key(attempt))
        await self.driver.stop(local.key(attempt), "SIGKILL", 0.0)

    async def _remove(self, attempt: int) -> None:
        self._local.unsure.add(attempt)
        await self.driver.remove(self._local.key(attempt))

    async def _forget(self) -> None:
        local = self._local
        if problem := await self._around.exclusive.release(local.record.instance):
            raise DriverUnavailable(f"its grant cannot be handed back: {problem}")
        local.taken = 0
        await self._around.records.forget(local.record.instance)
        local.gone = True
        self._around.traffic.forget(local.record.instance)
        self._around.board.gone(local.record.instance)
        log.info("nothing is left of it")
