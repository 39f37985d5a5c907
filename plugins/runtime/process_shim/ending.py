"""Ending all that a process has left, and what the kernel knows of its end."""

# pathlib would cost a megabyte a process:
# ruff: noqa: PTH110, PTH208
from __future__ import annotations

import os
import signal
import time

from .files import read_text, try_write

END_LIMIT = 5.0


def cgroup_members(folders: list[str]) -> list[int]:
    return [pid for pid in map(int, read_text(f"{folders[0]}/cgroup.procs").split()) if pid != os.getpid()]


def descendants() -> list[int]:
    """Return our children; what they leave behind becomes our child next, since we are the subreaper."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        fields = read_text(f"/proc/{entry}/stat").rpartition(")")[2].split()
        if len(fields) > 1 and int(fields[1]) == os.getpid():
            found.append(int(entry))
    return found


def end_all(folders: list[str]) -> None:
    """Kill whatever the process left: its whole cgroup, or all descendants where there is none."""
    deadline = time.monotonic() + END_LIMIT
    for folder in folders:
        if os.path.exists(f"{folder}/pids.max") and not own_cgroup(folder):
            try_write(f"{folder}/pids.max", "0")  # nothing new is born while we count
    while time.monotonic() < deadline:
        left = (cgroup_members(folders) if folders else []) or descendants()
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        reap()
        if not left:
            return
        time.sleep(0.002)


def own_cgroup(folder: str) -> bool:
    return str(os.getpid()) in read_text(f"{folder}/cgroup.procs").split()


def reap(main: int = 0) -> int | None:
    """Collect the dead; return the wait status of `main` if it is among them."""
    status = None
    try:
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            if found[0] == main:
                status = found[1]
    except ChildProcessError:
        return status
    return status


def oom_kills(folders: list[str]) -> int:
    kills = 0
    for folder in folders:
        for name in ("memory.events", "memory.oom_control"):
            for line in read_text(f"{folder}/{name}").splitlines():
                if line.startswith("oom_kill "):
                    kills += int(line.split()[1])
    return kills
