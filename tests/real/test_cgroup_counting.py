"""What real cgroups of version 2 count: processor time everywhere; memory where that controller is theirs, else of their processes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from gestalt.agent.fence.cgroups import ROOT
from gestalt.cgroup_usage import Usage, cgroups_of, read_usage
from tests.real.cgroup_lab import new_cgroup, run_in, until_populated

pytestmark = pytest.mark.real

VERSION_2 = next((path for path in (ROOT, ROOT / "unified") if (path / "cgroup.controllers").exists()), None)
BUSY = "while :; do :; done & dd if=/dev/zero of=/dev/null bs=32M & wait"


def until_used(folder: Path, seconds: float, memory: int = 0) -> Usage:
    """Wait until so much of a processor was used, and so much memory is in use."""
    deadline, usage = time.monotonic() + 30, None
    while usage is None or usage.cpu < seconds or usage.memory < memory:
        usage = read_usage([folder])
        assert time.monotonic() < deadline, f"waited for {seconds:g} s and {memory} bytes in {folder}: {usage}"
        time.sleep(0.02)
    return usage


def counted(folder: Path) -> float:
    stat = dict(line.split() for line in (folder / "cpu.stat").read_text(encoding="ascii").splitlines())
    return int(stat["usage_usec"]) / 1e6


@pytest.mark.skipif(VERSION_2 is None, reason="this machine has no cgroups of version 2")
def test_version_2_counts_all_that_ran_in_a_cgroup() -> None:
    assert VERSION_2 is not None
    with new_cgroup(VERSION_2) as cgroup:
        process = run_in(cgroup, BUSY)
        until_populated(cgroup, 3)
        assert cgroup in cgroups_of(process.pid, cgroup.name), "it is found from its process"
        first = until_used(cgroup, 0.2, 32 * 1024**2)
        second = until_used(cgroup, first.cpu + 0.2)
        assert (second.cpu - first.cpu) / (second.at - first.at) < 2.2, "two busy loops have two cores at most"
        assert second.memory < 200 * 1024**2
        before, usage, after = counted(cgroup), read_usage([cgroup]), counted(cgroup)
        assert usage is not None
        assert before <= usage.cpu <= after, "it is the kernel's own count"
        (cgroup / "inner").mkdir()
        (cgroup / "inner" / "cgroup.procs").write_text(str(process.pid))
        assert until_used(cgroup, second.cpu + 0.1).cpu > second.cpu, "what moves into a cgroup below it counts"
        process.kill()
        process.wait()
    assert read_usage([cgroup]) is None, "of one that is gone nothing is said"
