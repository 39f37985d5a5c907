"""What a machine lacks for the parts that it is to get."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gestalt.bootstrap.facts import Engine, Facts
from gestalt.bootstrap.requirements import MIB, Level, Wanted, clock_findings, findings, memory_needed, ports_of, var_needed

GOOD = Facts(
    root=True,
    hostname="one",
    architecture="x86_64",
    distribution="rhel",
    version="9.4",
    cpus=4,
    memory=4096 * MIB,
    var_free=20480 * MIB,
    usr_free=2048 * MIB,
    clock=1_795_365_851,
    systemd=252,
    pythons=("3.9", "3.11"),
    haproxy="2.4.22",
    nft="1.0.9",
    nft_works=True,
    java="17.0.15",
    dnf=True,
    curl=True,
    engine=Engine("/run/docker.sock", "docker", "27.3.1"),
)
ALL = Wanted(
    coordinator=True,
    zookeeper=512,
    architecture="x86_64",
    storage_fence="netfilter",
    containers=True,
    ports=ports_of(node=True, coordinator=True, zookeeper=True),
)
ERROR, WARNING = Level.ERROR, Level.WARNING


def test_a_good_machine_lacks_nothing() -> None:
    assert findings(GOOD, ALL) == []


@pytest.mark.parametrize(
    ("machine", "wanted", "level", "told"),
    [
        ({"root": False}, {}, ERROR, "not root"),
        ({"version": "7.9"}, {}, ERROR, "RHEL 7.9 is too old: 8, 9 and 10"),
        ({"version": "11.0"}, {}, WARNING, "nobody has tried RHEL 11.0"),
        ({"distribution": "debian", "version": "12"}, {}, WARNING, "debian 12 is not in the support matrix"),
        ({"distribution": ""}, {}, WARNING, "9.4 is not in the support matrix"),
        ({"architecture": "ppc64le"}, {"architecture": ""}, ERROR, "the packages are for x86_64 and aarch64"),
        ({"architecture": "aarch64"}, {}, ERROR, "its architecture is aarch64, the packages are for x86_64"),
        ({"systemd": 0}, {}, ERROR, "systemd is not process 1"),
        ({"systemd": 219}, {}, ERROR, "systemd 219 is too old"),
        ({"cgroup": 1}, {}, WARNING, "cgroups are of version 1"),
        ({"memory": 1500 * MIB}, {}, ERROR, "it has 1500 MiB of memory, and needs 1792 MiB"),
        ({"cpus": 1}, {}, WARNING, "one processor for ZooKeeper and a coordinator"),
        ({"usr_free": 100 * MIB}, {}, ERROR, "/usr has 100 MiB free, and needs 400 MiB"),
        ({"var_free": 3000 * MIB}, {}, ERROR, "/var/lib has 3000 MiB free, and needs 3584 MiB"),
        ({"pythons": ("3.9",), "dnf": False}, {}, ERROR, "need /usr/bin/python3.11, there is 3.9"),
        ({"pythons": ("3.12",), "version": "10.0"}, {}, ERROR, "need Python 3.11, and RHEL 10 has only 3.12"),
        ({"no_pidfds": ("3.11",)}, {}, ERROR, "Python 3.11 has no pidfd_open on this kernel"),
        ({"haproxy": "1.8.27"}, {}, ERROR, "HAProxy 1.8.27 is too old"),
        ({"haproxy": "", "version": "8.10"}, {}, ERROR, "HAProxy is not installed"),
        ({"haproxy": "", "dnf": False}, {}, ERROR, "HAProxy is not installed"),
        ({"nft": "", "nft_works": False}, {}, WARNING, "nft is missing"),
        ({"nft": "", "nft_works": False, "dnf": False}, {}, ERROR, "nft is missing"),
        ({"nft_works": False}, {}, ERROR, "nft is there and cannot list rules"),
        ({"java": ""}, {}, ERROR, "ZooKeeper needs Java"),
        ({"java": "1.7.0_80"}, {}, ERROR, "Java 1.7.0_80 is too old"),
        ({"engine": Engine()}, {}, ERROR, "neither a Docker Engine nor Podman's socket"),
        ({"engine": Engine()}, {"containers": False}, WARNING, "only apps with runtime: process"),
        ({"engine": Engine(), "sockets": ("/run/docker.sock",)}, {}, ERROR, "nothing answers on /run/docker.sock"),
        ({"engine": Engine(), "sockets": ("/run/docker.sock",), "curl": False}, {}, WARNING, "curl is missing"),
        ({"listening": frozenset({22, 80})}, {}, ERROR, "port 80, for HAProxy, is taken"),
        ({"listening": frozenset({2181})}, {}, ERROR, "port 2181, for clients of ZooKeeper, is taken"),
        ({"clusters": frozenset({"other"})}, {"cluster": "mine"}, ERROR, "another cluster in /etc/gestalt: other"),
        ({"clusters": frozenset({"other"})}, {}, ERROR, "another cluster in /etc/gestalt: other"),
        ({"clusters": frozenset({"its own"}), "mode": "appliance"}, {}, ERROR, "it is an appliance"),
        ({"selinux": "Enforcing"}, {}, WARNING, "SELinux is enforcing"),
        ({"firewalld": True}, {}, WARNING, "firewalld runs"),
    ],
)
def test_what_is_missing_is_told_with_what_to_do(machine: dict[str, Any], wanted: dict[str, Any], level: Level, told: str) -> None:
    (found,) = findings(replace(GOOD, **machine), replace(ALL, **wanted))
    assert (found.level, told in found.what) == (level, True), found
    assert found.hint or found.level is WARNING or "systemd" in found.what


@pytest.mark.parametrize(
    ("machine", "wanted"),
    [
        ({"pythons": ("3.9",)}, {}),
        ({"no_pidfds": ("3.9",)}, {}),
        ({"no_pidfds": ("3.11",)}, {"node": False}),
        ({"haproxy": "", "nft": "1.0"}, {"storage_fence": "none"}),
        ({"java": "1.8.0_422"}, {}),
        ({"nft": "", "nft_works": False}, {"storage_fence": "none"}),
        ({"java": "", "cpus": 1}, {"zookeeper": 0}),
        ({"memory": 1000 * MIB, "cpus": 1, "var_free": 1024 * MIB}, {"zookeeper": 0, "coordinator": False}),
        ({"haproxy": "1.8.27", "engine": Engine()}, {"node": False}),
        ({"selinux": "Enforcing"}, {"selinux": True}),
        ({"selinux": "Enforcing", "packages": {"gestalt-selinux": "0.1.0-1"}}, {}),
        ({"selinux": "Permissive"}, {}),
        ({"listening": frozenset({2181, 3888}), "units": frozenset({"gestalt-zookeeper"})}, {}),
        ({"listening": frozenset({80, 7400}), "clusters": frozenset({"mine"}), "usr_free": 0}, {"cluster": "mine"}),
    ],
)
def test_what_comes_by_itself_or_is_not_needed_is_not_asked_for(machine: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert findings(replace(GOOD, **machine), replace(ALL, **wanted)) == []


def test_errors_come_first() -> None:
    found = findings(replace(GOOD, firewalld=True, cgroup=1, root=False, java=""), ALL)
    assert [finding.level for finding in found] == [ERROR, ERROR, WARNING, WARNING]


def test_each_part_needs_room_of_its_own() -> None:
    node = Wanted()
    assert (memory_needed(node) // MIB, var_needed(node) // MIB) == (768, 1024)
    assert (memory_needed(ALL) // MIB, var_needed(ALL) // MIB) == (1792, 3584)
    assert memory_needed(replace(ALL, zookeeper=1024)) - memory_needed(ALL) == 512 * MIB


def test_clocks_are_compared_with_the_one_in_the_middle() -> None:
    assert clock_findings({}) == []
    assert clock_findings({"a": 100.0, "b": 104.0, "c": 101.0}) == []
    late, early = clock_findings({"a": -300.0, "b": 0.5, "c": 0.0, "d": 12.0, "e": 1.0})
    assert (late.level, early.level) == (ERROR, WARNING)
    assert "the clock of a is 300 s behind" in late.what
    assert "the clock of d is 12 s ahead of" in early.what
