"""Checks over HTTP and HTTPS: one request of HTTP/1.1 on a connection of its own; redirects are an answer and not followed."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache

from gestalt.plugin.check import CheckDriver, CheckResult, CheckTarget
from gestalt.spec.schema import Check

from .wording import explain, find_port, no_answer, no_port, result

BODY_MAX = 64 * 1024
HEAD_MAX = 64 * 1024
# A pattern and a body may come from two parties that do not trust each other: backtracking must not hold up the loop.
_SEARCH_LIMIT = 0.02
_STATUS_LINE = re.compile(rb"HTTP/1\.[0-9] ([1-9][0-9]{2})(?: (.*))?")
_BODILESS = (204, 304)


class _Garbage(Exception):
    """The answer is not HTTP/1.1."""


@dataclass(frozen=True, slots=True)
class _Head:
    status: int
    reason: str
    headers: dict[str, str]


class HttpCheck(CheckDriver):
    """Kinds `http` and `https`. The body is read only when the check has an opinion of it."""

    name = "http"

    async def run(self, check: Check, target: CheckTarget) -> CheckResult:
        port = find_port(check, target)
        if port is None:
            return no_port(check)
        place = f"{target.host}:{port}"
        try:
            async with asyncio.timeout(check.timeout), _connection(check, target.host, port) as (reader, writer):
                writer.write(_request(check, target.host, port))
                head = await _read_head(reader)
                body = await _read_body(reader, head, check) if check.expect_body else b""
        except TimeoutError:
            return no_answer(check)
        except _Garbage as error:
            return result(False, f"{place} does not speak HTTP/1.1: {error}")
        except (OSError, asyncio.IncompleteReadError) as error:
            return result(False, explain(error, place))
        except ValueError as error:  # a Host header that cannot be a server name
            return result(False, f"{place} cannot be asked: {error}")
        return _judge(check, head, body)


@asynccontextmanager
async def _connection(check: Check, host: str, port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Lend a connection; it is closed at once at the end, without waiting for what the other side thinks of that."""
    if check.kind == "https":
        wanted = _header(check, "host")
        name = (wanted.rpartition(":")[0] or wanted).strip("[]") or host
        context = _verifying() if check.verify_tls else _trusting()
        reader, writer = await asyncio.open_connection(host, port, limit=HEAD_MAX, ssl=context, server_hostname=name)
    else:
        reader, writer = await asyncio.open_connection(host, port, limit=HEAD_MAX)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


@cache
def _verifying() -> ssl.SSLContext:
    return ssl.create_default_context()


@cache
def _trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _header(check: Check, name: str) -> str:
    return next((content for key, content in check.headers.items() if key.lower() == name), "")


def _request(check: Check, host: str, port: int) -> bytes:
    headers = {
        "host": f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        "user-agent": "gestalt-check",
        "accept": "*/*",
        "accept-encoding": "identity",
    }
    headers.update({key.lower(): content for key, content in check.headers.items()})
    headers["connection"] = "close"
    lines = [f"{check.method} {check.path} HTTP/1.1", *(f"{key}: {content}" for key, content in headers.items()), "", ""]
    return "\r\n".join(lines).encode("utf-8")


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return (await reader.readuntil(b"\n")).rstrip(b"\r\n")
    except asyncio.LimitOverrunError as error:
        raise _Garbage("a line of its answer is too long") from error


async def _read_head(reader: asyncio.StreamReader) -> _Head:
    """Return the head of the final answer; interim answers (1xx) are skipped."""
    budget = HEAD_MAX
    while True:
        first = await _line(reader)
        match = _STATUS_LINE.fullmatch(first)
        if match is None:
            raise _Garbage(f"it answers {first[:60]!r}")
        headers: dict[str, str] = {}
        while line := await _line(reader):
            key, _, content = line.decode("latin-1").partition(":")
            headers[key.strip().lower()] = content.strip()
            budget -= len(line)
            if budget < 0:
                raise _Garbage("the head of its answer is too long")
        if int(match[1]) >= 200:
            return _Head(int(match[1]), (match[2] or b"").decode("latin-1"), headers)
        budget -= len(first)
        if budget < 0:
            raise _Garbage("it sends interim answers without end")


async def _read_body(reader: asyncio.StreamReader, head: _Head, check: Check) -> bytes:
    """Return the first 64 KiB of the body."""
    if check.method == "HEAD" or head.status in _BODILESS:
        return b""
    if "chunked" in head.headers.get("transfer-encoding", "").lower():
        return await _read_chunks(reader)
    length = head.headers.get("content-length")
    if length is not None:
        if not length.isascii() or not length.isdigit():
            raise _Garbage(f"its Content-Length is {length[:20]!r}")
        return await reader.readexactly(min(int(length[:20]), BODY_MAX))
    return await _read_up_to(reader, BODY_MAX)


async def _read_up_to(reader: asyncio.StreamReader, size: int) -> bytes:
    body = bytearray()
    while len(body) < size and (part := await reader.read(size - len(body))):
        body += part
    return bytes(body)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while len(body) < BODY_MAX:
        size_line = await _line(reader)
        size = size_line.partition(b";")[0].strip()
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,15}", size):
            raise _Garbage(f"a chunk of its body begins with {size_line[:20]!r}")
        length = int(size, 16)
        if length == 0:
            break
        body += await reader.readexactly(min(length, BODY_MAX - len(body)))
        if len(body) < BODY_MAX and await _line(reader):
            raise _Garbage("a chunk of its body is longer than it says")
    return bytes(body)


def _judge(check: Check, head: _Head, body: bytes) -> CheckResult:
    answer = f"HTTP {head.status} {head.reason}".rstrip()
    if check.expect_status and head.status not in check.expect_status:
        return result(False, f"{answer}; expected {', '.join(map(str, check.expect_status))}")
    if not check.expect_status and head.status >= 400:
        return result(False, f"{answer}; expected 200-399")
    return _judge_body(check, answer, body) if check.expect_body else result(True, answer)


def _judge_body(check: Check, answer: str, body: bytes) -> CheckResult:
    import regex  # late: few checks look at the body, and it costs every agent some memory

    text = body.decode("utf-8", errors="replace")
    try:
        if regex.search(check.expect_body, text, timeout=_SEARCH_LIMIT):
            return result(True, answer)
    except TimeoutError:
        return result(False, f"{answer}, but /{check.expect_body}/ takes too long to search for in the body: simplify the expression")
    except regex.error as error:
        return result(False, f"expect_body is no regular expression: {error}")
    return result(False, f"{answer}, but the body does not match /{check.expect_body}/; it begins {text[:80]!r}")
