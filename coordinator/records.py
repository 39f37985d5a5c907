"""The durable documents: what the coordinator decided. Nothing that was merely observed is in here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from gestalt.model import PortBinding
from gestalt.spec.schema import AppSpec, Autoscale

from .pieces import Roster
from .scheduler.strategies import NOTHING_SAID, Strategies


class TaskState(StrEnum):
    """Where a task is. All but `running` are final."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SUPERSEDED = "superseded"


class Verb(StrEnum):
    """What was asked for, or, of a failover, what the loss of nodes asks for."""

    LAUNCH = "launch"
    UPDATE = "update"
    SCALE = "scale"
    STOP = "stop"
    START = "start"
    RESTART = "restart"
    ROLLBACK = "rollback"
    DELETE = "delete"
    FAILOVER = "failover"
    DRAIN = "drain"
    MIGRATE = "migrate"
    RUN = "run"
    CANCEL = "cancel"
    REBALANCE = "rebalance"
    MAINTENANCE = "maintenance"


@dataclass(frozen=True, slots=True)
class App:
    """An app's goal and run state. `revision` grows with every change of this document.

    `version` is the one wanted, `stable` the last one that was healthy altogether (0 = none yet), `last_version` the
    highest ever made. Instances with a serial below `renew_below` are replaced although their version is right, and those of the serials
    `moving` by some on other nodes than `source`: on the node `target`, if that is not empty. `awaiting`: the version to go to, or to start
    with, when what it depends on is healthy, 0 = nothing waits; `after`: the lowest versions of other apps that will do, by path. `held`:
    the nodes on which room for one of the wanted version each is kept, for what stops before its replacement can be placed. `fired`: of a
    job, up to when its schedule has been gone through. `changed_at`: when its last change was done, by the wall clock; empty = none was.
    `claims`: the nodes on which room for one each is kept, because others were stopped to make it; `gave_way`: for whom instances of this
    app were, in a sentence, as long as any of it waits for room.

    `canary`: a version that is tried beside the wanted one, 0 = none, and `canary_task` its task, empty once that ended. `paused`: who had
    the change paused, empty = it is not; `at_pause` instances were there then, and `canaries_at_pause` canaries.
    """

    path: str
    uid: str
    revision: int
    version: int
    stable: int
    last_version: int
    count: int
    created_at: str
    stopped: bool = False
    deleting: bool = False
    next_serial: int = 1
    renew_below: int = 0
    task: str = ""
    moving: tuple[int, ...] = ()
    source: str = ""
    target: str = ""
    awaiting: int = 0
    after: tuple[tuple[str, int], ...] = ()
    autoscale: Autoscale | None = None
    held: tuple[str, ...] = ()
    canary: int = 0
    canary_task: str = ""
    paused: str = ""
    at_pause: int = 0
    canaries_at_pause: int = 0
    fired: str = ""
    changed_at: str = ""
    claims: tuple[str, ...] = ()
    gave_way: str = ""

    @property
    def kept_room(self) -> tuple[str, ...]:
        """The nodes on which room is kept for one of the wanted version each."""
        return (*self.held, *self.claims)

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]

    def settled(self) -> App:
        """Return the app with no migration under way."""
        return replace(self, moving=(), source="", target="")

    def tries(self, placed: Placed) -> bool:
        """Tell whether an instance is a canary."""
        return self.canary not in (0, self.version) and placed.version == self.canary

    @property
    def goal(self) -> int:
        """The version that was asked for, at work or not."""
        return self.awaiting or self.version

    @property
    def wanted(self) -> int:
        """How many instances there should be right now."""
        return 0 if self.stopped or self.deleting else self.count


@dataclass(frozen=True, slots=True)
class Version:
    """An immutable revision of an app's template. `proven`: all instances of it were healthy once."""

    app: str
    number: int
    hash: str
    spec: AppSpec
    created_at: str
    created_by: str
    proven: bool = False


