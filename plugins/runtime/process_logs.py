"""Reads the log files of the shim: numbered, only ever appended to, in the format of CRI."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from gestalt.plugin.runtime import LogLine, LogOptions

from .process_threads import Threads
from .process_watch import FolderWatch

CHUNK = 256 * 1024
LINE_MAX = 1024**2
_WHOLE = b"F"


@dataclass(frozen=True, slots=True)
class Piece:
    """One line of a log file: a line of output, or a part of one."""

    stamp: bytes
    stderr: bool
    whole: bool
    text: bytes


def parse(line: bytes) -> Piece:
    stamp, stream, tag, text = line.split(b" ", 3)
    return Piece(stamp, stream == b"stderr", tag == _WHOLE, text)


class Assembler:
    """Puts lines together from their pieces, each stream for itself. A line has the time of its first piece."""

    def __init__(self, options: LogOptions, now: float) -> None:
        self._timestamps = options.timestamps
        self._since = now - options.since if options.since else 0.0
        self._parts: dict[bool, list[Piece]] = {False: [], True: []}

    def add(self, piece: Piece) -> Iterator[LogLine]:
        parts = self._parts[piece.stderr]
        parts.append(piece)
        if piece.whole or sum(len(part.text) for part in parts) >= LINE_MAX:
            yield from self._line(piece.stderr, b"\n" if piece.whole else b"")

    def flush(self) -> Iterator[LogLine]:
        """Yield what is there of lines that have not ended."""
        for stderr in (False, True):
            if self._parts[stderr]:
                yield from self._line(stderr, b"")

    def _line(self, stderr: bool, end: bytes) -> Iterator[LogLine]:
        parts = self._parts[stderr]
        self._parts[stderr] = []
        if self._since and _seconds(parts[0].stamp) < self._since:
            return
        stamp = parts[0].stamp + b" " if self._timestamps else b""
        yield LogLine(stamp + b"".join(part.text for part in parts) + end, stderr)


class Cursor:
    """A place in the logs of one attempt that moves forward, from file to file. All calls are short and block."""

    def __init__(self, folder: Path, tail: int = 0) -> None:
        self._folder = folder
        self._number, self._offset = _tail_place(folder, tail) if tail else (min(_numbers(folder), default=1), 0)

    def read(self) -> list[Piece]:
        """Return the next pieces; none when everything was read for now."""
        while True:
            later = [number for number in _numbers(self._folder) if number > self._number]
            pieces = self._read_here()  # after the look for a later file: nothing more is appended here once there is one
            if pieces or not later:
                return pieces
            self._number, self._offset = min(later), 0

    def _read_here(self) -> list[Piece]:
        try:
            with _path(self._folder, self._number).open("rb") as file:
                file.seek(self._offset)
                data = file.read(CHUNK)
        except FileNotFoundError:  # none was written yet, or it was rotated away under a slow reader
            return []
        data = data[: data.rfind(b"\n") + 1]
        self._offset += len(data)
        return [parse(line) for line in data.split(b"\n")[:-1]]


async def read_logs(
    folder: Path, options: LogOptions, ended: Callable[[], Awaitable[bool]], watch: FolderWatch, threads: Threads
) -> AsyncIterator[LogLine]:
    """Yield lines as `RuntimeDriver.logs` promises. When `ended` is true, nothing is written any more."""
    assembler = Assembler(options, time.time())
    with watch.watching(folder) as changed:
        done = not options.follow or await ended()
        cursor = await threads(Cursor, folder, options.tail)
        if options.tail:
            lines = await threads(read_tail, cursor, assembler, options.tail)
            for line in [*lines, *(assembler.flush() if done else ())][-options.tail :]:
                yield line
        while True:
            changed.clear()
            done = not options.follow or await ended()
            pieces = await threads(cursor.read)
            for line in _assemble(assembler, pieces):
                yield line
            if done and not pieces:
                break
            if not pieces:
                await changed.wait()
    for line in assembler.flush():
        yield line


def _assemble(assembler: Assembler, pieces: Sequence[Piece]) -> Iterator[LogLine]:
    for piece in pieces:
        yield from assembler.add(piece)


def read_tail(cursor: Cursor, assembler: Assembler, count: int) -> list[LogLine]:
    """Return the last `count` lines from here to the present end; the cursor stays there."""
    lines: deque[LogLine] = deque(maxlen=count)
    while pieces := cursor.read():
        lines.extend(_assemble(assembler, pieces))
    return list(lines)


def _tail_place(folder: Path, count: int) -> tuple[int, int]:
    """Return a place with more than `count` whole lines after it, or the very beginning."""
    numbers = sorted(_numbers(folder), reverse=True)
    found = 0
    for number in numbers:
        offset, lines = _back_up(_path(folder, number), count - found)
        found += lines
        if found > count:
            return number, offset
    return min(numbers, default=1), 0


def _back_up(path: Path, count: int) -> tuple[int, int]:
    """Return the place in this file with more than `count` whole lines after it, and how many they are."""
    span = 64 * 1024
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            while True:
                begin = max(0, size - span)
                file.seek(begin)
                data = file.read(size - begin)
                first = data.find(b"\n") + 1 if begin else 0
                whole = sum(1 for line in data[first:].split(b"\n")[:-1] if parse(line).whole)
                if whole > count or not begin:
                    return begin + first, whole
                span *= 4
    except FileNotFoundError:
        return 0, 0


def _numbers(folder: Path) -> list[int]:
    try:
        return [int(path.name[4:]) for path in folder.iterdir() if path.name.startswith("log.")]
    except FileNotFoundError:
        return []


def _path(folder: Path, number: int) -> Path:
    return folder / f"log.{number:06d}"


def _seconds(stamp: bytes) -> float:
    """Return seconds since the epoch; the stamp has nanoseconds, of which the standard library takes six digits."""
    text = stamp.decode("ascii")
    return datetime.fromisoformat(text[:26] + "+00:00").timestamp()
