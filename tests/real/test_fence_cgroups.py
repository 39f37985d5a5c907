"""Killing by cgroup, with real cgroups of whichever version the machine has: every hierarchy in which one can be made."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gestalt.agent.fence.cgroups import ROOT, NotOurs, check_path, kill_cgroup, open_cgroup, pids_in, remove_cgroup, shut_cgroup
from gestalt.clock import boottime
from tests.real.cgroup_lab import hierarchies, new_cgroup, run_in, until_populated

pytestmark = pytest.mark.real

BREEDER = "while :; do (sleep 1000 & sleep 0.001) & sleep 0.01; done"
"""Never stands still: has children, which outlive their parents."""


@pytest.fixture(params=hierarchies(), ids=lambda path: path.name)
def cgroup(request: pytest.FixtureRequest) -> Iterator[Path]:
    with new_cgroup(request.param) as path:
        yield path


def test_everything_ends_however_it_breeds(cgroup: Path) -> None:
    below = cgroup / "below"
    below.mkdir()
    processes = [run_in(cgroup, BREEDER), run_in(below, "trap '' TERM INT HUP; while :; do sleep 1; done")]
    until_populated(cgroup, 20)
    assert kill_cgroup(cgroup, boottime() + 10)
    assert [process.wait(10) for process in processes] == [-9, -9]
    assert not pids_in(cgroup)


def test_what_stops_itself_is_killed_too(cgroup: Path) -> None:
    process = run_in(cgroup, "kill -STOP $$")
    until_populated(cgroup, 1)
    assert kill_cgroup(cgroup, boottime() + 10)
    assert process.wait(10) == -9


def test_an_empty_or_missing_one_is_done(cgroup: Path) -> None:
    assert kill_cgroup(cgroup, boottime())
    assert kill_cgroup(cgroup / "never", boottime())


def test_the_deadline_counts(cgroup: Path) -> None:
    process = run_in(cgroup, "sleep 1000")
    until_populated(cgroup, 1)
    assert not kill_cgroup(cgroup, boottime() - 1)
    assert process.poll() is None
    assert kill_cgroup(cgroup, boottime() + 10)
    process.wait(10)


def test_in_one_that_is_shut_nothing_is_born_until_it_is_opened() -> None:
    with new_cgroup(limiting()) as cgroup:
        made = cgroup / "later" / "still"
        shut_cgroup(made)
        assert run_in(made, "/bin/true && /bin/true").wait(10) != 0
        open_cgroup(made)
        assert run_in(made, "/bin/true && /bin/true").wait(10) == 0
        open_cgroup(cgroup / "never")
        remove_cgroup(made)
        assert not made.exists()


def test_what_is_frozen_does_nothing_and_dies(cgroup: Path) -> None:
    if not (cgroup / "cgroup.freeze").exists():
        shut_cgroup(cgroup)  # version 1: it is only kept from forking, where that can be
        assert kill_cgroup(cgroup, boottime() + 10)
        return
    shut_cgroup(cgroup)
    process = run_in(cgroup, "exec true")
    until_populated(cgroup, 1)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    assert kill_cgroup(cgroup, boottime() + 10)
    assert process.wait(10) == -9
    open_cgroup(cgroup)
    assert run_in(cgroup, "exec true").wait(10) == 0


def limiting() -> Path:
    """Return the hierarchy that limits processes."""
    return ROOT if (ROOT / "cgroup.procs").exists() else ROOT / "pids"


@pytest.mark.parametrize("path", ["/", "/etc", str(ROOT), f"{ROOT}/pids", f"{ROOT}/pids/../../../etc", "pids/a", ""])
def test_what_is_no_cgroup_of_an_instance_is_refused(path: str) -> None:
    with pytest.raises(NotOurs):
        check_path(path)


def test_the_fence_does_not_kill_itself(cgroup: Path) -> None:
    assert check_path(str(cgroup)) == cgroup
    child = cgroup / "child"
    child.mkdir()
    before = home(cgroup)
    (child / "cgroup.procs").write_text(str(os.getpid()))
    try:
        with pytest.raises(NotOurs):
            check_path(str(cgroup))
    finally:
        (before / "cgroup.procs").write_text(str(os.getpid()))


def home(cgroup: Path) -> Path:
    """Return the cgroup that this process is in now, in the hierarchy of `cgroup`."""
    root = next(root for root in hierarchies() if cgroup.is_relative_to(root))
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if (root.name in controllers.split(",")) if controllers else root in (ROOT, ROOT / "unified"):
            return root / path.lstrip("/")
    raise AssertionError(f"this process is not in {root}")
