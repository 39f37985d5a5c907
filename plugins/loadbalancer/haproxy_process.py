"""The HAProxy process that is ours: found again, started, watched, reloaded, ended.

It is a daemon of its own (master and workers), which outlives the agent: in a unit where systemd has one for it (haproxy_unit.py), else
detached. It is known by its private master socket and by the path of our configuration among its arguments, however it was started;
nothing else is ever signalled.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import shutil
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from gestalt import shell
from gestalt.clock import monotonic
from gestalt.plugin.runtime import DriverUnavailable, LaunchRefused

from .haproxy_pids import DeathWatch, end_process, find_processes, uses_config
from .haproxy_replaced import ReplacedWorkers
from .haproxy_servers import parse_info
from .haproxy_socket import Processes, ask, parse_processes
from .haproxy_unit import HaproxyUnit, complaints

log = logging.getLogger(__name__)
T = TypeVar("T")

_LONGEST_SOCKET_PATH = 90
_START_LIMIT = 10.0
_ADOPT_LIMIT = 2.0
_RELOAD_LIMIT = 10.0
_STOP_LIMIT = 2.0
_POLL = 0.005
_LOOK = 0.1


class HaproxyProcess:
    """Master and workers that use the configuration in `folder`."""

    def __init__(self, folder: Path, program: str = "haproxy") -> None:
        self.folder = folder
        self.config = folder / "haproxy.cfg"
        self.worker_socket = folder / "worker.sock"
        self.empty = folder / "empty"
        self.master_socket = folder / "master.sock"
        self.replaced = ReplacedWorkers(self.master_socket, self.config)
        self.descriptors = _own_descriptors()
        self._unit = HaproxyUnit(self.config)
        self._program = program
        self._files = ThreadPoolExecutor(1, thread_name_prefix="haproxy-files")
        self._watching: DeathWatch | None = None
        self._on_death: Callable[[], None] = lambda: None

    @property
    def alive(self) -> bool:
        """Whether it is watched and has not ended."""
        return self._watching is not None

    def prepare(self, on_death: Callable[[], None] | None = None) -> None:
        """Remember whom to tell of a death, as before if it is None, and have the folder, readable for nobody else. Idempotent.

        Raises:
            DriverUnavailable: the folder cannot be used.
        """
        self._on_death = on_death or self._on_death
        if len(str(self.master_socket)) > _LONGEST_SOCKET_PATH:
            raise DriverUnavailable(
                f"{self.master_socket} is too long for a socket (at most {_LONGEST_SOCKET_PATH}): set a shorter run_dir"
            )
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.empty.mkdir(mode=0o755, exist_ok=True)
        except OSError as error:
            raise DriverUnavailable(f"{self.folder} cannot be made: {error}") from error

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Do what may block for a while, one thing after the other."""
        return await asyncio.get_running_loop().run_in_executor(self._files, work)

    async def adopt(self) -> bool:
        """Take over the one that runs already; say whether there is one that answers.

        One that runs without answering is ended: its work is done by the next. While its worker answers, the master may be in a reload
        that an agent before this one asked for. It takes questions in their order, so none is answered beside a reload asked for before.
        """
        end = monotonic() + _ADOPT_LIMIT
        reload_end = monotonic() + _RELOAD_LIMIT
        while True:
            try:
                await self._watch(await self.processes())
            except DriverUnavailable as error:
                unit = await self._unit.look()
                self.descriptors = unit.descriptors or _own_descriptors()
                if not unit.is_busy and not await self._strays():
                    return False
                if monotonic() > end and not (monotonic() < reload_end and await _serves(self.worker_socket)):
                    log.warning("our HAProxy runs but does not answer, so it is ended: %s", error)
                    await self._end_strays()
                    return False
                await asyncio.sleep(_POLL * 4)
            else:
                return True

    async def launch(self) -> None:
        """Start it with the configuration in place.

        Raises:
            DriverUnavailable: it did not start; with its own words.
        """
        if shutil.which(self._program) is None:
            raise _missing(self._program)
        await self._unit.stop()  # systemd may not know yet that it has ended, and would take a start for done
        await self._end_strays()
        if (await self._unit.look()).is_ours:
            await self._unit.start()
        else:
            await self._start_detached()
        end = monotonic() + _START_LIMIT
        processes = await self._first_answer(end)
        await self._watch(processes)
        await self._worker_answers(processes.workers, end)
        log.info("HAProxy started with %s", self.config)

    async def _start_detached(self) -> None:
        argv = [self._program, "-W", "-D", "-S", f"{self.master_socket},mode,600", "-p", str(self.folder / "pid"), "-f", str(self.config)]
        started = await _run(argv)
        if not started.ok:
            raise DriverUnavailable(f"HAProxy does not start: {_lines(started)}")

    async def _first_answer(self, end: float) -> Processes:
        """Wait for the master. About one in a thousand ends while it executes itself anew: that must not cost the whole limit."""
        next_look = monotonic() + _LOOK
        while (processes := await self._processes_or_none()) is None:
            if monotonic() > end:
                raise DriverUnavailable("HAProxy was started but does not answer")
            if monotonic() > next_look:
                if not await self._strays():
                    raise DriverUnavailable("HAProxy ended right after its start")
                next_look = monotonic() + _LOOK
            await asyncio.sleep(_POLL)
        return processes

    async def check(self, candidate: Path) -> None:
        """Have HAProxy judge a configuration.

        Raises:
            LaunchRefused: it is not valid; with HAProxy's own words.
        """
        checked = await _run([self._program, "-c", "-f", str(candidate)])
        if not checked.ok:
            raise LaunchRefused(f"HAProxy rejects the configuration: {_lines(checked)}")

    async def reload(self) -> None:
        """Have a new worker take over with the configuration in place; returns when it answers, and nobody else does.

        Raises:
            LaunchRefused: the new worker did not come up; the old one goes on.
            DriverUnavailable: the outcome is unknown.
        """
        before = await self.processes()
        self.replaced.expect(before.old_workers)
        await ask(self.master_socket, ["reload"])
        end = monotonic() + _RELOAD_LIMIT
        while (now := await self._processes_or_none()) is None or now.reloads == before.reloads or _undecided(before, now):
            if monotonic() > end or not self.alive:
                raise DriverUnavailable("HAProxy did not finish its reload")
            await asyncio.sleep(_POLL)
        if now.failed or not set(now.workers) - set(before.workers):
            raise LaunchRefused("HAProxy did not take the new configuration at its reload; the old one still works")
        await self._worker_answers(now.workers, end)
        await self.replaced.settle()

    async def processes(self) -> Processes:
        """Return master and workers.

        Raises:
            DriverUnavailable: the master does not answer.
        """
        try:
            return parse_processes(await ask(self.master_socket, ["show proc"]))
        except ValueError as error:
            raise DriverUnavailable(str(error)) from error

    async def end(self) -> None:
        """End it and everything of it; idempotent."""
        self.let_go()
        await self._unit.stop()
        await self._end_strays()
        for path in (self.worker_socket, self.master_socket, self.folder / "pid"):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of everything here; it goes on."""
        self.let_go()
        self._files.shutdown(wait=False)

    def let_go(self) -> None:
        """Stop watching; it goes on."""
        if self._watching is not None:
            self._watching.close()
            self._watching = None

    async def _watch(self, processes: Processes) -> None:
        """Hold on to the master, and make sure that it was this one."""
        self.let_go()
        try:
            self._watching = DeathWatch(processes.master, self._died)
            self.descriptors = resource.prlimit(processes.master, resource.RLIMIT_NOFILE)[1]
        except OSError as error:
            raise DriverUnavailable(f"HAProxy's master {processes.master} cannot be watched: {error}") from error
        if (await self.processes()).master != processes.master:
            self.let_go()
            raise DriverUnavailable("HAProxy has just been replaced")

    def _died(self) -> None:
        self._watching = None
        log.warning("HAProxy died")
        self._on_death()

    async def _processes_or_none(self) -> Processes | None:
        try:
            return await self.processes()
        except DriverUnavailable:
            return None  # the master executes itself anew in a reload

    async def _worker_answers(self, workers: tuple[int, ...], end: float) -> None:
        while True:
            try:
                if parse_info(await ask(self.worker_socket, ["show info"])).pid in workers:
                    return
            except (DriverUnavailable, ValueError):
                log.debug("the new worker does not answer yet")
            if monotonic() > end or not self.alive:
                raise DriverUnavailable("HAProxy's new worker does not answer")
            await asyncio.sleep(_POLL)

    async def _end_strays(self) -> None:
        """End every process of ours: politely, then for good. A master takes its workers along."""
        for sign in (signal.SIGTERM, signal.SIGKILL):
            strays = await self._strays()
            await asyncio.gather(*(end_process(pid, sign, partial(uses_config, pid, self.config)) for pid in strays))

    async def _strays(self) -> list[int]:
        return await self.in_thread(lambda: list(find_processes(self.config)))


async def _serves(worker_socket: Path) -> bool:
    try:
        parse_info(await ask(worker_socket, ["show info"], limit=_ADOPT_LIMIT))
    except (DriverUnavailable, ValueError) as error:
        log.debug("the worker of our HAProxy does not answer either: %s", error)
        return False
    return True


async def _run(argv: Sequence[str]) -> shell.Completed:
    try:
        return await shell.run(argv, limit=_START_LIMIT)
    except FileNotFoundError as error:
        raise _missing(argv[0]) from error
    except (OSError, shell.CommandTimedOut) as error:
        raise DriverUnavailable(f"{argv[0]} cannot be run: {error}") from error


def _missing(program: str) -> DriverUnavailable:
    return DriverUnavailable(f"{program} is not installed: install the package haproxy")


def _undecided(before: Processes, now: Processes) -> bool:
    return not now.failed and not set(now.workers) - set(before.workers)


def _lines(completed: shell.Completed) -> str:
    """Return what HAProxy complained about: its alerts if there are any."""
    return complaints(completed.stderr.decode(errors="replace")) or completed.complaint()


def _own_descriptors() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]
