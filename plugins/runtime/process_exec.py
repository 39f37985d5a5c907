"""A command beside a running process: same cgroup, user, environment, limits and working directory."""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import termios
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence

from gestalt import shell
from gestalt.plugin.runtime import DriverUnavailable, ExecRequest, ExecSession, LaunchRefused

from .process_records import Fields, Started
from .process_request import find_user, identity_fields

START_LIMIT = 15.0
_CHUNK = 65536
_REPLACED = frozenset({"arg", "uid", "gid", "group", "cgroup", "unit"})
_END_OF_FILE = b"\x04"


def exec_fields(stored: Fields, started: Started, request: ExecRequest) -> list[tuple[str, str]]:
    """Return the request of a command, made from that of the process beside which it runs.

    Raises:
        LaunchRefused: the user does not exist.
    """
    identity = [field for field in stored if field[0] in ("uid", "gid", "group")]
    kept = [field for field in stored if field[0] not in _REPLACED]
    if request.user:
        user = find_user(request.user)
        identity = identity_fields(user)
        kept.append(("env", f"HOME={user.home}"))
    return [
        *kept,
        *identity,
        *(("env", f"{key}={value}") for key, value in (request.env or {}).items()),
        *(("arg", argument) for argument in request.command),
        *(("cgroup", folder) for folder in started.cgroups),
        ("namespace", f"/proc/{started.main.pid}/ns/mnt"),
        ("tty", str(int(request.tty))),
    ]


async def start_exec(shim: Sequence[str], fields: Fields, request: ExecRequest) -> ExecSession:
    """Start the command and return when it was executed.

    Args:
        shim: how the shim is called.
        fields: from `exec_fields`.
        request: what was asked for.

    Raises:
        LaunchRefused: it could not be executed; says why.
        DriverUnavailable: it took too long.
    """
    document = os.memfd_create("gestalt-exec")
    os.write(document, b"".join(os.fsencode(f"{key}={value}") + b"\0" for key, value in fields))
    verdict, verdict_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    argv = (*shim, "exec", str(document), str(verdict_writer))
    try:
        session: ExecSession
        if request.tty:
            session = await TerminalExec.start(argv, (document, verdict_writer), request.rows, request.columns)
        else:
            session = PipeExec(await shell.spawn(argv, stdin=PIPE, stdout=PIPE, stderr=PIPE, pass_fds=(document, verdict_writer)))
    except BaseException:  # whatever it is, nobody will say how it went
        os.close(verdict)
        raise
    finally:
        os.close(document)
        os.close(verdict_writer)
    try:
        async with asyncio.timeout(START_LIMIT):
            refusal = await _read_all(verdict)
    except TimeoutError:
        await session.close()
        raise DriverUnavailable(f"{request.command[0]!r} was not executed within {START_LIMIT:g} s") from None
    finally:
        os.close(verdict)
    if refusal:
        await session.close()
        raise LaunchRefused(refusal.decode(errors="replace"))
    return session


class PipeExec(ExecSession):
    """A command with three pipes."""

    def __init__(self, process: Process) -> None:
        self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._stdin, self._stdout, self._stderr = process.stdin, process.stdout, process.stderr

    async def output(self) -> AsyncIterator[tuple[bool, bytes]]:
        reads = {asyncio.ensure_future(self._stdout.read(_CHUNK)): False, asyncio.ensure_future(self._stderr.read(_CHUNK)): True}
        try:
            while reads:
                done, _ = await asyncio.wait(reads, return_when=asyncio.FIRST_COMPLETED)
                for read in done:
                    is_stderr = reads.pop(read)
                    if data := read.result():
                        source = self._stderr if is_stderr else self._stdout
                        reads[asyncio.ensure_future(source.read(_CHUNK))] = is_stderr
                        yield is_stderr, data
        finally:
            for read in reads:
                read.cancel()

    async def write(self, data: bytes) -> None:
        if self._stdin.is_closing():
            raise BrokenPipeError("standard input is closed")
        try:
            self._stdin.write(data)
            await self._stdin.drain()
        except ConnectionResetError:
            raise BrokenPipeError("the command does not read any more") from None

    async def close_stdin(self) -> None:
        self._stdin.close()

    async def resize(self, rows: int, columns: int) -> None:
        del rows, columns  # pipes have no size

    async def wait(self) -> int:
        return _exit_code(await self._process.wait())

    async def close(self) -> None:
        await _end(self._process)
        self._stdin.close()


class TerminalExec(ExecSession):
    """A command with a terminal, of which we hold the other end."""

    def __init__(self, process: Process, master: int) -> None:
        self._process, self._master = process, master

    @classmethod
    async def start(cls, argv: Sequence[str], pass_fds: Sequence[int], rows: int, columns: int) -> TerminalExec:
        master, slave = os.openpty()
        try:
            os.set_blocking(master, False)
            _set_size(master, rows, columns)
            process = await shell.spawn(argv, stdin=slave, stdout=slave, stderr=slave, pass_fds=pass_fds)
        except BaseException:  # whatever it is, no terminal is left behind
            os.close(master)
            raise
        finally:
            os.close(slave)
        return cls(process, master)

    async def output(self) -> AsyncIterator[tuple[bool, bytes]]:
        while self._master >= 0:
            await _ready(self._master)
            try:
                data = os.read(self._master, _CHUNK)
            except BlockingIOError:
                continue
            except OSError:  # EIO: nobody has the terminal open any more
                return
            if not data:
                return
            yield False, data

    async def write(self, data: bytes) -> None:
        while data:
            if self._master < 0:
                raise BrokenPipeError("the terminal is closed")
            try:
                data = data[os.write(self._master, data) :]
            except BlockingIOError:
                await _ready(self._master, to_write=True)
            except OSError as error:
                raise BrokenPipeError(str(error)) from None

    async def close_stdin(self) -> None:
        await self.write(_END_OF_FILE)

    async def resize(self, rows: int, columns: int) -> None:
        if self._master >= 0:
            _set_size(self._master, rows, columns)

    async def wait(self) -> int:
        return _exit_code(await self._process.wait())

    async def close(self) -> None:
        await _end(self._process)
        if self._master >= 0:
            os.close(self._master)
            self._master = -1


def _exit_code(code: int) -> int:
    return code if code >= 0 else 128 - code


async def _end(process: Process) -> None:
    if process.returncode is None:
        shell.kill_group(process)
        await process.wait()


def _set_size(terminal: int, rows: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


async def _read_all(descriptor: int) -> bytes:
    found = b""
    while True:
        await _ready(descriptor)
        part = os.read(descriptor, 4096)
        if not part:
            return found
        found += part


async def _ready(descriptor: int, *, to_write: bool = False) -> None:
    """Wait until a descriptor can be read or written without blocking."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    add, remove = (loop.add_writer, loop.remove_writer) if to_write else (loop.add_reader, loop.remove_reader)
    add(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        remove(descriptor)
