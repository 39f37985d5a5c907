"""What processes have used, as the kernel counts it: read from their cgroups, of version 2 or 1, else from the processes themselves.

A few small files an instance. Blocks, for some tenths of a millisecond.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .clock import monotonic

ROOT = Path("/sys/fs/cgroup")
_COUNTING = ("memory", "cpuacct", "pids")
"""Of version 1: what counts something, or tells at least which processes there are."""
_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_USER, _SYSTEM, _CHILDREN_USER, _CHILDREN_SYSTEM = range(11, 15)
"""Where /proc/PID/stat has its times, counted from behind the name."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used until `at` (monotonic): `cpu` in seconds, which only grow; `memory` in bytes at that moment, without mere cache."""

    at: float
    cpu: float
    memory: int


def cgroups_of(pid: int, name: str, root: Path = ROOT) -> tuple[Path, ...]:
    """Return the cgroups of a process, each cut behind the part in which `name` occurs. None: it is in no cgroup of such a name.

    So a process that took the number of one that has ended is not taken for it.
    """
    try:
        text = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    return tuple(folder for folder in cgroups_in(text, name, root) if folder.is_dir())


def cgroups_in(text: str, name: str, root: Path = ROOT) -> tuple[Path, ...]:
    """Return where /proc/PID/cgroup leads, as `cgroups_of` does, whether it is there or not."""
    return tuple(dict.fromkeys(folder for line in text.splitlines() for folder in _folders(line, name, root)))


def _folders(line: str, name: str, root: Path) -> Iterator[Path]:
    """Return where a line "number:controllers:path" leads."""
    _, _, rest = line.partition(":")
    controllers, _, path = rest.partition(":")
    parts = [part for part in path.split("/") if part]
    depth = next((index + 1 for index, part in enumerate(parts) if name in part), 0)
    if not depth:
        return
    if not controllers:
        yield (root if (root / "cgroup.controllers").exists() else root / "unified").joinpath(*parts[:depth])
    for controller in controllers.split(","):
        if controller in _COUNTING:
            yield (root / controller).joinpath(*parts[:depth])


def read_usage(folders: Sequence[Path], main: int = 0) -> Usage | None:
    """Return what everything in these cgroups has used, each of which holds all of it; None when nothing is left of it.

    Args:
        folders: of any version and hierarchy; what one does not count another may.
        main: the process from which all of it descends, for machines whose cgroups count nothing; 0 = unknown.
    """
    at = monotonic()
    cpu = _first(_cpu(folder) for folder in folders)
    memory = _first(_memory(folder) for folder in folders)
    if cpu is None or memory is None:
        found = _of_processes(_members(folders) or _family(main))
        if found is None:
            return None
        cpu, memory = found[0] if cpu is None else cpu, found[1] if memory is None else memory
    return Usage(at, cpu, int(memory))


def _first(values: Iterable[float | None]) -> float | None:
    return next((value for value in values if value is not None), None)


def _cpu(folder: Path) -> float | None:
    """Return seconds. The file cpu.stat is there in version 1, too, but says something else."""
    used = _entry(folder / "cpu.stat", "usage_usec")
    if used is not None:
        return used / 1e6
    used = _number(folder / "cpuacct.usage")
    return used / 1e9 if used is not None else None


def _memory(folder: Path) -> float | None:
    """Return the working set: what is used, without the pages of files that nobody needed lately."""
    for file, idle in (("memory.current", "inactive_file"), ("memory.usage_in_bytes", "total_inactive_file")):
        used = _number(folder / file)
        if used is not None:
            return max(0, used - (_entry(folder / "memory.stat", idle) or 0))
    return None


def _number(file: Path) -> int | None:
    try:
        return int(file.read_bytes())
    except (OSError, ValueError):
        return None


def _entry(file: Path, name: str) -> int | None:
    """Return a number from a file of lines "name number"."""
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name} ")), None)


def _members(folders: Sequence[Path]) -> set[int]:
    """Return the processes of the first cgroup that has any, and of those below it."""
    for folder in folders:
        try:
            if pids := {int(word) for path in folder.rglob("cgroup.procs") for word in path.read_text(encoding="ascii").split()}:
                return pids
        except (OSError, ValueError):
            continue
    return set()


def _family(main: int) -> set[int]:
    """Return a process and all that descend from it."""
    found: set[int] = set()
    waiting = [main] if main else []
    while waiting:
        pid = waiting.pop()
        if pid in found:
            continue
        found.add(pid)
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                waiting += map(int, children.read_text(encoding="ascii").split())
            except (OSError, ValueError):
                continue
    return found


def _of_processes(pids: Iterable[int]) -> tuple[float, int] | None:
    """Return the seconds of these processes and of their dead children, and their memory, files that they have mapped aside."""
    cpu, memory, any_alive = 0.0, 0, False
    for pid in pids:
        try:
            times = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
        except OSError:
            continue
        any_alive = True
        cpu += sum(int(times[index]) for index in (_USER, _SYSTEM, _CHILDREN_USER, _CHILDREN_SYSTEM)) / _TICK
        memory += max(0, int(pages[1]) - int(pages[2])) * _PAGE
    return (cpu, memory) if any_alive else None
