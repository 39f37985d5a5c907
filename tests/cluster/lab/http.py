"""The plainest HTTP request, over TCP or a Unix socket, with a limit."""

from __future__ import annotations

import asyncio


class HttpFailed(Exception):
    """There was no good answer; the sentence says what there was."""


async def get(address: str, port: int, path: str, *, host: str = "localhost", limit: float = 5.0) -> str:
    """Return the body of a GET that was answered with 200.

    Raises:
        HttpFailed: it was not, within `limit` seconds.
    """
    try:
        async with asyncio.timeout(limit):
            reader, writer = await asyncio.open_connection(address, port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                answer = (await reader.read()).decode(errors="replace")
            finally:
                writer.close()
    except TimeoutError:
        raise HttpFailed(f"no answer within {limit:g} s") from None
    except OSError as error:
        raise HttpFailed(str(error)) from error
    status, _, rest = answer.partition("\r\n")
    if " 200 " not in f"{status} ":
        raise HttpFailed(f"answered {status!r}")
    return rest.partition("\r\n\r\n")[2]
