"""What processes have used, read from files as both versions of cgroups have them, and from processes themselves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gestalt.cgroup_usage import Usage, cgroups_in, cgroups_of, read_usage


def put(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)
    return folder


def read(*folders: Path, main: int = 0) -> Usage:
    usage = read_usage(folders, main)
    assert usage is not None
    return usage


def test_version_2(tmp_path: Path) -> None:
    stat = "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n"
    folder = put(tmp_path, cpu__stat=stat, memory__current="9000\n", memory__stat="anon 1\ninactive_file 2000\n")
    usage = read(folder)
    assert (usage.cpu, usage.memory) == (2.5, 7000), "pages of files that nobody needed lately are not in use"


def test_version_1_has_a_folder_for_each_controller(tmp_path: Path) -> None:
    cpu = put(tmp_path / "cpu", cpu__stat="nr_periods 0\n", cpuacct__usage="1500000000\n")
    memory = put(tmp_path / "memory", memory__usage_in_bytes="9000\n", memory__stat="cache 5000\ntotal_inactive_file 4000\n")
    usage = read(put(tmp_path / "pids"), cpu, memory)
    assert (usage.cpu, usage.memory) == (1.5, 5000)


def test_where_cgroups_count_nothing_their_processes_do(tmp_path: Path) -> None:
    folder = put(tmp_path / "pids", cgroup__procs="")
    put(folder / "below", cgroup__procs=f"{os.getpid()}\n")
    spent = sum(os.times()[:2])
    usage = read(folder)
    assert spent - 0.1 <= usage.cpu <= sum(os.times()[:4]) + 0.1
    assert 1024**2 < usage.memory < 1024**4
    assert read(main=os.getpid()).memory > 1024**2, "without any cgroup its main process is known"


def test_nothing_is_said_of_what_is_gone(tmp_path: Path) -> None:
    assert read_usage([tmp_path / "gone"], 0) is None
    assert read_usage([], 2**22 + 1) is None


@pytest.mark.parametrize("garbage", ["", "max\n", "1 2\n"])
def test_what_cannot_be_read_is_left_out(tmp_path: Path, garbage: str) -> None:
    folder = put(tmp_path, cpu__stat="usage_usec 5\n", memory__current=garbage, cgroup__procs="")
    assert read_usage([folder]) is None


def test_the_cgroups_of_a_process_are_those_of_this_name_only(tmp_path: Path) -> None:
    """This process is in some cgroup; a name that does not occur there must lead nowhere, or a number that was used again would deceive."""
    assert cgroups_of(os.getpid(), "0123456789abcdef", tmp_path) == ()
    assert cgroups_of(2**22 + 1, "x", tmp_path) == ()


def test_where_the_cgroups_of_a_container_are(tmp_path: Path) -> None:
    first, second = tmp_path / "1", put(tmp_path / "2", cgroup__controllers="cpu memory")
    controllers = ("11:memory", "4:cpu,cpuacct", "3:blkio", "1:name=systemd", "0:")
    lines = "\n".join(f"{controller}:/docker/c0ffee/inner" for controller in controllers)
    assert cgroups_in(lines, "c0ffee", first) == tuple(first / name / "docker/c0ffee" for name in ("memory", "cpuacct", "unified"))
    assert cgroups_in("0::/system.slice/docker-c0ffee.scope/init.scope\n", "c0ffee", second) == (
        second / "system.slice/docker-c0ffee.scope",
    )
    assert cgroups_in("0::/system.slice/sshd.service\n", "c0ffee", second) == ()
