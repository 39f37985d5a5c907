"""hosts.yaml: which machines become a cluster, how they are reached, and what they are made of.

The sentence below each field is its documentation, as in `gestalt.config`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from gestalt.cluster.names import check_address, check_labels, check_name, check_roles
from gestalt.config import Settings, TimingSettings
from gestalt.errors import GestaltError
from gestalt.settings_document import read_alone
from gestalt.settings_file import validate

from .zookeeper import HEAP, HEAP_MAX, HEAP_MIN, Choices, check_choices, read_archive_name, servers_of

T = TypeVar("T")

COORDINATORS = 3
"""How many of the first hosts have a coordinator when hosts.yaml names none."""

_PORT = Field(ge=1, le=65535)
_SERVER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9.-]*):[0-9]{1,5}")
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@%:-]*")


def _checked(check: Callable[[T], None]) -> AfterValidator:
    """Return a check of `gestalt.cluster.names` as one of pydantic."""

    def validator(value: T) -> T:
        try:
            check(value)
        except GestaltError as error:
            raise ValueError(f"{error.message.partition(': ')[2]}; {error.hint}") from error  # pydantic names the field itself
        return value

    return AfterValidator(validator)


def _require(check: Callable[[], object]) -> None:
    """Tell what a check of ours refuses as pydantic wants to be told."""
    try:
        check()
    except GestaltError as error:
        raise ValueError("; ".join(filter(None, (error.message, error.hint)))) from error


def _word(value: str) -> str:
    """Refuse what ssh could take for an option, or a shell for more than a word."""
    if _WORD.fullmatch(value) is None:
        raise ValueError(f"{value!r} is not allowed; allowed: letters, digits and ._@%:-, the first a letter, a digit or _")
    return value


def _server(value: str) -> str:
    if _SERVER.fullmatch(value) is None:
        raise ValueError(f"{value!r} is not allowed; allowed: address:port, such as 10.0.0.1:2181")
    return value


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


Name = Annotated[str, _checked(lambda name: check_name("name", name))]
Address = Annotated[str, _checked(lambda address: check_address("address", address))]
Word = Annotated[str, AfterValidator(_word)]


class SshSettings(Settings):
    """How the hosts are reached. What is not said here is as your own ssh does it, from your ssh's configuration: jump hosts, keys."""

    user: Word | None = None
    """Who to be on the hosts; one that is not root needs `sudo` without a password. None = as your ssh does it."""
    port: Annotated[int, _PORT] | None = None
    """The port of the hosts' ssh; none = as your ssh does it."""
    identity: Path | None = None
    """The file with the private key; none = as your ssh does it."""
    config: Path | None = None
    """A configuration file for ssh to use instead of yours."""


class ZooKeeperChoice(Settings):
    """Which ZooKeeper the cluster has: one that you run (`hosts`), or one that is made on the hosts (`archive` or `package`)."""

    hosts: tuple[Annotated[str, AfterValidator(_server)], ...] = ()
    """The servers of your own ensemble, "address:port" each."""
    servers: tuple[str, ...] = ()
    """The names of the hosts that get a server of ours; none = those with a coordinator. An odd number of them."""
    archive: Path | None = None
    """The archive with ZooKeeper's binaries, as Apache publishes it: apache-zookeeper-3.8.4-bin.tar.gz."""
    package: Path | None = None
    """A package of ZooKeeper (RPM), instead of an archive; it brings `jars`."""
    jars: tuple[str, ...] = ()
    """The jars that the package has, as parts of Java's class path, such as /usr/share/java/zookeeper/*."""
    heap: Annotated[int, Field(ge=HEAP_MIN, le=HEAP_MAX)] = HEAP
    """MiB of memory for the heap of each server of ours."""
    root: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._-]+)+$")] = "/gestalt"
    """The path in ZooKeeper below which everything of the cluster lies."""

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        given = [name for name in ("hosts", "archive", "package") if getattr(self, name)]
        if len(given) != 1:
            said = f"{' and '.join(given)} are given" if given else "none is given"
            raise ValueError(f"exactly one of hosts, archive and package says which ZooKeeper there is; {said}")
        if self.hosts and self.servers:
            raise ValueError("servers are made from an archive or a package; with hosts, they are there already")
        if (self.package is None) != (not self.jars):
            raise ValueError("jars and package go together, and an archive has its own")
        if self.archive is not None:
            name = self.archive.name
            _require(lambda: read_archive_name(name))
        elif self.package is not None:
            _require(lambda: check_choices(Choices(self.jars, heap=self.heap)))
        return self


