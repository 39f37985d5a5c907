"""What has grown is looked through once, and then left alone."""

from __future__ import annotations

import asyncio
import gc
import math
import weakref
from collections.abc import AsyncIterator

import pytest

from gestalt.coordinator import garbage
from gestalt.coordinator.garbage import Garbage
from gestalt.coordinator.records import Placed


@pytest.fixture
async def begun() -> AsyncIterator[Garbage]:
    made = Garbage()
    made.begin()
    yield made
    made.end()


def grown() -> list[Placed]:
    return [Placed(serial, 1, "n1", (3000 + serial,)) for serial in range(1000)]


def is_left_alone(item: object) -> bool:
    """Tell whether no collection looks at an object any more."""
    return not any(other is item for other in gc.get_objects())


async def test_what_takes_long_to_look_through_is_left_alone_from_then_on(begun: Garbage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "LONG", math.inf)
    there = grown()
    gc.collect()
    assert not is_left_alone(there[0])
    monkeypatch.setattr(garbage, "LONG", 0.0)
    gc.collect(1)
    assert not is_left_alone(there[0]), "a collection of the young ones has not looked at everything"
    gc.collect()
    assert is_left_alone(there[0])
    assert is_left_alone(there[-1])


async def test_however_much_was_left_alone_the_next_full_collection_comes_soon(begun: Garbage) -> None:
    gc.disable()
    there = [[number] for number in range(400_000)]
    gc.enable()
    gc.collect()
    await asyncio.sleep(0)
    before = gc.get_stats()[2]["collections"]
    more = [[number] for number in range(60_000)]
    assert gc.get_stats()[2]["collections"] > before
    assert len(there) > len(more)


async def test_what_comes_and_goes_without_growing_is_looked_through_in_time(begun: Garbage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "EVERY", 0.01)
    looked_through = asyncio.Event()

    def noted(phase: str, info: dict[str, int]) -> None:
        if info["generation"] == 2:
            looked_through.set()

    gc.callbacks.append(noted)
    running = asyncio.create_task(begun.run())
    try:
        async with asyncio.timeout(10):
            await looked_through.wait()
    finally:
        running.cancel()
        gc.callbacks.remove(noted)


async def test_cycles_are_collected_before_anything_is_frozen_and_all_is_looked_at_again_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Knot:
        def __init__(self) -> None:
            self.me = self

    monkeypatch.setattr(garbage, "LONG", 0.0)
    found, knot = Garbage(), weakref.ref(Knot())
    found.begin()
    assert knot() is None
    assert gc.get_freeze_count()
    later = weakref.ref(Knot())
    gc.collect()
    assert later() is None
    found.end()
    assert not gc.get_freeze_count()
    there = grown()
    gc.collect()
    assert there
    assert not gc.get_freeze_count(), "nobody watches any more"