@dataclass(frozen=True, slots=True)
class Placed:
    """One instance, as decided: `ports` are host ports in the order of the version's ports. `stop`: it is to go.

    Of a job, `run` is the one that it belongs to, and `ended`: its end was noted, nothing is reserved for it, its log is kept.
    `keep`: so it will be with one that is to go.
    """

    serial: int
    version: int
    node: str
    ports: tuple[int, ...]
    stop: bool = False
    run: str = ""
    ended: bool = False
    keep: bool = False


class RunState(StrEnum):
    """How a run of a job stands. All but `running` are final."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Result:
    """How one instance of a run ended: `state` is succeeded, failed or lost (with its node). `node`: its name."""

    serial: int
    node: str
    state: str
    at: str
    message: str = ""
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a job. `succeeded`, `failed` and `lost` count its instances that ended so; `results` are the newest of them.

    `cancelled_by`: who had it end, empty = nobody; `cancel_task`: the task that ends when nothing of it is at work any more.
    """

    app: str
    id: str
    version: int
    requested_by: str
    created_at: str
    parameters: dict[str, str] = field(default_factory=dict)
    state: RunState = RunState.RUNNING
    message: str = ""
    ended_at: str = ""
    succeeded: int = 0
    failed: int = 0
    lost: int = 0
    results: tuple[Result, ...] = ()
    cancelled_by: str = ""
    cancel_task: str = ""


@dataclass(frozen=True, slots=True, init=False)
class Placements:
    """All instances of one app."""

    app: str
    instances: Roster

    def __init__(self, app: str, instances: Iterable[Placed] = ()) -> None:
        object.__setattr__(self, "app", app)
        object.__setattr__(self, "instances", instances if isinstance(instances, Roster) else Roster(instances))


@dataclass(frozen=True, slots=True)
class Unpacked:
    """Placements as they were written before they were packed."""

    app: str
    instances: tuple[Placed, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a task. `state`: pending, running, done, failed or skipped."""

    name: str
    state: str
    done: int = 0
    total: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True)
class Move:
    """One instance that is to go from a node to another one, as a part of a rebalance. `gain`: points, `why`: for what.

    `state`: pending, running, done, failed or skipped; `task`: the migration that moves it; `message`: why it failed or was skipped.
    """

    app: str
    serial: int
    source: str
    target: str
    gain: float
    why: str
    state: str = "pending"
    task: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """A tracked operation on one app, on the node of this name, or on the cluster.

    `rolling_back` holds the reason once the change is being undone; `stable`: the version that was stable when it began; `former`: how many
    instances were wanted before, -1 = that is not known. Of a rebalance: its `moves`,
    of which `parallel` are under way at once.
    """

    id: str
    kind: Verb
    app: str
    requested_by: str
    created_at: str
    state: TaskState = TaskState.RUNNING
    message: str = ""
    ended_at: str = ""
    steps: tuple[Step, ...] = ()
    warnings: tuple[str, ...] = ()
    rolling_back: str = ""
    node: str = ""
    stable: int = 0
    former: int = -1
    moves: tuple[Move, ...] = ()
    parallel: int = 0


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster. `admin`: ready, cordoned, draining, drained or maintenance; `drain`: the task of a drain that is under way.

    Of a drain: `parallel` instances at most are on the move at once, 0 = as many as there are; `drain_until`: its deadline, by the wall
    clock, empty = it has none; `forced`: that is over, so that what is left stops without waiting for replacements.

    `maintenance`: by whom and why it is, or is going to be, in maintenance, empty = it is not; `maintenance_for` so many seconds, 0 = until
    somebody ends it; `maintenance_until`: so it ends by the wall clock, empty = it does not, or has not begun.
    `incarnation`: of its newest membership, 0 = it never had one. `lost`: the incarnation whose loss the leader has noted, 0 = it is not
    lost; so a new leader knows which losses are old. `confirmed`: the incarnation that an operator declared dead. `refused`: the
    incarnation, over by now, because of which the other nodes are to refuse its packets, 0 = they are not; `refused_at`: the address.
    """

    id: str
    name: str
    admin: str = "ready"
    address: str = ""
    roles: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    joined_at: str = ""
    incarnation: int = 0
    lost: int = 0
    confirmed: int = 0
    refused: int = 0
    refused_at: str = ""
    drain: str = ""
    parallel: int = 0
    drain_until: str = ""
    forced: bool = False
    maintenance: str = ""
    maintenance_for: float = 0.0
    maintenance_until: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class NodeNames(Mapping[str, str]):
    """The names of nodes by id, without a walk over all of them."""

    nodes: Mapping[str, Node]

    def __getitem__(self, node: str) -> str:
        return self.nodes[node].name

    def __iter__(self) -> Iterator[str]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)


