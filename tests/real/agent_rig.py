"""A coordinator in miniature for tests of the agent: the real wire, over real mutual TLS, saying exactly what a test wants said."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import uuid
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from gestalt.config import AgentSettings, DockerSettings, ProcessSettings, ProxySettings, TlsSettings
from gestalt.model import DesiredInstance, NodeState, PortBinding, Route
from gestalt.pki import NODE_HOST, Authority, Identity, Role
from gestalt.proto.v1 import agent_pb2, agent_pb2_grpc, model_pb2
from gestalt.rpc_server import RpcServer
from gestalt.settings_file import dump_settings
from gestalt.spec.schema import AppSpec
from gestalt.spec.template import template_hash
from gestalt.wire import to_wire
from tests.real.docker_lab import docker

T = TypeVar("T")
PATIENCE = 20.0


async def until(what: str, condition: Callable[[], T | Awaitable[T]], limit: float = PATIENCE) -> T:
    """Return the first true answer of `condition`; at the deadline fail with its last one."""
    seen: Any = None
    try:
        async with asyncio.timeout(limit):
            while True:
                seen = condition()
                if isinstance(seen, Awaitable):
                    seen = await seen
                if seen:
                    return seen  # type: ignore[no-any-return]
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"waited {limit:g} s for {what}; last seen: {seen!r}")


@dataclass
class BulkStream:
    """One stream that the agent opened: what came up, and what goes down."""

    up: list[agent_pb2.BulkUp] = field(default_factory=list)
    down: asyncio.Queue[agent_pb2.BulkDown | None] = field(default_factory=asyncio.Queue)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class StubCoordinator(agent_pb2_grpc.AgentsServicer):
    """Greets agents with `epoch`, tells them `state`, and keeps the latest of everything that they report."""

    def __init__(self, folder: Path, heartbeat: float = 0.5) -> None:
        self.cluster_id = str(uuid.uuid4())
        self.node_id = str(uuid.uuid4())
        self.authority = Authority.ensure(folder / "pki", self.cluster_id)
        self.heartbeat = heartbeat
        self.state = NodeState(1, 1)
        self.port = 0
        self.epoch = 1
        self.hellos: list[agent_pb2.Hello] = []
        self.messages: list[agent_pb2.AgentMessage] = []
        self.observed: dict[str, model_pb2.Observed] = {}
        self.history: list[model_pb2.Observed] = []
        self.gone: set[str] = set()
        self.problems: list[str] = []
        self.acks: list[agent_pb2.Ack] = []
        self.facts = model_pb2.Facts()
        self.ended = 0
        self.promises: agent_pb2_grpc.PromisesServicer | None = None
        self.streams: dict[str, BulkStream] = {}
        self._outbox: asyncio.Queue[agent_pb2.CoordinatorMessage | None] = asyncio.Queue()
        self._server: RpcServer | None = None

    def tls(self, role: Role, name: str) -> TlsSettings:
        host = "localhost" if role is Role.COORDINATOR else NODE_HOST
        pair = self.authority.issue(Identity(self.cluster_id, role, name), f"{role}-{name}", dns=[host], addresses=["127.0.0.1"])
        return TlsSettings(ca=self.authority.certificate, certificate=pair.certificate, key=pair.key)

    async def start(self) -> None:
        def register(server: Any) -> list[str]:
            agent_pb2_grpc.add_AgentsServicer_to_server(self, server)
            if self.promises is not None:
                agent_pb2_grpc.add_PromisesServicer_to_server(self.promises, server)
            return ["gestalt.v1.Agents"]

        self._server = await RpcServer.start(f"127.0.0.1:{self.port}", self.tls(Role.COORDINATOR, "stub"), register)
        self.port = self._server.port

    async def stop(self) -> None:
        if self._server is not None:
            self._outbox.put_nowait(None)
            await self._server.stop(0)
            self._server = None

    async def Session(  # noqa: N802
        self, request_iterator: AsyncIterator[agent_pb2.AgentMessage], context: Any
    ) -> AsyncIterator[agent_pb2.CoordinatorMessage]:
        messages = aiter(request_iterator)
        first = await anext(messages)
        self.hellos.append(first.hello)
        self.facts = first.hello.facts
        outbox = self._outbox = asyncio.Queue()
        yield agent_pb2.CoordinatorMessage(
            welcome=agent_pb2.Welcome(cluster_id=self.cluster_id, epoch=self.epoch, coordinator_version="stub", heartbeat=self.heartbeat)
        )
        reader = asyncio.create_task(self._read(messages, outbox))
        try:
            while (message := await outbox.get()) is not None:
                yield message
        finally:
            self.ended += 1
            reader.cancel()

    async def _read(self, messages: AsyncIterator[agent_pb2.AgentMessage], outbox: asyncio.Queue[Any]) -> None:
        try:
            async for message in messages:
                self._take(message)
        finally:
            outbox.put_nowait(None)

    def _take(self, message: agent_pb2.AgentMessage) -> None:
        self.messages.append(message)
        match message.WhichOneof("kind"):
            case "inventory":
                self.observed = {item.instance: item for item in message.inventory.instances}
                self.problems = list(message.inventory.problems)
                self.send_full()
            case "observed":
                self._observed(message.observed)
            case "ack":
                self.acks.append(message.ack)
            case "facts":
                self.facts = message.facts

    def _observed(self, change: agent_pb2.ObservedChange) -> None:
        for item in change.instances:
            before = self.observed.get(item.instance)
            assert before is None or (before.attempt, before.phase) <= (item.attempt, item.phase), f"went back from {before} to {item}"
            self.observed[item.instance] = item
            self.history.append(item)
        for instance in change.gone:
            self.observed.pop(instance, None)
            self.gone.add(instance)
        if change.problems_changed:
            self.problems = list(change.problems)

    async def Bulk(  # noqa: N802
        self, request_iterator: AsyncIterator[agent_pb2.BulkUp], context: Any
    ) -> AsyncIterator[agent_pb2.BulkDown]:
        messages = aiter(request_iterator)
        stream = self.streams.setdefault((await anext(messages)).open, BulkStream())

        async def read() -> None:
            async for message in messages:
                stream.up.append(message)
            stream.down.put_nowait(None)

        reader = asyncio.create_task(read())
        try:
            while (message := await stream.down.get()) is not None:
                yield message
        finally:
            reader.cancel()
            stream.ended.set()

    def send(self, message: agent_pb2.CoordinatorMessage) -> None:
        self._outbox.put_nowait(message)

    def send_full(self) -> None:
        self.send(agent_pb2.CoordinatorMessage(full=to_wire(self.state, agent_pb2.NodeState)))

    def want(
        self, instances: Iterable[DesiredInstance], specs: Iterable[AppSpec] = (), routes: Iterable[Route] = (), *, tell: bool = True
    ) -> None:
        """Make this the whole desired state."""
        templates = {template_hash(spec): spec for spec in specs} or self.state.templates
        self.state = NodeState(
            self.epoch, self.state.revision + 1, dict(templates), {item.id: item for item in instances}, {item.key: item for item in routes}
        )
        if tell:
            self.send_full()

    def drop_session(self) -> None:
        self._outbox.put_nowait(None)

    def phase(self, instance: str) -> str:
        item = self.observed.get(instance)
        return model_pb2.Phase.Name(item.phase).removeprefix("PHASE_").lower() if item else ""

    def ready(self, *instances: str) -> bool:
        return all(item in self.observed and self.observed[item].ready for item in instances)

    def agent_settings(self, folder: Path, **fields: Any) -> AgentSettings:
        return AgentSettings.model_validate(
            {
                "node_id": self.node_id,
                "node_name": "lab",
                "cluster_id": self.cluster_id,
                "coordinators": (f"127.0.0.1:{self.port}",),
                "tls": self.tls(Role.NODE, self.node_id),
                "data_dir": folder / "data",
                "run_dir": folder / "run",
                "health_port": 0,
                "orphan_grace": 0.3,
                "proxy": ProxySettings(enabled=False),
                "docker": DockerSettings(credentials_dir=folder),
                "process": ProcessSettings(supervisor="shim"),
                **fields,
            }
        )


class AgentProcess:
    """`gestalt-agent` as it is run: a process of its own."""

    def __init__(self, settings: AgentSettings, folder: Path) -> None:
        self._config = folder / "agent.yaml"
        self._config.write_text(dump_settings(settings), encoding="utf-8")
        self._log = folder / "agent.log"
        self._log.touch()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        with self._log.open("ab") as output:
            command = [sys.executable, "-m", "gestalt.agent.main", "--config", str(self._config)]
            self._process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        if self._process is None:
            return 0
        self._process.send_signal(number)
        code, self._process = self._process.wait(20), None
        return code

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")


def remove_all_of(image: str) -> None:
    """Remove what a killed run of these tests left behind."""
    if left := docker("ps", "-aq", "--filter", f"ancestor={image}").split():
        docker("rm", "-f", *left, check=False)


def desired(spec: AppSpec, serial: int, ports: Mapping[str, int] | None = None, *, stop: bool = False) -> DesiredInstance:
    """Return an instance of `spec`; `ports`: host ports by name."""
    name = spec.path.rsplit("/", 1)[-1]
    uid = f"{zlib.crc32(spec.path.encode()) % 0xFFFFFF:06x}"
    bindings = tuple(PortBinding(port.name, port.container_port, (ports or {})[port.name], port.protocol) for port in spec.ports)
    return DesiredInstance(f"{name}-{uid}-{serial}", spec.path, 1, template_hash(spec), bindings, stop)
