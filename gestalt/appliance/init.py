"""`gestaltctl appliance init`: ids, certificates and settings. Interrupted anywhere, a second run completes it.

The ids lie in the settings files, and those are written before anything that holds the ids: so every run finds the same
ones. What is there is kept; nothing is ever overwritten.
"""

from __future__ import annotations

import socket
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from gestalt.appliance.layout import Layout
from gestalt.cluster.issuing import coordinator_names
from gestalt.config import AgentSettings, CoordinatorSettings, Settings, TlsSettings
from gestalt.credentials import is_credential
from gestalt.errors import GestaltError, Kind
from gestalt.files import Owner, write_atomic
from gestalt.pki import NODE_HOST, Authority, Identity, Pair, Role
from gestalt.plugin.registry import find_driver
from gestalt.settings_file import load_settings

COORDINATOR_NAME = "coordinator"
USER_NAME = "admin"


@dataclass(frozen=True, slots=True)
class InitOptions:
    """What the operator may choose. None: the default for a new appliance, whatever it is for one that exists."""

    node_name: str | None = None
    api_port: int | None = None
    http_port: int | None = None
    stats_port: int | None = None
    health_port: int | None = None
    port_range: tuple[int, int] | None = None
    docker_socket: Path | None = None
    runtimes: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """One thing that init saw to. `note`: what the operator asked for and did not get, as it was there already."""

    path: Path
    made: bool
    note: str = ""


def initialise(layout: Layout, options: InitOptions) -> list[Made]:
    """Make what is missing of an appliance; return everything that there is now, in the order in which it was made.

    Raises:
        GestaltError: what is there cannot be completed (another cluster's CA, broken settings), or no such runtime is installed.
        OSError: a file could not be written; nothing is half-written, and the next run goes on.
    """
    for runtime in options.runtimes or ():
        find_driver("runtime", runtime)
    for folder in (layout.settings, layout.data, layout.logs):
        folder.mkdir(parents=True, exist_ok=True)
    coordinator, first = _settings(layout.coordinator_settings, CoordinatorSettings, lambda: _new_coordinator(layout, options))
    agent, second = _settings(layout.agent_settings, AgentSettings, lambda: _new_agent(layout, options, coordinator))
    if agent.cluster_id != coordinator.cluster_id:
        raise GestaltError(
            Kind.CONFLICT,
            f"{layout.agent_settings} and {layout.coordinator_settings} are of two clusters",
            hint="put the right file back, or remove both with: gestaltctl appliance destroy",
        )
    notes = {layout.coordinator_settings: _refused(options, coordinator), layout.agent_settings: _refused(options, agent)}
    files = [Made(made.path, made.made, "" if made.made else notes[made.path]) for made in (first, second)]
    files += _certificates(layout, coordinator, agent)
    files.append(_client(layout, coordinator))
    return files


def _settings(path: Path, kind: type[Any], new: Any) -> tuple[Any, Made]:
    made = not path.exists()
    if made:
        document = new()
        kind.model_validate(document)
        write_atomic(path, _yaml(document), mode=0o644)
    return load_settings(path, kind), Made(path, made)


def _new_coordinator(layout: Layout, options: InitOptions) -> dict[str, Any]:
    return {
        "cluster_id": str(uuid.uuid4()),
        "mode": "appliance",
        "listen": f"127.0.0.1:{options.api_port or 7400}",
        "store": {"kind": "sqlite", "path": str(layout.data / "coordinator/state.db")},
        "tls": _tls(layout, "coordinator"),
        "log_level": "info",
    }


