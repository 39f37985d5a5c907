"""The settings of the daemons: one model each, read from YAML, checked altogether before anything starts.

The sentence below each field is its documentation: `gestalt.settings_reference` makes the commented default files of it.
"""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, model_validator

from gestalt.credentials import secret_path
from gestalt.settings_change import LIVE
from gestalt.units import parse_duration, parse_size

Duration = Annotated[float, BeforeValidator(parse_duration)]
_HOUR, _DAY = 3600, 86_400
Moments = Annotated[Duration, Field(le=_HOUR)]
"""A time that somebody or something waits for: what is longer than an hour is a mistake."""
Days = Annotated[Duration, Field(le=30 * _DAY)]
Size = Annotated[int, BeforeValidator(parse_size)]


def read_secret_path(value: object, info: ValidationInfo[Any]) -> object:
    """Read the path of a secret, or `credential:NAME`. The context of the validation is the unit that the settings are of."""
    return secret_path(value, info.context or "gestalt")


SecretPath = Annotated[Path, BeforeValidator(read_secret_path)]


class Settings(BaseModel):
    """A section of a settings file. `unit`: which runs the daemon whose file it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    unit: ClassVar[str] = ""


class TlsSettings(Settings):
    """PEM files of mutual TLS."""

    ca: Path
    """The certificates of those who are trusted."""
    certificate: Path
    """Our own certificate. It is renewed in place where the daemon can."""
    key: SecretPath
    """The key that belongs to it; readable by the daemon alone."""


class ProxySettings(Settings):
    """The node's own HAProxy."""

    enabled: bool = True
    """Whether there is one on this node. Without, apps are reached on their host ports only."""
    bind: str = "*"
    """The address that it listens on; "*" = all."""
    http_port: Annotated[int, Field(ge=0, le=65535)] = 80
    """The port of all services of kind http; 0 = none."""
    stats_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """The port of its statistics page, on loopback; 0 = none."""
    max_connections: int = 2000
    """How many connections it takes at once. Where the machine allows fewer open files it gets fewer, and that is told."""
    hard_stop_after: Annotated[Duration, Field(le=_DAY)] = 60.0
    """How long connections may outlive a change of its configuration that needs new workers."""


class DockerSettings(Settings):
    """The Docker Engine."""

    socket: Path = Path("/var/run/docker.sock")
    """Where it listens. Podman's socket speaks the same language."""
    limit: Annotated[Moments, Field(ge=0.1)] = 30.0
    """How long it may take for an answer before it counts as gone."""
    image_high_water: Size = 20 * 1024**3
    """When the images that were pulled for apps take more than this, those that were not needed for longest are removed."""
    image_low_water: Size = 15 * 1024**3
    """Down to this much."""
    credentials_dir: Path = Path("/etc/gestalt/registry")
    """The folder with the credentials of registries that apps name."""


class ProcessSettings(Settings):
    """Plain processes."""

    supervisor: Literal["auto", "systemd", "shim"] = "auto"
    """Who holds processes: systemd, or a small shim of ours; "auto" takes systemd where it is process 1."""
    log_max_size: Size = 10 * 1024**2
    """How large one log file of an instance may become at most, whatever its app asks for."""


class TimingSettings(Settings):
    """The times that decide about life and death, the same on every member of a cluster."""

    session: Moments = 2.0
    """S: the length of ZooKeeper sessions. A node or leader that is not heard for so long is given up."""
    lease: Moments = 8.0
    """L: how long a holder may act without a committed renewal. At least `session`."""
    kill: Moments = 2.0
    """K: within which it has stopped what it held. `kill` and `margin` together are at most `lease`."""
    margin: Moments = 1.0
    """M: what clocks and schedulers may be wrong by."""

    @model_validator(mode="after")
    def _times_fit(self) -> Self:
        if min(self.session, self.lease, self.kill, self.margin) <= 0:
            raise ValueError("session, lease, kill and margin must be above 0")
        if not self.session <= self.lease:
            raise ValueError(
                f"lease ({self.lease:g} s) must be at least session ({self.session:g} s): a lease outlives a short loss of ZooKeeper"
            )
        if not self.kill + self.margin <= self.lease:
            raise ValueError(f"kill + margin ({self.kill + self.margin:g} s) must not exceed lease ({self.lease:g} s)")
        return self


