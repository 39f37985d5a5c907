"""Coordinators of a cluster: one leads, the others refer to it, and whatever happens to it another one goes on. All of it is real."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gestalt.agent.engine import Engine
from gestalt.agent.node import start_engine
from gestalt.agent.proxy import ProxyManager
from gestalt.agent.proxy_disabled import NoLoadBalancer
from gestalt.config import AgentSettings, DockerSettings, ProxySettings
from gestalt.daemon import Life
from gestalt.errors import GestaltError, Kind
from gestalt.pki import Role
from gestalt.proto.v1 import api_pb2, api_pb2_grpc
from gestalt.rpc import decode_error
from gestalt.wire import spec_to_wire
from gestalt.zk.client import Zk
from gestalt.zk.paths import Paths
from tests.real.agent_rig import until
from tests.real.coordinators_rig import Coordinators
from tests.real.knocking import knocking
from tests.real.zookeeper_lab import Ensemble, running
from tests.unit.agent.memory_runtime import MemoryRuntime, World
from tests.unit.coordinator.world import PATH, spec

pytestmark = pytest.mark.real

CTL = (sys.executable, "-c", "from gestalt.ctl.main import main; main()")


@pytest.fixture
async def cluster(ensemble: Ensemble, tmp_path: Path) -> AsyncIterator[Coordinators]:
    cluster = Coordinators(tmp_path, ensemble)
    yield cluster
    await cluster.down()


@pytest.fixture
async def slow(ensemble: Ensemble, tmp_path: Path) -> AsyncIterator[Coordinators]:
    """Two coordinators whose sessions outlive every test: what happens soon does not happen because one ran out."""
    cluster = Coordinators(tmp_path, ensemble, count=2, session=50.0)
    yield cluster
    await cluster.down()


def launch(path: str = PATH) -> api_pb2.LaunchRequest:
    return api_pb2.LaunchRequest(
        request=api_pb2.Request(id=f"launch {path}"), apps=[spec_to_wire(spec(instances=1, path=path, ports=[], checks=[]))]
    )


async def health(cluster: Coordinators, index: int, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(cluster.channel(index))
    reply = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
    return int(reply.status)


async def test_one_leads_and_the_others_refer_to_it(cluster: Coordinators) -> None:
    leader = await cluster.up()
    standby = next(index for index in range(3) if index != leader)
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    assert [await health(cluster, index, "") for index in (leader, standby)] == [serving, serving]
    assert [await health(cluster, index, "gestalt.v1.Apps") for index in (leader, standby)] == [serving, not_serving]

    async def all_listed() -> api_pb2.StatusReply | None:
        status = await cluster.ask(leader)
        return status if isinstance(status, api_pb2.StatusReply) and len(status.coordinators) == 3 else None

    status = await until("all coordinators in the status", all_listed)
    assert status is not None
    assert {(item.name, item.address) for item in status.coordinators} == {(f"coordinator-{n}", cluster.address(n)) for n in range(3)}
    assert [item.name for item in status.coordinators if item.leader] == [f"coordinator-{leader}"]
    assert (status.mode, status.store.startswith("zookeeper 127.0.0.1:")) == ("cluster", True)


async def test_a_caller_that_knows_only_a_standby_finds_the_leader(cluster: Coordinators) -> None:
    leader = await cluster.up()
    standby = next(index for index in range(3) if index != leader)
    async with cluster.client(standby) as client:
        await client.call(lambda api: api.apps.Launch, launch())
        listed = await client.call(lambda api: api.apps.List, api_pb2.ListRequest())
        assert [app.path for app in listed.apps] == [PATH]
    async with cluster.client(standby) as client:
        with pytest.raises(GestaltError) as refused:  # and not NOT_LEADER: also what is streamed goes to the leader
            [item async for item in client.stream(lambda api: api.apps.Logs, api_pb2.LogsRequest(app="/no/such/env/app"))]
        assert refused.value.kind is Kind.NOT_FOUND


async def test_a_killed_leader_is_succeeded_and_what_was_acknowledged_is_there(cluster: Coordinators) -> None:
    leader = await cluster.up()
    notices: list[str] = []
    async with cluster.client(on_notice=notices.append) as client:
        await client.call(lambda api: api.apps.Launch, launch())
        before = await client.call(lambda api: api.cluster.Status, api_pb2.StatusRequest())
        cluster.kill(leader)
        await client.call(lambda api: api.apps.Launch, launch("/org/ws/env/second"))
        after = await client.call(lambda api: api.cluster.Status, api_pb2.StatusRequest())
        listed = await client.call(lambda api: api.apps.List, api_pb2.ListRequest())
    assert after.epoch > before.epoch
    assert {app.path for app in listed.apps} == {PATH, "/org/ws/env/second"}
    assert notices
    cluster.start(leader)
    assert await cluster.settled() != leader, "it takes its place at the end of the line"


async def watch_events(channel: grpc.aio.Channel) -> GestaltError:
    """Follow the events until the stream ends, and return how it ended."""
    try:
        async for _ in api_pb2_grpc.EventsStub(channel).Watch(api_pb2.WatchEventsRequest(follow=True)):
            pass
    except grpc.aio.AioRpcError as error:
        return decode_error(error)
    raise AssertionError("the stream ended in order")


async def test_a_leader_that_was_frozen_beyond_its_deadline_does_nothing_more(cluster: Coordinators) -> None:
    old = await cluster.up()
    async with cluster.client(old) as client:
        await client.call(lambda api: api.apps.Launch, launch())
    channel = cluster.channel(old)
    stub = api_pb2_grpc.AppsStub(channel)
    await stub.List(api_pb2.ListRequest(), timeout=10)
    following = asyncio.create_task(watch_events(channel))
    cluster.signal(old, signal.SIGSTOP)
    queued = [asyncio.ensure_future(stub.Launch(launch(f"/org/ws/env/ghost{number}"), timeout=60)) for number in range(5)]
    reads = [asyncio.ensure_future(stub.List(api_pb2.ListRequest(), timeout=60)) for _ in range(5)]
    new = await cluster.settled(among=tuple(index for index in range(3) if index != old))
    async with cluster.client(new) as client:
        await client.call(lambda api: api.apps.Launch, launch("/org/ws/env/second"))
    cluster.signal(old, signal.SIGCONT)
    await asyncio.wait_for(following, 20)
    outcomes = await asyncio.gather(*queued, *reads, return_exceptions=True)
    assert all(isinstance(outcome, grpc.aio.AioRpcError) for outcome in outcomes), "a deposed leader answered"
    assert await cluster.settled() == new
    assert "no write was answered for" in cluster.log(old)
    async with cluster.client(old) as client:
        listed = await client.call(lambda api: api.apps.List, api_pb2.ListRequest())
    assert {app.path for app in listed.apps} == {PATH, "/org/ws/env/second"}
    assert (await leader_znode(cluster))["address"] == cluster.address(new)


async def leader_znode(cluster: Coordinators) -> dict[str, object]:
    zk = await Zk.connect(cluster.ensemble.settings(cluster.root), session=5.0, name="test")
    try:
        found = await zk.get(Paths(cluster.root).leader)
        assert found is not None
        value: dict[str, object] = json.loads(found[0])
        return value
    finally:
        await zk.close()


def gestaltctl(cluster: Coordinators, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "GESTALT_CONFIG": str(cluster.context_file())}
    return subprocess.run([*CTL, *words], capture_output=True, text=True, timeout=60, env=environment, check=False)


async def test_an_operator_has_the_leader_step_down_at_once(slow: Coordinators) -> None:
    old = await slow.up()
    before = await slow.ask(old)
    assert isinstance(before, api_pb2.StatusReply)
    ended = await asyncio.wait_for(asyncio.to_thread(gestaltctl, slow, "cluster", "step-down", "--reason", "a test"), 40)
    new = 1 - old
    assert (ended.returncode, ended.stdout) == (0, f"coordinator-{new} leads now, in epoch {before.epoch + 1}\n"), ended.stderr
    assert await slow.settled() == new
    assert "alice asked for it: a test" in slow.log(old)
    async with slow.client() as client:  # repeated, as after a lost answer, it ends no other office
        reply = await client.call(lambda api: api.cluster.StepDown, api_pb2.StepDownRequest(epoch=before.epoch))
        assert reply.epoch == before.epoch
    assert await slow.settled() == new


async def test_offices_end_and_begin_while_agents_come_and_go(slow: Coordinators) -> None:
    async with knocking(slow, 10) as agents:
        leader = await slow.up()
        for _ in range(4):
            await step_down(slow, leader)
            leader = 1 - leader
            agents.outcomes.clear()
            await until("more agents", lambda: agents.outcomes["welcome"] > 10)
    assert [process.poll() for process in slow.processes.values()] == [None, None]
    by_one, by_other = agents.epochs.values()
    assert not by_one & by_other, "two coordinators welcomed agents in one epoch"
    assert all(slow.log(index).count("listening on") == 1 for index in range(2)), "an address was bound anew"


async def step_down(cluster: Coordinators, leader: int) -> None:
    """Have the leader of two step down as soon as it knows that the other one stands by; returns when that leads."""

    async def has_successor() -> bool:
        status = await cluster.ask(leader)
        return isinstance(status, api_pb2.StatusReply) and "stands by" in [item.state for item in status.coordinators]

    await until("the other one stands by", has_successor)
    async with cluster.client(leader) as client:
        await client.call(lambda api: api.cluster.StepDown, api_pb2.StepDownRequest())
    assert await cluster.settled() == 1 - leader


async def test_new_settings_count_for_the_leader_and_for_whoever_leads_next(slow: Coordinators) -> None:
    """That ended tasks beyond the new number go is seen at both."""
    leader = await slow.up()

    async def tasks_left() -> int:
        async with slow.client() as client:
            return len((await client.call(lambda api: api.tasks.List, api_pb2.ListTasksRequest())).tasks)

    async def change(name: str) -> None:
        async with slow.client() as client:
            await client.call(lambda api: api.apps.Launch, launch(name))
            await client.call(lambda api: api.apps.Delete, api_pb2.DeleteRequest(request=api_pb2.Request(id=f"delete {name}"), app=name))

    for number in range(3):
        await change(f"/tests/lead/reload/app{number}")
    assert await tasks_left() > 2
    for index in range(2):
        slow.settings_file(index).with_suffix(".d").mkdir()
        (slow.settings_file(index).with_suffix(".d") / "10-site.yaml").write_text("task_retention: 2\n")
        slow.signal(index, signal.SIGHUP)
    await change("/tests/lead/reload/last")
    await until("the leader keeps two tasks", lambda: has(tasks_left, 2))
    await step_down(slow, leader)
    await change("/tests/lead/reload/after")
    await until("the next leader keeps two tasks", lambda: has(tasks_left, 2))


async def has(count: Callable[[], Awaitable[int]], wanted: int) -> bool:
    return await count() == wanted


async def test_a_leader_that_is_stopped_hands_over_at_once(slow: Coordinators) -> None:
    old = await slow.up()
    assert await slow.stop(old) == 0
    assert await slow.settled() == 1 - old
    async with slow.client() as client:
        with pytest.raises(GestaltError, match="no other coordinator stands by") as refused:
            await client.call(lambda api: api.cluster.StepDown, api_pb2.StepDownRequest())
    assert refused.value.kind is Kind.REFUSED


async def test_a_candidacy_that_somebody_removed_is_made_anew(slow: Coordinators) -> None:
    leader = await slow.up()
    zk = await Zk.connect(slow.ensemble.settings(slow.root), session=5.0, name="test")
    try:
        election = Paths(slow.root).election

        async def both() -> list[str]:
            names = sorted(await zk.children(election))
            return names if len(names) == 2 else []

        line = await both()
        await zk.delete(f"{election}/{line[-1]}")

        async def two_again() -> list[str]:
            names = await both()
            return names if names[:1] == line[:1] else []

        assert await until("the candidacy", two_again) != line
    finally:
        await zk.close()
    assert await slow.settled() == leader


@pytest.fixture
async def agent(cluster: Coordinators, tmp_path: Path) -> AsyncIterator[AgentSettings]:
    """A real agent on a runtime in memory; it runs until the test ends."""
    node = "11111111-0000-4000-8000-000000000001"
    settings = AgentSettings(
        node_id=node,
        node_name="lab",
        cluster_id=cluster.cluster_id,
        coordinators=tuple(cluster.addresses),
        tls=cluster.tls(Role.NODE, node),
        data_dir=tmp_path / "agent",
        run_dir=tmp_path / "run",
        health_port=0,
        runtimes=("docker",),
        proxy=ProxySettings(enabled=False),
        docker=DockerSettings(credentials_dir=tmp_path),
    )
    await cluster.know_node(node)
    engine: Engine = await start_engine(settings, Life(), {"docker": MemoryRuntime(World())}, ProxyManager(NoLoadBalancer()))
    yield settings
    await engine.stop()


@pytest.mark.usefixtures("agent")
async def test_an_agent_follows_the_leader_away_from_one_that_has_fallen_silent(cluster: Coordinators) -> None:
    old = await cluster.up()

    async def with_node(*indices: int) -> bool:
        async with cluster.client(*indices) as client:
            nodes = await client.call(lambda api: api.nodes.List, api_pb2.ListNodesRequest())
            return any(node.agent_version for node in nodes.nodes)  # known from its hello only

    await until("the agent's session", lambda: with_node(old), 30)
    cluster.signal(old, signal.SIGSTOP)  # its connections stay open, and say nothing: as those of a machine that is gone
    others = tuple(index for index in range(3) if index != old)
    new = await cluster.settled(among=others)
    await until("the agent's session with the new leader", lambda: with_node(new), 30)
    cluster.kill(new)
    cluster.signal(old, signal.SIGCONT)
    last = await cluster.settled()
    await until("the agent's session with the last leader", lambda: with_node(last), 30)


async def test_without_zookeeper_questions_are_answered_with_their_age_and_changes_refused(tmp_path: Path) -> None:
    with running() as ensemble:
        cluster = Coordinators(tmp_path, ensemble)
        try:
            await cluster.up()
            async with cluster.client() as client:
                await client.call(lambda api: api.apps.Launch, launch())
            await asyncio.to_thread(ensemble.kill, 0)
            await until("the answer with its age", lambda: from_memory(cluster), 30)
            async with cluster.client(patience=2.0) as client:
                with pytest.raises(GestaltError, match="nothing can be changed now: ZooKeeper has not been reached for") as refused:
                    await client.call(lambda api: api.apps.Launch, launch("/org/ws/env/second"))
            assert refused.value.kind is Kind.NOT_LEADER
            ensemble.start(0)
            await cluster.settled()
            async with cluster.client() as client:
                status = await client.call(lambda api: api.cluster.Status, api_pb2.StatusRequest())
                assert not [problem for problem in status.problems if "ZooKeeper" in problem]
                await client.call(lambda api: api.apps.Launch, launch("/org/ws/env/second"))
        finally:
            await cluster.down()


async def from_memory(cluster: Coordinators) -> bool:
    """Return whether the status is answered with its age, and the list of apps, too, with a notice."""
    notices: list[str] = []
    async with cluster.client(patience=5.0, on_notice=notices.append) as client:
        try:
            status = await client.call(lambda api: api.cluster.Status, api_pb2.StatusRequest())
            listed = await client.call(lambda api: api.apps.List, api_pb2.ListRequest())
        except GestaltError:
            return False
    told = any("ZooKeeper has not been reached for" in problem for problem in status.problems)
    return told and [app.path for app in listed.apps] == [PATH] and any("this is what was known" in notice for notice in notices)
