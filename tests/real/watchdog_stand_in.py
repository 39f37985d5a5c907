"""A FIFO in place of a watchdog: what is written to it and when, and in what order it is closed. It knows no ioctl (ENOTTY)."""

from __future__ import annotations

import os
import select
import threading
from dataclasses import dataclass
from pathlib import Path

from gestalt.clock import monotonic

CLOSED = "closed"
TICK = 50


@dataclass(frozen=True, slots=True)
class Seen:
    """What was written, or `CLOSED`, and when."""

    what: str
    at: float


class StandIn:
    """Reads along, in a thread, from the making to `close`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self.seen: list[Seen] = []
        self._file = self._open()
        self._ends = False
        self._thread = threading.Thread(target=self._read, name="watchdog stand-in", daemon=True)
        self._thread.start()

    @property
    def story(self) -> str:
        """What was seen, in short: "..V|" is fed twice, disarmed, closed."""
        return "".join("|" if seen.what == CLOSED else seen.what for seen in tuple(self.seen))

    def fed(self, since: float = 0.0) -> int:
        """Return how often it was fed since then."""
        return sum(seen.what == "." for seen in tuple(self.seen) if seen.at >= since)

    def close(self) -> None:
        self._ends = True
        self._thread.join()
        os.close(self._file)

    def _open(self) -> int:
        return os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)

    def _read(self) -> None:
        while not self._ends:
            poll = select.poll()
            poll.register(self._file, select.POLLIN)
            if not poll.poll(TICK):
                continue
            if content := os.read(self._file, 4096):
                self.seen += [Seen(char, monotonic()) for char in content.decode()]
                continue
            self.seen.append(Seen(CLOSED, monotonic()))
            old, self._file = self._file, self._open()  # one that is opened anew says nothing before somebody writes
            os.close(old)