class ZooKeeperSettings(Settings):
    """How to reach ZooKeeper."""

    hosts: Annotated[tuple[str, ...], Field(min_length=1)]
    """Its servers, "address:port" each; at least one."""
    root: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._-]+)+$")] = "/gestalt"
    """The path below which everything of the cluster lies; several clusters have several."""
    identity: str = ""
    """The name for digest authentication; empty = none."""
    secret_file: SecretPath | None = None
    """The file with the secret of that name. Both are set or none."""
    tls: TlsSettings | None = None
    """How it is spoken to where it speaks TLS."""

    @model_validator(mode="after")
    def _identity_has_secret(self) -> Self:
        if bool(self.identity) != (self.secret_file is not None):
            raise ValueError("identity and secret_file go together: set both or none")
        return self


class FenceSettings(Settings):
    """/etc/gestalt/fence.yaml: the settings of gestalt-fence."""

    unit = "gestalt-fence"

    node_id: str
    """The id of this node, as in agent.yaml; made by `init` or `join`."""
    node_name: str
    """The name of this node, as in agent.yaml."""
    cluster_id: str
    """The id of the cluster, as in agent.yaml."""
    zookeeper: ZooKeeperSettings
    """How to reach ZooKeeper."""
    timing: TimingSettings = TimingSettings()
    """The times that decide about life and death; the same on every member."""
    agent_grace: Annotated[Days, LIVE] = 300.0
    """How long an agent that does not run may be away before the node gives itself up."""
    failsafe: bool = False
    """Without ZooKeeper, let leases go on by the coordinators' promises; also to be set in agent.yaml."""
    data_dir: Path = Path("/var/lib/gestalt/fence")
    """Where it keeps what it must remember: the session, what it holds."""
    socket: Path = Path("/run/gestalt/fence/fence.sock")
    """Where it listens to the agent; `fence` in agent.yaml."""
    watchdog: str = "/dev/watchdog"
    """The device that resets the machine when the fence cannot vouch for what is exclusive, where there is one; "" = none."""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], LIVE] = "info"
    """From which importance on things are logged."""

    @model_validator(mode="after")
    def _watchdog_is_a_path(self) -> Self:
        if self.watchdog and not self.watchdog.startswith("/"):
            raise ValueError(f'watchdog ({self.watchdog!r}) must be the path of a device, or "" for none')
        return self


class KeptFreeSettings(Settings):
    """What of a machine no app is given: for the system, and for what runs beside Gestalt."""

    cpu: Annotated[float, Field(ge=0, le=4096)] = 0.0
    """Cores."""
    memory: Size = 0
    """Of main memory."""
    disk: Size = 0
    """Of the file system that `data_dir` is on."""
    pids: Annotated[int, Field(ge=0)] = 0
    """Processes and threads."""


class OvercommitSettings(Settings):
    """How many times what is there may be set aside for apps. Memory that all of them use at once is not there twice."""

    cpu: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Of cores: 2 = each may be promised twice."""
    memory: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Of memory."""


class OfferSettings(Settings):
    """What of the machine is offered to apps."""

    reserved: KeptFreeSettings = KeptFreeSettings()
    """What is kept free."""
    overcommit: OvercommitSettings = OvercommitSettings()
    """How many times what is left may be set aside."""
    devices: dict[Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9._/-]*[a-z0-9])?$", max_length=63)], Annotated[int, Field(ge=0)]] = {}
    """Other things that are counted, by name: how many there are, such as {gpu: 2}. Names are of a-z, 0-9 and ._/- between."""


