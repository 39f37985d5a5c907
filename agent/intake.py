"""The coordinator's word is input: this turns it into values of ours, item by item, and says what is wrong with the rest.

A bad item never spoils the good ones. An instance that cannot be understood is *refused*: it is reported, and what runs of
it is left alone.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

from google.protobuf.message import Message
from pydantic import ValidationError

from gestalt import model
from gestalt.model import DesiredInstance, NodeState, Peer, PortBinding, Route, Server
from gestalt.proto.v1 import agent_pb2
from gestalt.spec.schema import AppSpec
from gestalt.wire import from_wire, spec_from_wire

T = TypeVar("T")
M = TypeVar("M", bound=Message)

INSTANCE_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?-[0-9a-f]{6}-[1-9][0-9]{0,17}")
APP_PATH = re.compile(r"(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,62}){1,16}")
TEMPLATE = re.compile(r"[0-9a-f]{16}")
PORT_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,62})")
HOST_NAME = re.compile(r"(?:\*\.)?[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*")
URL_PATH = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*")
NODE_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
GRANT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PROTOCOLS = frozenset({"tcp", "udp"})
MAX_PORT = 65535
ROUTES_KEPT = 512
PEERS_KEPT = 8192


class Refused(ValueError):
    """One item says something that we do not accept; the sentence says what."""


@dataclass(frozen=True, slots=True)
class Intake:
    """What was understood, and why the rest was not: `refused` by instance id, `problems` as sentences."""

    state: NodeState
    refused: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def take_in(message: agent_pb2.NodeState, known: Mapping[str, AppSpec]) -> Intake:
    """Return the values of a whole state. `known` templates are not read again: a hash means the same for ever."""
    templates, bad_templates = _sort_out(message.templates, lambda key, item: known.get(key) or _template(key, item))
    instances, refused = _sort_out(message.instances, lambda key, item: _instance(key, item, templates, bad_templates))
    routes, bad_routes = _sort_out(message.routes, _route)
    nodes, bad_nodes = _sort_out(message.refused, _refused)
    peers, bad_peers = _sort_out(message.peers, _peer)
    problems = [
        *(f"instance {key!r} is not taken over: {why}" for key, why in refused.items()),
        *(f"route {key!r} is not taken over: {why}" for key, why in bad_routes.items()),
        *(f"node {key!r} is not taken over: {why}" for key, why in (bad_nodes | bad_peers).items()),
        *(
            f"template {key!r} is not prepared: {bad_templates.get(key, 'it is missing')}"
            for key in message.prepare
            if key not in templates
        ),
    ]
    prepare = {key: number for key, number in message.prepare.items() if key in templates}
    state = NodeState(message.epoch, message.revision, templates, instances, routes, nodes, peers, message.recovering, prepare)
    return Intake(state, refused, tuple(problems))


def _sort_out(items: Mapping[str, M], convert: Callable[[str, M], T]) -> tuple[dict[str, T], dict[str, str]]:
    good: dict[str, T] = {}
    bad: dict[str, str] = {}
    for key, item in items.items():
        try:
            good[key] = convert(key, item)
        except ValidationError as error:
            bad[key] = _sentence(error)
        except ValueError as error:
            bad[key] = str(error)
    return good, bad


def _template(key: str, message: Message) -> AppSpec:
    _match(TEMPLATE, key, "template hash")
    spec = spec_from_wire(message)  # type: ignore[arg-type]
    _match(APP_PATH, spec.path, "app path")
    return spec


def _instance(key: str, message: Message, templates: Mapping[str, AppSpec], bad: Mapping[str, str]) -> DesiredInstance:
    wanted = from_wire(message, DesiredInstance)
    _match(INSTANCE_ID, key, "instance id")
    _require(wanted.id == key, f"it is listed as {key!r} and calls itself {wanted.id!r}")
    _match(APP_PATH, wanted.app, "app path")
    _require(wanted.template not in bad, f"its template {wanted.template!r} is not valid: {bad.get(wanted.template)}")
    _require(wanted.template in templates, f"its template {wanted.template!r} is missing")
    for binding in wanted.ports:
        _binding(binding)
    for name, value in wanted.env.items():
        _match(VARIABLE, name, "name of a variable")
        _require("\0" not in value, f"its variable {name} holds a zero byte")
    if wanted.grant is not None:
        _match(GRANT_NAME, wanted.grant.name, "name of a grant")
        _require(wanted.grant.generation > 0, f"{wanted.grant.generation} is no generation of a grant")
    _require(len({binding.name for binding in wanted.ports}) == len(wanted.ports), "two of its ports have one name")
    return wanted


def _binding(binding: PortBinding) -> None:
    _match(PORT_NAME, binding.name, "port name")
    _require(binding.protocol in PROTOCOLS, f"port {binding.name}: {binding.protocol!r} is no protocol")
    _require(1 <= binding.host_port <= MAX_PORT, f"port {binding.name}: {binding.host_port} is no host port")
    _require(0 <= binding.container_port <= MAX_PORT, f"port {binding.name}: {binding.container_port} is no container port")


def _route(key: str, message: Message) -> Route:
    return _route_of(key, message.SerializeToString(deterministic=True))


@lru_cache(ROUTES_KEPT)
def _route_of(key: str, message: bytes) -> Route:
    """Read a route once: a change of one must not cost the reading of all."""
    route = from_wire(agent_pb2.Route.FromString(message), Route)
    _match(APP_PATH, route.app, "app path")
    _match(PORT_NAME, route.port, "port name")
    _require(route.key == key == f"{route.app}:{route.port}", f"its key should be {route.app}:{route.port}")
    if route.http is not None:
        for host in route.http.hosts:
            _match(HOST_NAME, host, "host name")
        _match(URL_PATH, route.http.path_prefix, "path prefix")
    if route.tcp is not None:
        _require(1 <= route.tcp.port <= MAX_PORT, f"{route.tcp.port} is no port")
    _servers(route.servers)
    return route


def _refused(key: str, message: Message) -> model.Refused:
    refused = from_wire(message, model.Refused)
    _match(NODE_ID, key, "node id")
    _address(refused.address, "it")
    _require(all(1 <= port <= MAX_PORT for port in refused.admitted_ports), "one of its ports is none")
    return refused


def _peer(key: str, message: Message) -> Peer:
    return _peer_of(key, message.SerializeToString(deterministic=True))


@lru_cache(PEERS_KEPT)
def _peer_of(key: str, message: bytes) -> Peer:
    peer = from_wire(agent_pb2.Peer.FromString(message), Peer)
    _match(NODE_ID, key, "node id")
    _match(HOST_NAME, peer.name, "host name")
    _address(peer.address, "it")
    return peer


def _servers(servers: Iterable[Server]) -> None:
    for server in servers:
        _match(INSTANCE_ID, server.instance, "instance id")
        _require(1 <= server.port <= MAX_PORT, f"server {server.instance}: {server.port} is no port")
        _address(server.address, f"server {server.instance}")


def _address(text: str, of: str) -> None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise Refused(f"{of}: {text[:100]!r} is no address") from None
    _require("%" not in str(address), f"{of}: {text[:100]!r} is an address of one link only")


def _match(pattern: re.Pattern[str], text: str, what: str) -> None:
    _require(pattern.fullmatch(text) is not None, f"{text[:100]!r} is no {what}")


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise Refused(problem)


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{'.'.join(map(str, first['loc']))} {first['msg'].removeprefix('Value error, ')}{more}"
