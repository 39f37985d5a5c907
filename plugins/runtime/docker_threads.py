"""The threads in which the Engine is called."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import Any, TypeVar

from gestalt.plugin.runtime import DriverUnavailable

T = TypeVar("T")

_Work = tuple[Future[Any], Callable[[], Any]]


class CallThreads:
    """A small pool. Calling it does something in one of its threads; who gives up waiting for a thread leaves the queue.

    Unlike those of the standard library, its threads do not hold up the end of the program: a call that hangs ends with it.
    """

    def __init__(self, name: str, count: int) -> None:
        self._name = name
        self._count = count
        self._started = 0
        self._idle = Semaphore(0)
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        self._calls: set[Future[Any]] = set()
        self._closed = False

    async def __call__(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise RuntimeError(f"the threads {self._name} were let go")
        call: Future[T] = Future()
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        self._queue.put((call, work))
        if not self._idle.acquire(blocking=False) and self._started < self._count:
            self._start(call)
        return await asyncio.wrap_future(call)

    def _start(self, call: Future[Any]) -> None:
        """Start one more thread.

        Raises:
            DriverUnavailable: there is none to be had, and the call is not carried out later either.
        """
        try:
            Thread(target=self._run, name=f"{self._name}_{self._started}", daemon=True).start()
        except RuntimeError as error:
            if call.cancel():
                raise DriverUnavailable(f"{self._name} cannot be called: {error}") from error
        else:
            self._started += 1

    async def close(self, grace: float) -> None:
        """Start nothing more, and give what is under way `grace` seconds to end; what hangs is left to itself. Idempotent."""
        self._closed = True
        under_way = [call for call in tuple(self._calls) if not call.cancel()]
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await asyncio.gather(*map(asyncio.wrap_future, under_way), return_exceptions=True)
        for _ in range(self._started):
            self._queue.put(None)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            _do(*item, self._idle.release)
            del item  # what it held is not kept until there is more to do


def _do(call: Future[Any], work: Callable[[], Any], idle: Callable[[], None]) -> None:
    """Do it. The thread counts as idle before anybody hears how it ended, who may call again at once."""
    if not call.set_running_or_notify_cancel():
        return idle()
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 (raised where it is waited for)
        idle()
        call.set_exception(error)
    else:
        idle()
        call.set_result(result)
