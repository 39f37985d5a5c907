"""The configuration file of our HAProxy, as a pure function of routes and options.

Requests are never lost by a change of servers, a reload or the death of an instance: connections that fail are retried on another
server, and so are answers that never began, as far as the method allows it. Servers bear the instance's id, so that
HAProxy itself says which instance is where.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gestalt.model import Route

from .haproxy_routes import Backend, HttpRule, ServerEntry, ServerState, TcpRule, Topology, resolve

DESCRIPTION = "gestalt"
_SPARE_DESCRIPTORS = 100
_KEEP_ALIVE = 30.0
_RETRIES = 6
"""With 300 ms for each try a request lives for about as long as it takes to notice that nodes are lost, also when two of five are."""
_IDLE_PURGE = 0.2
"""HAProxy ends connections to a server that nobody has used for 0.5 s, or for 2 s where 200 were in use at once. Servers keep idle ones for
2 s and longer: a POST that is sent in the moment in which the server ends its connection is lost, so it is HAProxy that ends it, before."""
_SAFE_TO_REPEAT = "GET HEAD OPTIONS"


@dataclass(frozen=True, slots=True)
class Options:
    """What does not come from routes. `user` and `group` empty: stay who we are; `chroot` None: stay where we are."""

    bind: str
    http_port: int
    stats_port: int
    max_connections: int
    hard_stop_after: float
    socket: Path
    user: str = ""
    group: str = ""
    chroot: Path | None = None


@dataclass(frozen=True, slots=True)
class Listener:
    """A port to listen on and whose it is, for messages."""

    address: str
    port: int
    owner: str


@dataclass(frozen=True, slots=True)
class Rendering:
    """A whole configuration. `structure` names everything in it but the servers: where it stays the same no reload is needed."""

    text: str
    structure: str
    servers: dict[tuple[str, str], ServerEntry]
    backends: frozenset[str]
    listeners: tuple[Listener, ...]
    problems: tuple[str, ...]


def affordable_connections(wanted: int, descriptors: int, listeners: int = 0) -> int:
    """Return how many connections that many file descriptors allow, at most `wanted`; HAProxy does not start with more."""
    return max(1, min(wanted, (descriptors - _SPARE_DESCRIPTORS - listeners) // 2))


def render(routes: Iterable[Route], options: Options, closed: Collection[int] = ()) -> Rendering:
    """Return the configuration for these routes, the same for any order of them.

    Args:
        routes: what to route.
        options: the rest.
        closed: ports to leave out, because they cannot be had now.
    """
    topology = resolve(routes, [port for port in (options.http_port, options.stats_port) if port])
    listeners = tuple(_listeners(topology, options))
    bare = "\n".join(_lines(topology, options, closed, with_servers=False))
    structure = hashlib.sha256(bare.encode()).hexdigest()[:16]
    text = "\n".join(_lines(topology, options, closed, structure=structure)) + "\n"
    backends = (*topology.http_backends, *topology.tcp_backends)
    servers = {(backend.name, name): entry for backend in backends for name, entry in backend.servers.items()}
    return Rendering(text, structure, servers, frozenset(backend.name for backend in backends), listeners, topology.problems)


def _listeners(topology: Topology, options: Options) -> Iterator[Listener]:
    if options.http_port:
        yield Listener(options.bind, options.http_port, "the http services")
    if options.stats_port:
        yield Listener("127.0.0.1", options.stats_port, "the statistics page")
    for rule in topology.tcp_rules:
        yield Listener(options.bind, rule.port, rule.owner)


def _lines(
    topology: Topology, options: Options, closed: Collection[int], *, structure: str = "", with_servers: bool = True
) -> Iterator[str]:
    yield "# Written by gestalt-agent, which replaces it at every change."
    yield from _global(options, structure)
    yield from _http_defaults(options)
    if options.stats_port and options.stats_port not in closed:
        yield from _stats(options)
    if options.http_port and options.http_port not in closed:
        yield from _http_frontend(topology.http_rules, options)
        yield from _unrouted()
    for backend in topology.http_backends:
        yield from _backend(backend, with_servers)
    if topology.tcp_backends:
        yield from _tcp_defaults()
    for rule in topology.tcp_rules:
        if rule.port not in closed:
            yield from _tcp_frontend(rule, options)
    for backend in topology.tcp_backends:
        yield from _backend(backend, with_servers)


def _global(options: Options, structure: str) -> Iterator[str]:
    yield "global"
    yield f"    description {DESCRIPTION} {structure}"
    yield f"    stats socket {_quoted(options.socket)} mode 600 level admin expose-fd listeners"
    yield f"    maxconn {options.max_connections}"
    yield f"    hard-stop-after {_milliseconds(options.hard_stop_after)}"
    yield "    mworker-max-reloads 50"
    yield "    noreuseport"
    if options.user:
        yield f"    user {_quoted(options.user)}"
    if options.group:
        yield f"    group {_quoted(options.group)}"
    if options.chroot is not None:
        yield f"    chroot {_quoted(options.chroot)}"


def _http_defaults(options: Options) -> Iterator[str]:
    """Keep-alive ends before an old worker is stopped hard, so that a reload never cuts a connection that is in use."""
    keep_alive = min(_KEEP_ALIVE, options.hard_stop_after / 2)
    yield ""
    yield "defaults"
    yield "    mode http"
    yield "    balance roundrobin"
    yield "    timeout connect 300ms"
    yield "    timeout client 60s"
    yield "    timeout server 60s"
    yield "    timeout tunnel 1h"
    yield "    timeout queue 5s"
    yield "    timeout http-request 10s"
    yield f"    timeout http-keep-alive {_milliseconds(keep_alive)}"
    yield f"    retries {_RETRIES}"
    yield "    option redispatch 1"
    yield "    retry-on conn-failure empty-response"
    yield "    option idle-close-on-response"
    yield "    http-reuse safe"
    yield f"    default-server pool-purge-delay {_milliseconds(_IDLE_PURGE)}"


def _stats(options: Options) -> Iterator[str]:
    yield ""
    yield "frontend statistics"
    yield f"    bind 127.0.0.1:{options.stats_port}"
    yield "    stats enable"
    yield "    stats uri /"


def _http_frontend(rules: Iterable[HttpRule], options: Options) -> Iterator[str]:
    yield ""
    yield "frontend http"
    yield f"    bind {_bound(options.bind, options.http_port)}"
    yield "    option forwardfor"
    yield '    http-error status 503 content-type text/plain string "no instance behind this address is ready\\n"'
    yield "    http-request set-header X-Forwarded-Proto http"
    yield f"    http-request disable-l7-retry unless {{ method {_SAFE_TO_REPEAT} }}"
    yield "    http-request set-var(txn.host) req.hdr(host),field(1,:),lower"
    yield "    http-request set-var(txn.path) path,concat(/)"
    for rule in rules:
        yield f"    use_backend {rule.backend} if {_condition(rule)}"
    yield "    default_backend unrouted"


def _condition(rule: HttpRule) -> str:
    path = f"{{ var(txn.path) -m beg '{rule.path}' }}"
    if not rule.hosts:
        return path
    if rule.hosts[0].startswith("*."):
        return f"{{ var(txn.host) -m end {' '.join(repr(host[1:]) for host in rule.hosts)} }} {path}"
    return f"{{ var(txn.host) -m str {' '.join(repr(host) for host in rule.hosts)} }} {path}"


def _unrouted() -> Iterator[str]:
    yield ""
    yield "backend unrouted"
    yield '    http-request return status 404 content-type text/plain string "no application is routed for this host and path\\n"'


def _tcp_defaults() -> Iterator[str]:
    yield ""
    yield "defaults"
    yield "    mode tcp"
    yield "    balance leastconn"
    yield "    timeout connect 300ms"
    yield "    timeout client 1h"
    yield "    timeout server 1h"
    yield "    timeout queue 5s"
    yield f"    retries {_RETRIES}"
    yield "    option redispatch 1"
    yield "    option clitcpka"
    yield "    option srvtcpka"


def _tcp_frontend(rule: TcpRule, options: Options) -> Iterator[str]:
    yield ""
    yield f"frontend tcp_{rule.port}"
    yield f"    bind {_bound(options.bind, rule.port)}"
    yield f"    default_backend {rule.backend}"


def _backend(backend: Backend, with_servers: bool) -> Iterator[str]:
    """A draining server starts as disabled: what it still has, it has in the worker before."""
    yield ""
    yield f"# {backend.comment}"
    yield f"backend {backend.name}"
    for name, entry in backend.servers.items() if with_servers else ():
        state = "" if entry.state is ServerState.READY else " disabled"
        yield f"    server {name} {_bound(entry.address, entry.port)}{state}"


def _bound(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _milliseconds(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"


def _quoted(value: object) -> str:
    text = str(value)
    if "'" in text or not text.isprintable():
        raise ValueError(f"{text!r} cannot be written into HAProxy's configuration")
    return f"'{text}'"
