"""The Engine's answers that have no end in sight: events, logs, pulls and the streams of `exec`.

The SDK reads such an answer in a blocked thread and cannot be interrupted cleanly. Here each is one socket of the loop: it costs no
thread, however many there are, and closing it is all that cancelling takes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from gestalt.plugin.runtime import DriverUnavailable

_PIECE = 64 * 1024
_HEAD_LIMIT = 64 * 1024


class ApiRefused(Exception):
    """The Engine answered with an error: its status and its own sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True)
class Request:
    """One call. `upgrade`: the connection becomes a plain two-way stream after the answer's head."""

    method: str
    path: str
    query: Mapping[str, str]
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] | None = None
    upgrade: bool = False

    def render(self) -> bytes:
        content = json.dumps(self.body).encode() if self.body is not None else b""
        headers = {
            "Host": "docker",
            "User-Agent": "gestalt",
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            **({"Connection": "Upgrade", "Upgrade": "tcp"} if self.upgrade else {}),
            **(self.headers or {}),
        }
        if any("\r" in value or "\n" in value for value in headers.values()):
            raise ValueError("a header of a request has a line end in it")
        query = f"?{urlencode(self.query)}" if self.query else ""
        lines = [f"{self.method} {quote(self.path)}{query} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode() + content


class Stream:
    """The body of one answer, as it comes. Must be closed; closing ends the call at the Engine."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, chunked: bool, length: int | None) -> None:
        self._reader = reader
        self._writer = writer
        self._chunked = chunked
        self._length = length

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body in pieces of any size until its end.

        Raises:
            DriverUnavailable: the connection was lost before the end.
        """
        try:
            async for piece in self._chunks() if self._chunked else self._plain():
                yield piece
        except (OSError, EOFError, ValueError) as error:
            raise DriverUnavailable(f"Docker's stream broke off ({error}); is dockerd running? `systemctl status docker` tells") from error

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield the body line by line, without the line ends; raises as `pieces` does."""
        rest = b""
        async for piece in self.pieces():
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                if line.strip():
                    yield line
        if rest.strip():
            yield rest

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def half_close(self) -> None:
        if self._writer.can_write_eof():
            self._writer.write_eof()

    async def close(self) -> None:
        self._writer.close()
        with suppress(OSError):  # the other end may be gone already
            await self._writer.wait_closed()

    async def _plain(self) -> AsyncIterator[bytes]:
        left = self._length
        while left is None or left > 0:
            piece = await self._reader.read(_PIECE if left is None else min(left, _PIECE))
            if not piece:
                if left:
                    raise EOFError(f"{left} bytes are missing")
                return
            left = None if left is None else left - len(piece)
            yield piece

    async def _chunks(self) -> AsyncIterator[bytes]:
        while size := int((await self._reader.readuntil(b"\n")).split(b";")[0], 16):
            while size:
                piece = await self._reader.read(min(size, _PIECE))
                if not piece:
                    raise EOFError("the end is missing")
                size -= len(piece)
                yield piece
            await self._reader.readexactly(2)


async def open_stream(socket: Path, request: Request, limit: float) -> Stream:
    """Send a request and return its answer's body, once the head of the answer is there.

    Raises:
        ApiRefused: the Engine refuses.
        DriverUnavailable: it does not answer within the limit.
    """
    try:
        async with asyncio.timeout(limit):
            reader, writer = await asyncio.open_unix_connection(str(socket), limit=_HEAD_LIMIT)
            try:
                return await _exchange(reader, writer, request)
            except BaseException:  # its time may be over, which cancels: the connection is of no use any more
                writer.close()
                raise
    except TimeoutError as error:
        raise DriverUnavailable(
            f"Docker did not answer within {limit:g} s; `systemctl status docker` tells whether dockerd hangs"
        ) from error
    except (OSError, EOFError, ValueError) as error:
        raise DriverUnavailable(
            f"Docker does not answer at {socket} ({error}); is dockerd running? `systemctl status docker` tells"
        ) from error


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request) -> Stream:
    writer.write(request.render())
    await writer.drain()
    status, headers = _parse_head(await reader.readuntil(b"\r\n\r\n"))
    upgraded = status == 101
    length = headers.get("content-length")
    stream = Stream(
        reader,
        writer,
        chunked=not upgraded and headers.get("transfer-encoding", "").lower() == "chunked",
        length=int(length) if length is not None and not upgraded else None,
    )
    if upgraded or 200 <= status < 300:
        return stream
    raise ApiRefused(status, _message(b"".join([piece async for piece in stream.pieces()])))


def _parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *rest = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in rest if line)
    return int(first.split(" ", 2)[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace").strip()
