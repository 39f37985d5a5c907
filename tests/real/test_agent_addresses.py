"""Two agents on addresses of their own, as on two machines: the same host port on both, each reached through the proxy of either."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from gestalt.agent.engine import Engine
from gestalt.agent.node import start_agent
from gestalt.config import AgentSettings, ProxySettings
from gestalt.daemon import Life
from gestalt.model import DesiredInstance, HttpService, Route, Server
from gestalt.plugins.loadbalancer.haproxy import HaproxyLoadBalancer
from gestalt.spec.schema import AppSpec
from tests.real.agent_rig import StubCoordinator, desired, remove_all_of, until
from tests.real.docker_lab import in_thread, make_image, remove_leftovers
from tests.real.haproxy_lab import new_folder

pytestmark = pytest.mark.real

IMAGE = "gestalt-address-test/busybox:1"
ADDRESSES = ("127.0.0.2", "127.0.0.3")
PORT, HTTP = 23730, 23795
WEB = {
    "ports": [{"name": "web", "container_port": 80, "http": {}}],
    "checks": [{"kind": kind, "port": "web", "interval": "1s", "grace": "10s"} for kind in ("http", "tcp")],
    "stop": {"grace": "1s", "drain": "0s"},
}
CONTAINER = AppSpec.model_validate({"path": "/lab/agent/test/container", "image": IMAGE, **WEB})
SCRIPT = """cd $(mktemp -d); mkdir second; echo $GESTALT_ADDRESS | tee index.html >second/index.html
exec busybox httpd -f -p $GESTALT_ADDRESS:$PORT"""
LISTENS = {"ports": [{"name": "web", "http": {}}], "command": ["/bin/sh", "-c", SCRIPT]}
PROCESS = AppSpec.model_validate({**WEB, **LISTENS, "path": "/lab/agent/test/process", "runtime": "process"})


@dataclass
class Node:
    """An agent on one address, with a coordinator that speaks to it alone."""

    address: str
    coordinator: StubCoordinator
    settings: AgentSettings
    engine: Engine


@asynccontextmanager
async def node(folder: Path, address: str) -> AsyncIterator[Node]:
    folder.mkdir()
    coordinator = StubCoordinator(folder)
    await coordinator.start()
    settings = coordinator.agent_settings(folder, address=address, proxy=ProxySettings(bind=address, http_port=HTTP))
    engine = await start_agent(settings, Life())
    try:
        yield Node(address, coordinator, settings, engine)
        coordinator.want([replace(item, stop=True) for item in coordinator.state.instances.values()])
        await until("everything to be gone", lambda: not coordinator.observed)
    finally:
        await engine.stop()
        await coordinator.stop()
        await in_thread(lambda: remove_leftovers(settings))
        balancer = HaproxyLoadBalancer.create(settings)
        await balancer.stop()
        await balancer.close()


@pytest.fixture
async def nodes() -> AsyncIterator[list[Node]]:
    remove_all_of(IMAGE)
    make_image(IMAGE)
    folder = new_folder()
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(node(folder / address, address)) for address in ADDRESSES]
    shutil.rmtree(folder, ignore_errors=True)


async def get(address: str, port: int, path: str = "/") -> str:
    """Return the body of an answer with status 200; empty when there is none."""
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection(address, port)
            writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            answer = (await reader.read()).decode()
            writer.close()
    except (OSError, TimeoutError):
        return ""
    return answer.partition("\r\n\r\n")[2].strip() if re.match(r"HTTP/1\.\d 200 ", answer) else ""


async def test_each_node_publishes_on_its_own_address_and_is_reached_there(nodes: list[Node]) -> None:
    first, second = nodes
    wanted = [(first, desired(CONTAINER, 1, {"web": PORT}), CONTAINER), (second, desired(PROCESS, 1, {"web": PORT}), PROCESS)]
    services = [_route(item, of.address) for of, item, _ in wanted]
    for of, item, spec in wanted:
        of.coordinator.want([item], [spec], services)
    for of, item, _ in wanted:
        assert of.coordinator.hellos[0].address == of.address
        await until(f"{item.id} to be ready: its checks reach it", lambda of=of, item=item: of.coordinator.ready(item.id))  # type: ignore[misc]
    assert await get(first.address, PORT) == "hello"
    assert await get(second.address, PORT) == second.address
    assert await get("127.0.0.1", PORT) == "", "nothing is published anywhere else"
    for of in nodes:
        await until("both through its proxy", lambda of=of: _both(of.address, second.address))  # type: ignore[misc]


async def _both(proxy: str, second: str) -> bool:
    return (await get(proxy, HTTP), await get(proxy, HTTP, "/second/")) == ("hello", second)


def _route(item: DesiredInstance, address: str) -> Route:
    prefix = "/" if address == ADDRESSES[0] else "/second"
    return Route(f"{item.app}:web", item.app, "web", HttpService((), prefix), None, (Server(item.id, address, PORT, ready=True),))