class AgentSettings(Settings):
    """/etc/gestalt/agent.yaml: the settings of gestalt-agent."""

    unit = "gestalt-agent"

    node_id: str
    """The id of this node; made by `init` or `join`. It stays for as long as the node is one."""
    node_name: str
    """What people call this node."""
    cluster_id: str
    """The id of the cluster; made by `init`."""
    coordinators: tuple[str, ...]
    """The coordinators to begin with, "address:port" each; others are learnt from them."""
    tls: TlsSettings
    """The node's certificate."""
    data_dir: Path = Path("/var/lib/gestalt/agent")
    """Where it keeps what its node should run, and what it must remember of it."""
    run_dir: Path = Path("/run/gestalt/agent")
    """Where its sockets are, and what HAProxy runs with."""
    fence: Path | None = None
    """The socket of gestalt-fence; none in an appliance."""
    address: str = "127.0.0.1"
    """Of this node: host ports are published on it, and the other nodes reach them by it. One IP address."""
    port_first: int = 3000
    """The first of the host ports that instances are given; 1 to 65535."""
    port_last: int = 4000
    """The last of them; not below `port_first`."""
    health_port: Annotated[int, Field(ge=0, le=65535)] = 7402
    """The port of the standard gRPC health service, on loopback; 0 = any that is free."""
    runtimes: tuple[str, ...] = ("docker", "process")
    """Which drivers run instances on this node."""
    loadbalancer: str = "haproxy"
    """Which driver gives requests to instances."""
    resync: Annotated[Moments, Field(ge=0.1), LIVE] = 30.0
    """How often everything is looked at, for what events missed; at least every 30 s."""
    orphan_grace: Annotated[Duration, Field(le=_DAY), LIVE] = 5.0
    """How long what nobody wants is left alone before it is removed."""
    usage_interval: Annotated[Moments, Field(ge=0), LIVE] = 5.0
    """How often is measured what instances use; 0 = never."""
    failsafe: bool = False
    """Without ZooKeeper, go on with what is exclusive while every coordinator promises to start no replacement; also to be set in
    fence.yaml."""
    hosts_file: Path | None = None
    """Where the names and addresses of the cluster's nodes are kept in a block of ours, "/etc/hosts"; none = nowhere."""
    offer: Annotated[OfferSettings, LIVE] = OfferSettings()
    """What of the machine is offered to apps."""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], LIVE] = "info"
    """From which importance on things are logged."""
    proxy: ProxySettings = ProxySettings()
    """The node's own HAProxy."""
    docker: DockerSettings = DockerSettings()
    """The Docker Engine."""
    process: ProcessSettings = ProcessSettings()
    """Plain processes."""

    @model_validator(mode="after")
    def _address_is_one(self) -> Self:
        try:
            found = ip_address(self.address)
        except ValueError:
            found = None
        if found is None or found.is_unspecified or found.is_multicast:
            raise ValueError(f"address ({self.address!r}) must be one IP address of this node, by which the other nodes reach it")
        return self

    @model_validator(mode="after")
    def _ports_in_order(self) -> Self:
        if not 0 < self.port_first <= self.port_last <= 65535:
            raise ValueError(
                f"port_first ({self.port_first}) and port_last ({self.port_last}) are no range of ports; allowed: 1 to 65535, in order"
            )
        return self


class StoreSettings(Settings):
    """Where durable state lies."""

    kind: Literal["sqlite", "zookeeper"] = "sqlite"
    """In a file of this machine, or in ZooKeeper; the second goes with `mode: cluster`."""
    path: Path = Path("/var/lib/gestalt/coordinator/state.db")
    """The file of sqlite."""


