"""The agent with the real Docker Engine and HAProxy: what is wanted comes up, is watched, survives the agent, and goes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from gestalt.agent.engine import Engine
from gestalt.agent.node import start_agent
from gestalt.config import AgentSettings, ProxySettings
from gestalt.daemon import Life
from gestalt.model import HttpService, Route, Server
from gestalt.plugins.loadbalancer.haproxy import HaproxyLoadBalancer
from gestalt.proto.v1 import agent_pb2, api_pb2
from gestalt.spec.schema import AppSpec, Check, Port, Restart, Stop
from tests.real.agent_rig import StubCoordinator, desired, remove_all_of, until
from tests.real.docker_lab import docker, in_thread, make_image, remove_leftovers

pytestmark = pytest.mark.real

IMAGE = "gestalt-agent-test/busybox:1"
FAST = Check(name="web", kind="http", port="web", interval=1.0, timeout=1.0, grace=5.0, failures=3)
PORT = 23710
HTTP = 23790


@pytest.fixture(scope="module", autouse=True)
def image() -> str:
    remove_all_of(IMAGE)
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
    proxy = ProxySettings(bind="127.0.0.1", http_port=HTTP)
    settings = coordinator.agent_settings(tmp_path, runtimes=("docker",), proxy=proxy)
    node = Node(settings)
    await node.start()
    yield node
    coordinator.want([replace(item, stop=True) for item in coordinator.state.instances.values()])
    await until("everything to be gone", lambda: not coordinator.observed)
    await node.stop()
    await in_thread(lambda: remove_leftovers(settings))
    balancer = HaproxyLoadBalancer.create(settings)
    await balancer.stop()
    await balancer.close()


def web(**fields: object) -> AppSpec:
    return AppSpec.model_validate(
        {
            "path": "/lab/agent/test/web",
            "image": IMAGE,
            "ports": (Port(name="web", container_port=80, http={"path_prefix": "/"}),),
            "checks": (FAST,),
            "stop": Stop(grace=1.0, drain=1.0),
            **fields,
        }
    )


def shell(script: str, **fields: object) -> AppSpec:
    return web(**{"command": ("/bin/sh", "-c", script), "ports": (), "checks": ()} | fields)


def route(spec: AppSpec, *serials: int) -> Route:
    servers = tuple(Server(desired(spec, serial, {"web": PORT}).id, "127.0.0.1", PORT + serial) for serial in serials)
    return Route(f"{spec.path}:web", spec.path, "web", HttpService((), "/"), None, servers)


def containers(coordinator: StubCoordinator) -> list[str]:
    return docker("ps", "-aq", "--no-trunc", "--filter", f"label=gestalt.cluster={coordinator.cluster_id}").split()


async def get(port: int) -> bytes:
    """Return the answer to one request; empty when nobody answers."""
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            answer = await reader.read()
            writer.close()
            return answer
    except (OSError, TimeoutError):
        return b""


async def answers(port: int) -> bool:
    return b"200" in (await get(port)).split(b"\r\n")[0]


async def test_comes_up_behind_the_proxy_is_adopted_and_goes(coordinator: StubCoordinator, node: Node) -> None:
    spec = web()
    one, two = (desired(spec, serial, {"web": PORT + serial}) for serial in (1, 2))
    coordinator.want([one, two], [spec], [route(spec, 1, 2)])
    await until("both to be ready", lambda: coordinator.ready(one.id, two.id))
    await until("an answer through HAProxy", lambda: answers(HTTP))
    seen = coordinator.observed[one.id]
    assert (seen.attempt, coordinator.phase(one.id), seen.restarts) == (1, "running", 0)
    assert [check.name for check in seen.checks] == ["web"]
    before = containers(coordinator)

    await node.stop()
    assert await answers(HTTP), "the load balancer ended with the agent"
    await node.start()
    await until("both to be adopted", lambda: len(coordinator.hellos) == 2 and coordinator.ready(one.id, two.id))
    assert containers(coordinator) == before
    assert await answers(HTTP)

    coordinator.want([desired(spec, serial, {"web": PORT + serial}, stop=True) for serial in (1, 2)], [spec], [])
    await until("both to be gone", lambda: {one.id, two.id} <= coordinator.gone)
    assert containers(coordinator) == []


async def test_a_killed_container_is_replaced(coordinator: StubCoordinator, node: Node) -> None:
    spec = web()
    one = desired(spec, 1, {"web": PORT + 1})
    coordinator.want([one], [spec])
    await until("it to be ready", lambda: coordinator.ready(one.id))
    docker("kill", *containers(coordinator))
    await until("the second attempt", lambda: coordinator.ready(one.id) and coordinator.observed[one.id].attempt == 2)
    seen = coordinator.observed[one.id]
    assert seen.restarts == 1
    [failed] = [item for item in coordinator.history if item.instance == one.id and item.phase == 70]
    assert (failed.exit_code, failed.reason) == (137, "was ended by signal 9")
    await until("the first one to be removed", lambda: len(containers(coordinator)) == 1)


async def test_a_crash_loop_says_its_last_words(coordinator: StubCoordinator, node: Node) -> None:
    spec = shell("echo broken: no config; exit 3", restart=Restart(backoff=0.05, backoff_max=60, crash_loop=3, window=60))
    one = desired(spec, 1)
    coordinator.want([one], [spec])
    await until("the verdict", lambda: one.id in coordinator.observed and coordinator.observed[one.id].crash_loop)
    seen = await until("the back-off", lambda: next((item for item in coordinator.observed.values() if item.back_off > 1), None))
    assert (seen.exit_code, list(seen.log_tail), seen.attempt) == (3, ["broken: no config"], 3)
    assert 0 < seen.back_off <= 60
    assert len(containers(coordinator)) == 1


async def test_out_of_memory_is_told_apart(coordinator: StubCoordinator, node: Node) -> None:
    script = "tail -c 200m /dev/zero | tail -c 200m >/dev/null; exit 1"
    spec = shell(script, resources={"memory": "16MiB"}, restart=Restart(policy="never"))
    one = desired(spec, 1)
    coordinator.want([one], [spec])
    await until("its end", lambda: coordinator.phase(one.id) == "failed")
    assert coordinator.observed[one.id].oom_killed, coordinator.observed[one.id]
    assert "memory" in coordinator.observed[one.id].reason


async def test_an_absent_image_and_a_taken_port_are_told(coordinator: StubCoordinator, node: Node) -> None:
    absent = web(path="/lab/agent/test/absent", image="gestalt-agent-test/absent:1", pull={"policy": "never"})
    spec = web()
    with socket.create_server(("127.0.0.1", PORT + 2)):
        one, two = desired(absent, 1, {"web": PORT + 1}), desired(spec, 2, {"web": PORT + 2})
        coordinator.want([one, two], [absent, spec])
        await until("both to fail", lambda: coordinator.phase(one.id) == coordinator.phase(two.id) == "failed")
    assert "gestalt-agent-test/absent:1" in coordinator.observed[one.id].reason
    assert str(PORT + 2) in coordinator.observed[two.id].reason
    await until("the port to be free and used", lambda: coordinator.ready(two.id))


async def test_a_check_that_hangs_restarts_what_does_not_answer(coordinator: StubCoordinator, node: Node) -> None:
    hangs = FAST.model_copy(update={"grace": 0.0, "interval": 0.3, "timeout": 0.2, "failures": 2})
    spec = web(command=("/bin/sh", "-c", "exec nc -ll -p 80 -e sleep 1000"), checks=(hangs,))
    one = desired(spec, 1, {"web": PORT + 1})
    coordinator.want([one], [spec])
    await until("a restart", lambda: one.id in coordinator.observed and coordinator.observed[one.id].attempt >= 2)
    stopped, *_ = (item for item in coordinator.history if item.phase == 50)
    assert stopped.reason.startswith("check web failed 2 times in a row"), stopped.reason
    assert not any(item.ready for item in coordinator.history)


async def test_orphans_are_removed_and_foreign_containers_are_not(coordinator: StubCoordinator, node: Node) -> None:
    spec = shell("while :; do sleep 1; done")
    one, two = desired(spec, 1), desired(spec, 2)
    foreign = docker("run", "-d", "--label", "gestalt.cluster=someone-else", "--label", f"gestalt.instance={one.id}", IMAGE)
    try:
        coordinator.want([one, two], [spec])
        await until("both to run", lambda: coordinator.ready(one.id, two.id))
        await node.stop()
        coordinator.want([one], [spec], tell=False)
        await node.start()
        await until("the orphan to be removed", lambda: len(containers(coordinator)) == 1)
        assert coordinator.observed[one.id].attempt == 1
        assert docker("inspect", "-f", "{{.State.Running}}", foreign) == "true"
    finally:
        docker("rm", "-f", foreign)


async def test_logs_and_commands(coordinator: StubCoordinator, node: Node) -> None:
    spec = shell("echo first; echo second >&2; while :; do sleep 1; done")
    one = desired(spec, 1)
    coordinator.want([one], [spec])
    await until("it to run", lambda: coordinator.ready(one.id))

    coordinator.send(agent_pb2.CoordinatorMessage(open=agent_pb2.OpenBulk(id="l", logs=api_pb2.LogsRequest(instance=one.id))))
    logs = await until("the stream", lambda: coordinator.streams.get("l"))
    await until("its end", logs.ended.is_set)
    assert b"".join(item.log.data for item in logs.up if not item.log.stderr) == b"first\n"
    assert b"".join(item.log.data for item in logs.up if item.log.stderr) == b"second\n"

    wanted = api_pb2.ExecInput.Open(instance=one.id, command=["/bin/sh", "-c", "cat; exit 5"])
    coordinator.send(agent_pb2.CoordinatorMessage(open=agent_pb2.OpenBulk(id="x", exec=wanted)))
    stream = await until("the command", lambda: coordinator.streams.get("x"))
    stream.down.put_nowait(agent_pb2.BulkDown(input=api_pb2.ExecInput(stdin=b"typed")))
    stream.down.put_nowait(agent_pb2.BulkDown(input=api_pb2.ExecInput(stdin_closed=True)))
    await until("its end", stream.ended.is_set)
    assert b"".join(item.output.stdout for item in stream.up) == b"typed"
    assert stream.up[-1].output.exit_code == 5

    absent = api_pb2.LogsRequest(instance="web-000000-9")
    coordinator.send(agent_pb2.CoordinatorMessage(open=agent_pb2.OpenBulk(id="n", logs=absent)))
    nothing = await until("the refusal", lambda: coordinator.streams.get("n"))
    await until("its end", nothing.ended.is_set)
    assert nothing.up[-1].error.kind == "not_found"


async def test_following_logs_ends_when_the_caller_hangs_up(coordinator: StubCoordinator, node: Node) -> None:
    spec = shell("i=0; while :; do i=$((i+1)); echo line $i; sleep 0.1; done")
    one = desired(spec, 1)
    coordinator.want([one], [spec])
    await until("it to run", lambda: coordinator.ready(one.id))
    wanted = api_pb2.LogsRequest(instance=one.id, follow=True, tail=1)
    coordinator.send(agent_pb2.CoordinatorMessage(open=agent_pb2.OpenBulk(id="f", logs=wanted)))
    stream = await until("the stream", lambda: coordinator.streams.get("f"))
    await until("some lines", lambda: len(stream.up) >= 3)
    stream.down.put_nowait(None)
    await until("the agent to let go", stream.ended.is_set)
    await until("the task to end", lambda: "bulk f" not in {task.get_name() for task in asyncio.all_tasks()})
