"""Starts the writer, hears its acknowledgements, kills it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Self

from gestalt.shell import child_environment

from .writer import Counts

ROOT = Path(__file__).parents[3]
_START_LIMIT = 30.0


class Writer:
    """A running writer. `acknowledged` and `number` hold what it has told so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
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
        assert self._process.stdout is not None
        async with asyncio.timeout(_START_LIMIT + count):
            for _ in range(count):
                line = await self._process.stdout.readline()
                assert line.endswith(b"\n"), f"the writer ended after {self.acknowledged}: {await self._complaint()}"
                self._note(line)

    async def kill(self) -> None:
        """Kill -9, and take note of everything that it had told by then."""
        if self._process.returncode is None:
            self._process.kill()
        assert self._process.stdout is not None
        for line in (await self._process.stdout.read()).splitlines(keepends=True):
            if line.endswith(b"\n"):
                self._note(line)
        await self._process.wait()

    def _note(self, line: bytes) -> None:
        lane, count, number = map(int, line.split())
        self.acknowledged[lane] = count
        self.number = max(self.number, number)

    async def _complaint(self) -> str:
        assert self._process.stderr is not None
        return (await self._process.stderr.read()).decode(errors="replace")[-2000:]
