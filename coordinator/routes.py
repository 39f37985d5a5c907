"""Which services there are and who is behind them: a pure function."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from gestalt.model import HttpService, Route, Server, TcpService
from gestalt.spec.schema import Port

from .reconcile import stops_first
from .records import App, Placed, Version, instance_id


class Routed(NamedTuple):
    """One instance as routing needs it. `address`: of its node, empty while that is not known. `lost`: its node is."""

    placed: Placed
    version: Version
    address: str
    ready: bool
    lost: bool = False


_NONE: Mapping[str, Route] = {}


def route(app: App, wanted: Version, instances: Iterable[Routed], known: Mapping[str, Route] = _NONE) -> tuple[Route, ...]:
    """Return the routes of one app: the services are those of the wanted version, the servers are all instances.

    An instance of another version serves the port of the same name, if its version has one. Instances that are to stop drain. With the
    strategy `blue_green` only the stable version gets requests, as long as it can take them; a canary does in any case.

    `known`: the routes as they were, by key; a server that did not change stays the same value.
    """
    routed = sorted(instances, key=lambda item: item.placed.serial)
    there = {item.version.number: item for item in routed}
    newest = max((wanted, *(item.version for item in there.values() if not app.tries(item.placed))), key=lambda version: version.number)
    side_by_side = newest.spec.update.strategy == "blue_green" and not stops_first(wanted.spec)
    serving = app.stable if side_by_side and any(_serves(item, app.stable) for item in routed) else 0
    ports = [port for port in wanted.spec.ports if port.http is not None or port.tcp is not None]
    return tuple(_route(app, port, routed, serving, known) for port in ports)


def _serves(item: Routed, version: int) -> bool:
    return item.placed.version == version and item.ready and not (item.placed.stop or item.lost)


def _route(app: App, port: Port, routed: list[Routed], serving: int, known: Mapping[str, Route]) -> Route:
    http = HttpService(port.http.hosts, port.http.path_prefix) if port.http else None
    tcp = TcpService(port.tcp.port) if port.tcp else None
    key = f"{app.path}:{port.name}"
    before = {server.instance: server for server in known[key].servers} if key in known else {}
    places = {version.number: _place(version, port.name) for version in {item.version.number: item.version for item in routed}.values()}
    waiting = {number for number in places if serving not in (0, number)}
    servers = []
    for item in routed:
        placed, place = item.placed, places[item.version.number]
        if item.address and place is not None:
            drain = placed.stop or (placed.version in waiting and not app.tries(placed))
            instance = instance_id(app, placed.serial)
            servers.append(_server(before.get(instance), instance, placed.ports[place], item, drain=drain))
    return Route(key, app.path, port.name, http, tcp, tuple(servers))


def _place(version: Version, name: str) -> int | None:
    """Return which of the ports of a version has this name."""
    return next((place for place, port in enumerate(version.spec.ports) if port.name == name), None)


def _server(before: Server | None, instance: str, port: int, item: Routed, *, drain: bool) -> Server:
    """Return what is behind a service of one instance: the value from before, if it is still right."""
    ready, lost = item.ready and not item.lost and not drain, item.lost
    if before is not None and (before.address, before.port, before.ready, before.drain, before.lost) == (
        item.address,
        port,
        ready,
        drain,
        lost,
    ):
        return before
    return Server(instance, item.address, port, ready=ready, drain=drain, lost=lost)
