"""What kind of machine this is and how it does, gathered cheaply and off the loop."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import platform
import socket
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gestalt import __version__
from gestalt.clock import boot_id, monotonic
from gestalt.config import AgentSettings
from gestalt.plugin.runtime import AttemptKey, DriverUnavailable, RuntimeDriver
from gestalt.proto.v1 import model_pb2, spec_pb2

from .board import Board
from .ongoing import wait_a_while

log = logging.getLogger(__name__)

TELL_EVERY = 60.0
_COARSE = 256 * 1024**2


class FactsKeeper:
    """Gathers the facts each cycle, and when a runtime is reached again; tells them when they changed by more than noise.

    A machine that boots has its agent before its Docker: it gets work as soon as that runs.
    """

    name = "facts"

    def __init__(self, settings: AgentSettings, drivers: Mapping[str, RuntimeDriver], board: Board) -> None:
        self._settings = settings
        self._drivers = drivers
        self._board = board
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gestalt-facts")
        self._told = b""
        self._told_at = 0.0
        self._soon: asyncio.Task[None] | None = None
        self._runtimes: dict[str, Mapping[str, str] | None] = {}
        self._probes: dict[str, asyncio.Task[None]] = {}
        for driver in drivers.values():
            driver.subscribe(self._changed)

    def _changed(self, key: AttemptKey | None) -> None:
        if key is None and (self._soon is None or self._soon.done()):
            self._soon = asyncio.create_task(self._apart(self.ensure), name="facts")

    async def _apart(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do it apart from the rounds."""
        try:
            await work()
        except Exception:  # the next round gathers them
            log.exception("the facts could not be gathered")

    async def ensure(self) -> None:
        """Gather and tell them. Of a runtime that takes long, as one that hangs does, what is known stays until it has answered."""
        for name, driver in self._drivers.items():
            if name not in self._probes or self._probes[name].done():
                self._probes[name] = asyncio.create_task(self._probe(name, driver), name=f"facts of {name}")
        await wait_a_while(self._probes.values())
        await self._tell()

    async def _probe(self, name: str, driver: RuntimeDriver) -> None:
        """Ask a runtime about itself. What is new is told at once: the round may be over that asked."""
        about: Mapping[str, str] | None = None
        problems: tuple[str, ...] = ()
        try:
            about = await driver.probe()
        except DriverUnavailable as error:
            log.debug("no facts about %s: %s", name, error)
        except Exception:  # a fault of one driver must not end the others
            log.exception("the runtime %s cannot be asked about itself", name)
            problems = (f"the driver of {name} failed, see the log of the agent",)
        self._board.set_problems(f"facts of {name}", problems)
        before, self._runtimes[name] = self._runtimes.get(name), about
        if about != before:
            await self._apart(self._tell)

    async def _tell(self) -> None:
        facts = await asyncio.get_running_loop().run_in_executor(self._thread, host_facts, self._settings)
        for name in self._drivers:
            about = self._runtimes.get(name)
            if about is not None:
                facts.runtimes.append(name)
                facts.attributes.update({f"runtime.{name}.{key}": value for key, value in about.items()})
        coarse = _rounded(facts)
        if coarse != self._told or monotonic() - self._told_at >= TELL_EVERY:
            self._told, self._told_at = coarse, monotonic()
            self._board.set_facts(facts)

    async def renew(self, settings: AgentSettings) -> None:
        """Offer what the settings say now; it is told in the next round."""
        self._settings = settings

    async def close(self) -> None:
        tasks = [*self._probes.values(), *((self._soon,) if self._soon is not None else ())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._thread.shutdown(wait=False)


def host_facts(settings: AgentSettings) -> model_pb2.Facts:
    """Return the facts of the machine. Blocks for some milliseconds."""
    import psutil

    memory = psutil.virtual_memory()
    disk = os.statvfs(settings.data_dir)
    return model_pb2.Facts(
        hostname=platform.node(),
        os=_os_name(),
        kernel=platform.release(),
        architecture=platform.machine(),
        cpu=float(len(os.sched_getaffinity(0))),
        memory=memory.total,
        memory_available=memory.available,
        disk=disk.f_blocks * disk.f_frsize,
        disk_free=disk.f_bavail * disk.f_frsize,
        boot_id=boot_id(),
        load=os.getloadavg()[0],
        addresses=addresses(),
        port_first=settings.port_first,
        port_last=settings.port_last,
        attributes={"agent.version": __version__},
        pids=_pids(),
        devices=settings.offer.devices,
        reserved=spec_pb2.Resources(**settings.offer.reserved.model_dump()),
        cpu_overcommit=settings.offer.overcommit.cpu,
        memory_overcommit=settings.offer.overcommit.memory,
    )


def addresses() -> list[str]:
    """Return the addresses by which other machines may reach this one."""
    import psutil

    every = (item for items in psutil.net_if_addrs().values() for item in items if item.family in (socket.AF_INET, socket.AF_INET6))
    found = {ipaddress.ip_address(item.address.partition("%")[0]) for item in every}
    return sorted(str(item) for item in found if not (item.is_loopback or item.is_link_local))


def _pids() -> int:
    """Return how many processes and threads the kernel allows, 0 = it does not say."""
    try:
        return min(int(Path("/proc/sys/kernel", name).read_text(encoding="ascii")) for name in ("pid_max", "threads-max"))
    except (OSError, ValueError):
        return 0


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"


def _rounded(facts: model_pb2.Facts) -> bytes:
    """Return the facts without what always moves a little."""
    coarse = model_pb2.Facts()
    coarse.CopyFrom(facts)
    coarse.memory_available -= coarse.memory_available % _COARSE
    coarse.disk_free -= coarse.disk_free % _COARSE
    coarse.load = round(coarse.load)
    return coarse.SerializeToString(deterministic=True)