class HostSettings(Settings):
    """One machine."""

    name: Name
    """What it is called in the cluster."""
    address: Address
    """The IP address at which the other machines reach it."""
    ssh: Word | None = None
    """What ssh calls it, a name or an alias of your ssh's configuration; none = `address`."""
    coordinator: bool | None = None
    """Whether it has a coordinator; when no host says so, the first three have one."""
    roles: Annotated[tuple[str, ...], _checked(check_roles)] = ()
    """Roles of the node, such as edge."""
    labels: Annotated[dict[str, str], _checked(check_labels)] = {}
    """Labels of the node."""
    docker_socket: Path = Path("/var/run/docker.sock")
    """Where the Docker Engine listens; Podman: /run/podman/podman.sock."""
    runtimes: tuple[Word, ...] = ()
    """Which drivers run instances there; none = docker and process."""
    http_port: Annotated[int, _PORT] = 80
    """The port on which HAProxy serves http."""

    @property
    def destination(self) -> str:
        """What ssh is told to reach."""
        return self.ssh or self.address


class HostsFile(Settings):
    """hosts.yaml."""

    hosts: Annotated[tuple[HostSettings, ...], Field(min_length=1)]
    """The machines; each becomes a node. The first one with a coordinator is where a new cluster begins."""
    packages: Annotated[tuple[Path, ...], BeforeValidator(_listed), Field(min_length=1)]
    """Our packages: the folder that they are in, or files."""
    zookeeper: ZooKeeperChoice
    """Which ZooKeeper the cluster has."""
    ssh: SshSettings = SshSettings()
    """How the hosts are reached."""
    timing: TimingSettings = TimingSettings()
    """The times that decide about life and death; the same on every member."""
    storage_fence: Literal["none", "netfilter"] = "none"
    """What else keeps a lost node from what it held: with netfilter the others refuse its packets until it registers anew."""
    firewall: bool = False
    """Where firewalld runs: open it for our ports; false = leave it alone."""

    @model_validator(mode="after")
    def _each_is_one(self) -> Self:
        for field in ("name", "address", "destination"):
            values = [getattr(host, field) for host in self.hosts]
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice:
                raise ValueError(f"two hosts have the same {'ssh' if field == 'destination' else field}: {', '.join(twice)}")
        return self

    @model_validator(mode="after")
    def _coordinators_are_enough(self) -> Self:
        if not self.coordinators:
            raise ValueError("no host has a coordinator; say `coordinator: true` of one, three or five of them, or of none at all")
        return self

    @model_validator(mode="after")
    def _servers_are_hosts(self) -> Self:
        names = [host.name for host in self.hosts]
        unknown = [name for name in self.zookeeper.servers if name not in names]
        if unknown:
            raise ValueError(f"zookeeper.servers names {', '.join(unknown)}; allowed: names of hosts, {', '.join(names)}")
        if self.servers:
            _require(lambda: servers_of([server.address for server in self.servers]))
        return self

    @property
    def coordinators(self) -> tuple[HostSettings, ...]:
        """The hosts with a coordinator; a new cluster begins on the first."""
        chosen = tuple(host for host in self.hosts if host.coordinator)
        if chosen or any(host.coordinator is not None for host in self.hosts):
            return chosen
        return self.hosts[:COORDINATORS] if len(self.hosts) >= COORDINATORS else self.hosts[:1]

    @property
    def first(self) -> HostSettings:
        """The host on which a new cluster begins; `together.beginning` says where one is that has begun."""
        return self.coordinators[0]

    @property
    def servers(self) -> tuple[HostSettings, ...]:
        """The hosts that get a ZooKeeper server of ours."""
        if self.zookeeper.hosts:
            return ()
        named = self.zookeeper.servers
        return tuple(host for host in self.hosts if host.name in named) if named else self.coordinators


def load_hosts(path: Path) -> HostsFile:
    """Return what is in hosts.yaml; paths in it are meant from its own folder.

    Raises:
        GestaltError: NOT_FOUND when it cannot be read, INVALID with one detail a mistake otherwise.
    """
    found = validate(read_alone(path, "write one: docs/bootstrap.md has an example"), HostsFile)
    folder = path.absolute().parent

    def placed(section: Settings, *names: str) -> dict[str, Path]:
        given = ((name, getattr(section, name)) for name in names)
        return {name: folder / value.expanduser() for name, value in given if value is not None}

    return found.model_copy(
        update={
            "packages": tuple(folder / item.expanduser() for item in found.packages),
            "ssh": found.ssh.model_copy(update=placed(found.ssh, "identity", "config")),
            "zookeeper": found.zookeeper.model_copy(update=placed(found.zookeeper, "archive", "package")),
        }
    )
