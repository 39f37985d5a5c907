"""Starts the writer, hears its acknowledgements, kills it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Self

from gestalt.shell import child_environment

from .writer import Counts

ROOT = Path(__file__).parents[3]
_SILENCE = 30.0


class Writer:
    """A running writer. `acknowledged` and `number` hold what it has told so far; a task of its own listens all the time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid
        self._heard = asyncio.Event()
        self._total = 0
        self._listener = asyncio.create_task(self._listen(), name="writer-listener")
        self.acknowledged: Counts = {}
        self.number = 0

    @classmethod
    async def start(cls, backend: str, folder: Path, seed: int) -> Self:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.contracts.metastore.writer", backend, str(folder), str(seed)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env=child_environment(),
        )
        return cls(process)

    async def hear(self, count: int) -> None:
        """Wait until it has told of `count` more commits. Fails with its error output when it dies or stays silent."""
        target = self._total + count
        while self._total < target:
            assert not self._listener.done(), f"the writer ended after {self.acknowledged}: {await self._complaint()}"
            self._heard.clear()
            try:
                async with asyncio.timeout(_SILENCE):
                    await self._heard.wait()
            except TimeoutError:
                raise AssertionError(f"the writer has been silent for {_SILENCE} s after {self.acknowledged}") from None

    async def kill(self) -> None:
        """Kill -9, and take note of everything that it had told by then."""
        if self._process.returncode is None:
            self._process.kill()
        await self._listener
        await self._process.wait()

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        while (line := await self._process.stdout.readline()).endswith(b"\n"):
            lane, count, number = map(int, line.split())
            self.acknowledged[lane] = count
            self.number = max(self.number, number)
            self._total += 1
            self._heard.set()
        self._heard.set()

    async def _complaint(self) -> str:
        assert self._process.stderr is not None
        return (await self._process.stderr.read()).decode(errors="replace")[-2000:]
