"""The values that the daemons share. All are immutable; the words are those of the design.

Desired values are written by the coordinator, observed ones by the agent; nobody writes both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from gestalt.spec.schema import AppSpec


class Phase(IntEnum):
    """Where an instance is in its life. Within one attempt it only grows."""

    PENDING = 10
    PLACED = 20
    STARTING = 30
    RUNNING = 40
    STOPPING = 50
    STOPPED = 60
    FAILED = 70


class Health(IntEnum):
    """What its checks say. Unknown is not unhealthy."""

    UNKNOWN = 0
    HEALTHY = 1
    UNHEALTHY = 2


class Reachability(IntEnum):
    """Whether the node of an instance is heard from."""

    UNKNOWN = 0
    REACHABLE = 1
    UNREACHABLE = 2
    LOST = 3


@dataclass(frozen=True, slots=True)
class PortBinding:
    """A container port and the host port on which it is published."""

    name: str
    container_port: int
    host_port: int
    protocol: str = "tcp"


@dataclass(frozen=True, slots=True)
class CheckStatus:
    """What one check says of one instance. `output` has at most 500 characters."""

    name: str
    health: Health
    output: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """What an agent saw of one instance. `age` is seconds in this phase, `back_off` seconds until the next attempt.

    `port_taken`: one of its host ports that someone else holds, so that it cannot start there; 0 = none.
    `ended`: it ended by itself, and by its restart policy nothing follows. `interrupted`: because the machine went down.
    """

    instance: str
    attempt: int
    phase: Phase
    health: Health = Health.UNKNOWN
    ready: bool = False
    reason: str = ""
    exit_code: int | None = None
    oom_killed: bool = False
    crash_loop: bool = False
    restarts: int = 0
    log_tail: tuple[str, ...] = ()
    age: float = 0.0
    runtime_id: str = ""
    checks: tuple[CheckStatus, ...] = ()
    back_off: float = 0.0
    port_taken: int = 0
    app: str = ""
    ended: bool = False
    interrupted: bool = False


@dataclass(frozen=True, slots=True)
class Grant:
    """The right to be the one copy of something exclusive; a higher generation ends all lower ones."""

    name: str
    generation: int


@dataclass(frozen=True, slots=True)
class DesiredInstance:
    """What an agent is told of one instance. `stop`: drain its connections, stop it, remove it. `grant`: only of what is exclusive.

    `env`: variables of this one, besides those of its template. `ended`: what is left of it is kept for its log, and nothing is started.
    `keep`: what `stop` leaves of it is kept for its log, too.
    """

    id: str
    app: str
    version: int
    template: str
    ports: tuple[PortBinding, ...]
    stop: bool = False
    grant: Grant | None = None
    env: dict[str, str] = field(default_factory=dict)
    ended: bool = False
    keep: bool = False


@dataclass(frozen=True, slots=True)
class HttpService:
    """Requests for these host names (none = all) below this path prefix."""

    hosts: tuple[str, ...]
    path_prefix: str


@dataclass(frozen=True, slots=True)
class TcpService:
    """Connections to this port of the load balancer."""

    port: int


@dataclass(frozen=True, slots=True)
class Server:
    """One instance behind a service. `ready` is the coordinator's knowledge, older than the agent's own.

    `lost`: its node is lost, so what is connected to it gets no answer any more and is ended.
    """

    instance: str
    address: str
    port: int
    ready: bool = False
    drain: bool = False
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """One service: one port of one app and the instances behind it. `key` is `<app path>:<port name>`."""

    key: str
    app: str
    port: str
    http: HttpService | None
    tcp: TcpService | None
    servers: tuple[Server, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """A lost node whose packets are not let in until it registers anew, but at `admitted_ports` (TCP)."""

    address: str
    incarnation: int
    admitted_ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Peer:
    """A node of the cluster, and where it is reached."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class NodeState:
    """Everything that one node should run and route, at one revision of one epoch. `refused` and `peers` are by node id.

    `recovering`: the state was restored and may lack something, so what is not listed is left as it is. `prepare`: the templates of which
    everything is to be on the node that an instance needs, before others stop for them, with the number of each request.
    """

    epoch: int
    revision: int
    templates: dict[str, AppSpec] = field(default_factory=dict)
    instances: dict[str, DesiredInstance] = field(default_factory=dict)
    routes: dict[str, Route] = field(default_factory=dict)
    refused: dict[str, Refused] = field(default_factory=dict)
    peers: dict[str, Peer] = field(default_factory=dict)
    recovering: bool = False
    prepare: dict[str, int] = field(default_factory=dict)
