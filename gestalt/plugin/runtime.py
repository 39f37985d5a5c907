"""The interface of runtime drivers: what starts, watches and stops the attempts of instances on one node."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Self

from gestalt.cgroup_usage import Usage
from gestalt.config import AgentSettings
from gestalt.model import PortBinding
from gestalt.spec.schema import AppSpec


@dataclass(frozen=True, slots=True)
class AttemptKey:
    """One start of one instance. The name of everything that a driver makes for it derives from this."""

    instance: str
    attempt: int


class AttemptState(StrEnum):
    """Created but never started, running, or ended."""

    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class AttemptStatus:
    """What the product says of one attempt.

    `exit_code` is 128 + signal for a death by signal. `error` is the product's own sentence when it could not start it.
    `health` is the product's own health check ("healthy", "unhealthy", "starting"), empty when it has none.
    `address` is where container ports answer without going through a host port, empty when there is no such place. `host` is the address
    on which its host ports are published, empty when that is the node's: it differs when the node's has changed since the start.
    """

    key: AttemptKey
    state: AttemptState
    runtime_id: str
    app: str
    template: str
    exit_code: int | None = None
    oom_killed: bool = False
    error: str = ""
    health: str = ""
    address: str = ""
    pid: int = 0
    host: str = ""


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything that is needed to start one attempt. `confined`: all of it is to be in the cgroups that `RuntimeDriver.cgroups` says."""

    key: AttemptKey
    app: str
    version: int
    template: str
    spec: AppSpec
    ports: tuple[PortBinding, ...]
    confined: bool = False


@dataclass(frozen=True, slots=True)
class LogOptions:
    """`tail`: last lines, 0 = all. `since`: seconds ago, 0 = all."""

    follow: bool = False
    tail: int = 0
    since: float = 0.0
    timestamps: bool = False


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line with its line end. With timestamps it starts with RFC 3339 time and a blank."""

    data: bytes
    stderr: bool = False


@dataclass(frozen=True, slots=True)
class ExecRequest:
    """A command to run inside a running attempt."""

    command: tuple[str, ...]
    tty: bool = False
    rows: int = 24
    columns: int = 80
    env: Mapping[str, str] | None = None
    user: str = ""


class ExecSession(ABC):
    """A command that runs inside an attempt. Ends by itself; `close` ends it early."""

    @abstractmethod
    def output(self) -> AsyncIterator[tuple[bool, bytes]]:
        """Yield (is stderr, bytes) until the command closed its output. With a tty everything is stdout."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Hand bytes to its standard input; raises BrokenPipeError when that is closed."""

    @abstractmethod
    async def close_stdin(self) -> None: ...

    @abstractmethod
    async def resize(self, rows: int, columns: int) -> None: ...

    @abstractmethod
    async def wait(self) -> int:
        """Return the exit code (128 + signal)."""

    @abstractmethod
    async def close(self) -> None:
        """Idempotent. What still runs is killed where the product allows it."""


Progress = Callable[[str], None]


