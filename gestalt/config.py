"""The settings of the daemons: one model each, read from YAML, checked altogether before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from gestalt.units import parse_duration, parse_size

Duration = Annotated[float, BeforeValidator(parse_duration)]
Size = Annotated[int, BeforeValidator(parse_size)]


class Settings(BaseModel):
    """A section of a settings file."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TlsSettings(Settings):
    """PEM files of mutual TLS."""

    ca: Path
    certificate: Path
    key: Path


class ProxySettings(Settings):
    """The node's own HAProxy."""

    enabled: bool = True
    bind: str = "*"
    http_port: Annotated[int, Field(ge=0, le=65535)] = 80
    stats_port: Annotated[int, Field(ge=0, le=65535)] = 0
    max_connections: int = 2000
    hard_stop_after: Duration = 60.0


class DockerSettings(Settings):
    """The Docker Engine."""

    socket: Path = Path("/var/run/docker.sock")
    limit: Duration = 30.0
    image_high_water: Size = 20 * 1024**3
    image_low_water: Size = 15 * 1024**3
    credentials_dir: Path = Path("/etc/gestalt/registry")


class ProcessSettings(Settings):
    """Plain processes. `supervisor`: "auto" takes systemd where it is PID 1, else the shim."""

    supervisor: Literal["auto", "systemd", "shim"] = "auto"
    log_max_size: Size = 10 * 1024**2


class AgentSettings(Settings):
    """/etc/gestalt/agent.yaml"""

    node_id: str
    node_name: str
    cluster_id: str
    coordinators: tuple[str, ...]
    tls: TlsSettings
    data_dir: Path = Path("/var/lib/gestalt/agent")
    run_dir: Path = Path("/run/gestalt/agent")
    address: str = "127.0.0.1"
    port_first: int = 3000
    port_last: int = 4000
    health_port: Annotated[int, Field(ge=0, le=65535)] = 7402
    runtimes: tuple[str, ...] = ("docker", "process")
    loadbalancer: str = "haproxy"
    resync: Duration = 30.0
    orphan_grace: Duration = 5.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    proxy: ProxySettings = ProxySettings()
    docker: DockerSettings = DockerSettings()
    process: ProcessSettings = ProcessSettings()

    @model_validator(mode="after")
    def _ports_in_order(self) -> Self:
        if not 0 < self.port_first <= self.port_last <= 65535:
            raise ValueError(
                f"port_first ({self.port_first}) and port_last ({self.port_last}) are no range of ports; allowed: 1 to 65535, in order"
            )
        return self


class StoreSettings(Settings):
    """Where durable state lies."""

    kind: Literal["sqlite"] = "sqlite"
    path: Path = Path("/var/lib/gestalt/coordinator/state.db")


class CoordinatorSettings(Settings):
    """/etc/gestalt/coordinator.yaml"""

    cluster_id: str
    tls: TlsSettings
    mode: Literal["appliance", "cluster"] = "appliance"
    listen: str = "127.0.0.1:7400"
    store: StoreSettings = StoreSettings()
    heartbeat: Duration = 2.0
    unreachable_after: Duration = 4.0
    agent_grace: Duration = 300.0
    task_retention: int = 1000
    event_ring: int = 10_000
    request_retention: Duration = 86_400.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _times_fit(self) -> Self:
        """A node must miss at least one heartbeat before it counts as unreachable, and be unreachable long before it is given up."""
        if not 0 < self.heartbeat <= self.unreachable_after <= self.agent_grace:
            times = f"{self.heartbeat:g} s, {self.unreachable_after:g} s, {self.agent_grace:g} s"
            raise ValueError(f"heartbeat, unreachable_after and agent_grace ({times}) must be above 0 and in this order")
        return self
