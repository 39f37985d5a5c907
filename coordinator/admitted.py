"""Where a refused node is still let in: the TCP ports by which it registers anew, and over which ZooKeeper's servers hold together."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

QUORUM = frozenset({2888, 3888})
"""What ZooKeeper's servers use among themselves where their configuration does not tell."""


def quorum_ports(configuration: bytes) -> frozenset[int]:
    """Return the ports in the lines "server.N=host:quorum:election[:role][|…][;[address:]client]" of ZooKeeper's own configuration."""
    found: set[int] = set()
    for line in configuration.decode(errors="replace").splitlines():
        key, _, value = line.partition("=")
        if not key.strip().startswith("server."):
            continue
        servers, _, client = value.partition(";")
        found.update(_ports(client))
        for server in servers.split("|"):
            found.update(_ports(server))
    return frozenset(found)


def _ports(text: str) -> Iterable[int]:
    """Return the numbers that follow a host, or stand alone; what is in brackets is an address."""
    return (int(part) for part in text.strip().rpartition("]")[2].split(":") if part.isascii() and part.isdigit() and 0 < int(part) < 65536)


def admitted_ports(addresses: Iterable[str], configuration: bytes) -> tuple[int, ...]:
    """Return all ports, sorted.

    Args:
        addresses: at which ZooKeeper and the coordinators are reached, "host:port"; an empty one is nowhere.
        configuration: of ZooKeeper, as it tells it; empty = it does not.
    """
    ports = set(quorum_ports(configuration) or QUORUM)
    for address in addresses:
        with suppress(ValueError):
            ports.add(int(address.rpartition(":")[2]))
    return tuple(sorted(port for port in ports if 0 < port < 65536))
