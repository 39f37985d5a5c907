"""The agent's session with a coordinator over real gRPC and mutual TLS: epochs, gaps, doubts, and life without a coordinator."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gestalt.agent.engine import Engine
from gestalt.agent.node import start_engine
from gestalt.agent.proxy import ProxyManager
from gestalt.agent.proxy_disabled import NoLoadBalancer
from gestalt.daemon import Life
from gestalt.model import NodeState
from gestalt.pki import Authority
from gestalt.proto.v1 import agent_pb2
from gestalt.spec.schema import AppSpec, Stop
from gestalt.spec.template import template_hash
from gestalt.wire import to_wire
from tests.real.agent_rig import StubCoordinator, desired, until
from tests.unit.agent.memory_runtime import MemoryRuntime, World

pytestmark = pytest.mark.real

SPEC = AppSpec(path="/lab/agent/test/web", image="web:1", stop=Stop(drain=0))
ONE, TWO = desired(SPEC, 1), desired(SPEC, 2)


@pytest.fixture
async def coordinator(tmp_path: Path) -> AsyncIterator[StubCoordinator]:
    stub = StubCoordinator(tmp_path, heartbeat=0.2)
    await stub.start()
    yield stub
    await stub.stop()


class Agent:
    """An agent in this process, on a runtime in memory; it can be stopped and started again."""

    def __init__(self, coordinator: StubCoordinator, folder: Path) -> None:
        self.settings = coordinator.agent_settings(folder, runtimes=("docker",))
        self.world = World()
        self._engine: Engine | None = None

    async def start(self) -> None:
        drivers = {"docker": MemoryRuntime(self.world)}
        self._engine = await start_engine(self.settings, Life(), drivers, ProxyManager(NoLoadBalancer()))

    async def stop(self) -> None:
        if self._engine is not None:
            await self._engine.stop()
            self._engine = None


@pytest.fixture
async def agent(coordinator: StubCoordinator, tmp_path: Path) -> AsyncIterator[Agent]:
    agent = Agent(coordinator, tmp_path)
    yield agent
    await agent.stop()


def delta(
    coordinator: StubCoordinator, base: int, revision: int, put: NodeState, drop: tuple[str, ...] = ()
) -> agent_pb2.CoordinatorMessage:
    message = agent_pb2.NodeDelta(epoch=coordinator.epoch, base=base, revision=revision, put=to_wire(put, agent_pb2.NodeState))
    message.drop_instances.extend(drop)
    return agent_pb2.CoordinatorMessage(delta=message)


async def test_introduces_itself_reports_everything_and_beats(coordinator: StubCoordinator, agent: Agent) -> None:
    coordinator.want([ONE], [SPEC], tell=False)
    await agent.start()
    await until("the instance", lambda: coordinator.phase(ONE.id) == "running")
    hello = coordinator.hellos[0]
    assert (hello.node_id, hello.cluster_id, hello.protocol, hello.address) == (coordinator.node_id, coordinator.cluster_id, 1, "127.0.0.1")
    assert hello.facts.cpu >= 1
    assert hello.facts.memory > hello.facts.memory_available > 0
    assert hello.facts.attributes["runtime.docker.version"] == "memory"
    assert list(hello.facts.runtimes) == ["docker"]
    kinds = [message.WhichOneof("kind") for message in coordinator.messages]
    assert kinds[0] == "inventory"
    await until("heartbeats", lambda: sum(message.HasField("heartbeat") for message in coordinator.messages) >= 3)
    await until("the ack", lambda: coordinator.acks)
    assert (coordinator.acks[-1].received, coordinator.acks[-1].applied) == (coordinator.state.revision,) * 2


async def test_changes_are_applied_in_order(coordinator: StubCoordinator, agent: Agent) -> None:
    coordinator.want([ONE], [SPEC], tell=False)
    await agent.start()
    await until("the first", lambda: coordinator.phase(ONE.id) == "running")
    revision = coordinator.state.revision
    coordinator.send(delta(coordinator, revision, revision + 1, NodeState(0, 0, {}, {TWO.id: TWO}, {})))
    await until("the second", lambda: coordinator.phase(TWO.id) == "running")
    coordinator.send(delta(coordinator, revision + 1, revision + 2, NodeState(0, 0), drop=(ONE.id,)))
    await until("the first to be removed", lambda: not agent.world.of(ONE.id))
    await until("the ack", lambda: coordinator.acks[-1].applied == revision + 2)
    assert len(coordinator.hellos) == 1


async def test_a_gap_ends_the_session_and_everything_is_told_anew(coordinator: StubCoordinator, agent: Agent) -> None:
    coordinator.want([ONE], [SPEC], tell=False)
    await agent.start()
    await until("the first", lambda: coordinator.phase(ONE.id) == "running")
    coordinator.state = NodeState(1, 9, {template_hash(SPEC): SPEC}, {ONE.id: ONE, TWO.id: TWO}, {})
    coordinator.send(delta(coordinator, 8, 9, NodeState(0, 0, {}, {TWO.id: TWO}, {})))
    await until("a second session", lambda: len(coordinator.hellos) == 2)
    await until("what the gap had hidden", lambda: coordinator.phase(TWO.id) == "running")
    assert agent.world.starts == {ONE.id: 1, TWO.id: 1}


async def test_a_deposed_leader_is_refused_also_after_a_restart(coordinator: StubCoordinator, agent: Agent) -> None:
    coordinator.epoch = 7
    coordinator.want([ONE], [SPEC], tell=False)
    await agent.start()
    await until("the instance", lambda: coordinator.phase(ONE.id) == "running")
    await agent.stop()
    coordinator.epoch = 6
    coordinator.want([], tell=False)
    coordinator.messages.clear()
    await agent.start()
    await until("some attempts", lambda: len(coordinator.hellos) >= 3)
    assert coordinator.hellos[-1].highest_epoch == 7
    assert coordinator.messages == [], "it told a deposed leader something"
    assert agent.world.running(ONE.id) == [1]
    coordinator.epoch = 8
    coordinator.want([ONE, TWO], tell=False)
    await until("the new leader to be followed", lambda: coordinator.phase(TWO.id) == "running")


async def test_a_message_of_another_epoch_ends_the_session(coordinator: StubCoordinator, agent: Agent) -> None:
    coordinator.epoch = 5
    coordinator.want([ONE], [SPEC], tell=False)
    await agent.start()
    await until("the instance", lambda: coordinator.phase(ONE.id) == "running")
    coordinator.send(agent_pb2.CoordinatorMessage(full=agent_pb2.NodeState(epoch=4, revision=99)))
    await until("a second session", lambda: len(coordinator.hellos) >= 2)
    assert agent.world.running(ONE.id) == [1]


async def test_goes_on_without_a_coordinator(coordinator: StubCoordinator, agent: Agent) -> None:
    coordinator.want([ONE], [SPEC], tell=False)
    await agent.start()
    await until("the instance", lambda: coordinator.phase(ONE.id) == "running")
    await coordinator.stop()
    await agent.stop()
    await agent.start()
    key = agent.world.of(ONE.id)[0].key
    agent.world.end(key, 1)
    await until("the second attempt", lambda: agent.world.running(ONE.id) == [2])
    await coordinator.start()
    await until("the report", lambda: coordinator.observed.get(ONE.id) and coordinator.observed[ONE.id].attempt == 2)


async def test_bad_items_are_told_and_do_not_spoil_the_good_ones(coordinator: StubCoordinator, agent: Agent) -> None:
    coordinator.want([ONE], [SPEC], tell=False)
    message = to_wire(coordinator.state, agent_pb2.NodeState)
    message.instances["../../etc/passwd"].id = "../../etc/passwd"
    message.instances[TWO.id].CopyFrom(message.instances[ONE.id])
    message.instances[TWO.id].id = TWO.id
    message.instances[TWO.id].template = "f" * 16
    message.templates["f" * 16].path = "no path"
    message.routes["x"].key = "x"
    await agent.start()
    await until("the session", lambda: coordinator.observed is not None and coordinator.acks)
    message.revision += 1
    coordinator.send(agent_pb2.CoordinatorMessage(full=message))
    await until("the good one", lambda: coordinator.phase(ONE.id) == "running")
    await until("the reason", lambda: coordinator.phase(TWO.id) == "failed")
    assert "template" in coordinator.observed[TWO.id].reason
    await until("three problems", lambda: len(coordinator.problems) == 3)
    assert "'../../etc/passwd'" in " ".join(coordinator.problems)
    assert len(coordinator.hellos) == 1


async def test_a_coordinator_of_another_authority_is_not_talked_to(
    coordinator: StubCoordinator, agent: Agent, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await coordinator.stop()
    ours = coordinator.authority
    coordinator.authority = Authority.ensure(tmp_path / "other", coordinator.cluster_id)
    await coordinator.start()
    coordinator.authority = ours
    await agent.start()
    await until("the refusal", lambda: "what was told last goes on" in caplog.text)
    assert coordinator.hellos == []


async def test_gone_is_told_again_in_the_next_session(coordinator: StubCoordinator, agent: Agent) -> None:
    coordinator.want([ONE], [SPEC], tell=False)
    await agent.start()
    await until("the instance", lambda: coordinator.phase(ONE.id) == "running")
    coordinator.want([desired(SPEC, 1, stop=True)])
    await until("it to be gone", lambda: ONE.id in coordinator.gone)
    coordinator.gone.clear()
    coordinator.drop_session()
    await until("it to be told again", lambda: ONE.id in coordinator.gone)
