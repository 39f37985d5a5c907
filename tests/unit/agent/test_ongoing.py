"""Tasks that managers have going: one at most, begun again when it died, ended even if it swallows a cancellation."""

from __future__ import annotations

import asyncio

from gestalt.agent.ongoing import Ongoing


async def test_it_is_begun_once_and_again_when_it_has_ended() -> None:
    begun, let_go = 0, asyncio.Event()

    async def run() -> None:
        nonlocal begun
        begun += 1
        await let_go.wait()

    task = Ongoing("test", run)
    assert [task.begin(), task.begin()] == [True, False]
    let_go.set()
    async with asyncio.timeout(5):
        while not task.begin():  # noqa: ASYNC110 - its end raises no event
            await asyncio.sleep(0)
    await asyncio.sleep(0)  # its first step
    assert begun == 2
    for _ in range(2):
        await task.end()
    assert task.begin(), "what was ended may be begun again"
    await task.end()


async def test_one_that_was_never_begun_has_ended() -> None:
    await Ongoing("test", asyncio.Event().wait).end()  # type: ignore[arg-type]


async def test_a_cancellation_that_is_taken_for_an_error_is_made_again() -> None:
    swallowed = 0

    async def run() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if swallowed == 2:
                    raise
                swallowed += 1

    task = Ongoing("test", run)
    task.begin()
    await asyncio.sleep(0)  # its first step
    async with asyncio.timeout(5):
        await task.end(again=0.01)
    assert swallowed == 2