def _new_agent(layout: Layout, options: InitOptions, coordinator: CoordinatorSettings) -> dict[str, Any]:
    first, last = options.port_range or (3000, 4000)
    document: dict[str, Any] = {
        "node_id": str(uuid.uuid4()),
        "node_name": options.node_name or socket.gethostname().partition(".")[0] or "node",
        "cluster_id": coordinator.cluster_id,
        "coordinators": [coordinator.listen],
        "tls": _tls(layout, "node"),
        "data_dir": str(layout.data / "agent"),
        "run_dir": str(layout.run / "agent"),
        "address": "127.0.0.1",
        "port_first": first,
        "port_last": last,
        "health_port": 7402 if options.health_port is None else options.health_port,
        "proxy": {
            "http_port": 80 if options.http_port is None else options.http_port,
            "stats_port": options.stats_port or 0,
        },
        "log_level": "info",
    }
    document["docker"] = {
        "socket": str(options.docker_socket or "/var/run/docker.sock"),
        "credentials_dir": str(layout.settings / "registry"),
    }
    if options.runtimes is not None:
        document["runtimes"] = list(options.runtimes)
    return document


def _refused(options: InitOptions, settings: Settings) -> str:
    """Return what was asked for and differs in a settings file that was there already."""
    there: dict[str, object] = {}
    if isinstance(settings, CoordinatorSettings):
        there = {"api_port": int(settings.listen.rpartition(":")[2])}
    elif isinstance(settings, AgentSettings):
        there = {
            "node_name": settings.node_name,
            "http_port": settings.proxy.http_port,
            "stats_port": settings.proxy.stats_port,
            "health_port": settings.health_port,
            "port_range": (settings.port_first, settings.port_last),
            "docker_socket": settings.docker.socket,
            "runtimes": settings.runtimes,
        }
    kept = [name for name, value in there.items() if getattr(options, name) not in (None, value)]
    return f"keeps its own {', '.join(kept)}: edit it to change that" if kept else ""


def _certificates(layout: Layout, coordinator: CoordinatorSettings, agent: AgentSettings) -> list[Made]:
    authority = Authority.ensure(layout.pki, coordinator.cluster_id, owner=layout.coordinator_owner)
    return certificates(authority, Founding(coordinator, COORDINATOR_NAME, "127.0.0.1", agent), layout.coordinator_owner)


@dataclass(frozen=True, slots=True)
class Founding:
    """The first machine: its coordinator, by what name and at which IP address that is known, and its agent."""

    coordinator: CoordinatorSettings
    name: str
    address: str
    agent: AgentSettings


def certificates(authority: Authority, first: Founding, owner: Owner) -> list[Made]:
    """Have the certificates of the first machine: the authority's, its coordinator's, which is `owner`'s, its node's and its user's."""
    cluster, names = first.coordinator.cluster_id, coordinator_names(first.address)
    coordinators = partial(
        authority.issue,
        Identity(cluster, Role.COORDINATOR, first.name),
        "coordinator",
        dns=names.dns,
        addresses=names.addresses,
        owner=owner,
    )
    return [
        Made(authority.certificate, authority.made),
        _issued(first.coordinator.tls, coordinators),
        _issued(first.agent.tls, partial(authority.issue, Identity(cluster, Role.NODE, first.agent.node_id), "node", dns=(NODE_HOST,))),
        _issued(None, partial(authority.issue, Identity(cluster, Role.USER, USER_NAME), USER_NAME)),
    ]


def _issued(tls: TlsSettings | None, issue: Callable[[], Pair]) -> Made:
    """Have a certificate and its key; those of settings whose key is a credential are left alone, since another key would be made."""
    if tls is not None and is_credential(tls.key):
        return Made(tls.certificate, made=False)
    pair = issue()
    return Made(pair.certificate, pair.made)


def _client(layout: Layout, coordinator: CoordinatorSettings) -> Made:
    if layout.client_settings.exists():
        return Made(layout.client_settings, made=False)
    context = {"coordinators": [coordinator.listen], **_tls(layout, USER_NAME)}
    write_atomic(layout.client_settings, _yaml({"current": "appliance", "contexts": {"appliance": context}}))
    return Made(layout.client_settings, made=True)


def _tls(layout: Layout, stem: str) -> dict[str, str]:
    return {
        "ca": str(layout.pki / "ca.crt"),
        "certificate": str(layout.pki / f"{stem}.crt"),
        "key": str(layout.pki / f"{stem}.key"),
    }


def _yaml(document: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(document), sort_keys=False)
