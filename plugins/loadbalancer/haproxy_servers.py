"""The servers of a running HAProxy: what it says of them, and the commands that make them what they should be. Pure."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address

from gestalt.plugin.loadbalancer import ServerLoad, ServerTraffic

from .haproxy_config import DESCRIPTION
from .haproxy_routes import HTTP, ServerEntry, ServerState

_MAINT_BITS = 0x01 | 0x02 | 0x20
_DRAIN_BITS = 0x08 | 0x10
_NO_ADDRESS = "-"

Key = tuple[str, str]
"""(backend, server)"""

Endpoint = tuple[str, int]
"""(IP address, port)"""


@dataclass(frozen=True, slots=True)
class Worker:
    """What the answering worker says of itself."""

    pid: int
    version: tuple[int, ...]
    structure: str


def parse_info(text: str) -> Worker:
    """Read `show info`.

    Raises:
        ValueError: it is something else.
    """
    fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    if not fields.get("Pid", "").isdigit():
        raise ValueError(f"this is not HAProxy's information: {text[:200]!r}")
    version = tuple(int(part) for part in fields.get("Version", "").split("-")[0].split(".") if part.isdigit())
    return Worker(int(fields["Pid"]), version, fields.get("description", "").removeprefix(f"{DESCRIPTION} "))


def is_listening(text: str) -> bool:
    """Read from `show info` whether a worker that is to stop still takes connections. One that is gone says nothing; what its master has
    to ask it by is not stopped."""
    fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    return fields.get("Stopping") == "0" or int(fields.get("Listeners", 0)) > int(fields.get("Unstoppable Jobs", 0))


def parse_servers(text: str) -> dict[Key, ServerEntry]:
    """Read `show servers state`.

    Raises:
        ValueError: it is something else.
    """
    lines = text.strip().splitlines()
    if len(lines) < 2 or not lines[1].startswith("# be_id be_name "):
        raise ValueError(f"this is not HAProxy's list of servers: {text[:200]!r}")
    columns = lines[1].removeprefix("# ").split()
    rows = (dict(zip(columns, line.split(), strict=False)) for line in lines[2:] if line.strip())
    return {(row["be_name"], row["srv_name"]): _entry(row) for row in rows}


def _entry(row: Mapping[str, str]) -> ServerEntry:
    admin = int(row["srv_admin_state"])
    state = ServerState.MAINT if admin & _MAINT_BITS else ServerState.DRAIN if admin & _DRAIN_BITS else ServerState.READY
    address = row["srv_addr"]
    return ServerEntry(address if address == _NO_ADDRESS else str(ip_address(address)), int(row["srv_port"]), state)


_SERVING = ("no check", "UP")


def parse_load(text: str) -> dict[str, ServerLoad]:
    """Read `show stat`: connections by server, summed over backends."""
    load: dict[str, ServerLoad] = {}
    for row in csv.DictReader(text.strip().removeprefix("# ").splitlines()):
        name = row["svname"]
        before = load.get(name, ServerLoad(0, row["status"], serving=row["status"] in _SERVING))
        load[name] = replace(before, connections=before.connections + int(row["scur"] or 0) + int(row["qcur"] or 0))
    return load


def parse_traffic(text: str) -> dict[str, ServerTraffic]:
    """Read `show stat`: HTTP requests, and what is under way, by server, summed over backends."""
    traffic: dict[str, ServerTraffic] = {}
    for row in csv.DictReader(text.strip().removeprefix("# ").splitlines()):
        name = row["svname"]
        before = traffic.get(name, ServerTraffic(0, 0))
        requests = int(row["stot"] or 0) if row["pxname"].startswith(f"{HTTP}_") else 0
        traffic[name] = ServerTraffic(before.requests + requests, before.queue + int(row["scur"] or 0) + int(row["qcur"] or 0))
    return traffic


def merge_load(parts: Iterable[Mapping[str, ServerLoad]]) -> dict[str, ServerLoad]:
    """Add up the load in several workers; the state is that of the first that knows the server."""
    total: dict[str, ServerLoad] = {}
    for part in parts:
        for name, load in part.items():
            before = total.get(name, replace(load, connections=0))
            total[name] = replace(before, connections=before.connections + load.connections)
    return total


def adjustments(wanted: Mapping[Key, ServerEntry], actual: Mapping[Key, ServerEntry]) -> list[str]:
    """Return the commands from `actual` to `wanted`: first what adds capacity, then what takes it away, removals last.

    A server that still has connections refuses to be removed; it stays without requests until a later pass.
    """
    adding: list[str] = []
    taking: list[str] = []
    for key, entry in sorted(wanted.items()):
        commands = list(_change(f"{key[0]}/{key[1]}", entry, actual.get(key)))
        (adding if entry.state is ServerState.READY else taking).extend(commands)
    for key, entry in sorted(actual.items()):
        if key not in wanted:
            taking.extend(_removal(f"{key[0]}/{key[1]}", entry))
    return adding + taking


def _change(name: str, wanted: ServerEntry, actual: ServerEntry | None) -> Iterator[str]:
    if actual is None:
        host = f"[{wanted.address}]" if ":" in wanted.address else wanted.address
        yield f"add server {name} {host}:{wanted.port}"
        if wanted.state is not ServerState.MAINT:
            yield f"set server {name} state {wanted.state}"
        return
    if (wanted.address, wanted.port) != (actual.address, actual.port):
        yield f"set server {name} addr {wanted.address} port {wanted.port}"
    if wanted.state is not actual.state:
        yield f"set server {name} state {wanted.state}"


def _removal(name: str, actual: ServerEntry) -> Iterator[str]:
    if actual.state is not ServerState.MAINT:
        yield f"set server {name} state maint"
    yield f"del server {name}"


def dead_ends(wanted: Mapping[Key, ServerEntry], backends: Collection[str], actual: Mapping[Key, ServerEntry]) -> dict[Key, Endpoint]:
    """Return the servers that HAProxy has and that nobody stands behind any more: lost ones, and those that left a service that goes on.

    What a service had that is gone altogether may still be finishing its requests. An endpoint that someone else has by now is alive.
    """
    alive = {(entry.address, entry.port) for entry in wanted.values() if not entry.lost}
    found = {key: (entry.address, entry.port) for key, entry in actual.items() if _is_dead(key, wanted, backends)}
    return {key: endpoint for key, endpoint in found.items() if endpoint not in alive and endpoint[0] != _NO_ADDRESS}


def _is_dead(key: Key, wanted: Mapping[Key, ServerEntry], backends: Collection[str]) -> bool:
    entry = wanted.get(key)
    return entry.lost if entry is not None else key[0] in backends


def is_right(wanted: Mapping[Key, ServerEntry], actual: Mapping[Key, ServerEntry]) -> bool:
    """Tell whether requests go where they should: leftovers that get none are no fault."""
    return all(actual.get(key) == entry for key, entry in wanted.items()) and all(
        entry.state is ServerState.MAINT for key, entry in actual.items() if key not in wanted
    )
