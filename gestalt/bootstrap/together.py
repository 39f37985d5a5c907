"""What the machines of one file are together, where each alone may be well. Pure."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .facts import Facts
from .hosts_file import HostSettings, HostsFile
from .requirements import Finding, Level
from .zookeeper import servers_of

COORDINATOR_FILE, CLIENT_FILE = "coordinator.yaml", "client.yaml"

_CHANGED = (
    "put the hosts that have servers in their old order, and name them in zookeeper.servers; or exchange servers one by one, by "
    "gestaltctl cluster zookeeper add and remove (docs/operator-guide.md), and name them in zookeeper.hosts from then on"
)


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where the cluster begins, or began: the host that tokens come from. `cluster`: its id; empty = a new one. `trouble`: of no host."""

    first: HostSettings
    cluster: str = ""
    trouble: tuple[Finding, ...] = ()


def beginning(hosts: HostsFile, facts: Mapping[str, Facts]) -> Beginning:
    """Return where the cluster of this file is: of hosts that have coordinators already one with a context of gestaltctl, wherever in the
    file it stands. Only where none has, it begins on the first of the file.
    """
    having = [host for host in hosts.hosts if COORDINATOR_FILE in facts[host.name].settings and facts[host.name].mode != "appliance"]
    cluster = _most(having, facts)
    known = [host for host in having if not cluster or cluster in facts[host.name].clusters]
    ours = [host for host in known if host in hosts.coordinators]
    if not known:
        return Beginning(hosts.first)
    names = ", ".join(host.name for host in ours or known)
    if not ours:
        chosen = ", ".join(host.name for host in hosts.coordinators)
        what = f"{names} have coordinators already, and the file gives coordinators to {chosen}"
        hint = "say `coordinator: true` of those that have one, and of those that are to get one"
        return Beginning(hosts.first, cluster, (Finding(Level.ERROR, what, hint),))
    with_client = [host for host in ours if CLIENT_FILE in facts[host.name].settings]
    if with_client:
        return Beginning(hosts.first if hosts.first in with_client else with_client[0], cluster)
    if _is_being_founded(ours[0], facts):
        return Beginning(ours[0], cluster)
    what = f"{names} have coordinators, and none of them has /etc/gestalt/client.yaml, with which join tokens are made"
    hint = "on one of them `gestaltctl cluster certificate admin` makes what a context needs; docs/gestaltctl.md says what it looks like"
    return Beginning(ours[0], cluster, (Finding(Level.ERROR, what, hint),))


def _most(having: list[HostSettings], facts: Mapping[str, Facts]) -> str:
    """Return the cluster that most of these hosts belong to; of as many the one that is in the file first."""
    counted = Counter(cluster for host in having for cluster in sorted(facts[host.name].clusters))
    return counted.most_common(1)[0][0] if counted else ""


def _is_being_founded(host: HostSettings, facts: Mapping[str, Facts]) -> bool:
    """Whether `cluster init` was cut off there: it writes the context last, nothing is started before it ends, and nobody joins."""
    members = [name for name, found in facts.items() if found.clusters & facts[host.name].clusters]
    return members == [host.name] and "gestalt-coordinator" not in facts[host.name].units


def server_findings(hosts: HostsFile, facts: Mapping[str, Facts]) -> Iterator[tuple[str, Finding]]:
    """Yield the hosts whose ZooKeeper server has another number, or knows of other servers, than the file gives it.

    A number that two servers have, or servers that know of different ones, make two majorities of one ensemble.
    """
    if not hosts.servers:
        return
    wanted = {server.id: _plain(server.host) for server in servers_of([server.address for server in hosts.servers])}
    for host in hosts.hosts:
        found = facts[host.name]
        there = {server.id: _plain(server.host) for server in found.servers}
        if there and there != wanted:
            what = f"its ZooKeeper server knows of the servers {_shown(there)}; hosts.yaml gives {_shown(wanted)}"
            yield host.name, Finding(Level.ERROR, what, _CHANGED)
        number = str(hosts.servers.index(host) + 1) if host in hosts.servers else "none"
        if found.server_id not in ("", number):
            what = f"it has ZooKeeper server {found.server_id}; hosts.yaml gives it {number}"
            yield host.name, Finding(Level.ERROR, what, _CHANGED)


def address_findings(hosts: HostsFile, facts: Mapping[str, Facts]) -> Iterator[tuple[str, Finding]]:
    """Yield the hosts whose machine has not the address that the file gives them, and those that are one machine."""
    own = {name: {_plain(address) for address in found.addresses} for name, found in facts.items()}
    for number, host in enumerate(hosts.hosts):
        mine, found = own[host.name], facts[host.name]
        if mine and _plain(host.address) not in mine:
            what = f"{host.address} is none of its addresses: {', '.join(sorted(mine))}"
            yield host.name, Finding(Level.ERROR, what, "correct `address` in hosts.yaml, or `ssh`, when that leads to another machine")
        for other in hosts.hosts[:number]:
            is_there = _plain(host.address) in own[other.name] or _plain(other.address) in mine
            if found.machine and found.machine == facts[other.name].machine and is_there:  # a copied machine has other addresses
                yield host.name, Finding(Level.ERROR, f"it is the same machine as {other.name}", "name each machine once in hosts.yaml")


def _shown(servers: Mapping[int, str]) -> str:
    return ", ".join(f"{number} = {host}" for number, host in sorted(servers.items()))


def _plain(host: str) -> str:
    """Return an address in its one form, without brackets; a name as it is."""
    bare = host.removeprefix("[").removesuffix("]")
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        return bare  # a name
