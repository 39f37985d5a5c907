"""Agents that come and go all the time, at all coordinators, whoever leads: half of them stay until they are sent away."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc

from gestalt import __version__
from gestalt.pki import Role
from gestalt.proto.v1 import agent_pb2, agent_pb2_grpc, model_pb2
from gestalt.rpc import decode_error
from gestalt.rpc_server import channel_credentials
from tests.real.coordinators_rig import Coordinators

_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
_PAUSE = 0.01


@dataclass
class Knocking:
    """`outcomes`: how often a coordinator answered what, by its first message or the kind of its refusal. `epochs`: of the welcomes."""

    cluster: Coordinators
    nodes: list[str]
    outcomes: Counter[str] = field(default_factory=Counter)
    epochs: dict[str, set[int]] = field(default_factory=dict)
    """By the address that gave the welcome."""

    async def knock(self, node: str, *, stay: bool) -> None:
        """Come and go until cancelled."""
        credentials = channel_credentials(self.cluster.tls(Role.NODE, node))
        for address in itertools.cycle(self.cluster.addresses):
            async with grpc.aio.secure_channel(address, credentials, _OPTIONS) as channel:
                call = agent_pb2_grpc.AgentsStub(channel).Session()
                try:
                    self.outcomes[await self._talk(call, node, address, stay=stay)] += 1
                except grpc.aio.AioRpcError as error:
                    self.outcomes[decode_error(error).kind] += 1
                except asyncio.InvalidStateError:
                    self.outcomes["ended while written to"] += 1
            await asyncio.sleep(_PAUSE)

    async def _talk(self, call: grpc.aio.StreamStreamCall, node: str, address: str, *, stay: bool) -> str:  # type: ignore[type-arg]
        facts = model_pb2.Facts(hostname=node, cpu=1, memory=1024**3, port_first=3000, port_last=4000, runtimes=["docker"])
        hello = agent_pb2.Hello(
            node_id=node, node_name=node, agent_version=__version__, protocol=1, facts=facts, cluster_id=self.cluster.cluster_id
        )
        await call.write(agent_pb2.AgentMessage(hello=hello))
        greeting = await call.read()
        if greeting == grpc.aio.EOF:  # type: ignore[attr-defined]
            return "ended"
        self.epochs.setdefault(address, set()).add(greeting.welcome.epoch)
        if stay:
            await call.write(agent_pb2.AgentMessage(inventory=agent_pb2.Inventory()))
            while await call.read() != grpc.aio.EOF:  # type: ignore[attr-defined]
                await call.write(agent_pb2.AgentMessage(heartbeat=agent_pb2.Heartbeat()))
        return "welcome"


@asynccontextmanager
async def knocking(cluster: Coordinators, count: int) -> AsyncIterator[Knocking]:
    """Have `count` agents come and go for a while. To be entered before anybody leads."""
    nodes = [str(uuid.uuid4()) for _ in range(count)]
    await cluster.know_node(*nodes)
    at_work = Knocking(cluster, nodes)
    tasks = [asyncio.create_task(at_work.knock(node, stay=number % 2 == 0)) for number, node in enumerate(nodes)]
    try:
        yield at_work
        assert not [task for task in tasks if task.done()], "one of them has ended"
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
