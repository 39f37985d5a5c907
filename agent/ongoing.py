"""A task that goes on until it is ended, and is begun again should it have died: what managers do beside their `ensure`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine
from typing import Any

PATIENCE = 2.0
"""Seconds for which a round waits for runtimes: one that hangs holds up neither the start of the agent nor what the other managers do."""


async def wait_a_while(tasks: Collection[asyncio.Task[None]]) -> None:
    """Wait for these, PATIENCE seconds at most; those that take longer go on. What one of the others has failed of is raised."""
    done, _ = await asyncio.wait(tasks, timeout=PATIENCE) if tasks else ((), ())
    for task in done:
        if not task.cancelled():
            task.result()


class Ongoing:
    """One task at most. `name`: of the task; `run`: what it does."""

    def __init__(self, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._name = name
        self._run = run
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> bool:
        """Have it going; return whether it was not. Idempotent."""
        if self._task is not None and not self._task.done():
            return False
        self._task = asyncio.create_task(self._run(), name=self._name)
        return True

    async def end(self, again: float | None = None) -> None:
        """Cancel it and wait for its end. Idempotent.

        Args:
            again: cancel it again after so many seconds, and so on: out of grpc.aio a cancellation may come as an error of the call.
        """
        while self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait((self._task,), timeout=again)
