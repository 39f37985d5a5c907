"""Work that many events ask for: once for all of them, at once when it is cheap, now and then when it is dear."""

import asyncio
import time
from collections.abc import Iterator
from functools import partial

import pytest

from gestalt.coordinator import pace as paces
from gestalt.coordinator.pace import Line, Pace
from gestalt.coordinator.slices import gather


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


async def test_who_stands_in_line_is_served_in_order_and_others_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paces, "SLICE", 0.0)
    line, order = Line(), list[str]()

    def work(name: str) -> None:
        order.append(name)
        asyncio.get_running_loop().call_soon(order.append, "other")

    await asyncio.gather(*(line.do(partial(work, name)) for name in "abc"))
    assert order[:5] == ["a", "other", "b", "other", "c"]
    await line.do(partial(work, "d"))
    assert "d" in order, "who comes when nobody is in line is served, too"


async def test_what_fails_in_line_fails_for_its_own_caller_only() -> None:
    line, done = Line(), list[str]()

    def fail() -> None:
        raise ValueError("not this one")

    first, second = await asyncio.gather(line.do(fail), line.do(partial(done.append, "done")), return_exceptions=True)
    assert isinstance(first, ValueError)
    assert (second, done) == (None, ["done"])


async def test_what_nobody_waits_for_any_more_is_left_out() -> None:
    line, done = Line(), list[str]()
    left = asyncio.ensure_future(line.do(partial(done.append, "left")))
    other = asyncio.ensure_future(line.do(partial(done.append, "other")))
    await asyncio.sleep(0)  # both stand in line now
    left.cancel()
    await other
    assert done == ["other"]


async def test_what_the_work_makes_others_do_is_rested_for_too() -> None:
    begins: list[float] = []
    ended = asyncio.Event()

    def work() -> None:
        begins.append(asyncio.get_running_loop().time())
        if len(begins) == 2:
            ended.set()
            return
        pace.owe(0.05)
        pace.ask()

    pace = Pace(work, share=0.2)
    pace.ask()
    await asyncio.wait_for(ended.wait(), 10)
    assert begins[1] - begins[0] >= 0.2


async def test_a_caller_that_is_gone_when_its_work_is_done_does_not_stop_the_line() -> None:
    line, done = Line(), list[str]()

    def leave() -> None:
        first.cancel()

    first = asyncio.ensure_future(line.do(leave))
    await asyncio.gather(first, line.do(partial(done.append, "next")), return_exceptions=True)
    assert done == ["next"]
    assert first.cancelled()


async def test_what_takes_long_to_gather_lets_others_have_their_turn() -> None:
    loop, turns = asyncio.get_running_loop(), 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def work() -> Iterator[int]:
        for number in range(6):
            end = loop.time() + paces.SLICE
            while loop.time() < end:
                pass
            yield number

    waiting = asyncio.create_task(others())
    await asyncio.sleep(0)
    assert await gather(work()) == list(range(6))
    assert turns >= 6
    before = turns
    assert await gather(range(3)) == [0, 1, 2]
    assert turns == before, "what is quick is done in one turn"
    waiting.cancel()
