"""The socket at which the agent tells the fence that it lives, by keeping a connection open, and hears how the node stands.

One JSON object a line. The agent begins with {"hello": {"version": "..."}}. The fence answers with {"node_id", "incarnation", "member",
"status", "problem", "lease"}, and again at each change (`LeaseKeeper.state` is the lease). A message with "id" asks for something (see
`asks`) and is answered by one with the same "id", "ok" and "problem". A line of unknown content is ignored, so that either side may be
the newer one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

HELLO_LIMIT = 5.0
LINE_LIMIT = 64 * 1024
_UNREAD_LIMIT = 64 * 1024
_UNREAD_LINES = 4
_BACKLOG = 16


Ask = Callable[[dict[str, Any]], Awaitable[str]]
"""Does what a message asks for; returns what kept it from that, or nothing."""


async def _deaf(_: dict[str, Any]) -> str:
    return "the fence does not do that"


class AgentLink:
    """Serves the socket. `changed` is called whenever `present` did: whether an agent is connected and has said hello."""

    def __init__(self, path: Path, changed: Callable[[], None], ask: Ask = _deaf) -> None:
        self._path = path
        self._changed = changed
        self._ask = ask
        self._server: asyncio.Server | None = None
        self._agents: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._line = b""

    @property
    def present(self) -> bool:
        return bool(self._agents)

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the socket cannot be made.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._accept, sock=_bind(self._path), limit=LINE_LIMIT, backlog=_BACKLOG)

    def publish(self, state: dict[str, Any]) -> None:
        """Tell every agent, if it is anything new; those that connect later hear it first."""
        line = json.dumps(state).encode() + b"\n"
        if line == self._line:
            return
        self._line = line
        for writer in tuple(self._agents):
            if writer.transport.get_write_buffer_size() > max(_UNREAD_LIMIT, _UNREAD_LINES * len(line)):
                writer.transport.abort()
            else:
                writer.write(line)

    async def close(self) -> None:
        """Listen no more and hang up."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1)
        self._path.unlink(missing_ok=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._hold(reader, writer), name="agent link")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not _may_speak(writer):
                log.warning("a process of another user connected to %s and was refused", self._path)
                return
            async with asyncio.timeout(HELLO_LIMIT):
                hello = _message(await reader.readline())
            if "hello" not in hello:
                return
            log.info("the agent runs", extra={"version": (hello["hello"] or {}).get("version", "")})
            self._agents.add(writer)
            writer.write(self._line)
            self._changed()
            while line := await reader.readline():
                message = _message(line)
                if "id" in message:
                    problem = await self._ask(message)
                    writer.write(json.dumps({"id": message["id"], "ok": not problem, "problem": problem}).encode() + b"\n")
        except (OSError, ValueError, TimeoutError, AttributeError) as error:
            log.debug("the link to the agent broke: %s", error)
        finally:
            writer.close()
            if writer in self._agents:
                self._agents.discard(writer)
                log.info("the agent hung up")
                self._changed()


def _bind(path: Path) -> socket.socket:
    """Return a socket at `path` that its owner alone may use."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    except BaseException:  # whatever it is, no socket is left behind
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


def _may_speak(writer: asyncio.StreamWriter) -> bool:
    """Root and our own user may."""
    with contextlib.suppress(OSError):
        raw = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return struct.unpack("3i", raw)[1] in (0, os.getuid())
    return False


def _message(line: bytes) -> dict[str, Any]:
    message = json.loads(line)
    return message if isinstance(message, dict) else {}
