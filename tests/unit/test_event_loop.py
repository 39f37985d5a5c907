"""gRPC's events reach a busy loop all at once, not one in a turn."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any

import grpc

from gestalt.event_loop import Loop

STREAMS = 200


class PollerCompletionQueue:
    """Stands where gRPC's does: it takes one byte, whatever there is."""

    def __init__(self, waker: socket.socket) -> None:
        self.waker = waker
        self.calls = 0
        self.called = asyncio.Event()

    def handle(self) -> None:
        self.calls += 1
        self.called.set()
        assert self.waker.recv(1) == b"1"


def run(work: Coroutine[Any, Any, None], factory: Callable[[], asyncio.AbstractEventLoop] = Loop) -> None:
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(asyncio.wait_for(work, 60))


def test_all_bytes_are_taken_in_one_turn() -> None:
    async def work() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        queue, loop = PollerCompletionQueue(ours), asyncio.get_running_loop()
        with ours, theirs:
            theirs.send(b"1" * 200)
            loop.add_reader(ours, partial(queue.handle))
            await asyncio.wait_for(queue.called.wait(), 10)
            assert queue.calls == 1
            queue.called.clear()
            theirs.send(b"1")
            await asyncio.wait_for(queue.called.wait(), 10)
            loop.remove_reader(ours)
            assert queue.calls == 2

    run(work())


def test_other_readers_are_let_be() -> None:
    async def work() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        loop, got, done = asyncio.get_running_loop(), bytearray(), asyncio.Event()

        def read() -> None:
            got.extend(ours.recv(1))
            if len(got) == 3:
                done.set()

        with ours, theirs:
            theirs.send(b"abc")
            loop.add_reader(ours, read)
            await asyncio.wait_for(done.wait(), 10)
            loop.remove_reader(ours)
        assert got == b"abc"

    run(work())


class Echo(grpc.GenericRpcHandler):
    """Answers every message of a stream with itself."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        return grpc.stream_stream_rpc_method_handler(self._stream)

    @staticmethod
    async def _stream(messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for message in messages:
            yield message


async def turns_until_all_are_answered() -> int:
    """Have many streams say something at once to a loop that is busy; return how many turns it had until all have their answer."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Echo(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    turns = 0

    async def say(stream: Any, word: bytes) -> None:
        await stream.write(word)
        assert await stream.read() == word

    async def keep_busy() -> None:
        nonlocal turns
        while True:
            turns += 1
            time.sleep(0.005)  # noqa: ASYNC251 - that the loop is busy is the point
            await asyncio.sleep(0)

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        streams = [channel.stream_stream("/echo/stream")() for _ in range(STREAMS)]
        await asyncio.gather(*(say(stream, b"first") for stream in streams))
        working = asyncio.create_task(keep_busy())
        await asyncio.gather(*(say(stream, b"then") for stream in streams))
        working.cancel()
        for stream in streams:
            stream.cancel()
    await server.stop(None)
    return turns


def test_a_busy_loop_does_not_fall_behind_what_grpc_has_done() -> None:
    async def work() -> None:
        assert await turns_until_all_are_answered() < STREAMS, "no more than one event a turn"

    run(work())