class RuntimeDriver(ABC):
    """Runs attempts with one product.

    Guarantees that every driver gives, and that the contract suite checks:

    - What runs outlives the agent: nothing a driver starts depends on the agent's life.
    - Everything it makes is labelled with cluster, node, instance, attempt, app and template hash. `list` returns exactly
      what carries this cluster's and this node's labels; anything else is never touched.
    - The product itself refuses a second start of the same AttemptKey.
    - All calls may be repeated: after a call whose outcome is unknown, the same call ends in the same state.
    - Calls never block the loop. Each has a time limit and raises DriverUnavailable when the product does not answer.
    """

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def create(cls, settings: AgentSettings) -> Self:
        """Return a driver that has done no I/O yet."""

    @abstractmethod
    async def start(self) -> None:
        """Begin watching the product; does not fail when it is down, but reconnects for ever with back-off."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of everything; what runs goes on running."""

    @abstractmethod
    async def probe(self) -> Mapping[str, str]:
        """Return facts about the product (`version` …).

        Raises:
            DriverUnavailable: it does not answer; the sentence says what to do.
        """

    @abstractmethod
    def subscribe(self, wake: Callable[[AttemptKey | None], None]) -> None:
        """Have `wake` called in the loop when an attempt may have changed; None = anything may have (reconnected)."""

    @abstractmethod
    async def list(self) -> Sequence[AttemptStatus]:
        """Return all attempts of this cluster and node, ended ones included."""

    @abstractmethod
    async def inspect(self, key: AttemptKey) -> AttemptStatus | None:
        """Return one attempt, or None when nothing of it exists."""

    @abstractmethod
    async def prepare(self, spec: AppSpec, progress: Progress) -> None:
        """Have everything on the node that a launch needs (images). Concurrent calls for one image share one pull.

        Raises:
            LaunchRefused: it can never work so (absent image, wrong credentials); says what to do.
            DriverUnavailable: the product or the registry does not answer now.
        """

    async def cgroups(self, key: AttemptKey) -> Sequence[str]:
        """Return the folders of cgroups (/sys/fs/cgroup/…) that nothing is in but this attempt, and in each of which all of it is.

        They are known before it is launched, so that whoever may have to end it without this driver can be told first. It counts for
        launches that are `confined`. Makes nothing.

        Raises:
            LaunchRefused: this driver knows of none here, so that nothing exclusive can run with it.
            DriverUnavailable: the product does not answer.
        """
        raise LaunchRefused(
            f"the runtime {self.name} cannot say in which cgroups {key.instance} would be, so nothing exclusive runs with it"
        )

    @abstractmethod
    async def launch(self, launch: Launch) -> AttemptStatus:
        """Create and start the attempt; when it exists already, start it if it never ran, and return it.

        Raises:
            LaunchRefused: the product refuses (port taken, bad option); nothing of it is left running.
            DriverUnavailable: the outcome is unknown; call again.
        """

    @abstractmethod
    async def stop(self, key: AttemptKey, signal: str, grace: float) -> None:
        """Send the signal, SIGKILL after `grace` seconds; returns when it has ended. Nothing to do is success."""

    @abstractmethod
    async def remove(self, key: AttemptKey) -> None:
        """Remove everything of an ended attempt (kills it if need be), logs and anonymous volumes included."""

    @abstractmethod
    def logs(self, key: AttemptKey, options: LogOptions) -> AsyncIterator[LogLine]:
        """Yield its lines in order; with `follow` until it ended and everything was read."""

    @abstractmethod
    async def exec(self, key: AttemptKey, request: ExecRequest) -> ExecSession:
        """Start a command inside the running attempt.

        Raises:
            LaunchRefused: it does not run, or the command was not found.
        """

    async def usage(self, keys: Sequence[AttemptKey]) -> Mapping[AttemptKey, Usage]:
        """Return what these running attempts have used since they began. What cannot be measured is left out.

        Called every few seconds for all that runs on the node, so it must be cheap: no call of the product for each of them.

        Raises:
            DriverUnavailable: the product does not answer.
        """
        del keys
        return {}

    async def collect_garbage(self, in_use: Sequence[AppSpec]) -> int:
        """Remove cached things (images) that no spec in `in_use` needs, by the driver's watermark; return bytes freed."""
        del in_use
        return 0

    async def purge(self) -> None:  # noqa: B027 - a driver that keeps nothing else has nothing to remove
        """Remove what else carries this cluster's and this node's labels, named volumes with their data included.

        For the end of an appliance: all attempts are removed already. Idempotent.

        Raises:
            DriverUnavailable: something may be left.
        """


class DriverUnavailable(Exception):
    """The product does not answer. The outcome of the call is unknown; trying again later is right."""


class LaunchRefused(Exception):
    """It does not work so, and trying again without a change will not help. The sentence is for the operator."""


class PortTaken(LaunchRefused):
    """Someone else holds a host port of it. On another port it may well work."""

    def __init__(self, message: str, port: int) -> None:
        super().__init__(message)
        self.port = port


ExecRunner = Callable[[Sequence[str], float], Awaitable[tuple[int, bytes]]]
"""Runs a command inside an instance: (argv, limit in seconds) -> (exit code, output)."""

__all__ = [
    "AttemptKey", "AttemptState", "AttemptStatus", "DriverUnavailable", "ExecRequest", "ExecRunner", "ExecSession",
    "Launch", "LaunchRefused", "LogLine", "LogOptions", "Progress", "RuntimeDriver",
    "Usage",
]  # fmt: skip