@dataclass(frozen=True, slots=True)
class Grant:
    """The right to be the one copy of an exclusive app: of instance `serial`, on the node's membership `incarnation`.

    `name`: of its znode, never used again for another app. `generation` grows with each holder. `revoked`: nobody may take it any more;
    the next generation follows when it is certain that the holder is not at work.
    """

    app: str
    name: str
    generation: int
    serial: int
    node: str
    incarnation: int
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class Token:
    """The right to join once. `hash`: SHA-256 of the secret, hex. `used_by`: the id that joined with it; the same may ask again."""

    id: str
    hash: str
    purpose: str
    created_at: str
    expires_at: str
    created_by: str
    used_by: str = ""


@dataclass(frozen=True, slots=True)
class Coordinator:
    """A coordinator, leading or not. `address`: of its API; `join_address`: where machines join while it leads, empty = nowhere."""

    name: str
    address: str
    join_address: str = ""
    joined_at: str = ""


@dataclass(frozen=True, slots=True)
class Switches:
    """What holds for the whole cluster; one document. `paused`: why an operator paused automatic replacement, empty = it is not.

    `doubted`: the nodes that were there when most of them vanished at once; while it is not empty nothing is replaced. `recovering`: which
    export the state was restored from; until an operator confirms, nothing that is unknown is removed and nothing lost is replaced.
    `strategies`: by which apps are placed that say nothing themselves.
    """

    paused: str = ""
    doubted: tuple[str, ...] = ()
    recovering: str = ""
    strategies: Strategies = NOTHING_SAID


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request was answered, kept so that a retry is answered alike. `reply` is the serialised message, base64."""

    request: str
    content: str
    reply: str
    at: str


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `sequence` counts within one epoch."""

    epoch: int
    sequence: int
    kind: str
    subject: str
    message: str
    at: str
    app: str = ""

    @property
    def token(self) -> str:
        return f"{self.epoch}.{self.sequence}"


@dataclass(frozen=True, slots=True)
class Audit:
    """Who had what changed, or what the leader decided by itself, with the events of the same commit."""

    actor: str
    action: str
    request: str
    at: str
    events: tuple[Event, ...] = ()


def instance_id(app: App, serial: int) -> str:
    """Return the id of an instance: readable, and never used twice."""
    return f"{app.name}-{app.uid}-{serial}"


def serial_of(instance: str) -> int:
    """Return the serial in the id of an instance."""
    return int(instance.rpartition("-")[2])


def fixed_ports(spec: AppSpec) -> tuple[int, ...]:
    """Return the host ports that each instance of a description asks for by number."""
    return tuple(port.host_port for port in spec.ports if port.host_port)


def bindings(spec: AppSpec, placed: Placed) -> tuple[PortBinding, ...]:
    """Return the ports of an instance, container side and host side."""
    pairs = zip(spec.ports, placed.ports, strict=True)
    return tuple(PortBinding(port.name, port.container_port or host, host, port.protocol) for port, host in pairs)
