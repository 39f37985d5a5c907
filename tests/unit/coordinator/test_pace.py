"""Work that many events ask for: once for all of them, at once when it is cheap, now and then when it is dear."""

import asyncio
import time

from gestalt.coordinator.pace import Pace


async def test_many_calls_in_one_turn_are_one() -> None:
    done = asyncio.Event()
    calls: list[float] = []

    def work() -> None:
        calls.append(asyncio.get_running_loop().time())
        done.set()

    pace = Pace(work)
    for _ in range(100):
        pace.ask()
    await asyncio.wait_for(done.wait(), 10)
    await asyncio.sleep(0)
    assert len(calls) == 1


async def test_dear_work_rests_in_proportion() -> None:
    ended = asyncio.Event()
    begins: list[float] = []
    ends: list[float] = []

    def work() -> None:
        begins.append(asyncio.get_running_loop().time())
        time.sleep(0.02)  # that the loop stands still is the point
        ends.append(asyncio.get_running_loop().time())
        if len(begins) == 3:
            ended.set()
        else:
            pace.ask()

    pace = Pace(work, share=0.2)
    pace.ask()
    await asyncio.wait_for(ended.wait(), 10)
    rests = [begin - end for begin, end in zip(begins[1:], ends, strict=False)]
    worked = [end - begin for begin, end in zip(begins, ends, strict=True)]
    assert all(rest >= 3.9 * work for rest, work in zip(rests, worked, strict=False))


async def test_work_that_fails_is_done_again_when_asked_for() -> None:
    failed, again = asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().set_exception_handler(lambda *_: failed.set())

    def work() -> None:
        if not failed.is_set():
            raise ValueError("once")
        again.set()

    pace = Pace(work)
    pace.ask()
    await asyncio.wait_for(failed.wait(), 10)
    pace.ask()
    await asyncio.wait_for(again.wait(), 10)


async def test_work_in_parts_lets_others_have_their_turn() -> None:
    order: list[str] = []
    done = asyncio.Event()

    def work() -> bool:
        order.append("part")
        asyncio.get_running_loop().call_soon(order.append, "other")
        if order.count("part") == 3:
            done.set()
        return not done.is_set()

    Pace(work).ask()
    await asyncio.wait_for(done.wait(), 10)
    assert order[:5] == ["part", "other", "part", "other", "part"]
