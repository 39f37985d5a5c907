"""What the machines of one file are together, where each alone may be well. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping

from .facts import Facts
from .hosts_file import HostsFile
from .requirements import Finding, Level
from .zookeeper import servers_of

_CHANGED = (
    "servers that are there are exchanged one by one: gestaltctl cluster zookeeper add and remove (docs/operator-guide.md), "
    "and named in zookeeper.hosts of hosts.yaml from then on"
)


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


def _shown(servers: Mapping[int, str]) -> str:
    return ", ".join(f"{number} = {host}" for number, host in sorted(servers.items()))


def _plain(host: str) -> str:
    """Return an address in its one form, without brackets; a name as it is."""
    bare = host.removeprefix("[").removesuffix("]")
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        return bare  # a name
