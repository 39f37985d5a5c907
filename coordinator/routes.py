"""Which services there are and who is behind them: a pure function."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gestalt.model import HttpService, Route, Server, TcpService
from gestalt.spec.schema import Port

from .reconcile import stops_first
from .records import App, Placed, Version, instance_id


@dataclass(frozen=True, slots=True)
class Routed:
    """One instance as routing needs it. `address`: of its node, empty while that is not known. `lost`: its node is."""

    placed: Placed
    version: Version
    address: str
    ready: bool
    lost: bool = False


def route(app: App, wanted: Version, instances: Iterable[Routed]) -> tuple[Route, ...]:
    """Return the routes of one app: the services are those of the wanted version, the servers are all instances.

    An instance of another version serves the port of the same name, if its version has one. Instances that are to stop drain. With the
    strategy `blue_green` only the stable version gets requests, as long as it can take them; a canary does in any case.
    """
    routed = sorted(instances, key=lambda item: item.placed.serial)
    newest = max((wanted, *(item.version for item in routed if not app.tries(item.placed))), key=lambda version: version.number)
    side_by_side = newest.spec.update.strategy == "blue_green" and not stops_first(wanted.spec)
    serving = app.stable if side_by_side and any(_serves(item, app.stable) for item in routed) else 0
    return tuple(_route(app, port, routed, serving) for port in wanted.spec.ports if port.http is not None or port.tcp is not None)


def _serves(item: Routed, version: int) -> bool:
    return item.placed.version == version and item.ready and not (item.placed.stop or item.lost)


def _route(app: App, port: Port, routed: list[Routed], serving: int) -> Route:
    http = HttpService(port.http.hosts, port.http.path_prefix) if port.http else None
    tcp = TcpService(port.tcp.port) if port.tcp else None
    servers = tuple(server for item in routed if (server := _server(app, port.name, item, serving)) is not None)
    return Route(f"{app.path}:{port.name}", app.path, port.name, http, tcp, servers)


def _server(app: App, name: str, item: Routed, serving: int) -> Server | None:
    if not item.address:
        return None
    waits = serving not in (0, item.placed.version) and not app.tries(item.placed)
    for port, number in zip(item.version.spec.ports, item.placed.ports, strict=True):
        if port.name == name:
            instance = instance_id(app, item.placed.serial)
            drain = item.placed.stop or waits
            return Server(instance, item.address, number, ready=item.ready and not item.lost and not drain, drain=drain, lost=item.lost)
    return None
