"""Finds and ends daemons that run without systemd.

A daemon is known by its command line and its pid namespace, as the kernel shows them. There is no pid file that could be
stale, missing after an interruption, or name a process that is something else by now.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from gestalt.clock import boottime, monotonic

log = logging.getLogger(__name__)

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Running:
    """A process that runs. Pid and start time (clock ticks since boot) together name it for ever."""

    pid: int
    started: int

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return boottime() - self.started / os.sysconf("SC_CLK_TCK")

    def is_alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        return self.started > 0 and _start_time(self.pid) == self.started

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.is_alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                log.debug("process %d ended just now", self.pid)


def known_by(pid: int) -> Running:
    """Return the process that has this pid now."""
    return Running(pid, _start_time(pid))


def find(program: str, argument: str) -> list[Running]:
    """Return the processes of this pid namespace that run `program` and have `argument` among their arguments.

    One that was started this very moment may be missing: until the kernel has finished its exec, it shows no arguments.
    """
    found = []
    here = _namespace("self")
    for entry in _PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        arguments = _arguments(entry)
        if argument in arguments and any(Path(word).name == program for word in arguments[:3]) and _namespace(entry.name) == here:
            started = _start_time(int(entry.name))
            if started:
                found.append(Running(int(entry.name), started))
    return sorted(found, key=lambda process: process.started)


async def end(processes: list[Running], grace: float) -> bool:
    """Send SIGTERM, SIGKILL after `grace` seconds; return when they have ended. False: SIGKILL was needed."""
    for process in processes:
        process.signal(signal.SIGTERM)
    if await _ended(processes, grace):
        return True
    for process in processes:
        process.signal(signal.SIGKILL)
    await _ended(processes, 10.0)
    return False


async def _ended(processes: list[Running], limit: float) -> bool:
    deadline = monotonic() + limit
    while any(process.is_alive() for process in processes):
        if monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


def _arguments(entry: Path) -> list[str]:
    try:
        return (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:  # it ended while we looked
        return []


def _namespace(pid: str) -> str:
    try:
        return str((_PROC / pid / "ns/pid").readlink())
    except OSError:
        return ""


def _start_time(pid: int) -> int:
    """Return when a process was started, 0 when there is none or only a zombie."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])
