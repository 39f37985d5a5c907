"""The agent while its Docker Engine hangs: it starts, serves what needs no Docker, and ends in time; what Docker runs is as it was."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gestalt.config import DockerSettings
from gestalt.plugins.runtime.process import ProcessRuntime
from gestalt.spec.schema import AppSpec, Stop
from tests.real.agent_rig import AgentProcess, StubCoordinator, desired, until
from tests.real.docker_lab import IMAGE, PrivateEngine, docker, in_thread, private_engine

pytestmark = pytest.mark.real

START_LIMIT = 8.0
"""Seconds to READY: 4 of them are the agent's patience with runtimes, the rest is for a busy machine."""
END_LIMIT = 3.0
FOREVER = ("/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done")
WEB = AppSpec(path="/lab/agent/hangs/web", image=IMAGE, command=FOREVER, stop=Stop(grace=1, drain=0))
JOB = AppSpec(path="/lab/agent/hangs/job", runtime="process", command=FOREVER, stop=Stop(grace=1, drain=0))
WEB_1, WEB_2 = desired(WEB, 1), desired(WEB, 2)
JOB_1, JOB_2 = desired(JOB, 1), desired(JOB, 2)


@dataclass
class Node:
    docker: PrivateEngine
    coordinator: StubCoordinator
    agent: AgentProcess

    async def start(self) -> None:
        """Start the agent; it has to be ready in time."""
        before = self.agent.log().count("gestalt-agent is ready")
        await in_thread(self.agent.start)
        await until("READY", lambda: self.agent.log().count("gestalt-agent is ready") > before, START_LIMIT)

    async def end(self) -> None:
        """Stop the agent; it has to end in order and in time."""
        began = time.monotonic()
        assert await in_thread(self.agent.end) == 0, self.agent.log()[-3000:]
        assert time.monotonic() - began < END_LIMIT, self.agent.log()[-3000:]

    def running(self) -> set[str]:
        return set(docker("ps", "-q", "--no-trunc", socket=self.docker.socket).split())


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    coordinator = StubCoordinator(tmp_path)
    await coordinator.start()
    with private_engine(tmp_path) as engine:
        limited = DockerSettings(socket=engine.socket, limit=60.0, credentials_dir=tmp_path)
        settings = coordinator.agent_settings(tmp_path, runtimes=("docker", "process"), docker=limited, resync=1.0)
        node = Node(engine, coordinator, AgentProcess(settings, tmp_path))
        try:
            yield node
        finally:
            engine.send(signal.SIGCONT)
            await in_thread(lambda: node.agent.end(signal.SIGKILL))
            runtime = ProcessRuntime.create(settings)
            for status in await runtime.list():
                await runtime.remove(status.key)
            await runtime.close()
            await coordinator.stop()


async def test_docker_hangs_when_the_agent_starts(node: Node) -> None:
    coordinator = node.coordinator
    coordinator.want([WEB_1, JOB_1], [WEB, JOB], tell=False)
    await node.start()
    await until("both to run", lambda: coordinator.ready(WEB_1.id, JOB_1.id))
    before, job = node.running(), coordinator.observed[JOB_1.id].runtime_id
    await node.end()
    node.docker.send(signal.SIGSTOP)
    coordinator.want([WEB_1, WEB_2, JOB_1, JOB_2], tell=False)
    coordinator.observed.clear()
    coordinator.history.clear()
    for _ in range(2):
        sessions = len(coordinator.hellos)
        await node.start()
        await until("a session", lambda sessions=sessions: len(coordinator.hellos) > sessions, 2)
        await until("what needs no Docker", lambda: coordinator.ready(JOB_1.id, JOB_2.id), 5)
        await until("the rest to be told", lambda: coordinator.phase(WEB_2.id) == "placed")
        assert list(coordinator.facts.runtimes) == ["process"]
        assert coordinator.facts.memory > 0
        assert coordinator.ready(WEB_1.id), "unknown is not unhealthy"
        await node.end()
    assert {item.attempt for item in coordinator.history if item.instance == WEB_1.id} <= {1}
    assert all(item.ready for item in coordinator.history if item.instance == WEB_1.id), coordinator.history
    await node.start()
    node.docker.send(signal.SIGCONT)
    await until("the new one to run", lambda: coordinator.ready(WEB_1.id, WEB_2.id))
    await until("Docker to be offered", lambda: list(coordinator.facts.runtimes) == ["docker", "process"])
    assert before < node.running(), "what ran was restarted"
    assert (coordinator.observed[WEB_1.id].attempt, coordinator.observed[JOB_1.id].runtime_id) == (1, job)
    assert coordinator.problems == []
    await node.end()
    assert "Traceback" not in node.agent.log(), node.agent.log()[-3000:]


async def test_the_agent_ends_while_calls_of_docker_hang(node: Node) -> None:
    coordinator = node.coordinator
    coordinator.want([WEB_1], [WEB], tell=False)
    await node.start()
    await until("it to run", lambda: coordinator.ready(WEB_1.id))
    before = node.running()
    node.docker.send(signal.SIGSTOP)
    coordinator.want([WEB_1, WEB_2])
    await until("a call to hang", lambda: coordinator.phase(WEB_2.id) == "starting")
    await node.end()
    assert "Traceback" not in node.agent.log(), node.agent.log()[-3000:]
    node.docker.send(signal.SIGCONT)
    await node.start()
    await until("the new one to run", lambda: coordinator.ready(WEB_1.id, WEB_2.id))
    assert before < node.running()
    assert len(node.running()) == 2
    assert coordinator.observed[WEB_1.id].attempt == 1
