"""The threads in which the Engine is called: who gives up leaves the queue, and what hangs holds up nobody's end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time

import pytest

from gestalt.plugin.runtime import DriverUnavailable
from gestalt.plugins.runtime.docker_threads import CallThreads

PROGRAM = """
import asyncio, threading
from gestalt.plugins.runtime.docker_threads import CallThreads

async def main():
    threads, hangs = CallThreads("test", 2), threading.Event()
    def work():
        hangs.set()
        threading.Event().wait()
    call = asyncio.create_task(threads(work))
    while not hangs.is_set():
        await asyncio.sleep(0.01)
    call.cancel()
    await threads.close(0.05)

asyncio.run(main())
"""


async def test_what_is_done_there_returns_or_raises() -> None:
    threads = CallThreads("test", 2)
    names = {await threads(lambda: threading.current_thread().name) for _ in range(5)}
    assert names == {"test_0"}, "a thread that is idle is used again"
    with pytest.raises(ZeroDivisionError):
        await threads(lambda: 1 // 0)
    assert await asyncio.gather(*(threads(lambda number=number: number) for number in range(20))) == list(range(20))
    await threads.close(1)
    with pytest.raises(RuntimeError, match="let go"):
        await threads(lambda: 1)


async def test_where_no_thread_is_to_be_had_the_call_is_refused_and_never_made(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, made = CallThreads("test", 2), list[str]()

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", start)
        with pytest.raises(DriverUnavailable, match="test cannot be called: can't start new thread"):
            await threads(lambda: made.append("refused"))
    await threads(lambda: made.append("later"))
    assert made == ["later"]


async def test_who_gives_up_waiting_for_a_thread_leaves_the_queue() -> None:
    threads, free, done = CallThreads("test", 2), threading.Event(), list[int]()
    busy = [asyncio.create_task(threads(lambda: free.wait(10))) for _ in range(2)]
    waits = asyncio.create_task(threads(lambda: done.append(1)))
    await asyncio.sleep(0)
    waits.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waits
    free.set()
    assert await asyncio.gather(*busy) == [True, True]
    await threads(lambda: done.append(2))
    assert done == [2]
    await threads.close(1)


async def test_at_the_close_what_is_under_way_gets_a_moment() -> None:
    threads, began, ended, free = CallThreads("test", 1), threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        free.wait(10)
        ended.set()

    call, queued = asyncio.create_task(threads(work)), asyncio.create_task(threads(lambda: 1))
    assert await asyncio.to_thread(began.wait, 10)
    start = time.monotonic()
    await threads.close(0.05)
    assert time.monotonic() - start < 5
    assert not ended.is_set(), "it hangs, and is left to itself"
    with pytest.raises(asyncio.CancelledError):
        await queued
    free.set()
    await threads.close(10)
    assert ended.is_set(), "it was waited for"
    await call


def test_a_program_ends_while_a_call_hangs() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=20)
