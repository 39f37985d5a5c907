"""Requests at a steady rate, sent at their time whatever became of the earlier ones, each kept with when it was sent and what came.

The time between two varies by half: beside another load of an even rate, a proxy that takes turns would always give them the same servers.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from gestalt.clock import monotonic

LIMIT = 2.0
_PATIENCE = 90.0
_LOOK = 0.005


class NotAnswered(Exception):
    """Nobody answered as was waited for."""


@dataclass(slots=True)
class Sent:
    """One request. `ended`: when its answer or failure was there, None = it is open. `answer`: the body; `failure`: empty when answered."""

    begun: float
    ended: float | None = None
    answer: str = ""
    failure: str = ""

    @property
    def seconds(self) -> float:
        return (self.ended or monotonic()) - self.begun


class Load:
    """Sends while its block runs; at its end all requests have ended. Each has a connection of its own and fails after `limit` seconds."""

    def __init__(self, address: str, port: int, host: str, path: str, *, rate: float, method: str = "GET", limit: float = LIMIT) -> None:
        self._where = address, port
        self._text = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
        self._rate, self._limit = rate, limit
        self._tasks: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self.sent: list[Sent] = []

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="load")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        await asyncio.gather(*self._tasks)

    @property
    def answers(self) -> set[str]:
        """Every answer that there was."""
        return {request.answer for request in self.sent if request.answer}

    def after(self, moment: float) -> list[Sent]:
        """Return what was sent from a moment on, or was open then."""
        return [request for request in self.sent if request.ended is None or request.ended >= moment]

    async def until_answered(self, count: int) -> None:
        """Wait until so many more requests were answered."""
        there = len(self.sent)
        await self._until(f"{count} more answers", lambda: sum(bool(request.answer) for request in self.sent[there:]) >= count)

    async def until_different(self, count: int) -> None:
        """Wait until there were so many different answers."""
        await self._until(f"{count} different answers", lambda: len(self.answers) >= count)

    async def until_news(self, known: set[str]) -> float:
        """Wait for an answer that is not known; return when it came."""
        there = len(self.sent)

        def news() -> list[Sent]:
            return [
                request
                for request in self.sent[max(there - int(self._rate * self._limit), 0) :]
                if request.answer and request.answer not in known
            ]

        await self._until("somebody new to answer", lambda: bool(news()))
        return min(request.ended or 0.0 for request in news())

    async def _until(self, what: str, condition: object) -> None:
        deadline = monotonic() + _PATIENCE
        assert callable(condition)
        while not condition():
            if monotonic() > deadline:
                raise NotAnswered(f"waited {_PATIENCE:g} s for {what}")
            await asyncio.sleep(_LOOK)

    async def _run(self) -> None:
        due = monotonic()
        while True:
            request = Sent(monotonic())
            self.sent.append(request)
            task = asyncio.create_task(self._one(request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            due += random.uniform(0.5, 1.5) / self._rate
            await asyncio.sleep(max(0.0, due - monotonic()))

    async def _one(self, request: Sent) -> None:
        try:
            async with asyncio.timeout(self._limit):
                reader, writer = await asyncio.open_connection(*self._where)
                try:
                    writer.write(self._text)
                    head, _, body = (await reader.read()).decode(errors="replace").partition("\r\n\r\n")
                finally:
                    writer.close()
            status = head.partition("\r\n")[0]
            request.answer, request.failure = (body.strip(), "") if " 200 " in f"{status} " else ("", status or "closed")
        except TimeoutError:
            request.failure = f"no answer within {self._limit:g} s"
        except OSError as error:
            request.failure = str(error)
        request.ended = monotonic()


def slowest(requests: list[Sent]) -> float:
    """Return the seconds of the slowest request that was answered."""
    return max((request.seconds for request in requests if request.answer), default=0.0)


def failed(requests: list[Sent]) -> int:
    """Return how many requests failed."""
    return sum(bool(request.failure) for request in requests)
