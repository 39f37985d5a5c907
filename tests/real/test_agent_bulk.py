"""Streams of the agent over the real wire, on a runtime in memory: everything arrives, however quickly a stream is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import grpc
import pytest

from gestalt.agent.bulk import Bulk
from gestalt.agent.stream import Calls
from gestalt.pki import Role
from gestalt.plugin.runtime import AttemptKey, ExecRequest, ExecSession
from gestalt.proto.v1 import agent_pb2, agent_pb2_grpc, api_pb2
from gestalt.rpc_server import channel_credentials
from tests.real.agent_rig import StubCoordinator, until
from tests.unit.agent.memory_runtime import MemoryRuntime, World

pytestmark = pytest.mark.real

MANY = 150
KEY = AttemptKey("web-0000aa-1", 1)


class Quick(ExecSession):
    """A command that says one thing and ends, and whose input is closed then."""

    closed = False

    async def output(self) -> AsyncIterator[tuple[bool, bytes]]:
        yield False, b"said"

    async def write(self, data: bytes) -> None:
        if self.closed:
            raise BrokenPipeError

    async def close_stdin(self) -> None:
        await self.write(b"")

    async def resize(self, rows: int, columns: int) -> None:
        """No terminal."""

    async def wait(self) -> int:
        return 7

    async def close(self) -> None:
        self.closed = True


class QuickRuntime(MemoryRuntime):
    async def exec(self, key: AttemptKey, request: ExecRequest) -> ExecSession:
        return Quick()


@pytest.fixture
async def coordinator(tmp_path: Path) -> AsyncIterator[StubCoordinator]:
    stub = StubCoordinator(tmp_path)
    await stub.start()
    yield stub
    await stub.stop()


@pytest.fixture
async def serve(coordinator: StubCoordinator) -> AsyncIterator[tuple[Bulk, Calls]]:
    bulk, runtime = Bulk(lambda instance: (runtime, KEY)), QuickRuntime(World())
    credentials = channel_credentials(coordinator.tls(Role.NODE, "n"))
    async with grpc.aio.secure_channel(f"localhost:{coordinator.port}", credentials) as channel:
        yield bulk, cast(Calls, agent_pb2_grpc.AgentsStub(channel))
        await bulk.hang_up()


@pytest.mark.parametrize("kind", ["logs", "exec"])
async def test_nothing_of_a_stream_that_is_over_at_once_is_lost(coordinator: StubCoordinator, serve: tuple[Bulk, Calls], kind: str) -> None:
    bulk, stub = serve
    for number in range(MANY):
        wanted = agent_pb2.OpenBulk(id=str(number))
        if kind == "logs":
            wanted.logs.CopyFrom(api_pb2.LogsRequest(instance=KEY.instance, tail=3))
        else:
            wanted.exec.CopyFrom(api_pb2.ExecInput.Open(instance=KEY.instance, command=["say"]))
        bulk.open(stub, wanted)
        stream = await until(f"stream {number}", lambda number=number: coordinator.streams.get(str(number)), 3)
        stream.down.put_nowait(agent_pb2.BulkDown(input=api_pb2.ExecInput(stdin_closed=True))) if kind == "exec" else None
        await until(f"the end of stream {number}", stream.ended.is_set, 3)
        if kind == "logs":
            assert b"".join(item.log.data for item in stream.up).count(b"line") == 3, f"stream {number}: {stream.up}"
        else:
            assert [item.output.WhichOneof("kind") for item in stream.up] == ["stdout", "exit_code"], f"stream {number}: {stream.up}"
    await until("the tasks to end", lambda: not [task for task in asyncio.all_tasks() if task.get_name().startswith("bulk ")])
