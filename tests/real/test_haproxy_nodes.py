"""Servers on several nodes, one of which dies or vanishes without a word: no GET fails, and slow ones are bounded."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from gestalt import shell
from gestalt.clock import monotonic

from .haproxy_lab import Backend, OpenLoop, free_port, http_route, lab, request, start_backend, tcp_route, until

pytestmark = pytest.mark.real

_NAMES = "gestalt-node-"
_SUBNET = "198.18.77"  # for tests of networks (RFC 2544): nobody routes it


@dataclass
class FarNode:
    """A network namespace with an address that this one reaches."""

    name: str
    address: str = f"{_SUBNET}.2"

    async def start(self, name: str, delay: float = 0.0) -> Backend:
        return await start_backend(name, delay, self.address, ("ip", "netns", "exec", self.name))

    async def vanish(self) -> None:
        """Drop every packet from and to it: no answer, no refusal, no reset."""
        rules = "table inet gone { chain i { type filter hook input priority 0; policy drop; }; "
        rules += "chain o { type filter hook output priority 0; policy drop; }; }"
        await _succeed("ip", "netns", "exec", self.name, "nft", rules)


@asynccontextmanager
async def far_node() -> AsyncIterator[FarNode]:
    """Have such a node; what killed test runs have left is cleared away first."""
    for old in Path("/run/netns").glob(f"{_NAMES}*") if Path("/run/netns").exists() else ():
        if not Path("/proc", old.name.removeprefix(_NAMES)).exists():
            await shell.run(["ip", "netns", "delete", old.name], limit=10)
    node, link = FarNode(f"{_NAMES}{os.getpid()}"), f"gn{os.getpid()}"
    await _succeed("ip", "netns", "add", node.name)
    try:
        await _succeed("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", node.name)
        await _succeed("ip", "address", "add", f"{_SUBNET}.1/30", "dev", link)
        await _succeed("ip", "link", "set", link, "up")
        await _succeed("ip", "-n", node.name, "address", "add", f"{node.address}/30", "dev", "eth0")
        await _succeed("ip", "-n", node.name, "link", "set", "eth0", "up")
        yield node
    finally:
        await shell.run(["ip", "link", "delete", link], limit=10)
        await shell.run(["ip", "netns", "delete", node.name], limit=10)


async def _succeed(*argv: str) -> None:
    done = await shell.run(list(argv), limit=10)
    assert done.ok, done.complaint()


@asynccontextmanager
async def near_nodes(count: int, delay: float = 0.0) -> AsyncIterator[list[Backend]]:
    """Have a server on each of so many further loopback addresses, as if each were a node."""
    started = [await start_backend(f"web-3fa9c1-{number}", delay, f"127.0.0.{number + 1}") for number in range(1, count + 1)]
    try:
        yield started
    finally:
        for backend in started:
            await end(backend)


async def end(backend: Backend) -> None:
    backend.kill()
    await backend.process.wait()


async def test_a_node_that_refuses_costs_no_get() -> None:
    """Its kernel is alive and resets what comes; nobody has told HAProxy."""
    async with lab() as made, near_nodes(3, delay=0.01) as (victim, *others):
        await made.driver.apply([http_route(item.server() for item in (victim, *others))])
        async with OpenLoop(made.http_port, rate=100) as client:
            await client.answered(100)
            await end(victim)
            await client.answered(200)
        assert client.failures == []
        assert client.slowest < 2.0
        assert {item.name for item in others} <= client.answers.keys()


@pytest.mark.parametrize("told", ["lost", "replaced"])
async def test_a_node_that_vanishes_costs_no_get(told: str) -> None:
    """What waits for its answer is asked elsewhere in the moment in which the node is given up; new connections need no telling."""
    async with lab() as made, near_nodes(2, delay=0.01) as others, far_node() as node:
        gone = await node.start("web-3fa9c1-9", delay=0.01)
        await made.driver.apply([http_route(item.server() for item in (gone, *others))])
        async with OpenLoop(made.http_port, rate=100) as client:
            await client.answered(150)
            assert gone.name in client.answers
            await node.vanish()
            vanished = monotonic()
            await client.answered(100)
            rest = [gone.server(lost=True)] if told == "lost" else []
            await made.driver.apply([http_route([*rest, *(item.server() for item in others)])])
            given_up = monotonic() - vanished
            await client.answered(200)
        await end(gone)
        assert client.failures == []
        assert client.slowest < given_up + 2.0


async def test_what_may_not_be_repeated_is_refused_once_its_node_is_lost() -> None:
    """A POST gets its answer, a connection its end; neither waits for a time-out."""
    async with lab() as made, near_nodes(1) as (other,), far_node() as node:
        gone, port = await node.start("web-3fa9c1-9", delay=0.01), free_port()
        await made.driver.apply([http_route([gone.server()]), tcp_route([gone.server()], port)])
        assert await made.get() == (200, gone.name)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await reader.readuntil(gone.name.encode())
        await node.vanish()
        post = asyncio.create_task(made.get(method="POST"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(post), 0.5)
        servers = [gone.server(lost=True), other.server()]
        await made.driver.apply([http_route(servers), tcp_route(servers, port)])
        async with asyncio.timeout(10):
            assert (await post)[0] in (200, 502, 503), "one that only waited for its connection may go elsewhere"
            assert await reader.read() == b""
        writer.close()
        assert await request(port) == (200, other.name)
        await end(gone)


async def test_a_draining_server_finishes_what_it_has() -> None:
    """A planned stop cuts nothing, on whichever node."""
    async with lab() as made, near_nodes(2) as (leaving, other):
        await made.driver.apply([http_route([leaving.server()])])
        await leaving.freeze()
        slow = asyncio.create_task(made.get(method="POST"))

        async def arrived() -> bool:
            load = (await made.driver.load()).get(leaving.name)
            return load is not None and load.connections == 1

        await until("the request is under way", arrived)
        for state in ({"drain": True}, {"ready": False}):
            await made.driver.apply([http_route([leaving.server(**state), other.server()])])
            assert await made.get() == (200, other.name)
        leaving.thaw()
        assert await slow == (200, leaving.name)
