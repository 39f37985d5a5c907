"""The end of an office, as callers see it: real calls over a real connection, and a clock that the test turns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from gestalt.coordinator.api.guard import OfficeGuard
from gestalt.coordinator.office import Office
from gestalt.coordinator.reception import Desk
from gestalt.errors import Kind
from gestalt.rpc import decode_error

LIMIT = 10.0


@dataclass
class Service(grpc.GenericRpcHandler):
    """Answers `One` once `due` is set, and streams on `Many` whenever it is."""

    now: float = 0.0
    due: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    left: list[str] = field(default_factory=list)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        if details.method == "/test/One":
            return grpc.unary_unary_rpc_method_handler(self.one)
        return grpc.unary_stream_rpc_method_handler(self.many)

    async def one(self, _: bytes, __: Any) -> bytes:
        self.begun.set()
        await self.due.wait()
        return b"done"

    async def many(self, _: bytes, __: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                self.begun.set()
                await self.due.wait()
                self.due.clear()
                yield b"item"
        finally:
            self.left.append("stream")


@dataclass
class Bench:
    """An office of 10 seconds, a service behind its guard, and a channel to it."""

    service: Service
    office: Office
    guard: OfficeGuard
    channel: grpc.aio.Channel

    def one(self) -> Any:
        return self.channel.unary_unary("/test/One")(b"", timeout=LIMIT)

    def many(self) -> Any:
        return self.channel.unary_stream("/test/Many")(b"", timeout=LIMIT)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    service = Service()
    office = Office(10.0, lambda: service.now)
    office.answered(0.0)
    guard = OfficeGuard(office)
    desk = Desk(guard)
    desk.add_generic_rpc_handlers([service])
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((desk,))  # type: ignore[arg-type]  # it has the method that is called
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Bench(service, office, guard, channel)
    await server.stop(0)


async def refusal(call: Any) -> Kind:
    """Return the kind of error with which a call, or the next message of a stream, is refused."""
    try:
        got = await asyncio.wait_for(call, LIMIT)
    except grpc.aio.AioRpcError as error:
        return decode_error(error).kind
    pytest.fail(f"{got!r} has left")


async def test_an_answer_that_is_ready_after_the_deadline_does_not_leave(bench: Bench) -> None:
    call = bench.one()
    await bench.service.begun.wait()
    bench.service.now = 10.0  # nobody has noticed: this is the first act after a freeze
    bench.service.due.set()
    assert await refusal(call) is Kind.NOT_LEADER


async def test_an_item_of_a_stream_that_is_ready_after_the_deadline_does_not_leave(bench: Bench) -> None:
    stream = bench.many()
    bench.service.due.set()
    assert await stream.read() == b"item"
    await bench.service.begun.wait()
    bench.service.now = 10.0
    bench.service.due.set()
    assert await refusal(stream.read()) is Kind.NOT_LEADER


async def test_a_call_that_comes_after_the_deadline_is_not_begun(bench: Bench) -> None:
    bench.service.now = 10.0
    assert await refusal(bench.one()) is Kind.NOT_LEADER
    assert not bench.service.begun.is_set()


async def test_everything_is_cut_off_as_soon_as_the_end_is_noticed(bench: Bench) -> None:
    stream = bench.many()
    bench.service.due.set()
    assert await stream.read() == b"item"
    bench.service.begun.clear()
    call = bench.one()
    await bench.service.begun.wait()
    bench.office.end("a test")
    assert [await refusal(stream.read()), await refusal(call)] == [Kind.NOT_LEADER, Kind.NOT_LEADER]
    assert bench.service.left == ["stream"]


async def test_a_caller_that_does_not_read_does_not_hold_up_the_end(bench: Bench) -> None:
    flood = bytes(4_000_000)

    async def many(_: bytes, __: Any) -> AsyncIterator[bytes]:
        while True:
            bench.service.begun.set()
            yield flood

    bench.service.many = many  # type: ignore[method-assign]
    stream = bench.many()
    await bench.service.begun.wait()
    bench.office.end("a test")
    await asyncio.wait_for(bench.guard.ended(0.1), LIMIT)
    stream.cancel()
    await asyncio.wait_for(bench.guard.ended(LIMIT), LIMIT / 2)
