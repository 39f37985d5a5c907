"""A command inside a running container."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gestalt.clock import monotonic
from gestalt.plugin.runtime import DriverUnavailable, ExecRequest, ExecSession, LaunchRefused

from .docker_engine import Engine
from .docker_logs import frames
from .docker_refusal import clean
from .docker_stream import ApiRefused, Request, Stream

log = logging.getLogger(__name__)

_NOT_STARTED = (126, 127)
_FIRST_POLL = 0.005
_LAST_POLL = 0.1
_SLOW_POLL = 1.0
_END_OF_TRANSMISSION = b"\x04"


async def start_exec(engine: Engine, container: str, request: ExecRequest, limit: float) -> ExecSession:
    """Start the command and return once it runs or has ended.

    Raises:
        LaunchRefused: the container does not run, or there is no such command.
    """
    try:
        exec_id = await engine.exec_create(container, _document(request))
        body = {"Tty": request.tty, "Detach": False, **({"ConsoleSize": [request.rows, request.columns]} if request.tty else {})}
        stream = await engine.stream(Request("POST", f"/exec/{exec_id}/start", {}, body, upgrade=True))
    except ApiRefused as refused:
        raise LaunchRefused(f"cannot run {request.command[0]!r}: {clean(refused.message)}") from refused
    session = DockerExec(engine, container, exec_id, stream, request)
    try:
        await session.started(limit)
    except BaseException:  # who is cancelled, too, leaves no command behind
        await session.close()
        raise
    return session


def _document(request: ExecRequest) -> dict[str, Any]:
    return {
        "cmd": list(request.command),
        "stdin": True,
        "stdout": True,
        "stderr": True,
        "tty": request.tty,
        "user": request.user,
        "environment": dict(request.env or {}),
    }


class DockerExec(ExecSession):
    """The Engine gives no way to end a command: `close` kills its process (not its children), if it still runs in the container."""

    def __init__(self, engine: Engine, container: str, exec_id: str, stream: Stream, request: ExecRequest) -> None:
        self._engine = engine
        self._container = container
        self._id = exec_id
        self._stream = stream
        self._request = request
        self._read: list[tuple[bool, bytes]] = []
        self._output_ended = asyncio.Event()
        self._stdin_open = True
        self._closed = False
        self._exit_code: int | None = None

    async def started(self, limit: float) -> None:
        """Return when the command runs or has ended; the Engine says yes before it has tried."""
        state = await self._poll(lambda state: bool(state.get("Pid")) or _ended(state), limit)
        if _ended(state):
            self._exit_code = int(state["ExitCode"])
            await self._refuse_what_never_ran()
        elif self._request.tty:
            await self.resize(self._request.rows, self._request.columns)

    async def output(self) -> AsyncIterator[tuple[bool, bytes]]:
        while self._read:
            yield self._read.pop(0)
        if self._output_ended.is_set():
            return
        async for piece in self._frames():
            yield piece
        self._output_ended.set()

    async def write(self, data: bytes) -> None:
        if not self._stdin_open:
            raise BrokenPipeError("standard input of the command is closed")
        try:
            await self._stream.write(data)
        except ConnectionError as error:
            raise BrokenPipeError("the command has ended") from error

    async def close_stdin(self) -> None:
        if not self._stdin_open:
            return
        self._stdin_open = False
        with suppress(OSError):  # it has ended already
            if self._request.tty:
                await self._stream.write(_END_OF_TRANSMISSION)  # the Engine closes a terminal only at its end
            else:
                self._stream.half_close()

    async def resize(self, rows: int, columns: int) -> None:
        try:
            await self._engine.exec_resize(self._id, rows, columns)
        except ApiRefused as refused:
            log.debug("no resize of exec %s, it has ended: %s", self._id, refused.message)

    async def wait(self) -> int:
        while self._exit_code is None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._output_ended.wait(), _SLOW_POLL)
            state = await self._engine.exec_inspect(self._id)
            if _ended(state):
                self._exit_code = int(state["ExitCode"])
            elif self._output_ended.is_set():
                await asyncio.sleep(_LAST_POLL)
        return self._exit_code

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._stdin_open = False
        self._output_ended.set()
        await self._stream.close()
        if self._exit_code is None:
            await self._kill()

    def _frames(self) -> AsyncIterator[tuple[bool, bytes]]:
        return _as_stdout(self._stream) if self._request.tty else frames(self._stream)

    async def _poll(self, condition: Callable[[Mapping[str, Any]], bool], limit: float) -> Mapping[str, Any]:
        delay, deadline = _FIRST_POLL, monotonic() + limit
        while not condition(state := await self._engine.exec_inspect(self._id)):
            if monotonic() > deadline:
                raise DriverUnavailable(f"Docker did not start {self._request.command[0]!r} within {limit:g} s")
            await asyncio.sleep(delay)
            delay = min(delay * 2, _LAST_POLL)
        return state

    async def _refuse_what_never_ran(self) -> None:
        """Tell a command that could not be started, of which the Engine says so in the output, from one that ended at once."""
        if self._exit_code not in _NOT_STARTED:
            return
        self._read = [piece async for piece in self._frames()]
        self._output_ended.set()
        said = b"".join(data for _, data in self._read).decode(errors="replace")
        if "exec failed" in said:
            raise LaunchRefused(f"cannot run {self._request.command[0]!r}: {clean(said)}")

    async def _kill(self) -> None:
        try:
            state = await self._engine.exec_inspect(self._id)
        except (ApiRefused, DriverUnavailable) as error:
            log.warning("cannot tell whether exec %s still runs in %s: %s", self._id, self._container, error)
            return
        if not _ended(state) and state.get("Pid"):
            _kill_in_container(int(state["Pid"]), self._container)


def _ended(state: Mapping[str, Any]) -> bool:
    return not state.get("Running") and state.get("ExitCode") is not None


def _kill_in_container(pid: int, container: str) -> None:
    """Kill a process if it belongs to the container; another one that got its number is left alone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if container in Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii"):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except (ProcessLookupError, FileNotFoundError):
        log.debug("process %d ended by itself", pid)
    finally:
        os.close(descriptor)


async def _as_stdout(stream: Stream) -> AsyncIterator[tuple[bool, bytes]]:
    async for piece in stream.pieces():
        yield False, piece
