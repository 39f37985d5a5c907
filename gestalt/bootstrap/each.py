"""The same work for many hosts, some of them at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def each(items: Sequence[T], work: Callable[[T], Awaitable[R]], parallel: int) -> list[R]:
    """Do the work for each item, so many at once, and return the results in their order."""
    free = asyncio.Semaphore(parallel)

    async def one(item: T) -> R:
        async with free:
            return await work(item)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(item)) for item in items]
    return [task.result() for task in tasks]
