"""What a machine needs for the parts that it is to get, and what of it is missing: `docs/support.md` in code. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median

from gestalt.bootstrap.facts import Facts, numbers

FAMILY = {"rhel": "RHEL", "almalinux": "AlmaLinux", "rocky": "Rocky Linux", "centos": "CentOS Stream"}
PYTHONS = {8: ("3.11", "3.12"), 9: ("3.11", "3.12"), 10: ("3.12",)}
"""Which of those that our packages can be built for a release has in its own repositories."""
JAVA = {8: "java-17-openjdk-headless", 9: "java-17-openjdk-headless", 10: "java-21-openjdk-headless"}
ARCHITECTURES = ("x86_64", "aarch64")
HAPROXY, SYSTEMD, JAVA_VERSION = (2, 4), 239, 8

MIB = 1024**2
MEMORY_BASE, MEMORY_NODE, MEMORY_COORDINATOR, MEMORY_ZOOKEEPER = 512 * MIB, 256 * MIB, 256 * MIB, 256 * MIB
"""The one of ZooKeeper is beside its heap."""
USR = 400 * MIB
VAR_NODE, VAR_COORDINATOR, VAR_ZOOKEEPER = 1024 * MIB, 512 * MIB, 2048 * MIB
_KEPT_BY_KERNEL = 0.1
"""Part of a machine's memory that does not show in what it says it has."""
CLOCKS_TOLD, CLOCKS_MAX = 5, 60
"""Seconds by which clocks of machines may differ: before it is told, and at most."""


