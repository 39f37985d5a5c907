"""The runtime `process`: plain processes of the node, each under a shim that outlives the agent."""

from __future__ import annotations

import asyncio
import logging
import platform
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from signal import SIGKILL
from typing import Self

from gestalt.clock import monotonic
from gestalt.config import AgentSettings
from gestalt.plugin.runtime import (
    AttemptKey,
    AttemptState,
    AttemptStatus,
    DriverUnavailable,
    ExecRequest,
    ExecSession,
    Launch,
    LaunchRefused,
    LogLine,
    LogOptions,
    Progress,
    RuntimeDriver,
    Usage,
)
from gestalt.spec.schema import AppSpec

from .process_cgroup import CgroupTree
from .process_exec import exec_fields, start_exec
from .process_logs import read_logs
from .process_records import AttemptFolder, Running
from .process_request import build_request, check_ports, check_spec, signal_number
from .process_store import Attempt, AttemptStore
from .process_supervisor import ShimSupervisor, Supervisor, shim_command
from .process_systemd import SystemdSupervisor, systemd_runs
from .process_threads import Threads
from .process_usage import ProcessUsage
from .process_watch import EndWatch, FolderWatch, send_signal

log = logging.getLogger(__name__)

_SETTLE_LIMIT = 5.0
_KILL_LIMIT = 10.0


