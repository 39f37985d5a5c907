"""Coordinators promise to leave holders alone unless they lead, with ZooKeeper and without; each a process of its own."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable
from pathlib import Path

import pytest

from gestalt.errors import GestaltError, Kind
from gestalt.pki import Role
from gestalt.proto.v1 import agent_pb2, agent_pb2_grpc
from tests.real.coordinator_rig import refused
from tests.real.coordinators_rig import Coordinators
from tests.real.zookeeper_lab import running, until

pytestmark = pytest.mark.real

NODE = str(uuid.uuid4())


def call(cluster: Coordinators, index: int, role: Role = Role.NODE, name: str = NODE, number: int = 4) -> Awaitable[agent_pb2.PromiseReply]:
    stub = agent_pb2_grpc.PromisesStub(cluster.channel(index, role, name))
    answer: Awaitable[agent_pb2.PromiseReply] = stub.Promise(agent_pb2.PromiseRequest(node_id=NODE, incarnation=number), timeout=10)
    return answer


async def test_nobody_promises_while_one_leads_and_all_do_when_nobody_can(tmp_path: Path) -> None:
    with running() as ensemble:
        cluster = Coordinators(tmp_path, ensemble, count=2)
        try:
            leader = await cluster.up()
            standby = 1 - leader
            for index in (standby, leader):  # a standby, too: who asks may not know the leader
                reply = await call(cluster, index)
                assert (reply.promised, reply.seconds) == (False, 0.0)
                assert "leads" in reply.reason
            for wrong in (call(cluster, standby, Role.USER), call(cluster, standby, name="other"), call(cluster, standby, number=0)):
                error: GestaltError = await refused(wrong)
                assert error.kind is Kind.UNAUTHENTICATED
            await asyncio.to_thread(ensemble.kill, 0)

            async def all_promise() -> bool:
                replies = await asyncio.gather(*(call(cluster, index) for index in (leader, standby)))
                return all(item.promised and item.seconds == 11.0 for item in replies)

            await until("all to promise, as nobody leads", all_promise)
        finally:
            await cluster.down()
