"""A real coordinator in this process, with real certificates and a real store, and what talks to it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc

from gestalt.config import CoordinatorSettings, StoreSettings, TlsSettings
from gestalt.coordinator.records import Node
from gestalt.coordinator.service import CoordinatorService
from gestalt.coordinator.state import encode
from gestalt.coordinator.store.base import Put
from gestalt.coordinator.store.sqlite import SqliteStore
from gestalt.daemon import Life
from gestalt.errors import GestaltError
from gestalt.pki import Authority, Identity, Role
from gestalt.proto.v1 import api_pb2, api_pb2_grpc, model_pb2
from gestalt.rpc import decode_error
from gestalt.rpc_server import channel_credentials
from gestalt.wire import spec_to_wire
from tests.real.simulated_agent import SimulatedAgent
from tests.unit.coordinator.world import PATH, spec


@dataclass
class Rig:
    """Starts and restarts a coordinator on one folder; hands out certificates, stubs and simulated agents."""

    folder: Path
    cluster_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    node_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    settings: dict[str, Any] = field(default_factory=dict)
    agents: list[SimulatedAgent] = field(default_factory=list)
    channels: list[grpc.aio.Channel] = field(default_factory=list)
    members: tuple[str, ...] = ()
    """Nodes that have joined. If there are any, nodes are taken like in a cluster, on the store of an appliance."""
    service: CoordinatorService | None = None
    port: int = 0

    def tls(self, role: Role, name: str, *, life: timedelta = timedelta(days=1), cluster: str = "", authority: str = "pki") -> TlsSettings:
        """Return certificate files of an identity, made by the authority in that folder."""
        signer = Authority.ensure(self.folder / authority, cluster or self.cluster_id)
        identity = Identity(cluster or self.cluster_id, role, name)
        renew = timedelta(0) if life > timedelta(0) else timedelta(days=-10_000)
        pair = signer.issue(
            identity, f"{role}-{name}-{life.total_seconds():g}", dns=["localhost"], addresses=["127.0.0.1"], life=life, renew_before=renew
        )
        return TlsSettings(ca=self.folder / "pki" / "ca.crt", certificate=pair.certificate, key=pair.key)

    async def up(self) -> None:
        settings = CoordinatorSettings(
            cluster_id=self.cluster_id,
            tls=self.tls(Role.COORDINATOR, "one"),
            listen=f"127.0.0.1:{self.port}",
            store=StoreSettings(path=self.folder / "state.db"),
            **({"heartbeat": 0.5, "unreachable_after": 0.5} | self.settings),
        )
        if self.members:
            settings = settings.model_copy(update={"mode": "cluster"})
            await self._put_members(settings.store.path)
        self.service = CoordinatorService(settings, Life())
        await self.service.start()
        self.port = self.service.port

    async def _put_members(self, path: Path) -> None:
        store = SqliteStore(path, self.cluster_id)
        await store.open()
        await store.commit([Put("node", node, encode(Node(node, node))) for node in self.members], await store.take_office())
        await store.close()

    async def down(self) -> None:
        for agent in self.agents:
            await agent.stop()
        self.agents.clear()
        for channel in self.channels:
            await channel.close()
        self.channels.clear()
        if self.service is not None:
            await self.service.stop()
            self.service = None

    def channel(self, tls: TlsSettings | None = None) -> grpc.aio.Channel:
        credentials = channel_credentials(tls or self.tls(Role.USER, "alice"))
        channel = grpc.aio.secure_channel(f"127.0.0.1:{self.port}", credentials)
        self.channels.append(channel)
        return channel

    def apps(self, tls: TlsSettings | None = None) -> api_pb2_grpc.AppsStub:
        return api_pb2_grpc.AppsStub(self.channel(tls))

    def tasks(self) -> api_pb2_grpc.TasksStub:
        return api_pb2_grpc.TasksStub(self.channel())

    async def agent(self, **fields: Any) -> SimulatedAgent:
        node_id = fields.pop("node_id", self.node_id)
        tls = fields.pop("tls", None) or self.tls(Role.NODE, node_id)
        agent = SimulatedAgent(self.port, tls, self.cluster_id, node_id, **fields)
        await agent.start()
        self.agents.append(agent)
        return agent

    async def launch(self, instances: int = 3, image: str = "web:1", identity: str = "", **fields: Any) -> api_pb2.ChangeReply:
        message = spec_to_wire(spec(image, instances, **fields))
        reply: api_pb2.ChangeReply = await self.apps().Apply(
            api_pb2.LaunchRequest(request=api_pb2.Request(id=identity), apps=[message]), timeout=10
        )
        return reply

    async def outcome(self, reply: api_pb2.ChangeReply) -> model_pb2.Task:
        """Watch the task of a reply to its end."""
        seen = [task async for task in self.tasks().Watch(api_pb2.GetTaskRequest(id=reply.tasks[0].id), timeout=20)]
        return seen[-1]

    async def get(self) -> api_pb2.AppReply:
        reply: api_pb2.AppReply = await self.apps().Get(api_pb2.GetRequest(app=PATH), timeout=10)
        return reply

    async def until_shown(
        self, what: str, condition: Callable[[api_pb2.AppReply], object], path: str = PATH, seconds: float = 15
    ) -> api_pb2.AppReply:
        """Return an app as it is shown once a condition holds; fail with how it was shown last."""
        shown: api_pb2.AppReply | None = None
        try:
            async with asyncio.timeout(seconds):
                while True:
                    shown = await self.apps().Get(api_pb2.GetRequest(app=path), timeout=10)
                    if condition(shown):
                        return shown
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"waited {seconds:g} s for {what}; {path} is shown as:\n{shown}") from None

    async def until_reason(self, reason: str) -> None:
        """Wait until the first instance is shown with a reason."""
        seen = ""
        deadline = asyncio.get_running_loop().time() + 10
        while seen != reason:
            assert asyncio.get_running_loop().time() < deadline, f"waited for {reason!r}, saw {seen!r}"
            seen = (await self.get()).instances[0].observed.reason


async def eventually(condition: Callable[[], object], what: str, seconds: float = 10.0) -> None:
    """Wait until a condition holds; fails with what was waited for and how it stands."""
    try:
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - what is waited for raises no event
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"{what} within {seconds:g} s: {condition()!r}") from None


async def refused(call: Any) -> GestaltError:
    """Return the error that a call ends with."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return decode_error(error)
    raise AssertionError("the call succeeded")
