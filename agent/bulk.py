"""Logs and exec: streams of their own, that the agent opens when the coordinator asks for one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import grpc

from gestalt.errors import GestaltError, Kind
from gestalt.plugin.runtime import (
    AttemptKey,
    DriverUnavailable,
    ExecRequest,
    ExecSession,
    LaunchRefused,
    LogLine,
    LogOptions,
    RuntimeDriver,
)
from gestalt.proto.v1 import agent_pb2, api_pb2
from gestalt.rpc import error_to_wire

from .stream import END, Call, Calls

log = logging.getLogger(__name__)

STREAMS = 64
CHUNK = 64 * 1024
_TERMINAL_ROWS = 24
_TERMINAL_COLUMNS = 80

Locate = Callable[[str], tuple[RuntimeDriver, AttemptKey] | None]
"""Finds the current attempt of an instance."""


class Bulk:
    """Serves the streams of one session at a time."""

    def __init__(self, locate: Locate) -> None:
        self._locate = locate
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self, stub: Calls, wanted: agent_pb2.OpenBulk) -> None:
        """Begin to serve a stream; returns at once."""
        task = asyncio.create_task(self._serve(stub.Bulk(), wanted), name=f"bulk {wanted.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def hang_up(self) -> None:
        """End all streams: the session is over."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, call: Call, wanted: agent_pb2.OpenBulk) -> None:
        try:
            await call.write(agent_pb2.BulkUp(open=wanted.id))
            await _to_the_end(call, self._dispatch(call, wanted))
            await call.code()
        except grpc.aio.AioRpcError as error:
            log.debug("stream %s ended early: %s", wanted.id, error.details())
        except asyncio.InvalidStateError:
            log.debug("stream %s was ended by the other side", wanted.id)
        except Exception:  # one stream must not end the others
            log.exception("stream %s failed", wanted.id)
        finally:
            call.cancel()

    async def _dispatch(self, call: Call, wanted: agent_pb2.OpenBulk) -> None:
        if len(self._tasks) > STREAMS:
            raise GestaltError(Kind.REFUSED, f"more than {STREAMS} streams are open on this node", hint="end some of them")
        instance = wanted.logs.instance if wanted.HasField("logs") else wanted.exec.instance
        place = self._locate(instance)
        if place is None:
            raise GestaltError(Kind.NOT_FOUND, f"there is nothing of {instance} on its node (yet)", hint="see its state: gestaltctl ps")
        driver, key = place
        if wanted.HasField("logs"):
            await _while_heard(call, _send_logs(call, driver, key, wanted.logs), call.read())
        else:
            await _run_command(call, driver, key, wanted.exec)


async def _to_the_end(call: Call, work: Awaitable[None]) -> None:
    """Do the work, tell how it failed if it did, and that nothing more comes. May be nested."""
    try:
        await work
    except GestaltError as error:
        problem = error
    except DriverUnavailable as error:
        problem = GestaltError(Kind.UNAVAILABLE, str(error), hint="try again when the runtime answers")
    except LaunchRefused as error:
        problem = GestaltError(Kind.REFUSED, str(error))
    else:
        await call.done_writing()
        return
    await call.write(agent_pb2.BulkUp(error=error_to_wire(problem)))
    await call.done_writing()


async def _while_heard(call: Call, work: Awaitable[None], hearing_of: Awaitable[object]) -> None:
    """Do the work until it is done or the other side is gone.

    grpc.aio cancels the whole call with a read that is cancelled, and what was written may get lost then. So when the work is
    done the other side is heard until it ends the call, which it does when it has everything.
    """
    working = asyncio.ensure_future(_to_the_end(call, work))
    hearing = asyncio.ensure_future(hearing_of)
    try:
        await asyncio.wait((working, hearing), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
            await hearing
    finally:
        for task in (working, hearing):
            task.cancel()
        await asyncio.gather(working, hearing, return_exceptions=True)


async def _send_logs(call: Call, driver: RuntimeDriver, key: AttemptKey, wanted: api_pb2.LogsRequest) -> None:
    options = LogOptions(wanted.follow, max(wanted.tail, 0), max(wanted.since, 0.0), wanted.timestamps)
    batch = _Batch(key.instance)
    async for line in driver.logs(key, options):
        if (chunk := batch.add(line)) is not None:
            await call.write(agent_pb2.BulkUp(log=chunk))
        elif wanted.follow:
            await call.write(agent_pb2.BulkUp(log=batch.take()))
    if batch.size:
        await call.write(agent_pb2.BulkUp(log=batch.take()))
    if wanted.follow:
        notice = api_pb2.LogChunk(instance=key.instance, notice=f"attempt {key.attempt} of {key.instance} ended")
        await call.write(agent_pb2.BulkUp(log=notice))


class _Batch:
    """Lines of one kind that travel together."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._data = bytearray()
        self._stderr = False

    @property
    def size(self) -> int:
        return len(self._data)

    def add(self, line: LogLine) -> api_pb2.LogChunk | None:
        """Add a line; return what has to be sent before it."""
        full = self._data and (line.stderr != self._stderr or len(self._data) + len(line.data) > CHUNK)
        chunk = self.take() if full else None
        self._stderr = line.stderr
        self._data += line.data
        return chunk

    def take(self) -> api_pb2.LogChunk:
        chunk = api_pb2.LogChunk(instance=self._instance, stderr=self._stderr, data=bytes(self._data))
        self._data.clear()
        return chunk


async def _run_command(call: Call, driver: RuntimeDriver, key: AttemptKey, wanted: api_pb2.ExecInput.Open) -> None:
    request = ExecRequest(
        tuple(wanted.command),
        wanted.tty,
        wanted.rows or _TERMINAL_ROWS,
        wanted.columns or _TERMINAL_COLUMNS,
        dict(wanted.env),
        wanted.user,
    )
    session = await driver.exec(key, request)
    await _while_heard(call, _pass_output(call, session), _pass_input(call, session))


async def _pass_output(call: Call, session: ExecSession) -> None:
    """Hand on what the command writes and how it ends. The session is over then, and whoever still writes to it hears so."""
    try:
        async for is_stderr, data in session.output():
            output = api_pb2.ExecOutput(stderr=data) if is_stderr else api_pb2.ExecOutput(stdout=data)
            await call.write(agent_pb2.BulkUp(output=output))
        code = await session.wait()
        await call.write(agent_pb2.BulkUp(output=api_pb2.ExecOutput(exit_code=code)))
    finally:
        await session.close()


async def _pass_input(call: Call, session: ExecSession) -> None:
    """Hand on what the caller types, until the caller is gone."""
    while (message := await call.read()) is not END:
        try:
            await _pass_one(message.input, session)
        except BrokenPipeError:
            log.debug("the command closed its input")


async def _pass_one(message: api_pb2.ExecInput, session: ExecSession) -> None:
    match message.WhichOneof("kind"):
        case "stdin":
            await session.write(message.stdin)
        case "stdin_closed":
            await session.close_stdin()
        case "resize":
            await session.resize(message.resize.rows, message.resize.columns)
        case kind:
            log.warning("unknown input %r for a command", kind)
