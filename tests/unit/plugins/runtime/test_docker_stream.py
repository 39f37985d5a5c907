"""The stream client against a server that answers as an Engine may, and as none should."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gestalt.plugin.runtime import DriverUnavailable
from gestalt.plugins.runtime.docker_stream import ApiRefused, Request, open_stream

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
REQUEST = Request("GET", "/events", {"a": "x y&z"})
LIMIT = 0.5


@asynccontextmanager
async def server(path: Path, *pieces: bytes, hold: bool = False) -> AsyncIterator[list[bytes]]:
    """Answer every request with the pieces, a moment apart; `hold` keeps the connection open afterwards."""
    requests: list[bytes] = []
    released = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if hold:
            await released.wait()
        writer.close()

    listening = await asyncio.start_unix_server(serve, path)
    try:
        yield requests
    finally:
        released.set()
        listening.close()


async def read(socket: Path, request: Request = REQUEST) -> bytes:
    stream = await open_stream(socket, request, LIMIT)
    try:
        return b"".join([piece async for piece in stream.pieces()])
    finally:
        await stream.close()


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "s"


@pytest.mark.parametrize(
    "answer",
    [
        [CHUNKED, b"5\r\nhe", b"llo\r\n", b"6;ext=1\r\n world\r\n0\r\n\r\n"],
        [CHUNKED + b"B\r\nhello world\r\n0\r\n\r\n"],
        [OK + b"Content-Length: 11\r\n\r\nhello", b" world"],
        [OK + b"\r\n", b"hello ", b"world"],
        [b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nhello", b" world"],
        [bytes([byte]) for byte in CHUNKED + b"b\r\nhello world\r\n0\r\n\r\n"],
    ],
)
async def test_every_way_of_sending_a_body_is_read(socket: Path, answer: list[bytes]) -> None:
    async with server(socket, *answer) as requests:
        assert await read(socket) == b"hello world"
    assert requests[0].startswith(b"GET /events?a=x+y%26z HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "answer",
    [
        CHUNKED + b"5\r\nhel",
        CHUNKED + b"5\r\nhello\r\n",
        CHUNKED + b"zz\r\n",
        OK + b"Content-Length: 11\r\n\r\nhello",
        b"",
        b"HTTP/1.1",
        b"\0" * 99,
    ],
)
async def test_an_answer_that_breaks_off_is_no_answer(socket: Path, answer: bytes) -> None:
    async with server(socket, answer):
        with pytest.raises(DriverUnavailable, match="systemctl status docker"):
            await read(socket)


async def test_a_refusal_carries_the_sentence(socket: Path) -> None:
    body = b'{"message":"No such container: x"}'
    async with server(socket, b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n" % len(body), body):
        with pytest.raises(ApiRefused, match="No such container: x") as refused:
            await read(socket)
    assert refused.value.status == 404


async def test_silence_costs_the_limit(socket: Path) -> None:
    async with server(socket, hold=True):
        with pytest.raises(DriverUnavailable, match=r"within 0\.5 s"):
            await read(socket)


async def test_nobody_there(socket: Path) -> None:
    with pytest.raises(DriverUnavailable, match="No such file"):
        await read(socket)
    socket.touch()
    with pytest.raises(DriverUnavailable, match="Connection refused"):
        await read(socket)


async def test_lines_do_not_depend_on_pieces(socket: Path) -> None:
    async with server(socket, OK + b"\r\n", b"one\ntw", b"o\n\r\n", b"three"):
        stream = await open_stream(socket, REQUEST, LIMIT)
        assert [line async for line in stream.lines()] == [b"one", b"two", b"three"]
        await stream.close()


def test_a_header_cannot_be_smuggled_in() -> None:
    with pytest.raises(ValueError, match="line end"):
        Request("GET", "/x", {}, headers={"X-Registry-Auth": "a\r\nHost: b"}).render()
    assert b"GET /containers/a%20b%0D%0A/logs HTTP/1.1\r\n" in Request("GET", "/containers/a b\r\n/logs", {}).render()
