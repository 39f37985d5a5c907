"""The schema of the app description. Field names and shapes are those of `proto/v1/spec.proto`.

A valid `AppSpec` is immutable and normalised: sizes are bytes, durations seconds, cores a float. It is the *template*
of an app's versions.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from gestalt.units import parse_cpu, parse_duration, parse_size

Size = Annotated[int, BeforeValidator(parse_size)]
Duration = Annotated[float, BeforeValidator(parse_duration)]
Cores = Annotated[float, BeforeValidator(parse_cpu)]
PortNumber = Annotated[int, Field(ge=1, le=65535)]


class Part(BaseModel):
    """A section of the description."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Resources(Part):
    cpu: Cores = 0.1
    memory: Size = 0
    disk: Size = 0
    pids: int = 0


class HttpService(Part):
    hosts: tuple[str, ...] = ()
    path_prefix: str = "/"


class TcpService(Part):
    port: PortNumber


class Port(Part):
    name: str
    container_port: int = 0
    protocol: Literal["tcp", "udp"] = "tcp"
    host_port: int = 0
    http: HttpService | None = None
    tcp: TcpService | None = None


class Volume(Part):
    name: str = ""
    host_path: str = ""
    target: str
    read_only: bool = False


class Check(Part):
    name: str = ""
    kind: Literal["http", "https", "tcp", "grpc", "exec", "docker"]
    purpose: Literal["liveness", "readiness", "both"] = "both"
    port: str = ""
    path: str = "/"
    method: str = "GET"
    headers: dict[str, str] = {}
    expect_status: tuple[int, ...] = ()
    expect_body: str = ""
    verify_tls: bool = False
    service: str = ""
    command: tuple[str, ...] = ()
    grace: Duration = 10.0
    interval: Duration = 5.0
    timeout: Duration = 2.0
    failures: int = 3
    successes: int = 1


class Restart(Part):
    policy: Literal["always", "on-failure", "never"] = "always"
    backoff: Duration = 1.0
    backoff_max: Duration = 60.0
    crash_loop: int = 5
    window: Duration = 120.0


class Stop(Part):
    signal: str = "SIGTERM"
    grace: Duration = 10.0
    drain: Duration = 5.0


class Security(Part):
    user: str = ""
    capabilities: tuple[str, ...] = ()
    read_only_root: bool = False
    no_new_privileges: bool = True


class Ulimit(Part):
    soft: int
    hard: int


class Logging(Part):
    driver: Literal["json-file", "none"] = "json-file"
    max_size: Size = 10 * 1024**2
    max_files: int = 3


class Constraint(Part):
    attribute: str
    operator: str = "="
    value: str = ""


class Affinity(Part):
    attribute: str
    operator: str = "="
    value: str = ""
    weight: int = 50


class Spread(Part):
    attribute: str
    targets: dict[str, int] = {}
    weight: int = 50


class Placement(Part):
    constraints: tuple[Constraint, ...] = ()
    affinities: tuple[Affinity, ...] = ()
    spread: tuple[Spread, ...] = ()
    strategy: Literal["spread", "binpack"] = "spread"
    pool: str = ""
    priority: int = 50
    exclusive: bool = False
    on_isolation: Literal["keep", "stop"] = "keep"
    failover_after: Duration = 60.0


class Update(Part):
    strategy: Literal["rolling", "canary", "blue_green", "recreate"] = "rolling"
    max_surge: str = "1"
    max_unavailable: str = "0"
    min_healthy_time: Duration = 0.0
    health_deadline: Duration = 120.0
    progress_deadline: Duration = 300.0
    auto_rollback: bool = True


class ImagePull(Part):
    policy: Literal["missing", "always", "never"] = "missing"
    credentials: str = ""


class AppSpec(Part):
    path: str
    runtime: Literal["docker", "process"] = "docker"
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    labels: dict[str, str] = {}
    workdir: str = ""
    instances: Annotated[int, Field(ge=0, le=100_000)] = 1
    resources: Resources = Resources()
    ports: tuple[Port, ...] = ()
    volumes: tuple[Volume, ...] = ()
    checks: tuple[Check, ...] = ()
    restart: Restart = Restart()
    stop: Stop = Stop()
    security: Security = Security()
    ulimits: dict[str, Ulimit] = {}
    logging: Logging = Logging()
    placement: Placement = Placement()
    update: Update = Update()
    depends_on: tuple[str, ...] = ()
    pull: ImagePull = ImagePull()
