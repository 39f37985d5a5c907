"""What many of these tests begin with. A fixture of the same name in a module takes the place of one here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gestalt.config import AgentSettings
from gestalt.plugins.runtime.docker import DockerRuntime
from tests.cluster.lab.nodes import Node, down, up
from tests.real import docker_lab, zookeeper_lab
from tests.real.ctl_server import CtlServer
from tests.real.members_rig import Members
from tests.real.zookeeper_lab import Ensemble


@pytest.fixture(scope="module")
def ensemble() -> Iterator[Ensemble]:
    """One server of ZooKeeper."""
    with zookeeper_lab.running() as started:
        yield started


@pytest.fixture
async def node(request: pytest.FixtureRequest) -> AsyncIterator[Node]:
    """One lab node that systemd runs, without a network; of the module's own."""
    group = request.module.__name__.rpartition(".")[2].removeprefix("test_").replace("_", "-")
    (node,) = await up(1, group=group, network=False)
    yield node
    await down(group)


@pytest.fixture
async def members(ensemble: Ensemble, tmp_path: Path) -> AsyncIterator[Members]:
    """A coordinator that leads a cluster without nodes."""
    rig = Members(tmp_path, ensemble=ensemble)
    await rig.up()
    yield rig
    await rig.down()


@pytest.fixture(scope="module")
def ctl_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CtlServer]:
    started = CtlServer(tmp_path_factory.mktemp("ctl"))
    yield started
    started.close()


@pytest.fixture
def server(ctl_server: CtlServer) -> CtlServer:
    """What gestaltctl talks to, with the world that it begins with."""
    ctl_server.reset()
    return ctl_server


@pytest.fixture(scope="module")
def image() -> str:
    """The smallest image that containers run from, by its name."""
    return docker_lab.make_image()


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[AgentSettings]:
    """Settings of a node that nobody else is; its containers and volumes are removed in the end."""
    settings = docker_lab.settings_for(tmp_path)
    yield settings
    docker_lab.remove_leftovers(settings)


@pytest.fixture
async def runtime(settings: AgentSettings) -> AsyncIterator[DockerRuntime]:
    """The driver of that node, on the machine's own Engine."""
    runtime = DockerRuntime.create(settings)
    await runtime.start()
    yield runtime
    await runtime.close()
