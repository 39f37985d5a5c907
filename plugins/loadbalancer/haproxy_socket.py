"""Talks to HAProxy's command sockets: one connection a batch, an answer or DriverUnavailable."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gestalt.plugin.runtime import DriverUnavailable

_LONGEST_LINE = 8000
_LIMIT = 3.0


async def ask(path: Path, commands: Sequence[str], *, limit: float = _LIMIT) -> str:
    """Send the commands in one line and return all that is answered.

    Raises:
        DriverUnavailable: no answer within `limit` seconds, or nobody listens; some commands may have been carried out.
    """
    line = "; ".join(commands)
    assert "\n" not in line
    try:
        async with asyncio.timeout(limit):
            return await _exchange(path, line)
    except TimeoutError:
        raise DriverUnavailable(f"HAProxy did not answer on {path} within {limit:g} s") from None
    except OSError as error:
        raise DriverUnavailable(f"HAProxy does not answer on {path}: {error.strerror or error}") from error


async def _exchange(path: Path, line: str) -> str:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(line.encode() + b"\n")
        # The master's socket stays open for more commands unless our side is closed.
        writer.write_eof()
        return (await reader.read()).decode(errors="replace")
    finally:
        writer.close()


def batches(commands: Sequence[str]) -> list[list[str]]:
    """Cut commands into lines that fit into HAProxy's buffer."""
    result: list[list[str]] = []
    room = 0
    for command in commands:
        if len(command) + 2 > room:
            result.append([])
            room = _LONGEST_LINE
        result[-1].append(command)
        room -= len(command) + 2
    return result


@dataclass(frozen=True, slots=True)
class Processes:
    """What `show proc` says. `failed`: reloads since the last one that worked."""

    master: int
    reloads: int
    failed: int
    workers: tuple[int, ...]
    old_workers: tuple[int, ...]


def parse_processes(text: str) -> Processes:
    """Read `show proc`.

    Raises:
        ValueError: it is something else.
    """
    lines = text.splitlines()
    if "<reloads>" not in text.partition("\n")[0]:
        raise ValueError(f"this is not HAProxy's list of processes: {text[:200]!r}")
    reloads = re.findall("<([^>]+)>", lines[0]).index("reloads")
    master = (0, 0, 0)
    workers: dict[bool, list[int]] = {False: [], True: []}
    old = False
    for line in lines[1:]:
        words = line.split()
        old = old or line.startswith("# old workers")
        if words[1:2] == ["master"]:
            # Before 2.5 failed reloads are not counted.
            failed = re.search(r"\[failed: (\d+)\]", line)
            master = (int(words[0]), int(words[reloads]), int(failed[1]) if failed else 0)
        elif words[1:2] == ["worker"]:
            workers[old].append(int(words[0]))
    return Processes(*master, tuple(workers[False]), tuple(workers[True]))
