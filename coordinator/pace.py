"""Work that many events ask for and that may be done once for all of them."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable

SHARE = 0.2
SLICE = 0.02
"""Seconds of work in one turn of the loop, before others have theirs."""


class Pace:
    """Calls `work` in the next turn of the loop after it was asked for, and never for more than a part of the time.

    Work that takes a millisecond is done at once as good as always; what takes a hundred, in a large cluster, gathers more to do. Work that
    returns True is not done yet: it is called again in the next turn, so that others have theirs in between.
    """

    def __init__(self, work: Callable[[], bool | None], share: float = SHARE) -> None:
        self._work = work
        self._share = share
        self._asked = False
        self._busy = False
        self._spent = 0.0
        self._rested = 0.0

    def ask(self) -> None:
        """Have the work done soon. Many calls before that count as one; one while it is being done counts as the next."""
        if not self._asked:
            self._asked = True
            if not self._busy:
                self._plan()

    def owe(self, seconds: float) -> None:
        """Count what the work that is being done makes others do later as time that it took, too."""
        self._spent += seconds

    def _plan(self) -> None:
        loop, nobodys = asyncio.get_running_loop(), contextvars.Context()  # it is done for all who ask, not for the first
        if self._rested <= loop.time():
            loop.call_soon(self._begin, context=nobodys)
        else:
            loop.call_at(self._rested, self._begin, context=nobodys)

    def _begin(self) -> None:
        self._asked, self._busy, self._spent = False, True, 0.0
        self._do()

    def _do(self) -> None:
        loop = asyncio.get_running_loop()
        begun, is_more = loop.time(), None
        try:
            is_more = self._work()
        finally:
            self._spent += loop.time() - begun
            if is_more:
                loop.call_soon(self._do)
            else:
                self._rest()

    def _rest(self) -> None:
        self._busy = False
        self._rested = asyncio.get_running_loop().time() + self._spent * (1 / self._share - 1)
        if self._asked:
            self._plan()


class Line:
    """Does what many ask for at once: first come, first served, for SLICE seconds in a turn of the loop, so that others have theirs."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[[], None], asyncio.Future[None]]] = deque()

    async def do(self, work: Callable[[], None]) -> None:
        """Have work done when its turn comes, and wait for that. Work that nobody waits for any more is left out."""
        loop = asyncio.get_running_loop()
        self._waiting.append((work, done := loop.create_future()))
        if len(self._waiting) == 1:
            loop.call_soon(self._go_on, context=contextvars.Context())
        await done

    def _go_on(self) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + SLICE
        try:
            while self._waiting:
                self._do(*self._waiting.popleft())
                if loop.time() >= end:
                    break
        finally:
            if self._waiting:
                loop.call_soon(self._go_on)

    @staticmethod
    def _do(work: Callable[[], None], done: asyncio.Future[None]) -> None:
        if done.cancelled():
            return
        try:
            work()
        except Exception as error:  # noqa: BLE001 - it is theirs who asked for it
            outcome: Exception | None = error
        else:
            outcome = None
        if done.cancelled():
            return
        if outcome is None:
            done.set_result(None)
        else:
            done.set_exception(outcome)
