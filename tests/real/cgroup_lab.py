"""Real cgroups for tests, of whichever version the machine has."""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gestalt.agent.fence.cgroups import ROOT, kill_cgroup, pids_in
from gestalt.clock import boottime, monotonic

_PARENT = "gestalt-fence-tests"
_PREFIX = "gestalt-fence-test-"


def hierarchies() -> list[Path]:
    """Return the roots in which cgroups can be made: of version 2, and one of version 1."""
    if (ROOT / "cgroup.procs").exists():
        return [ROOT]
    return [path for path in (ROOT / "unified", ROOT / "pids") if (path / "cgroup.procs").exists()]


@contextmanager
def new_cgroup(root: Path) -> Iterator[Path]:
    """Make a cgroup for the length of a block; whatever runs in it is killed at the end, as are the leftovers of killed tests."""
    parent = root / _PARENT
    for left in parent.glob(f"{_PREFIX}*"):
        if not Path("/proc", left.name.removeprefix(_PREFIX).partition("-")[0]).exists():
            _remove(left)
    path = parent / f"{_PREFIX}{os.getpid()}-{uuid.uuid4().hex[:8]}"
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        _remove(path)
        with suppress(OSError):  # another run of tests has one, too
            parent.rmdir()


def _remove(path: Path) -> None:
    end = monotonic() + 20
    while pids_in(path):
        assert monotonic() < end, f"{path} still has {pids_in(path)}"
        kill_cgroup(path, boottime() + 1)
        time.sleep(0.01)
    for folder in sorted((item for item in path.rglob("*") if item.is_dir()), reverse=True):
        folder.rmdir()
    path.rmdir()


def run_in(cgroup: Path, command: str) -> subprocess.Popen[bytes]:
    """Run a shell command as a member of a cgroup from its first moment on."""
    return subprocess.Popen(["/bin/sh", "-c", f"echo $$ > {cgroup}/cgroup.procs; {command}"], start_new_session=True)


def until_populated(cgroup: Path, count: int) -> None:
    end = monotonic() + 20
    while len(pids_in(cgroup)) < count:
        assert monotonic() < end, f"{cgroup} has only {pids_in(cgroup)}"
        time.sleep(0.01)