class ProcessRuntime(RuntimeDriver):
    """Runs attempts as processes. All state is on disk (see process_records.py), so nothing is lost with the agent."""

    name = "process"

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings
        self._threads = Threads("process", 4)
        self._shim = Path()
        supervisors: Sequence[Supervisor] = (
            ShimSupervisor(lambda: self._shim, CgroupTree(), self._threads),
            SystemdSupervisor(lambda: self._shim),
        )
        self._supervisors = {supervisor.name: supervisor for supervisor in supervisors}
        chosen = settings.process.supervisor
        self._supervisor = self._supervisors[("systemd" if systemd_runs() else "shim") if chosen == "auto" else chosen]
        self._store = AttemptStore(settings, self._supervisors, self._threads)
        self._usage = ProcessUsage(self._store, self._supervisors.__getitem__, self._threads)
        self._wakes: list[Callable[[AttemptKey | None], None]] = []
        self._ends = EndWatch(self._wake)
        self._changes = FolderWatch()
        self._locks: defaultdict[AttemptKey, asyncio.Lock] = defaultdict(asyncio.Lock)

    @classmethod
    def create(cls, settings: AgentSettings) -> Self:
        return cls(settings)

    async def start(self) -> None:
        self._shim = await self._threads(self._store.prepare)
        await self.list()

    async def close(self) -> None:
        self._ends.close()
        self._changes.close()
        self._threads.close()

    async def probe(self) -> Mapping[str, str]:
        facts = await self._supervisor.facts()
        return {"version": platform.release(), "supervisor": self._supervisor.name, "python": platform.python_version(), **facts}

    def subscribe(self, wake: Callable[[AttemptKey | None], None]) -> None:
        self._wakes.append(wake)

    async def list(self) -> Sequence[AttemptStatus]:
        return [self._watched(attempt).status for attempt in await self._store.all()]

    async def inspect(self, key: AttemptKey) -> AttemptStatus | None:
        attempt = await self._store.find(key)
        return None if attempt is None else self._watched(attempt).status

    async def prepare(self, spec: AppSpec, progress: Progress) -> None:
        del progress  # nothing takes long here
        self._supervisor.check(spec)
        await self._threads(check_spec, spec)

    async def cgroups(self, key: AttemptKey) -> Sequence[str]:
        attempt = await self._store.find(key)
        supervisor = self._supervisors[attempt.records.labels.supervisor] if attempt is not None else self._supervisor
        found = await supervisor.cgroups(self._store.folder(key).name)
        if not found:
            raise LaunchRefused("this node has no cgroups that could be used, so no process can be exclusive here")
        return found

    async def launch(self, launch: Launch) -> AttemptStatus:
        async with self._locks[launch.key]:
            attempt = await self._store.find(launch.key)
            if attempt is None:
                folder = await self._create(launch)
                await self._supervisor.start(folder, launch.spec)
            elif attempt.status.state is AttemptState.CREATED:
                await self._supervisors[attempt.records.labels.supervisor].start(attempt.folder, launch.spec)
            attempt = self._watched(await self._settled(launch.key))
            if attempt.records.ended is not None and attempt.records.ended.refused:
                await self._store.remove(attempt)
                raise LaunchRefused(attempt.records.ended.refused)
            if attempt.status.state is AttemptState.EXITED:  # too soon to be watched; its end is news all the same
                asyncio.get_running_loop().call_soon(self._wake, launch.key)
            return attempt.status

    async def stop(self, key: AttemptKey, signal: str, grace: float) -> None:
        number = signal_number(signal)
        attempt = await self._store.find(key)
        if attempt is None or (main := _main_process(self._watched(attempt))) is None:
            return
        send_signal(main, number)
        if await self._ends.wait(key, grace):
            return
        log.info("%s did not end within %g s of %s; it is killed", attempt.name, grace, signal)
        send_signal(main, SIGKILL)
        if not await self._ends.wait(key, _KILL_LIMIT):
            raise DriverUnavailable(f"{attempt.name} does not die; it may hang in the kernel")

    async def remove(self, key: AttemptKey) -> None:
        async with self._locks[key]:
            await self.stop(key, "SIGKILL", 0.0)
            attempt = await self._store.find(key)
            if attempt is not None:
                await self._store.remove(attempt)
        self._locks.pop(key, None)

    async def logs(self, key: AttemptKey, options: LogOptions) -> AsyncIterator[LogLine]:
        attempt = await self._store.find(key)
        if attempt is None:
            raise LaunchRefused(f"there is no attempt {key.attempt} of {key.instance} here, so it has no logs")

        async def ended() -> bool:
            status = await self.inspect(key)
            return status is None or status.state is AttemptState.EXITED

        async for line in read_logs(attempt.folder.path, options, ended, self._changes, self._threads):
            yield line

    async def exec(self, key: AttemptKey, request: ExecRequest) -> ExecSession:
        attempt = await self._store.find(key)
        started = attempt.records.started if attempt is not None else None
        if attempt is None or started is None or attempt.status.state is not AttemptState.RUNNING:
            raise LaunchRefused(f"attempt {key.attempt} of {key.instance} does not run")
        fields = await self._threads(lambda: exec_fields(attempt.folder.request(), started, request))
        return await start_exec(shim_command(self._shim), fields, request)

    async def usage(self, keys: Sequence[AttemptKey]) -> Mapping[AttemptKey, Usage]:
        return await self._usage.read(keys)

    async def _create(self, launch: Launch) -> AttemptFolder:
        self._supervisor.check(launch.spec)
        request = await self._threads(build_request, launch, self._settings)
        await self._threads(check_ports, self._settings.address, launch.ports)
        place = await self._supervisor.fields(self._store.folder(launch.key).name)
        return await self._store.create(launch.key, launch.app, launch.template, self._supervisor, [*request, *place])

    async def _settled(self, key: AttemptKey) -> Attempt:
        """Return the attempt when it is known whether it runs. Waits only for a shim that an earlier agent had begun to start."""
        deadline = monotonic() + _SETTLE_LIMIT
        while monotonic() < deadline:
            attempt = await self._store.find(key)
            if attempt is None:
                raise DriverUnavailable(f"attempt {key.attempt} of {key.instance} was removed while it started")
            if attempt.status.state is not AttemptState.CREATED:
                return attempt
            await asyncio.sleep(0.01)
        await self._supervisor.clear(self._store.folder(key).name)
        raise DriverUnavailable(f"the supervisor of attempt {key.attempt} of {key.instance} did not come up within {_SETTLE_LIMIT:g} s")

    def _watched(self, attempt: Attempt) -> Attempt:
        started = attempt.records.started
        if attempt.status.state is AttemptState.RUNNING and started is not None:
            self._ends.watch(attempt.status.key, started.shim)
        return attempt

    def _wake(self, key: AttemptKey) -> None:
        for wake in self._wakes:
            wake(key)


def _main_process(attempt: Attempt) -> Running | None:
    started = attempt.records.started
    return started.main if started is not None and attempt.status.state is AttemptState.RUNNING else None
