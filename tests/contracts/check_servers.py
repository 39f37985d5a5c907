"""Servers for tests of check drivers, well-behaved and not, and how to run a check against them."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gestalt.plugin.check import CheckDriver, CheckResult, CheckTarget
from gestalt.plugin.registry import find_driver
from gestalt.plugin.runtime import AttemptStatus
from gestalt.spec.schema import Check

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


async def no_exec(argv: Sequence[str], limit: float) -> tuple[int, bytes]:
    raise AssertionError("this check runs no command")


async def no_inspect() -> AttemptStatus | None:
    raise AssertionError("this check does not inspect")


def target(port: int, **other: Any) -> CheckTarget:
    return CheckTarget("127.0.0.1", {"web": port}, other.get("exec", no_exec), other.get("inspect", no_inspect))


def check(kind: str, **fields: Any) -> Check:
    return Check(kind=kind, **{"name": "c", "timeout": 1.0, **fields})


async def run(check: Check, to: CheckTarget) -> CheckResult:
    """Run and hold the driver to what every driver promises: a short printable result, in time."""
    driver: CheckDriver = find_driver("check", check.kind)()
    begun = time.monotonic()
    result = await driver.run(check, to)
    assert time.monotonic() - begun < check.timeout + 0.5, f"{check.kind} took longer than its timeout: {result}"
    assert 0 < len(result.output) <= 500
    assert result.output.isprintable()
    return result


@asynccontextmanager
async def serving(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server of which every connection must be closed by the time a check has ended."""
    open_now = 0
    idle = asyncio.Event()
    idle.set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now
        open_now += 1
        idle.clear()
        try:
            await serve(reader, writer)
            await reader.read()  # the client's end of the connection
        except (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            pass
        finally:
            open_now -= 1
            if not open_now:
                idle.set()
            writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
        try:
            await asyncio.wait_for(idle.wait(), 3)
        except TimeoutError:
            pytest.fail(f"{open_now} connections left open by the check")
    finally:
        server.close()


def answering(answer: bytes, *, close: bool = False) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        if close:
            writer.close()

    return serve


def dripping(answer: bytes) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for letter in answer:
            writer.write(bytes([letter]))
            await writer.drain()
            await asyncio.sleep(0.05)

    return serve


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def resetting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.transport.abort()


async def closed_port() -> int:
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port
