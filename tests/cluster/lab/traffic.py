"""Open-loop requests through the HAProxies of nodes: sent at their time, whether the earlier ones were answered or not."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from gestalt.clock import monotonic

from .http import HttpFailed, get
from .invariants import Request
from .nodes import Node

LIMIT = 2.0
FLOWING_LIMIT = 30.0
_LOOK = 0.05


class Traffic:
    """Sends so many requests a second, to one node after the other, while its block runs; at its end all have ended.

    Args:
        nodes: through whose HAProxies.
        host: of the app's route.
        rate: requests a second altogether.
        limit: seconds after which a request has failed.
    """

    def __init__(
        self, nodes: Sequence[Node], *, host: str = "localhost", path: str = "/cgi-bin/who", rate: float = 50, limit: float = LIMIT
    ) -> None:
        self._nodes, self._host, self._path, self._rate, self._limit = nodes, host, path, rate, limit
        self._pending: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self.requests: list[Request] = []

    @property
    def answered(self) -> int:
        """Return how many requests were answered so far."""
        return sum(not request.failure for request in self.requests)

    async def flowing(self, more: int = 50) -> None:
        """Wait until more requests were answered, so that what comes next happens under traffic."""
        deadline, enough = monotonic() + FLOWING_LIMIT, self.answered + more
        while self.answered < enough:
            assert monotonic() < deadline, f"{self.answered} requests were answered; the last: {self.requests[-3:]}"
            await asyncio.sleep(_LOOK)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._send(), name="traffic")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        await asyncio.gather(*self._pending)

    async def _send(self) -> None:
        due = monotonic()
        for node in itertools.cycle(self._nodes):
            task = asyncio.create_task(self._one(node))
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)
            due += 1 / self._rate
            await asyncio.sleep(max(0.0, due - monotonic()))

    async def _one(self, node: Node) -> None:
        begun = monotonic()
        by, failure = "", ""
        try:
            by = (await get(node.address, 80, self._path, host=self._host, limit=self._limit)).partition(" ")[0]
        except HttpFailed as error:
            failure = str(error)
        self.requests.append(Request(begun, node.name, monotonic() - begun, by, failure))
