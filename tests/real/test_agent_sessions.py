"""Agents and callers that are slow, silent, gone or wrong: the coordinator keeps its wits and leaks nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
import pytest

from gestalt import __version__
from gestalt.errors import Kind
from gestalt.model import Phase
from gestalt.pki import Role
from gestalt.proto.v1 import agent_pb2, agent_pb2_grpc, api_pb2
from gestalt.wire import spec_to_wire
from tests.real.coordinator_rig import Rig, eventually, refused
from tests.real.simulated_agent import SimulatedAgent
from tests.unit.coordinator.world import PATH, spec


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    await rig.up()
    yield rig
    await rig.down()


def tracker(rig: Rig):  # type: ignore[no-untyped-def]
    assert rig.service is not None
    return rig.service.leader.tracker


@dataclass
class Session:
    """An agent that says only what the test says, and reads only when asked to."""

    rig: Rig
    node_id: str = ""
    outbox: asyncio.Queue[agent_pb2.AgentMessage] = field(default_factory=asyncio.Queue)

    async def begin(self) -> Session:
        self.node_id = self.node_id or self.rig.node_id
        stub = agent_pb2_grpc.AgentsStub(self.rig.channel(self.rig.tls(Role.NODE, self.node_id)))
        self.call = stub.Session(self._messages())
        hello = agent_pb2.Hello(node_id=self.node_id, node_name=self.node_id[:8], protocol=1, cluster_id=self.rig.cluster_id)
        hello.address, hello.agent_version = "127.0.0.1", __version__
        hello.facts.runtimes.append("docker")
        hello.facts.cpu = 64
        self.say(hello=hello)
        welcome = await self.call.read()
        assert welcome.HasField("welcome")
        return self

    def say(self, **kind: object) -> None:
        self.outbox.put_nowait(agent_pb2.AgentMessage(**kind))  # type: ignore[arg-type]

    async def _messages(self) -> AsyncIterator[agent_pb2.AgentMessage]:
        while True:
            yield await self.outbox.get()


async def test_a_second_session_before_the_inventory_of_the_first_is_refused(rig: Rig) -> None:
    first = await Session(rig).begin()
    assert (await refused(Session(rig).begin())).kind is Kind.EXISTS
    first.say(inventory=agent_pb2.Inventory())
    assert (await first.call.read()).HasField("full")


async def test_a_session_that_was_replaced_says_nothing_any_more(rig: Rig) -> None:
    first = await Session(rig).begin()
    await asyncio.sleep(1.05)  # silent for two heartbeats, not yet for three
    second = await Session(rig).begin()
    first.say(inventory=agent_pb2.Inventory())
    second.say(inventory=agent_pb2.Inventory())
    assert (await second.call.read()).HasField("full")
    await first.call.code()
    view = tracker(rig).nodes[rig.node_id]
    assert (view.connected, view.heard) == (True, True)
    assert rig.service is not None
    assert rig.service.leader.link(rig.node_id) is not None


async def test_an_agent_that_reads_nothing_loses_its_session_though_it_talks(rig: Rig) -> None:
    session = await Session(rig).begin()
    session.say(inventory=agent_pb2.Inventory())
    assert rig.service is not None
    await eventually(lambda: rig.service and rig.service.leader.link(rig.node_id), "the session stands")
    link = rig.service.leader.link(rig.node_id)
    assert link is not None
    state = agent_pb2.NodeState()
    state.routes["x"].key = "x" * 100_000
    while not link.closed.is_set():
        link.send(agent_pb2.CoordinatorMessage(full=state))
        session.say(heartbeat=agent_pb2.Heartbeat())
        await asyncio.sleep(0)
    await eventually(lambda: rig.service and rig.service.leader.link(rig.node_id) is None, "the session is over")

    async def read() -> None:
        while await session.call.read() is not grpc.aio.EOF:
            pass

    with suppress(grpc.aio.AioRpcError):  # it is cut off, unless it reads all that is under way before that
        await asyncio.wait_for(read(), 5)


async def test_of_many_nodes_that_knock_at_once_an_appliance_takes_one(rig: Rig) -> None:
    nodes = [f"{number}0000000-node" for number in range(4)]
    results = await asyncio.gather(*(Session(rig, node_id=node).begin() for node in nodes), return_exceptions=True)
    assert sum(isinstance(result, Session) for result in results) == 1


async def test_a_report_that_cannot_be_understood_ends_the_session_and_is_logged(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    agent = await rig.agent()
    await rig.outcome(await rig.launch(instances=1))
    (name,) = agent.running
    change = agent_pb2.ObservedChange()
    change.instances.add(instance=name, attempt=1)  # without a phase
    agent._outbox.put_nowait(agent_pb2.AgentMessage(observed=change))
    await agent.ended()
    assert f"the report on {name} is not valid" in caplog.text


async def test_a_reason_of_any_length_can_be_written_down(rig: Rig) -> None:
    agent = await rig.agent(broken=frozenset({"web:1"}))
    reply = await rig.launch(instances=1)
    await eventually(lambda: agent.running, "it is started")
    (seen,) = agent.running.values()
    agent.report(replace(seen, attempt=2, phase=Phase.FAILED, crash_loop=True, reason="x" * 1_000_000, log_tail=("y" * 100_000,) * 30))
    task = await rig.outcome(reply)
    assert task.state == "failed"
    assert len(task.message) < 5000


async def test_an_agent_has_no_say_in_what_is_gone_elsewhere(tmp_path: Path) -> None:
    rig = Rig(tmp_path, node_id="one-node", members=("one-node", "other-node"))
    await rig.up()
    try:
        await rig.agent()
        await rig.outcome(await rig.launch(instances=1))
        other = await Session(rig, node_id="other-node").begin()
        other.say(inventory=agent_pb2.Inventory())
        (instance,) = (await rig.get()).instances
        other.say(observed=agent_pb2.ObservedChange(gone=[instance.id]))
        other.say(event=agent_pb2.ObservedEvent(kind="marker"))
        ring = rig.service.leader.events  # type: ignore[union-attr]
        await eventually(lambda: any(event.kind == "marker" for event in ring.after("0")[0]), "all was read")
        assert (await rig.get()).app.healthy == 1
    finally:
        await rig.down()


async def test_what_went_leaves_room_and_no_memory(rig: Rig) -> None:
    await rig.agent()
    await rig.outcome(await rig.launch(instances=1, resources={"cpu": 64}))
    other = spec_to_wire(spec(instances=1, path="/org/ws/env/other", resources={"cpu": 64}, ports=[], checks=[]))
    reply = await rig.apps().Launch(api_pb2.LaunchRequest(apps=[other]))
    await rig.apps().Delete(api_pb2.AppRequest(app=PATH))
    assert (await rig.outcome(reply)).state == "succeeded"
    assert {name.split("-")[0] for name in tracker(rig).sightings} == {"other"}


@dataclass
class FloodingAgent(SimulatedAgent):
    """Answers logs with lines without end, and exec with nothing, until its stream ends or it `breaks`."""

    ended_streams: int = 0
    breaks: bool = False

    async def _bulk(self, wanted: agent_pb2.OpenBulk) -> None:
        async def outgoing() -> AsyncIterator[agent_pb2.BulkUp]:
            yield agent_pb2.BulkUp(open=wanted.id)
            while wanted.HasField("logs"):
                yield agent_pb2.BulkUp(log={"instance": wanted.logs.instance, "data": b"x" * 10_000})  # type: ignore[arg-type]
            while not self.breaks:  # noqa: ASYNC110 - a test sets it
                await asyncio.sleep(0.05)

        call = self._stub.Bulk(outgoing())
        try:
            async for _ in call:
                pass
        except grpc.aio.AioRpcError:
            pass
        self.ended_streams += 1


async def flooding(rig: Rig) -> FloodingAgent:
    agent = FloodingAgent(rig.port, rig.tls(Role.NODE, rig.node_id), rig.cluster_id, rig.node_id)
    await agent.start()
    rig.agents.append(agent)
    await rig.outcome(await rig.launch(instances=1))
    return agent


@pytest.mark.parametrize("read", [1, 100])
async def test_a_caller_that_goes_away_in_a_flood_of_lines_ends_the_agents_stream(rig: Rig, read: int) -> None:
    agent = await flooding(rig)
    for number in range(1, 4):
        call = rig.apps().Logs(api_pb2.LogsRequest(app=PATH, follow=True))
        for _ in range(read):
            await call.read()
        await asyncio.sleep(0.3)  # all buffers on the way fill up
        call.cancel()
        await eventually(lambda wanted=number: agent.ended_streams == wanted, "the agent's stream is over")
    await eventually(lambda: not left_over(), "no task is left")


def left_over() -> list[str]:
    """Return the tasks that belong to a stream of logs or exec."""
    names = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
    return [name for name in names if name in ("_upwards", "Streams._read", "_feed")]


async def test_a_caller_that_goes_away_from_a_running_command_ends_the_agents_stream(rig: Rig) -> None:
    agent = await flooding(rig)
    (instance,) = agent.running
    call = rig.apps().Exec()
    await call.write(api_pb2.ExecInput(open=api_pb2.ExecInput.Open(instance=instance, command=["cat"])))
    await call.initial_metadata()
    call.cancel()
    await eventually(lambda: agent.ended_streams == 1, "the agent's stream is over")
    await eventually(lambda: not left_over(), "no task is left")


async def test_a_command_whose_node_breaks_off_has_not_succeeded(rig: Rig) -> None:
    agent = await flooding(rig)
    (instance,) = agent.running
    call = rig.apps().Exec()
    await call.write(api_pb2.ExecInput(open=api_pb2.ExecInput.Open(instance=instance, command=["cat"])))
    await call.initial_metadata()
    agent.breaks = True

    async def read() -> None:
        async for _ in call:
            pass

    assert (await refused(read())).kind is Kind.UNAVAILABLE
