"""The settings files of a member, written once: by init on the first machine, by joining on the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from gestalt.appliance.init import Made
from gestalt.config import Settings, TimingSettings
from gestalt.files import write_atomic
from gestalt.settings_file import load_settings

from .layout import ClusterLayout
from .secrets import COORDINATOR_IDENTITY, node_identity

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True, slots=True)
class Member:
    """One machine of a cluster."""

    cluster_id: str
    name: str
    address: str


@dataclass(frozen=True, slots=True)
class NodeChoices:
    """What the operator may choose for a node. Roles and labels are the cluster's; the rest lies in the node's own settings."""

    roles: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    http_port: int = 80
    stats_port: int = 0
    health_port: int = 7402
    port_range: tuple[int, int] = (3000, 4000)
    docker_socket: Path = Path("/var/run/docker.sock")
    runtimes: tuple[str, ...] = ()
    hosts_file: Path | None = None


def have_settings(path: Path, kind: type[S], new: Callable[[], Mapping[str, Any]]) -> tuple[S, Made]:
    """Return the settings in a file, made by `new` when there is none.

    Raises:
        GestaltError: what is there, or was made, is not valid.
    """
    made = not path.exists()
    if made:
        document = new()
        kind.model_validate(document)
        write_atomic(path, yaml_of(document))
    return load_settings(path, kind), Made(path, made)


def coordinator_document(
    layout: ClusterLayout,
    member: Member,
    zookeeper: Mapping[str, Any],
    timing: TimingSettings,
    ports: tuple[int, int],
    *,
    storage_fence: str = "none",
) -> dict[str, Any]:
    """Return coordinator.yaml. `ports`: of the API and of joining."""
    api, join = (at(member.address, port) for port in ports)
    return {
        "cluster_id": member.cluster_id,
        "mode": "cluster",
        "name": member.name,
        "listen": api,
        "advertise": api,
        "join_listen": join,
        "authority": str(layout.pki),
        "authority_passphrase": str(layout.passphrase),
        "tls": tls_of(layout, "coordinator"),
        "data_dir": str(layout.data / "coordinator"),
        "store": {"kind": "zookeeper"},
        "zookeeper": {**zookeeper, "identity": COORDINATOR_IDENTITY, "secret_file": str(layout.coordinator_secret)},
        "timing": timing.model_dump(),
        "storage_fence": storage_fence,
        "log_level": "info",
    }


def agent_document(layout: ClusterLayout, member: Member, node: str, coordinators: Sequence[str], choices: NodeChoices) -> dict[str, Any]:
    """Return agent.yaml."""
    document: dict[str, Any] = {
        "node_id": node,
        "node_name": member.name,
        "cluster_id": member.cluster_id,
        "coordinators": list(coordinators),
        "tls": tls_of(layout, "node"),
        "data_dir": str(layout.data / "agent"),
        "run_dir": str(layout.run / "agent"),
        "fence": str(layout.fence_socket),
        "address": member.address,
        "port_first": choices.port_range[0],
        "port_last": choices.port_range[1],
        "health_port": choices.health_port,
        "proxy": {"http_port": choices.http_port, "stats_port": choices.stats_port},
        "docker": {"socket": str(choices.docker_socket), "credentials_dir": str(layout.settings / "registry")},
        "log_level": "info",
    }
    if choices.hosts_file is not None:
        document["hosts_file"] = str(choices.hosts_file)
    if choices.runtimes:
        document["runtimes"] = list(choices.runtimes)
    return document


def fence_document(
    layout: ClusterLayout, member: Member, node: str, zookeeper: Mapping[str, Any], timing: TimingSettings
) -> dict[str, Any]:
    """Return fence.yaml."""
    return {
        "node_id": node,
        "node_name": member.name,
        "cluster_id": member.cluster_id,
        "zookeeper": {**zookeeper, "identity": node_identity(node), "secret_file": str(layout.node_secret)},
        "timing": timing.model_dump(),
        "data_dir": str(layout.data / "fence"),
        "socket": str(layout.fence_socket),
        "log_level": "info",
    }


def at(address: str, port: int) -> str:
    """Return "address:port", with brackets where they are needed."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def tls_of(layout: ClusterLayout, stem: str, ca: Path | None = None) -> dict[str, str]:
    """Return the section `tls` for a certificate of the member. `ca`: whose certificates the others have; None: the cluster's own."""
    return {
        "ca": str(ca or layout.pki / "ca.crt"),
        "certificate": str(layout.pki / f"{stem}.crt"),
        "key": str(layout.pki / f"{stem}.key"),
    }


def yaml_of(document: Mapping[str, Any]) -> str:
    """Return a settings file."""
    return yaml.safe_dump(dict(document), sort_keys=False)
