"""A coordinator whose loop is timed, for `bench.c1m`: how long one callback held it at most, and so everything else waited.

    python -m bench.held --config SETTINGS.yaml

SIGUSR1 has the longest since the last time, in seconds, written beside the settings, as `SETTINGS.held`.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path

from gestalt.coordinator.main import main as coordinate


class Timed:
    """Times all callbacks of the loops of this process."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._longest = 0.0

    def begin(self) -> None:
        """Time from now on."""
        run, now = asyncio.Handle._run, time.perf_counter

        def timed(handle: asyncio.Handle) -> None:
            begun = now()
            run(handle)
            self._longest = max(self._longest, now() - begun)

        asyncio.Handle._run = timed  # type: ignore[method-assign]
        signal.signal(signal.SIGUSR1, lambda number, frame: self._tell())

    def _tell(self) -> None:
        made = self._file.with_suffix(".new")
        made.write_text(str(self._longest))
        made.replace(self._file)
        self._longest = 0.0


def main() -> int:
    """Be a coordinator."""
    Timed(Path(sys.argv[-1]).with_suffix(".held")).begin()
    return coordinate()


if __name__ == "__main__":
    raise SystemExit(main())
