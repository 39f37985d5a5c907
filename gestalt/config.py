"""The settings of the daemons: one model each, read from YAML, checked altogether before anything starts."""

from __future__ import annotations

from ipaddress import ip_address
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


class TimingSettings(Settings):
    """The times that decide about life and death, the same on every member of a cluster; seconds.

    `session` (S): of ZooKeeper sessions. `lease` (L): how long a holder may act without a committed renewal. `kill` (K): within which
    it has stopped what it held. `margin` (M): what clocks and schedulers may be wrong by.
    """

    session: Duration = 2.0
    lease: Duration = 8.0
    kill: Duration = 2.0
    margin: Duration = 1.0

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
    """How to reach ZooKeeper. `hosts`: "address:port" each. `identity` with `secret_file`: digest authentication."""

    hosts: Annotated[tuple[str, ...], Field(min_length=1)]
    root: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._-]+)+$")] = "/gestalt"
    identity: str = ""
    secret_file: Path | None = None
    tls: TlsSettings | None = None

    @model_validator(mode="after")
    def _identity_has_secret(self) -> Self:
        if bool(self.identity) != (self.secret_file is not None):
            raise ValueError("identity and secret_file go together: set both or none")
        return self


class FenceSettings(Settings):
    """/etc/gestalt/fence.yaml. `agent_grace`: how long an agent that does not run may be away before the node gives itself up.

    `failsafe`: without ZooKeeper, let leases go on by the coordinators' promises; also to be set in agent.yaml. `watchdog`: the device that
    resets the machine when the fence cannot vouch for what is exclusive; "/dev/watchdog" is used where there is one; "" = none.
    """

    node_id: str
    node_name: str
    cluster_id: str
    zookeeper: ZooKeeperSettings
    timing: TimingSettings = TimingSettings()
    agent_grace: Duration = 300.0
    failsafe: bool = False
    data_dir: Path = Path("/var/lib/gestalt/fence")
    socket: Path = Path("/run/gestalt/fence/fence.sock")
    watchdog: str = "/dev/watchdog"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _watchdog_is_a_path(self) -> Self:
        if self.watchdog and not self.watchdog.startswith("/"):
            raise ValueError(f'watchdog ({self.watchdog!r}) must be the path of a device, or "" for none')
        return self


class KeptFreeSettings(Settings):
    """What of a machine no app is given: for the system, and for what runs beside Gestalt."""

    cpu: Annotated[float, Field(ge=0, le=4096)] = 0.0
    memory: Size = 0
    disk: Size = 0
    pids: Annotated[int, Field(ge=0)] = 0


class OvercommitSettings(Settings):
    """How many times what is there may be set aside for apps. Memory that all of them use at once is not there twice."""

    cpu: Annotated[float, Field(gt=0, le=100)] = 1.0
    memory: Annotated[float, Field(gt=0, le=10)] = 1.0


class OfferSettings(Settings):
    """What of the machine is offered to apps. `devices`: other things that are counted, by name: how many there are."""

    reserved: KeptFreeSettings = KeptFreeSettings()
    overcommit: OvercommitSettings = OvercommitSettings()
    devices: dict[Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9._/-]*[a-z0-9])?$", max_length=63)], Annotated[int, Field(ge=0)]] = {}


class AgentSettings(Settings):
    """/etc/gestalt/agent.yaml. `fence`: the socket of gestalt-fence; none in an appliance.

    `address`: of this node, on which host ports are published and by which the other nodes reach them. `failsafe`: without ZooKeeper,
    go on with what is exclusive while every coordinator promises to start no replacement. `usage_interval`: how often is measured what
    instances use, 0 = never. `hosts_file`: where the names and addresses of
    the cluster's nodes are kept in a block of ours, "/etc/hosts"; none = nowhere.
    """

    node_id: str
    node_name: str
    cluster_id: str
    coordinators: tuple[str, ...]
    tls: TlsSettings
    data_dir: Path = Path("/var/lib/gestalt/agent")
    run_dir: Path = Path("/run/gestalt/agent")
    fence: Path | None = None
    address: str = "127.0.0.1"
    port_first: int = 3000
    port_last: int = 4000
    health_port: Annotated[int, Field(ge=0, le=65535)] = 7402
    runtimes: tuple[str, ...] = ("docker", "process")
    loadbalancer: str = "haproxy"
    resync: Duration = 30.0
    orphan_grace: Duration = 5.0
    usage_interval: Annotated[Duration, Field(ge=0)] = 5.0
    failsafe: bool = False
    hosts_file: Path | None = None
    offer: OfferSettings = OfferSettings()
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    proxy: ProxySettings = ProxySettings()
    docker: DockerSettings = DockerSettings()
    process: ProcessSettings = ProcessSettings()

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
    path: Path = Path("/var/lib/gestalt/coordinator/state.db")


class CoordinatorSettings(Settings):
    """/etc/gestalt/coordinator.yaml. A cluster has ZooKeeper, a name for each coordinator and an address that others reach it at.

    `unreachable_after`: seconds without an agent's stream after which its node takes no new instances; by default two sessions.
    `advertise`: that address, with port; default: `listen`. `join_listen`: where machines join, with a token; empty = nowhere.
    `hands_off_share`: when more than this part of the nodes vanishes at once, the leader doubts itself and replaces nothing.
    `storage_fence`: what keeps a lost node from what it held before another one gets it, besides the lease: "netfilter" has all other
    nodes refuse its packets until it registers anew. `replacements_per_second`: how many lost instances it replaces in a second at
    most, 0 = no limit. `authority`: the folder with the CA's certificate and key, which `gestaltctl cluster init` made;
    `authority_passphrase`: the file with what that key is encrypted with. `data_dir`: where a coordinator
    of a cluster notes what it has seen of the state, so that an older one is never led from; none = nowhere.
    """

    cluster_id: str
    tls: TlsSettings
    mode: Literal["appliance", "cluster"] = "appliance"
    name: str = "coordinator"
    listen: str = "127.0.0.1:7400"
    advertise: str = ""
    join_listen: str = ""
    authority: Path | None = None
    authority_passphrase: Path | None = None
    zookeeper: ZooKeeperSettings | None = None
    timing: TimingSettings = TimingSettings()
    data_dir: Path | None = None
    store: StoreSettings = StoreSettings()
    heartbeat: Duration = 2.0
    unreachable_after: Duration | None = None
    agent_grace: Duration = 300.0
    storage_fence: Literal["none", "netfilter"] = "none"
    hands_off_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    replacements_per_second: Annotated[float, Field(ge=0)] = 50.0
    task_retention: int = 1000
    event_ring: int = 10_000
    request_retention: Duration = 86_400.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"

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