class CoordinatorSettings(Settings):
    """/etc/gestalt/coordinator.yaml: the settings of gestalt-coordinator."""

    unit = "gestalt-coordinator"

    cluster_id: str
    """The id of the cluster; made by `init`."""
    tls: TlsSettings
    """The coordinator's certificate."""
    mode: Literal["appliance", "cluster"] = "appliance"
    """A machine that is a whole Gestalt, or one of several."""
    name: str = "coordinator"
    """What this coordinator is called; each of a cluster has its own."""
    listen: str = "127.0.0.1:7400"
    """Where gestaltctl and agents reach it, address and port."""
    advertise: str = ""
    """By which address, with port, others reach it; empty = `listen`."""
    join_listen: str = ""
    """Where machines join, with a token; empty = nowhere."""
    authority: Path | None = None
    """The folder with the CA's certificate and key, which `gestaltctl cluster init` made."""
    authority_passphrase: SecretPath | None = None
    """The file with what that key is encrypted with."""
    zookeeper: ZooKeeperSettings | None = None
    """How to reach ZooKeeper; with `mode: cluster` only."""
    timing: TimingSettings = TimingSettings()
    """The times that decide about life and death; the same on every member."""
    data_dir: Path | None = None
    """Where a coordinator of a cluster notes what it has seen of the state, so that an older one is never led from; none = nowhere."""
    store: StoreSettings = StoreSettings()
    """Where durable state lies."""
    heartbeat: Moments = 2.0
    """An agent that said nothing for three of them has no session any more."""
    unreachable_after: Days | None = None
    """How long an agent's stream is away until its node takes no new instances; none = two sessions."""
    agent_grace: Days = 300.0
    """As in fence.yaml, where it counts; here it is only compared with the two above."""
    storage_fence: Literal["none", "netfilter"] = "none"
    """What keeps a lost node from what it held before another one gets it, besides the lease: "netfilter" has all other nodes refuse its
    packets until it registers anew. The same on all coordinators."""
    hands_off_share: Annotated[float, Field(gt=0, le=1), LIVE] = 0.5
    """When more than this part of the nodes vanishes within a minute, the leader doubts itself and replaces nothing; 1 = never."""
    replacements_per_second: Annotated[float, Field(ge=0, allow_inf_nan=False), LIVE] = 50.0
    """How many lost instances are replaced in a second at most; 0 = no limit."""
    task_retention: Annotated[int, Field(ge=0, le=1_000_000), LIVE] = 1000
    """How many tasks that have ended are kept."""
    event_ring: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """How many events are kept for those who watch and come back."""
    request_retention: Annotated[Duration, Field(le=31_536_000), LIVE] = 86_400.0
    """How long is known what a request was answered, so that it can be repeated."""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], LIVE] = "info"
    """From which importance on things are logged."""

    @model_validator(mode="after")
    def _times_fit(self) -> Self:
        """A node must miss at least one heartbeat before it counts as unreachable, and be unreachable long before it is given up."""
        patience = self.patience_with_agents(self.timing.session)
        if not 0 < self.heartbeat <= patience <= self.agent_grace:
            times = f"{self.heartbeat:g} s, {patience:g} s, {self.agent_grace:g} s"
            raise ValueError(f"heartbeat, unreachable_after and agent_grace ({times}) must be above 0 and in this order")
        return self

    def patience_with_agents(self, session: float) -> float:
        """Return `unreachable_after`, in seconds; where it is not set that of two sessions, or of a heartbeat if that is longer.

        Args:
            session: as ZooKeeper granted it, seconds.
        """
        return max(2 * session, self.heartbeat) if self.unreachable_after is None else self.unreachable_after

    @model_validator(mode="after")
    def _mode_fits(self) -> Self:
        is_cluster = self.mode == "cluster"
        if is_cluster != (self.store.kind == "zookeeper") or is_cluster != (self.zookeeper is not None):
            raise ValueError('mode "cluster" needs a section zookeeper and store.kind "zookeeper"; mode "appliance" has neither')
        return self
