"""What a client makes of a leader that refuses nothing and answers nothing: one that is frozen, or behind a wire that was cut."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gestalt.client import Client, Target
from gestalt.proto.v1 import api_pb2
from tests.real.coordinators_rig import Coordinators
from tests.real.relay import relay
from tests.real.test_leadership import gestaltctl, launch
from tests.real.zookeeper_lab import Ensemble, cutter
from tests.unit.coordinator.world import PATH

pytestmark = pytest.mark.real


@pytest.fixture
async def cluster(ensemble: Ensemble, tmp_path: Path) -> AsyncIterator[Coordinators]:
    cluster = Coordinators(tmp_path, ensemble)
    yield cluster
    await cluster.down()


async def test_a_call_in_flight_to_a_leader_that_froze_is_answered_by_the_next_one(cluster: Coordinators) -> None:
    leader = await cluster.up()
    notices: list[str] = []
    async with cluster.client(leader, *(index for index in range(3) if index != leader), on_notice=notices.append) as client:
        before = await client.call(lambda api: api.cluster.Status, api_pb2.StatusRequest())
        cluster.signal(leader, signal.SIGSTOP)
        reply = await client.call(lambda api: api.apps.Launch, launch(), limit=600)
        after = await client.call(lambda api: api.cluster.Status, api_pb2.StatusRequest())
    assert [task.app for task in reply.tasks] == [PATH]
    assert after.epoch > before.epoch
    assert notices[0].startswith(f"the coordinator {cluster.address(leader)} does not answer, 127.0.0.1:")


async def test_what_a_leader_without_zookeeper_remembers_yields_to_what_the_next_one_knows(ensemble: Ensemble, tmp_path: Path) -> None:
    async with cutter(int(ensemble.hosts[0].rpartition(":")[2])) as way:
        cluster = Coordinators(tmp_path, ensemble, count=2, ways={0: way.host})
        try:
            cluster.start(0)
            assert await cluster.settled() == 0
            cluster.start(1)
            await cluster.lined_up(0)
            notices: list[str] = []
            async with cluster.client(0, 1, on_notice=notices.append) as client:
                before = await client.call(lambda api: api.cluster.Status, api_pb2.StatusRequest())
                way.accepts = False
                way.cut()
                assert await cluster.settled(among=(1,)) == 1
                after = await client.call(lambda api: api.cluster.Status, api_pb2.StatusRequest())
            assert after.epoch > before.epoch
            assert [each.name for each in after.coordinators if each.leader] == ["coordinator-1"]
            assert not notices
        finally:
            await cluster.down()


async def test_a_task_is_followed_from_a_leader_that_froze_to_the_next_one(cluster: Coordinators) -> None:
    leader = await cluster.up()
    async with cluster.client() as client:
        reply = await client.call(lambda api: api.apps.Launch, launch())
        async for task in client.follow_task(reply.tasks[0].id):  # it does not end: there is no node
            assert task.state == "running"
            if len(cluster.processes) == 3:
                cluster.signal(leader, signal.SIGSTOP)
                frozen = cluster.processes.pop(leader)
                ended = await asyncio.wait_for(asyncio.to_thread(gestaltctl, cluster, "delete", PATH, "--yes"), 60)
                cluster.processes[leader] = frozen
                break
    assert ended.returncode == 0, ended.stderr


async def test_a_change_whose_answer_a_cut_wire_swallowed_is_done_once_and_answered_alike(cluster: Coordinators) -> None:
    leader = await cluster.up()
    known, request = cluster.target((leader + 1) % 3), launch()
    async with relay(cluster.address(leader)) as wire:
        target = Target([f"127.0.0.1:{wire.port}", *known.coordinators], known.ca, known.certificate, known.key)
        async with Client(target, patience=30.0) as client:
            await client.call(lambda api: api.cluster.Status, api_pb2.StatusRequest())
            wire.down.clear()
            reply = await client.call(lambda api: api.apps.Launch, request, limit=600)
            wire.cut()
            again = await client.call(lambda api: api.apps.Launch, request)
            tasks = await client.call(lambda api: api.tasks.List, api_pb2.ListTasksRequest())
    assert [task.id for task in reply.tasks] == [task.id for task in again.tasks] == [task.id for task in tasks.tasks]
