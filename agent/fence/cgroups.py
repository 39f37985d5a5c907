"""Ends everything in a cgroup, without the help of Docker, systemd or the agent. Works with both versions of cgroups; blocks."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from gestalt.clock import boottime

ROOT = Path("/sys/fs/cgroup")
_PAUSE = 0.005


class NotOurs(ValueError):
    """A path that is no cgroup which could be killed."""


def check_path(text: str) -> Path:
    """Return the cgroup at an absolute path below ROOT, whether it exists or not.

    Raises:
        NotOurs: it is somewhere else, the root of a hierarchy, or holds this process or process 1.
    """
    path = Path(text)
    if not path.is_relative_to(ROOT) or ".." in path.parts or len(path.relative_to(ROOT).parts) < 2:
        raise NotOurs(f"{text!r} is no cgroup below {ROOT} with a name of its own")
    if {1, os.getpid()} & set(pids_in(path)):
        raise NotOurs(f"{text} holds the fence itself, or process 1")
    return path


def pids_in(path: Path) -> list[int]:
    """Return the processes of a cgroup and all below it; none where it does not exist any more."""
    return sorted({pid for folder in _tree(path) for pid in _pids(folder)})


def kill_cgroup(path: Path, deadline: float) -> bool:
    """Kill until nothing is left, at most until `deadline` (seconds since boot); return whether nothing is left.

    With cgroup v2 the kernel kills all at once. With v1 new processes may be born meanwhile: it is gone through until none is found.
    A process that is dead but not waited for does not count: it does nothing any more.
    """
    while left := [pid for pid in pids_in(path) if _is_alive(pid)]:
        if boottime() >= deadline:
            return False
        if not _kill_at_once(path):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(_PAUSE)
    return True


def shut_cgroup(path: Path) -> None:
    """Let nothing in a cgroup do anything from now on, even if it is made only later; it can be killed all the same. Idempotent.

    With version 2 it is frozen. In both versions nothing in it can fork, so that a container which is still being started comes to
    nothing. In a hierarchy that knows neither, nothing happens.
    """
    if not (is_unified := _is_unified(path)) and path.relative_to(ROOT).parts[0] != "pids":
        return
    with contextlib.suppress(OSError):
        path.mkdir(parents=True, exist_ok=True)
        if is_unified:
            _set(path / "cgroup.freeze", "1")
        _set(path / "pids.max", "0")


def open_cgroup(path: Path) -> None:
    """Take back what `shut_cgroup` did. Idempotent."""
    with contextlib.suppress(OSError):
        if (path / "pids.max").read_text(encoding="ascii").strip() == "0":
            _set(path / "pids.max", "max")
    if _is_unified(path):
        _set(path / "cgroup.freeze", "0")


def remove_cgroup(path: Path) -> None:
    """Remove a cgroup that nothing is in or below; one that is used stays."""
    with contextlib.suppress(OSError):
        path.rmdir()


def _is_unified(path: Path) -> bool:
    """Whether a path is in a hierarchy of version 2: the only one, or one beside those of version 1."""
    return (ROOT / "cgroup.controllers").exists() or path.relative_to(ROOT).parts[0] == "unified"


def _set(file: Path, value: str) -> None:
    """Write what the kernel lets us write; a new file must not come of it."""
    with contextlib.suppress(OSError):
        if file.exists():
            file.write_text(value, encoding="ascii")


def _kill_at_once(path: Path) -> bool:
    try:
        (path / "cgroup.kill").write_text("1", encoding="ascii")
    except OSError:
        return False
    return True


def _tree(path: Path) -> Iterator[Path]:
    yield path
    with contextlib.suppress(OSError):
        for folder in list(path.iterdir()):
            if folder.is_dir():
                yield from _tree(folder)


def _pids(folder: Path) -> list[int]:
    try:
        return [int(word) for word in (folder / "cgroup.procs").read_text(encoding="ascii").split()]
    except OSError:
        return []


def _is_alive(pid: int) -> bool:
    """A process in the state Z or X has ended; one without an entry in /proc is in another pid namespace: 0, or just gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (OSError, IndexError):
        return False
