"""Keeps the lease while something exclusive is at work here, and ends that when the lease does.

The agent asks, before it starts something exclusive: {"id": 1, "hold": {"name": "...", "cgroups": ["/sys/fs/cgroup/..."]}}, and hands it
back when nothing of it is left: {"id": 2, "release": "..."}. Its own task, so that nothing which membership waits for delays it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from gestalt.clock import boottime
from gestalt.zk.ops import ZkError

from .cgroups import NotOurs, check_path, kill_cgroup, pids_in
from .lease import End, Held, Holding, Membership, Renew, ended, holding, may_start, next_step, renewed
from .saved import HeldFile
from .settings import TimingSettings

log = logging.getLogger(__name__)

NAPS = 1.0
AGAIN = 0.2


class LeaseKeeper:
    """`membership` says how the node stands. `renew(incarnation, length)` is the committed write; it raises ZkError when it is not that."""

    def __init__(
        self,
        timing: TimingSettings,
        file: HeldFile,
        boot: str,
        membership: Callable[[], Membership],
        renew: Callable[[int, float], Awaitable[None]],
    ) -> None:
        self._timing = timing
        self._file = file
        self._boot = boot
        self._membership = membership
        self._renew = renew
        self._held = file.load()
        self._tried = 0.0
        self._woken = asyncio.Event()
        self._changing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="lease")

    async def close(self) -> None:
        """Let go; what is held goes on until the end of its lease, which the next life sees to."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def ask(self, message: dict[str, Any]) -> str:
        """Do what the agent asks for; return why not, or nothing."""
        try:
            if "hold" in message:
                return await self._hold(str(message["hold"]["name"]), [str(item) for item in message["hold"]["cgroups"]])
            if "release" in message:
                return await self._release(str(message["release"]))
        except (KeyError, TypeError) as error:
            return f"the request cannot be understood: {error!r}"
        except OSError as error:
            return f"it cannot be written down: {error}"
        return "the fence does not do that"

    async def _hold(self, name: str, cgroups: list[str]) -> str:
        try:
            what = Holding(tuple(str(check_path(item)) for item in cgroups))
        except NotOurs as error:
            return str(error)
        if not name or not cgroups:
            return "something exclusive has a name and cgroups"
        if not self._may_start() and (problem := await self._renewal()):
            return f"there is no lease: {problem}"
        async with self._changing:
            if not self._may_start():
                return "there is no lease that leaves enough time; what an earlier membership held ends first"
            await self._save(holding(self._held, name, what))
        self._woken.set()
        return ""

    async def _release(self, name: str) -> str:
        held = self._held.holdings.get(name)
        if held is not None and (left := [pid for item in held.cgroups for pid in pids_in(Path(item))]):
            return f"{len(left)} processes of {name} are left"
        async with self._changing:
            await self._save(ended(self._held, name))
        return ""

    def _may_start(self) -> bool:
        return may_start(self._held, self._membership(), self._boot, boottime(), self._timing.kill)

    async def _run(self) -> None:
        while True:
            self._woken.clear()
            try:
                await self._step()
            except Exception:  # whatever it is, leases have to end
                log.exception("a step of the lease failed")
                await asyncio.sleep(AGAIN)

    async def _step(self) -> None:
        now = boottime()
        action = next_step(self._held, self._membership(), self._boot, now, length=self._timing.lease, tried=self._tried)
        if isinstance(action, Renew):
            try:
                async with asyncio.timeout(max(self._held.until - now, 0.0)):  # a late answer must not delay the end
                    problem = await self._renewal()
            except TimeoutError:
                problem = "ZooKeeper does not answer"
            if problem:
                log.warning("the lease was not renewed: %s", problem)
        elif isinstance(action, End):
            await self._end(action.names)
        else:
            pause = NAPS if action.until is None else min(max(action.until - now, 0.0), NAPS)
            try:
                async with asyncio.timeout(pause):
                    await self._woken.wait()
            except TimeoutError:
                pass

    async def _renewal(self) -> str:
        """Renew; return why not, or nothing."""
        incarnation, sent = self._membership().incarnation, boottime()
        self._tried = sent
        try:
            await self._renew(incarnation, self._timing.lease)
        except ZkError as error:
            return str(error)
        async with self._changing:
            await self._save(renewed(self._held, incarnation, self._boot, sent, self._timing.lease))
        return ""

    async def _end(self, names: tuple[str, ...]) -> None:
        """Kill; what does not end within the time for that is tried again, and again."""
        log.error("the lease is over: ending %s", ", ".join(names))
        deadline = boottime() + self._timing.kill
        gone = await asyncio.gather(*(self._kill(name, deadline) for name in names))
        async with self._changing:
            for name, is_gone in zip(names, gone, strict=True):
                if is_gone:
                    await self._save(ended(self._held, name))
                else:
                    log.critical("%s could not be ended within %g s", name, self._timing.kill)

    async def _kill(self, name: str, deadline: float) -> bool:
        paths = [Path(item) for item in self._held.holdings[name].cgroups]
        return all(await asyncio.gather(*(asyncio.to_thread(kill_cgroup, path, deadline) for path in paths)))

    async def _save(self, held: Held) -> None:
        await asyncio.shield(asyncio.to_thread(self._file.save, held))
        self._held = held
