"""The log stream of a container as whole lines of two streams."""

from __future__ import annotations

from collections.abc import AsyncIterator

from gestalt.clock import wall
from gestalt.plugin.runtime import LogLine, LogOptions

from .docker_stream import Request, Stream

_HEADER = 8
_STDERR = 2
_LONGEST_LINE = 1024 * 1024


def logs_request(container: str, options: LogOptions) -> Request:
    query = {"stdout": "1", "stderr": "1", "follow": "1" if options.follow else "0", "timestamps": "1" if options.timestamps else "0"}
    if options.tail:
        query["tail"] = str(options.tail)
    if options.since:
        query["since"] = f"{wall().timestamp() - options.since:.9f}"
    return Request("GET", f"/containers/{container}/logs", query)


async def frames(stream: Stream) -> AsyncIterator[tuple[bool, bytes]]:
    """Yield (is stderr, bytes) from the Engine's multiplexed stream: 8 bytes of header (stream, length), then the content."""
    buffer = bytearray()
    async for piece in stream.pieces():
        buffer += piece
        while len(buffer) >= _HEADER:
            end = _HEADER + int.from_bytes(buffer[4:_HEADER], "big")
            if len(buffer) < end:
                break
            yield buffer[0] == _STDERR, bytes(buffer[_HEADER:end])
            del buffer[:end]


class LineAssembler:
    """Puts the Engine's frames together to lines.

    A frame is one write of up to 16 KiB: a longer line comes in several, each with a timestamp of its own, of which the first counts.
    Lines over 1 MiB are handed on in pieces.
    """

    def __init__(self, timestamps: bool) -> None:
        self._timestamps = timestamps
        self._partial: dict[bool, bytearray] = {False: bytearray(), True: bytearray()}

    def feed(self, stderr: bool, data: bytes) -> LogLine | None:
        partial = self._partial[stderr]
        partial += data.partition(b" ")[2] if partial and self._timestamps else data
        if not partial.endswith(b"\n") and len(partial) < _LONGEST_LINE:
            return None
        line = LogLine(bytes(partial), stderr)
        partial.clear()
        return line

    def rest(self) -> list[LogLine]:
        """Return what the instance printed last without a line end."""
        return [LogLine(bytes(partial), stderr) for stderr, partial in self._partial.items() if partial]


async def log_lines(stream: Stream, options: LogOptions) -> AsyncIterator[LogLine]:
    assembler = LineAssembler(options.timestamps)
    async for stderr, data in frames(stream):
        if line := assembler.feed(stderr, data):
            yield line
    for line in assembler.rest():
        yield line
