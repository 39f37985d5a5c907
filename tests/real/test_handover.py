"""What stops before its successor starts: images are on the node before anything stops. A real coordinator, agent and Docker Engine."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gestalt.agent.engine import Engine
from gestalt.agent.node import start_agent
from gestalt.config import AgentSettings, DockerSettings, ProxySettings
from gestalt.daemon import Life
from gestalt.pki import Role
from gestalt.proto.v1 import api_pb2, model_pb2
from gestalt.spec.schema import AppSpec
from gestalt.wire import spec_to_wire
from tests.real.agent_rig import until
from tests.real.coordinator_rig import Rig
from tests.real.docker_lab import docker, in_thread, make_image, remove_leftovers

pytestmark = pytest.mark.real

IMAGE = "gestalt-handover-test/busybox:1"
NEWER = "gestalt-handover-test/busybox:2"
NOBODY = "127.0.0.1:9/nobody/answers:1"
PORT = 23720
WEB, OTHER = "/org/ws/env/web", "/org/ws/env/other"


def web(image: str, **fields: object) -> AppSpec:
    base = {
        "path": WEB,
        "image": image,
        "instances": 1,
        "ports": [{"name": "http", "container_port": 80, "host_port": PORT}],
        "checks": [{"kind": "http", "port": "http", "interval": "1s", "timeout": "1s", "grace": "5s"}],
        "stop": {"grace": "1s", "drain": "0s"},
    }
    return AppSpec.model_validate(base | fields)


class Machine:
    """A coordinator, and an agent in this process with the Docker Engine of the machine."""

    def __init__(self, folder: Path, rig: Rig) -> None:
        self.rig = rig
        self.settings = AgentSettings(
            node_id=rig.node_id,
            node_name="lab",
            cluster_id=rig.cluster_id,
            coordinators=(f"127.0.0.1:{rig.port}",),
            tls=rig.tls(Role.NODE, rig.node_id),
            data_dir=folder / "data",
            run_dir=folder / "run",
            health_port=0,
            address="127.0.0.1",
            runtimes=("docker",),
            orphan_grace=0.3,
            proxy=ProxySettings(enabled=False),
            docker=DockerSettings(credentials_dir=folder),
        )
        self._engine: Engine | None = None

    async def start(self) -> None:
        self._engine = await start_agent(self.settings, Life())

    async def stop(self) -> None:
        if self._engine is not None:
            await self._engine.stop()
            self._engine = None

    async def apply(self, spec: AppSpec) -> model_pb2.Task:
        request = api_pb2.LaunchRequest(request=api_pb2.Request(id=str(uuid.uuid4())), apps=[spec_to_wire(spec)])
        reply: api_pb2.ChangeReply = await self.rig.apps().Apply(request, timeout=10)
        return reply.tasks[0]

    async def ended(self, task: model_pb2.Task) -> model_pb2.Task:
        return [item async for item in self.rig.tasks().Watch(api_pb2.GetTaskRequest(id=task.id), timeout=60)][-1]

    async def shown(self) -> api_pb2.AppReply:
        reply: api_pb2.AppReply = await self.rig.apps().Get(api_pb2.GetRequest(app=WEB), timeout=10)
        return reply

    async def instances(self) -> list[tuple[int, int]]:
        """Return serial and attempt of what is placed."""
        return [(item.serial, item.observed.attempt) for item in (await self.shown()).instances]


@pytest.fixture(scope="module", autouse=True)
def images() -> None:
    make_image(IMAGE)
    make_image(NEWER, **{"www/newer": "yes\n"})


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    rig = Rig(tmp_path)
    await rig.up()
    machine = Machine(tmp_path, rig)
    try:
        await machine.start()
        yield machine
    finally:
        await machine.stop()
        await rig.down()
        await in_thread(lambda: remove_leftovers(machine.settings))


class Load:
    """Asks again and again, and counts what went wrong."""

    def __init__(self) -> None:
        self.asked = self.failed = 0
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            self.asked += 1
            try:
                async with asyncio.timeout(2):
                    reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
                    writer.write(b"GET /index.html HTTP/1.0\r\n\r\n")
                    self.failed += b"200 OK" not in await reader.readline()
                    writer.close()
            except (OSError, TimeoutError):
                self.failed += 1
            await asyncio.sleep(0.02)  # what it waits for is nothing: so often it asks

    def end(self) -> None:
        self._task.cancel()


async def launched(machine: Machine) -> None:
    task = await machine.ended(await machine.apply(web(IMAGE)))
    assert task.state == "succeeded", task.message


@pytest.mark.parametrize(("fields", "message"), [
    ({"image": "gestalt-handover-test/none:1", "pull": {"policy": "never"}}, "the image gestalt-handover-test/none:1 is not on this node"),
    ({"image": NOBODY, "update": {"progress_deadline": "6s", "health_deadline": "6s"}}, "the registry 127.0.0.1:9 does not answer"),
    ({"image": NEWER, "volumes": [{"host_path": "/no/such/folder", "target": "/x"}]}, "there is no /no/such/folder on this node"),
])  # fmt: skip
async def test_an_update_that_cannot_start_fails_without_the_old_instance_having_been_touched(
    machine: Machine, fields: dict[str, Any], message: str
) -> None:
    await launched(machine)
    before, load = await machine.instances(), Load()
    task = await machine.ended(await machine.apply(web(**fields)))
    assert (task.state, message in task.message) == ("failed", True), task.message
    assert task.message.startswith("rolled back to version 1: ")
    await until("requests after that", lambda: load.asked > 30)
    load.end()
    assert await machine.instances() == before == [(1, 1)]
    assert load.failed == 0


async def test_an_update_waits_for_the_image_across_a_restart_of_the_agent_and_a_new_leader(machine: Machine) -> None:
    late = "gestalt-handover-test/late:1"
    await in_thread(lambda: docker("rmi", "-f", late, check=False))
    await launched(machine)
    spec = web(late, pull={"policy": "never"}, update={"auto_rollback": False})
    task = await machine.ended(await machine.apply(spec))
    assert task.state == "failed"
    assert "nothing was stopped for it" in task.message
    shown = await machine.shown()
    assert "the image gestalt-handover-test/late:1 is not on this node" in shown.app.message
    await machine.stop()
    await machine.rig.down()
    await in_thread(lambda: docker("tag", NEWER, late))
    await machine.rig.up()
    await machine.apply(AppSpec(path=OTHER, image=IMAGE))
    await machine.rig.until_shown("a later decision", lambda reply: "is not connected" in reply.app.message, OTHER)
    assert await machine.instances() == [(1, 0)]
    await machine.start()

    async def replaced() -> bool:
        shown = await machine.shown()
        return [item.version for item in shown.instances if item.observed.ready] == [2]

    await until("the new version to run", replaced)
    await in_thread(lambda: docker("rmi", "-f", late, check=False))


async def test_an_update_to_an_image_that_is_there_goes_on_at_once(machine: Machine) -> None:
    await launched(machine)
    task = await machine.ended(await machine.apply(web(NEWER)))
    assert (task.state, await machine.instances()) == ("succeeded", [(2, 1)])


async def test_a_system_app_is_replaced_on_a_node_only_when_that_has_the_image(machine: Machine) -> None:
    def system(image: str) -> AppSpec:
        return AppSpec.model_validate({"path": WEB, "kind": "system", "image": image, "pull": {"policy": "never"}, "stop": {"grace": "1s"}})

    first = await machine.ended(await machine.apply(system(IMAGE)))
    assert first.state == "succeeded", first.message
    task = await machine.ended(await machine.apply(system("gestalt-handover-test/none:1")))
    assert task.state == "failed"
    assert (
        "node lab cannot run it, and nothing was stopped for it: the image gestalt-handover-test/none:1 is not on this node" in task.message
    )
    assert await machine.instances() == [(1, 1)]
    task = await machine.ended(await machine.apply(system(NEWER)))
    assert (task.state, await machine.instances()) == ("succeeded", [(2, 1)])
