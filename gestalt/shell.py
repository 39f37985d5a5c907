"""The one place that starts subprocesses: argument lists, a time limit for all but detached ones, everything logged."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

_NOT_INHERITED = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID")


@dataclass(frozen=True, slots=True)
class Completed:
    """How a command ended. `code` is negative for a signal, as in `subprocess`."""

    argv: tuple[str, ...]
    code: int
    stdout: bytes
    stderr: bytes

    @property
    def ok(self) -> bool:
        return self.code == 0

    def complaint(self) -> str:
        """Return what the command said, shortened, for an error message."""
        text = (self.stderr or self.stdout).decode(errors="replace").strip()
        return text[-500:] or f"exit code {self.code}"


class CommandTimedOut(Exception):
    """A command was killed at its time limit."""


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return our environment without what systemd meant for us alone, plus `extra`."""
    environment = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
    environment.update(extra or {})
    return environment


async def run(
    argv: Sequence[str], *, limit: float, stdin: bytes | None = None, env: Mapping[str, str] | None = None, cwd: str | None = None
) -> Completed:
    """Run a command to its end in its own session; never through a shell.

    Args:
        argv: program and arguments.
        limit: seconds after which the command's whole process group is killed.
        stdin: what it reads; nothing by default.
        env: added to our environment.
        cwd: its working directory.

    Raises:
        CommandTimedOut: the limit was reached and the command killed.
        OSError: the program could not be started.
    """
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=child_environment(env),
        cwd=cwd,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(limit):
            stdout, stderr = await process.communicate(stdin)
    except TimeoutError:
        raise CommandTimedOut(f"{argv[0]} did not end within {limit:g} s") from None
    finally:
        if process.returncode is None:
            _kill_group(process.pid)
            await process.wait()
    assert process.returncode is not None
    log.debug("ran %s: exit %d", argv, process.returncode)
    return Completed(tuple(argv), process.returncode, stdout, stderr)


def spawn_detached(argv: Sequence[str], output: Path) -> int:
    """Start a program that outlives us, in its own session, its output appended to a file; return its pid.

    Raises:
        OSError: the program could not be started.
    """
    with output.open("ab") as file:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, env=child_environment(), cwd="/"
        )
    process.returncode = 0  # it is nobody's child from now on; without this, Popen would wait for it and warn
    log.debug("started %s: pid %d", argv, process.pid)
    return process.pid


async def spawn(argv: Sequence[str], *, stdin: int, stdout: int, stderr: int, pass_fds: Sequence[int] = ()) -> asyncio.subprocess.Process:
    """Start a program that the caller talks to, in its own session; the caller waits for it and ends it (`kill_group`).

    Args:
        argv: program and arguments.
        stdin: a descriptor, `asyncio.subprocess.PIPE` or `DEVNULL`; `stdout` and `stderr` alike.
        pass_fds: descriptors that it inherits besides these three.

    Raises:
        OSError: the program could not be started.
    """
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=pass_fds, env=child_environment(), start_new_session=True
    )
    log.debug("started %s: pid %d", argv, process.pid)
    return process


def kill_group(process: asyncio.subprocess.Process) -> None:
    """Kill what `spawn` started, with all that it started in its session's first group."""
    _kill_group(process.pid)


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, 9)
    except ProcessLookupError:
        log.debug("process group %d is gone already", pid)
