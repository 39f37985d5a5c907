"""The agent while its Docker Engine is away: nothing is given up, the state says what is known, and all is right afterwards."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gestalt.agent.engine import Engine
from gestalt.agent.node import start_agent
from gestalt.config import AgentSettings, DockerSettings
from gestalt.daemon import Life
from gestalt.spec.schema import AppSpec, Stop
from tests.real.agent_rig import StubCoordinator, desired, until
from tests.real.docker_lab import IMAGE, PrivateEngine, docker, in_thread, private_engine

pytestmark = pytest.mark.real

SLEEPER = AppSpec(
    path="/lab/agent/down/web",
    image=IMAGE,
    command=("/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"),
    stop=Stop(grace=1, drain=0),
)
ONE, TWO = desired(SLEEPER, 1), desired(SLEEPER, 2)


class Node:
    def __init__(self, settings: AgentSettings, docker_engine: PrivateEngine, coordinator: StubCoordinator) -> None:
        self.settings = settings
        self.docker = docker_engine
        self.coordinator = coordinator
        self.engine: Engine | None = None

    async def start(self) -> None:
        self.engine = await start_agent(self.settings, Life())

    async def stop(self) -> None:
        if self.engine is not None:
            await self.engine.stop()
            self.engine = None

    def running(self) -> list[str]:
        return docker("ps", "-q", "--no-trunc", socket=self.docker.socket).split()


@pytest.fixture
async def node(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Node]:
    coordinator = StubCoordinator(tmp_path)
    await coordinator.start()
    with private_engine(tmp_path, live_restore=request.param) as docker_engine:
        engine = DockerSettings(socket=docker_engine.socket, limit=5.0, credentials_dir=tmp_path)
        settings = coordinator.agent_settings(tmp_path, runtimes=("docker",), docker=engine, resync=1.0)
        node = Node(settings, docker_engine, coordinator)
        yield node
        await node.stop()
        await coordinator.stop()


@pytest.mark.parametrize("node", [True], indirect=True)
async def test_docker_is_away_when_the_agent_starts(node: Node) -> None:
    coordinator = node.coordinator
    coordinator.want([ONE], [SLEEPER], tell=False)
    await node.start()
    await until("it to run", lambda: coordinator.ready(ONE.id))
    before = node.running()
    await node.stop()
    await in_thread(lambda: node.docker.stop(signal.SIGKILL))
    coordinator.want([ONE, TWO], tell=False)
    await node.start()
    await until("the problem to be told", lambda: any("ocker" in problem for problem in coordinator.problems))
    await until("the new one to wait", lambda: coordinator.phase(TWO.id) == "placed")
    assert coordinator.phase(ONE.id) == "running", "what was known to run counts as running"
    assert coordinator.ready(ONE.id), "unknown is not unhealthy"
    await in_thread(node.docker.start)
    await until("the new one to run", lambda: coordinator.ready(ONE.id, TWO.id))
    await until("the problem to be over", lambda: not coordinator.problems)
    assert set(before) <= set(node.running()), "what ran was restarted"
    assert coordinator.observed[ONE.id].attempt == 1


@pytest.mark.parametrize("node", [False], indirect=True)
async def test_docker_is_stopped_with_its_containers_and_comes_back(node: Node) -> None:
    coordinator = node.coordinator
    coordinator.want([ONE], [SLEEPER], tell=False)
    await node.start()
    await until("it to run", lambda: coordinator.ready(ONE.id))
    await in_thread(node.docker.stop)
    await until("the problem to be told", lambda: any("ocker" in problem for problem in coordinator.problems))
    await in_thread(node.docker.start)
    await until("another attempt", lambda: coordinator.ready(ONE.id) and coordinator.observed[ONE.id].attempt >= 2, 30)
    assert len(node.running()) == 1
    first, *_ = (item for item in coordinator.history if item.phase in (60, 70))
    assert (first.attempt, first.HasField("exit_code")) == (1, True)
