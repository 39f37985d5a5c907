"""Work that is too long for one turn of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TypeVar

from .pace import SLICE

T = TypeVar("T")


async def in_slices(steps: Iterable[object]) -> None:
    """Take steps of a few milliseconds each, for SLICE seconds in a turn of the loop, so that others have theirs. A cancel ends it."""
    loop = asyncio.get_running_loop()
    end = loop.time() + SLICE
    for _ in steps:
        if loop.time() >= end:
            await asyncio.sleep(0)
            end = loop.time() + SLICE


async def gather(items: Iterable[T]) -> list[T]:
    """Return what an iterable yields, each of it a step."""
    found: list[T] = []
    await in_slices(map(found.append, items))
    return found
