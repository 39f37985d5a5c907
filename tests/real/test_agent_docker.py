"""The agent with the real Docker Engine: what the coordinator wants comes up, is watched, survives the agent, and goes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gestalt.agent.engine import Engine
from gestalt.agent.node import start_agent
from gestalt.config import AgentSettings
from gestalt.daemon import Life
from gestalt.spec.schema import AppSpec, Check, Port, Stop
from tests.real.agent_rig import StubCoordinator, desired, until
from tests.real.docker_lab import docker, make_image, remove_leftovers

pytestmark = pytest.mark.real

IMAGE = "gestalt-agent-test/busybox:1"
FAST = Check(name="web", kind="http", port="web", interval=0.2, timeout=0.5, grace=5.0, failures=2)
PORT = 23710


@pytest.fixture(scope="module", autouse=True)
def image() -> str:
    return make_image(IMAGE)


@pytest.fixture
async def coordinator(tmp_path: Path) -> AsyncIterator[StubCoordinator]:
    stub = StubCoordinator(tmp_path)
    await stub.start()
    yield stub
    await stub.stop()


class Node:
    """An agent in this process that can be started again on the same disk."""

    def __init__(self, settings: AgentSettings) -> None:
        self.settings = settings
        self.engine: Engine | None = None

    async def start(self) -> None:
        self.engine = await start_agent(self.settings, Life())

    async def stop(self) -> None:
        if self.engine is not None:
            await self.engine.stop()
            self.engine = None


@pytest.fixture
async def node(coordinator: StubCoordinator, tmp_path: Path) -> AsyncIterator[Node]:
    settings = coordinator.agent_settings(tmp_path, runtimes=("docker",))
    node = Node(settings)
    await node.start()
    yield node
    await node.stop()
    remove_leftovers(settings)


def web(**fields: object) -> AppSpec:
    return AppSpec.model_validate(
        {
            "path": "/lab/agent/test/web",
            "image": IMAGE,
            "ports": (Port(name="web", container_port=80),),
            "checks": (FAST,),
            "stop": Stop(grace=1.0, drain=0.0),
            **fields,
        }
    )


def shell(script: str, **fields: object) -> AppSpec:
    return web(**{"command": ("/bin/sh", "-c", script), "ports": (), "checks": ()} | fields)


async def test_comes_up_is_reported_and_goes(coordinator: StubCoordinator, node: Node) -> None:
    spec = web()
    one = desired(spec, 1, {"web": PORT})
    coordinator.want([one], [spec])
    await until("the instance to be ready", lambda: coordinator.ready(one.id))
    seen = coordinator.observed[one.id]
    assert (seen.attempt, coordinator.phase(one.id)) == (1, "running")
    assert [check.name for check in seen.checks] == ["web"]
    assert [item.phase for item in coordinator.history if item.instance == one.id][-1] == seen.phase
    await until("the acknowledgement", lambda: coordinator.acks and coordinator.acks[-1].applied == coordinator.state.revision)
    coordinator.want([desired(spec, 1, {"web": PORT}, stop=True)])
    await until("the instance to be gone", lambda: one.id in coordinator.gone)
    assert docker("ps", "-aq", "--filter", f"label=gestalt.cluster={coordinator.cluster_id}") == ""
