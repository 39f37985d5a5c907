"""Processes that are not our children: found by their arguments, held by a pidfd, so that a number never comes to mean another."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

log = logging.getLogger(__name__)

_STOP_LIMIT = 2.0


class DeathWatch:
    """Calls `on_death` in the loop, at once, when the process ends. Needs Linux 5.3."""

    def __init__(self, pid: int, on_death: Callable[[], None]) -> None:
        """Begin to watch.

        Raises:
            OSError: there is no such process.
        """
        self._pidfd = os.pidfd_open(pid)
        self._on_death = on_death
        asyncio.get_running_loop().add_reader(self._pidfd, self._ended)

    def close(self) -> None:
        """Stop watching; idempotent."""
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _ended(self) -> None:
        self.close()
        self._on_death()


async def end_process(pid: int, sign: signal.Signals, still_meant: Callable[[], bool]) -> None:
    """Signal a process if it is still the one that was meant, and wait a moment for its end."""
    ended = asyncio.Event()
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    asyncio.get_running_loop().add_reader(pidfd, ended.set)
    try:
        if still_meant():
            signal.pidfd_send_signal(pidfd, sign)
            async with asyncio.timeout(_STOP_LIMIT):
                await ended.wait()
    except (TimeoutError, ProcessLookupError):
        log.debug("process %d after %s: gone already, or still there", pid, sign.name)
    finally:
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)


def find_processes(config: Path) -> Iterator[int]:
    """Find living HAProxy processes of our process namespace that were started with this configuration."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and uses_config(int(entry.name), config):
            yield int(entry.name)


def uses_config(pid: int, config: Path) -> bool:
    """Tell whether this is such a process. A dead one that nobody has waited for has no arguments left."""
    proc = Path("/proc") / str(pid)
    try:
        argv = (proc / "cmdline").read_bytes().split(b"\0")
        if Path(os.fsdecode(argv[0])).name != "haproxy" or os.fsencode(config) not in argv:
            return False
        return (proc / "ns/pid").readlink() == Path("/proc/self/ns/pid").readlink()
    except OSError:
        return False
