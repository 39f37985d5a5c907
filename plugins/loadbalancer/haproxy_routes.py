"""From routes to what HAProxy is to listen on, match and balance. Pure; whatever is not safe or not unique is left out and named."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address

from gestalt.model import Route, Server

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~!$&()*+,;=:@%-]*)+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
ANY_HOST = ""
HTTP, TCP = "http", "tcp"
"""With which the names of backends begin."""


class ServerState(StrEnum):
    """In HAProxy's words: takes requests, finishes those it has, gets none."""

    READY = "ready"
    DRAIN = "drain"
    MAINT = "maint"


@dataclass(frozen=True, slots=True)
class ServerEntry:
    """Where one server is and what it gets. `address` is an IP address in its shortest form.

    `lost`: nobody answers there any more. HAProxy has no word for it, so it makes no difference between what is wanted and what is there.
    """

    address: str
    port: int
    state: ServerState
    lost: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Backend:
    """The servers of one route, by instance id."""

    name: str
    comment: str
    servers: dict[str, ServerEntry]


@dataclass(frozen=True, slots=True)
class HttpRule:
    """Requests for one of `hosts` (none = any; `*.x` = below x) whose path is `path` or lies below it."""

    hosts: tuple[str, ...]
    path: str
    backend: str


@dataclass(frozen=True, slots=True)
class TcpRule:
    """Connections to a port."""

    port: int
    backend: str
    owner: str


@dataclass(frozen=True, slots=True)
class Topology:
    """What the routes come to. Rules are in the order in which they are tried."""

    http_rules: tuple[HttpRule, ...]
    tcp_rules: tuple[TcpRule, ...]
    http_backends: tuple[Backend, ...]
    tcp_backends: tuple[Backend, ...]
    problems: tuple[str, ...]


def resolve(routes: Iterable[Route], reserved_ports: Sequence[int] = ()) -> Topology:
    """Return what the routes come to, the same for any order of them.

    Two routes that claim the same host and path, or the same port: the first key has it. `reserved_ports` no TCP service gets.
    """
    ordered = sorted(routes, key=lambda route: route.key)
    problems: list[str] = []
    http = [route for route in ordered if route.http is not None]
    tcp = [route for route in ordered if route.tcp is not None]
    return Topology(
        _http_rules(_http_claims(http, problems)),
        tuple(_tcp_rules(tcp, reserved_ports, problems)),
        tuple(_backend(HTTP, route, problems) for route in http),
        tuple(_backend(TCP, route, problems) for route in tcp),
        tuple(problems),
    )


def backend_name(kind: str, key: str) -> str:
    """Return a name that is safe whatever the key holds."""
    return f"{kind}_{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def _backend(kind: str, route: Route, problems: list[str]) -> Backend:
    servers: dict[str, ServerEntry] = {}
    for server in sorted(route.servers, key=lambda server: server.instance):
        entry = _entry(server)
        if entry is None or _NAME.fullmatch(server.instance) is None:
            problems.append(
                f"{_shown(route.key)}: the server {_shown(server.instance)} at {_shown(server.address)}:{server.port} is not valid"
            )
        else:
            servers.setdefault(server.instance, entry)
    return Backend(backend_name(kind, route.key), _shown(route.key), servers)


def _entry(server: Server) -> ServerEntry | None:
    try:
        address = ip_address(server.address)
    except ValueError:
        return None
    if not 0 < server.port < 65536 or getattr(address, "scope_id", None):
        return None
    return ServerEntry(str(address), server.port, _state(server), server.lost)


def _state(server: Server) -> ServerState:
    if server.lost:
        return ServerState.MAINT
    return ServerState.DRAIN if server.drain else ServerState.READY if server.ready else ServerState.MAINT


def _http_claims(routes: Iterable[Route], problems: list[str]) -> dict[tuple[str, str], Route]:
    """Return who has which (host, path with a slash at its end)."""
    claims: dict[tuple[str, str], Route] = {}
    for route in routes:
        for host, path in _host_paths(route, problems):
            winner = claims.setdefault((host, path), route)
            if winner is not route:
                problems.append(f"{_shown(route.key)}: {host or 'any host'} {path} is taken by {_shown(winner.key)}")
    return claims


def _host_paths(route: Route, problems: list[str]) -> Iterator[tuple[str, str]]:
    assert route.http is not None
    path = route.http.path_prefix or "/"
    if _PATH.fullmatch(path) is None:
        problems.append(f"{_shown(route.key)}: the path prefix {_shown(path)} is not valid")
        return
    for host in sorted({host.lower().rstrip(".") for host in route.http.hosts or ("*",)}):
        if host == "*":
            yield ANY_HOST, path.rstrip("/") + "/"
        elif len(host) <= 253 and _HOST.fullmatch(host):
            yield host, path.rstrip("/") + "/"
        else:
            problems.append(f"{_shown(route.key)}: the host name {_shown(host)} is not valid")


def _http_rules(claims: dict[tuple[str, str], Route]) -> tuple[HttpRule, ...]:
    """Order the claims: exact hosts, then wildcards with the longest suffix first, then any host; in each the longest path first."""
    hosts: dict[tuple[int, int, str, str], list[str]] = {}
    for (host, path), route in claims.items():
        rank = 2 if host == ANY_HOST else 1 if host.startswith("*.") else 0
        suffix = len(host) if rank == 1 else 0
        hosts.setdefault((rank, -suffix, path, backend_name(HTTP, route.key)), []).append(host)
    rules = sorted(hosts.items(), key=lambda item: (item[0][0], item[0][1], -len(item[0][2]), item[0][2], item[1]))
    return tuple(HttpRule(tuple(host for host in sorted(names) if host), path, name) for (_, _, path, name), names in rules)


def _tcp_rules(routes: Iterable[Route], reserved: Sequence[int], problems: list[str]) -> Iterator[TcpRule]:
    owners: dict[int, str] = dict.fromkeys(reserved, "the proxy itself")
    for route in routes:
        assert route.tcp is not None
        port = route.tcp.port
        if not 0 < port < 65536:
            problems.append(f"{_shown(route.key)}: {port} is not a port")
        elif port in owners:
            problems.append(f"{_shown(route.key)}: port {port} is taken by {owners[port]}")
        else:
            owners[port] = _shown(route.key)
            yield TcpRule(port, backend_name(TCP, route.key), _shown(route.key))


def _shown(text: str) -> str:
    """Return text for a comment or a message: printable ASCII, one line, whatever it was."""
    return ascii(text)[1:-1][:200]