class Level(StrEnum):
    """ERROR: it would not work. WARNING: it works, or may work, but somebody has to know."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be on a machine: what, as a sentence without its end, and what to do."""

    level: Level
    what: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a machine is to become.

    Args:
        zookeeper: it gets a ZooKeeper server of ours, with a heap of so many MiB; 0 = none.
        python: the one that the packages were built for, such as "3.11"; empty = not known.
        architecture: the one that they were built for; empty = not known.
        containers: it shall run containers; without, an engine that is missing is told as well, but as a warning.
        storage_fence: as in coordinator.yaml.
        selinux: gestalt-selinux is among the packages that it gets.
        cluster: the id of the cluster that it is to belong to; empty = a new one.
        firewall: firewalld is opened for it by us.
        ports: that have to be free, with what each is for: see `ports_of`.
    """

    node: bool = True
    coordinator: bool = False
    zookeeper: int = 0
    python: str = "3.11"
    architecture: str = ""
    containers: bool = False
    storage_fence: str = "none"
    selinux: bool = False
    cluster: str = ""
    firewall: bool = False
    ports: Mapping[int, str] = field(default_factory=dict)


def ports_of(*, node: bool, coordinator: bool, zookeeper: bool) -> dict[int, str]:
    """Return the ports that parts listen on by default, with what each is for."""
    return {
        **({80: "HAProxy", 7402: "the agent's health service"} if node else {}),
        **({7400: "the coordinator's API", 7401: "joining"} if coordinator else {}),
        **({2181: "clients of ZooKeeper", 2888: "ZooKeeper's servers", 3888: "elections of ZooKeeper"} if zookeeper else {}),
    }


def findings(facts: Facts, host: Wanted) -> list[Finding]:
    """Return what is not as it should be on a machine, errors first; nothing when all is well.

    A machine that belongs to the wanted cluster already is not asked for what its own daemons take: ports, room for packages.
    """
    found = [
        *_system(facts, host),
        *_sizes(facts, host),
        *_programs(facts, host),
        *_engine(facts, host),
        *_ports(facts, host),
        *_guards(facts, host),
    ]
    return sorted(found, key=lambda finding: finding.level is not Level.ERROR)


def clock_findings(offsets: Mapping[str, float]) -> list[Finding]:
    """Return whose clocks differ too much. `offsets`: for each machine its `Facts.clock` less our own clock when its answer came."""
    if not offsets:
        return []
    middle = median(offsets.values())
    found = []
    for name, offset in sorted(offsets.items()):
        differs = abs(offset - middle)
        if differs > CLOCKS_TOLD:
            level = Level.ERROR if differs > CLOCKS_MAX else Level.WARNING
            where = "ahead of" if offset > middle else "behind"
            hint = "have all of them set by the same time servers: systemctl enable --now chronyd; chronyc makestep"
            found.append(Finding(level, f"the clock of {name} is {differs:.0f} s {where} those of the other machines", hint))
    return found


def memory_needed(host: Wanted) -> int:
    """Return the bytes of memory that a machine has to have, apps not counted."""
    zookeeper = MEMORY_ZOOKEEPER + host.zookeeper * MIB if host.zookeeper else 0
    return MEMORY_BASE + host.node * MEMORY_NODE + host.coordinator * MEMORY_COORDINATOR + zookeeper


def var_needed(host: Wanted) -> int:
    """Return the bytes that have to be free below /var/lib, apps not counted."""
    return host.node * VAR_NODE + host.coordinator * VAR_COORDINATOR + bool(host.zookeeper) * VAR_ZOOKEEPER


def _error(what: str, hint: str = "") -> Finding:
    return Finding(Level.ERROR, what, hint)


def _warning(what: str, hint: str = "") -> Finding:
    return Finding(Level.WARNING, what, hint)


def _system(facts: Facts, host: Wanted) -> Iterator[Finding]:
    if not facts.root:
        yield _error("the user there is not root", "packages and units are root's: reach the machine as root")
    name = FAMILY.get(facts.distribution)
    if name and facts.major < 8:
        yield _error(f"{name} {facts.version} is too old: 8, 9 and 10 are supported", "docs/support.md says why, and what else can be done")
    elif name and facts.major > 10:
        yield _warning(f"nobody has tried {name} {facts.version}: 8, 9 and 10 are supported", "docs/support.md says what was tried how")
    elif not name:
        shown = " ".join(filter(None, (facts.distribution, facts.version))) or "a system that does not say its name"
        yield _warning(f"{shown} is not in the support matrix", "docs/support.md says which systems are, and what was tried how")
    allowed = (host.architecture,) if host.architecture else ARCHITECTURES
    if facts.architecture not in allowed:
        yield _error(
            f"its architecture is {facts.architecture}, the packages are for {' and '.join(allowed)}", "build packages on such a machine"
        )
    if not facts.systemd:
        yield _error("systemd is not process 1", "the daemons are units of systemd: take a machine, or a container, that boots it")
    elif facts.systemd < SYSTEMD:
        yield _error(f"systemd {facts.systemd} is too old: {SYSTEMD} is the first that understands the units' sandboxes")
    if facts.cgroup != 2:
        hint = "nothing has to be done: RHEL 8 has them so, and docs/support.md says what differs"
        yield _warning("its cgroups are of version 1: killing what must end takes rounds instead of one write", hint)


def _sizes(facts: Facts, host: Wanted) -> Iterator[Finding]:
    needed = memory_needed(host)
    if facts.memory < needed * (1 - _KEPT_BY_KERNEL):
        yield _error(f"it has {_size(facts.memory)} of memory, and needs {_size(needed)} without any app", "docs/support.md says what for")
    if host.coordinator and host.zookeeper and facts.cpus < 2:
        yield _warning("it has one processor for ZooKeeper and a coordinator: 2 are needed for them to be heard in time when it is busy")
    if _is_member(facts, host):
        return
    for where, free, room in (("/usr", facts.usr_free, USR), ("/var/lib", facts.var_free, var_needed(host))):
        if free < room:
            yield _error(f"{where} has {_size(free)} free, and needs {_size(room)}", f"make room, or give {where} a bigger disk")


def _programs(facts: Facts, host: Wanted) -> Iterator[Finding]:
    if host.python and host.python not in facts.pythons:
        yield from _python(facts, host.python)
    if host.node and host.python in facts.no_pidfds:
        yield _error(
            f"Python {host.python} has no pidfd_open on this kernel, which an agent needs", "run the node on RHEL 9 or 10: docs/support.md"
        )
    if host.node and facts.haproxy and numbers(facts.haproxy)[:2] < HAPROXY:
        yield _error(f"HAProxy {facts.haproxy} is too old: 2.4 is the first that will do", _haproxy_hint(facts))
    elif host.node and not facts.haproxy and (not facts.dnf or facts.major == 8):
        yield _error("HAProxy is not installed, and does not come with the packages here", _haproxy_hint(facts))
    if host.node and host.storage_fence == "netfilter":
        if facts.nft and not facts.nft_works:
            yield _error(
                "nft is there and cannot list rules, which storage_fence: netfilter needs", "see what `nft list tables` says there"
            )
        elif not facts.nft:
            yield (_warning if facts.dnf else _error)(
                "nft is missing, which storage_fence: netfilter needs", "install the package nftables"
            )
    if host.zookeeper:
        yield from _java(facts)


def _python(facts: Facts, wanted: str) -> Iterator[Finding]:
    has = PYTHONS.get(facts.major, ()) if facts.distribution in FAMILY else ()
    if not facts.dnf:
        there = ", ".join(facts.pythons) or "none"
        yield _error(f"the packages need /usr/bin/python{wanted}, there is {there}", "install it, or build packages with RPM_PYTHON")
    elif has and wanted not in has:
        hint = f"build packages for Python {has[-1]}: RPM_PYTHON=/usr/bin/python{has[-1]} make rpm"
        yield _error(f"the packages need Python {wanted}, and {FAMILY[facts.distribution]} {facts.major} has only {', '.join(has)}", hint)


def _java(facts: Facts) -> Iterator[Finding]:
    package = JAVA.get(facts.major, "java-17-openjdk-headless") if facts.distribution in FAMILY else "of a Java runtime, 11 or newer"
    if not facts.java:
        yield _error("ZooKeeper needs Java, which is missing", f"install the package {package}")
    elif (numbers(facts.java.removeprefix("1.")) or (0,))[0] < JAVA_VERSION:
        yield _error(
            f"Java {facts.java} is too old for ZooKeeper: {JAVA_VERSION} is the first that will do", f"install the package {package}"
        )


def _haproxy_hint(facts: Facts) -> str:
    if facts.major == 8:
        return "RHEL 8 itself has 1.8 only: docs/support.md says where a newer one comes from"
    return "install the package haproxy"


def _engine(facts: Facts, host: Wanted) -> Iterator[Finding]:
    if not host.node or facts.engine.socket:
        return
    told = _error if host.containers else _warning
    without = "without it only apps with runtime: process can run"
    if facts.sockets and not facts.curl:
        yield _warning(f"whether something answers on {facts.sockets[0]} is not known, because curl is missing", "install the package curl")
    elif facts.sockets:
        yield told(f"nothing answers on {facts.sockets[0]}; {without}", "systemctl status docker podman.socket")
    else:
        hint = "install Docker CE, or Podman and its socket: systemctl enable --now podman.socket"
        yield told(f"there is neither a Docker Engine nor Podman's socket; {without}", hint)


def _ports(facts: Facts, host: Wanted) -> Iterator[Finding]:
    if _is_member(facts, host):
        return
    own = ports_of(node=False, coordinator=False, zookeeper="gestalt-zookeeper" in facts.units)
    for port, purpose in sorted(host.ports.items()):
        if port in facts.listening and port not in own:
            hint = f"see by whom: ss -ltnp 'sport = :{port}'; end that, or choose another port"
            yield _error(f"port {port}, for {purpose}, is taken", hint)


def _guards(facts: Facts, host: Wanted) -> Iterator[Finding]:
    if facts.mode == "appliance":
        hint = "by hand: gestaltctl cluster init --from-appliance (docs/operator-guide.md), or gestaltctl appliance destroy"
        yield _error("it is an appliance, which nothing here turns into a part of a cluster", hint)
    for cluster in sorted(facts.clusters - {host.cluster} if facts.mode != "appliance" else ()):
        hint = "take the machine out of it: gestaltctl node remove; then on it rm -r /etc/gestalt /var/lib/gestalt. Or take another machine"
        yield _error(f"it has settings of another cluster in /etc/gestalt: {cluster}", hint)
    if facts.selinux == "Enforcing" and not host.selinux and "gestalt-selinux" not in facts.packages:
        hint = "docs/selinux.md says how to build it"
        yield _warning("SELinux is enforcing, and gestalt-selinux is not installed: nobody has tried that", hint)
    if facts.firewalld and not host.firewall:
        services = ("gestalt-agent", *(("gestalt-coordinator",) if host.coordinator else ()))
        ports = (2181, 2888, 3888) if host.zookeeper else ()
        added = (" ".join(f"--add-service={name}" for name in services), " ".join(f"--add-port={port}/tcp" for port in ports))
        commands = ("--reload", *(f"--permanent {words}" for words in added if words), "--reload")  # it takes one kind at a time
        by_hand = "; ".join(f"firewall-cmd {words}" for words in commands)
        hint = f"`firewall: true` in hosts.yaml has it opened; by hand, where the packages are installed: {by_hand}"
        yield _warning("firewalld runs, and keeps the machines from each other until ports are opened", hint)


def _is_member(facts: Facts, host: Wanted) -> bool:
    return bool(host.cluster) and host.cluster in facts.clusters


def _size(number: int) -> str:
    return f"{number / MIB:.0f} MiB" if number < 10 * 1024 * MIB else f"{number / MIB / 1024:.0f} GiB"
