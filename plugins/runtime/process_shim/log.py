"""The log files that the shim writes."""

# pathlib would cost a megabyte a process:
# ruff: noqa: PTH108
from __future__ import annotations

import os
import time

LINE_MAX = 16 * 1024


class Log:
    """Numbered files of bounded size; the oldest goes when there are too many. A full disk loses lines, never the process."""

    def __init__(self, max_size: int, max_files: int) -> None:
        self.max_size, self.max_files = max_size, max_files
        self.batch = min(max_size // 4, 8192)
        self.number = self.size = 0
        self.file, self.lost = -1, False
        self.rest = {"stdout": b"", "stderr": b""}

    def feed(self, stream: str, data: bytes) -> None:
        """Take what was read; no data means that the stream ended."""
        lines = (self.rest[stream] + data).split(b"\n")
        self.rest[stream] = lines.pop()
        out = bytearray()
        for line in lines:
            self.add(out, stream, line, b"F")
            if len(out) >= self.batch:
                self.write(out)
                out.clear()
        while len(self.rest[stream]) > LINE_MAX or (not data and self.rest[stream]):
            self.add(out, stream, self.rest[stream][:LINE_MAX], b"P")
            self.rest[stream] = self.rest[stream][LINE_MAX:]
        if out:
            self.write(out)

    def add(self, out: bytearray, stream: str, line: bytes, tag: bytes) -> None:
        while len(line) > LINE_MAX:
            self.add(out, stream, line[:LINE_MAX], b"P")
            line = line[LINE_MAX:]
        now = time.time_ns()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 10**9))
        out += b"%s.%09dZ %s %s %s\n" % (stamp.encode(), now % 10**9, stream.encode(), tag, line)

    def write(self, data: bytearray) -> None:
        if self.lost:
            notice = bytearray()
            self.add(notice, "stderr", b"[gestalt: output was lost here, the disk was full]", b"F")
            data = notice + data
        try:
            if self.file < 0 or (self.size and self.size + len(data) > self.max_size):
                self.rotate()
            written = os.write(self.file, data)
        except OSError:
            written = 0
        self.lost = written < len(data)
        if not self.lost:
            self.size += written
        elif self.file >= 0:
            os.ftruncate(self.file, self.size)  # no half line stays

    def rotate(self) -> None:
        following = os.open(f"log.{self.number + 1:06d}", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        if self.file >= 0:
            os.close(self.file)
        self.file, self.size, self.number = following, 0, self.number + 1
        if self.number > self.max_files:
            try:
                os.unlink(f"log.{self.number - self.max_files:06d}")
            except OSError:
                return
