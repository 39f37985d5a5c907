"""The agent and its fence: what the agent tells a coordinator of the node's membership, and that it says so when the fence is gone."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gestalt.agent.engine import Engine
from gestalt.agent.fence_link import SILENT
from gestalt.agent.node import start_engine
from gestalt.agent.proxy import ProxyManager
from gestalt.agent.proxy_disabled import NoLoadBalancer
from gestalt.daemon import Life
from gestalt.zk.client import Zk
from tests.real.agent_rig import StubCoordinator, until
from tests.real.fence_rig import NODE, Rig, machine
from tests.real.zookeeper_lab import Ensemble
from tests.unit.agent.memory_runtime import MemoryRuntime, World

pytestmark = pytest.mark.real


@pytest.fixture
async def rig(ensemble: Ensemble) -> AsyncIterator[Rig]:
    servers = ensemble.settings()
    zk = await Zk.connect(servers, session=10.0, name="test")
    async with machine(servers, zk) as rig:
        yield rig
    await zk.close()


@pytest.fixture
async def coordinator(tmp_path: Path) -> AsyncIterator[StubCoordinator]:
    stub = StubCoordinator(tmp_path, heartbeat=0.2)
    stub.node_id = NODE
    await stub.start()
    yield stub
    await stub.stop()


async def start_agent(coordinator: StubCoordinator, rig: Rig, folder: Path) -> Engine:
    settings = coordinator.agent_settings(folder, runtimes=("docker",)).model_copy(update={"fence": rig.settings.socket})
    return await start_engine(settings, Life(), {"docker": MemoryRuntime(World())}, ProxyManager(NoLoadBalancer()))


async def test_a_new_incarnation_is_told_in_a_new_session(rig: Rig, coordinator: StubCoordinator, tmp_path: Path) -> None:
    rig.start()
    await rig.member()
    agent = await start_agent(coordinator, rig, tmp_path)
    await until("a hello with the incarnation", lambda: [hello.incarnation for hello in coordinator.hellos][-1:] == [1])
    await rig.member(lambda value, _: value["agent"] == "running")
    rig.send(signal.SIGSTOP)
    await rig.gone()
    rig.send(signal.SIGCONT)
    await until("a hello with the next one", lambda: coordinator.hellos[-1].incarnation == 2)
    await agent.stop()
    await rig.member(lambda value, _: value["agent"] == "down")


async def test_a_fence_that_is_gone_is_a_problem_but_no_end_of_the_session(rig: Rig, coordinator: StubCoordinator, tmp_path: Path) -> None:
    rig.start()
    await rig.member()
    agent = await start_agent(coordinator, rig, tmp_path)
    await until("a hello with the incarnation", lambda: bool(coordinator.hellos) and coordinator.hellos[-1].incarnation == 1)
    sessions = len(coordinator.hellos)
    rig.kill()
    await until("the problem", lambda: SILENT in coordinator.problems)
    rig.start()
    await until("the end of the problem", lambda: SILENT not in coordinator.problems)
    assert len(coordinator.hellos) == sessions
    await agent.stop()
