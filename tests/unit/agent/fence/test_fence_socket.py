"""The fence's socket: who counts as an agent, and what it hears."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gestalt.agent.board import Board
from gestalt.agent.fence.link import LINE_LIMIT, AgentLink
from gestalt.agent.fence_link import MEMBER, FenceLink
from gestalt.agent.fence_state import HeldHere, LeaseState

HELLO = b'{"hello": {"version": "1"}}\n'
LIMIT = 10.0


class Socket:
    """A link, and a way to wait for what it says of the agent."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._changes = asyncio.Event()
        self.link = AgentLink(path, self._changes.set)

    async def until(self, present: bool) -> None:
        async with asyncio.timeout(LIMIT):
            while self.link.present is not present:
                self._changes.clear()
                await self._changes.wait()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(self.path)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Socket]:
    socket = Socket(tmp_path / "run" / "fence.sock")
    socket.link.publish({"incarnation": 1})
    await socket.link.start()
    yield socket
    await socket.link.close()


async def heard(reader: asyncio.StreamReader) -> object:
    async with asyncio.timeout(LIMIT):
        return json.loads(await reader.readline())


async def test_an_agent_is_there_from_its_hello_to_its_end(served: Socket) -> None:
    reader, writer = await served.connect()
    assert not served.link.present
    writer.write(HELLO)
    assert await heard(reader) == {"incarnation": 1}
    await served.until(present=True)
    served.link.publish({"incarnation": 1})
    served.link.publish({"incarnation": 2})
    assert await heard(reader) == {"incarnation": 2}
    writer.close()
    await served.until(present=False)


async def test_one_of_two_agents_is_enough(served: Socket) -> None:
    """A new agent may connect before the old one's end is seen."""
    pairs = [await served.connect() for _ in range(2)]
    for reader, writer in pairs:
        writer.write(HELLO)
        await heard(reader)
    pairs[0][1].close()
    served.link.publish({"incarnation": 3})
    assert await heard(pairs[1][0]) == {"incarnation": 3}
    assert served.link.present
    pairs[1][1].close()
    await served.until(present=False)


@pytest.mark.parametrize("words", [b"hello\n", b"[]\n", b'{"other": 1}\n', b"\xff\n", b"x" * (LINE_LIMIT + 1), b""])
async def test_nonsense_is_hung_up_on(words: bytes, served: Socket) -> None:
    reader, writer = await served.connect()
    writer.write(words)
    if not words:
        writer.write_eof()
    async with asyncio.timeout(LIMIT):
        try:
            assert await reader.read() == b""
        except ConnectionError:
            pass
    assert not served.link.present
    writer.close()


async def test_the_socket_is_for_its_owner_and_replaces_a_dead_one(served: Socket) -> None:
    assert served.path.stat().st_mode & 0o777 == 0o600
    again = Socket(served.path)
    await again.link.start()
    _, writer = await again.connect()
    writer.write(HELLO)
    await again.until(present=True)
    writer.close()
    await again.link.close()


async def test_an_agent_hears_of_a_thousand_things_that_are_held(tmp_path: Path) -> None:
    cgroups = tuple(f"/sys/fs/cgroup/{controller}/docker/{'0' * 64}" for controller in ("freezer", "pids", "unified"))
    lease = LeaseState(incarnation=3, held={f"shop-web-a1b2c3-{number}": HeldHere(number, cgroups) for number in range(1, 1001)})
    server = AgentLink(tmp_path / "fence.sock", lambda: None)
    server.publish({"incarnation": 3, "problem": "", "node_id": "n", "status": MEMBER, "lease": lease.document()})
    await server.start()
    link = FenceLink(tmp_path / "fence.sock", "n", Board())
    try:
        await link.ensure()
        assert link.lease == lease, "it was not heard within the first moment"
    finally:
        await link.close()
        await server.close()
