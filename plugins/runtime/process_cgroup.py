"""Control groups of our own: `gestalt/<name>` in every hierarchy that can be used, and nothing outside of it.

Where the machine has no usable cgroup v1 or v2 controller, processes run without that limit; `facts` says so.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from gestalt.spec.schema import Resources

log = logging.getLogger(__name__)

ROOT = Path("/sys/fs/cgroup")
PARENT = "gestalt"
CONTROLLERS = ("memory", "pids", "cpu")
_SHARES_A_CORE = 1024


class CgroupTree:
    """Makes, limits, kills and removes the cgroups of attempts. All calls block, shortly."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._unified = (root / "cgroup.controllers").exists()
        self._missing: dict[str, str] = {}

    def facts(self) -> dict[str, str]:
        """Return which limits this node can keep."""
        usable = sorted(self._parents())
        facts = {"cgroup": ("v2" if self._unified else "v1") if usable else "none", "limits": ",".join(usable)}
        facts.update({f"no_{controller}_limit": reason for controller, reason in self._missing.items()})
        return facts

    def folders(self, name: str) -> list[str]:
        """Return the folders that the cgroup of an attempt will have."""
        return list(dict.fromkeys(str(parent / name) for parent in self._parents().values()))

    def create(self, name: str, resources: Resources) -> None:
        """Make the cgroup of an attempt and set its limits. Idempotent."""
        for controller, parent in self._parents().items():
            folder = parent / name
            folder.mkdir(exist_ok=True)
            for file, value in self._settings(controller, resources).items():
                _write(folder / file, value)

    def kill(self, name: str, limit: float = 5.0) -> None:
        """Kill everything in the cgroup; a full stop to forks first, so that it converges."""
        kill_members(self._existing(name), limit)

    def remove(self, name: str, limit: float = 5.0) -> None:
        """Remove the cgroup after killing what is in it."""
        self.kill(name, limit)
        for folder in self._existing(name):
            _remove(folder, limit)
            _remove_if_empty(folder.parent)

    def _existing(self, name: str) -> list[Path]:
        places = [self._root] if self._unified else [self._root / controller for controller in CONTROLLERS]
        return [folder for place in places if (folder := place / PARENT / name).is_dir()]

    def _parents(self) -> Mapping[str, Path]:
        """Return the folder in which to make cgroups, by controller that works; makes it where it is missing."""
        self._missing = {}
        parents = {controller: self._parent(controller) for controller in CONTROLLERS}
        return {controller: parent for controller, parent in parents.items() if parent is not None}

    def _parent(self, controller: str) -> Path | None:
        base = self._root if self._unified else self._root / controller
        parent = base / PARENT
        if not (base / "cgroup.procs").exists():
            self._missing[controller] = "the kernel does not offer it here"
            return None
        try:
            parent.mkdir(exist_ok=True)
            if self._unified:
                (parent / "cgroup.subtree_control").write_text(f"+{controller}", encoding="ascii")
        except OSError as error:
            self._missing[controller] = f"{parent}: {error.strerror}"
            return None
        return parent

    def _settings(self, controller: str, resources: Resources) -> dict[str, str]:
        if controller == "pids":
            return {"pids.max": str(resources.pids or "max")}
        if controller == "cpu":
            shares = cpu_shares(resources.cpu)
            return {"cpu.weight": str(cpu_weight(shares))} if self._unified else {"cpu.shares": str(shares)}
        if not resources.memory:
            return {}
        if self._unified:
            return {"memory.max": str(resources.memory), "memory.swap.max": "0"}
        return {"memory.limit_in_bytes": str(resources.memory), "memory.memsw.limit_in_bytes": str(resources.memory)}


def cpu_shares(cores: float) -> int:
    """Return the relative weight of so many cores, as Docker counts it."""
    return min(max(2, round(cores * _SHARES_A_CORE)), 262_144)


def cpu_weight(shares: int) -> int:
    """Return the same on the scale of cgroup v2 (1 … 10,000)."""
    return 1 + (shares - 2) * 9999 // 262_142


def kill_members(folders: Iterable[Path], limit: float) -> None:
    """Send SIGKILL to everything in these cgroups until nothing is left, or the limit has passed."""
    deadline = time.monotonic() + limit
    folders = list(folders)
    for folder in folders:
        if (folder / "pids.max").exists():
            _write(folder / "pids.max", "0")
    while (pids := _members(folders)) and time.monotonic() < deadline:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                log.debug("%d is gone already", pid)
        time.sleep(0.005)


def _members(folders: Iterable[Path]) -> set[int]:
    pids: set[int] = set()
    for folder in folders:
        try:
            pids.update(map(int, (folder / "cgroup.procs").read_text(encoding="ascii").split()))
        except FileNotFoundError:
            continue
    return pids


def _write(path: Path, value: str) -> None:
    """Set what the kernel lets us set; a limit that it lacks (swap, say) is done without."""
    try:
        path.write_text(value, encoding="ascii")
    except OSError as error:
        log.info("%s could not be set to %s: %s", path, value, error.strerror)


def _remove(folder: Path, limit: float) -> None:
    """Remove a cgroup; the kernel may hold it for a moment after its last process died."""
    deadline = time.monotonic() + limit
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.005)


def _remove_if_empty(parent: Path) -> None:
    try:
        parent.rmdir()
    except OSError as error:
        log.debug("%s stays: %s", parent, error.strerror)


def kill_session(leader: int, variable: str) -> None:
    """Kill what is left of a session whose leader has died; a process counts only with this variable in its environment."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _belongs(entry, leader, os.fsencode(variable)):
            try:
                os.kill(int(entry.name), signal.SIGKILL)
            except ProcessLookupError:
                log.debug("%s is gone already", entry.name)


def _belongs(process: Path, leader: int, variable: bytes) -> bool:
    try:
        session = int((process / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[3])
        return session == leader and variable in (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return False
