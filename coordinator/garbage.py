"""Keeps Python's garbage collector from looking through the whole cluster again and again.

What the leader knows of a million instances is millions of objects, none of which is garbage: a full collection looks at all of them and
holds the loop for seconds. So what a collection took long to look through, and found to be no garbage, is left alone for good: `gc.freeze`.
What is not needed any more is freed by its reference count as ever; only cycles among frozen objects would stay, and records have none.
"""

from __future__ import annotations

import asyncio
import gc
from typing import Literal

from gestalt import clock

LONG = 0.005
"""Seconds of a full collection from which on what it has looked through is left alone: so long the next one takes again, and more."""

OFTEN = (700, 10, 3)
"""So much has to come until a generation is looked through (see `gc.set_threshold`): full collections are as short as they are many."""

EVERY = 2.0
"""Seconds after which all is looked through at the latest. Streams with agents have as much made anew as they let go, so that to the
collector nothing grows: tens of thousands of objects would be looked through at the moment in which something happens."""

_FULL = 2
"""The oldest generation, whose collections look at everything that is not frozen."""


class Garbage:
    """Watches what collections take. `begin` before the state is read, and once it is; `end` with the office."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop
        self._begun = 0.0
        self._before = gc.get_threshold()

    def begin(self) -> None:
        """Leave alone what is there, and what is found to have grown later. To be called in the loop of the office."""
        self._loop = asyncio.get_running_loop()
        gc.collect()
        gc.freeze()
        gc.collect()  # how long it is until the next one depends on what this one has found, which is nothing
        if self._note not in gc.callbacks:
            gc.callbacks.append(self._note)
            self._before = gc.get_threshold()
            gc.set_threshold(*OFTEN)

    async def run(self) -> None:
        """Have all that is not left alone looked through again and again, for ever."""
        while True:
            await asyncio.sleep(EVERY)
            gc.collect()

    def end(self) -> None:
        """Have everything looked at again: of the office, nothing is needed any more. Idempotent."""
        if self._note in gc.callbacks:
            gc.callbacks.remove(self._note)
            gc.set_threshold(*self._before)
        gc.unfreeze()

    def _note(self, phase: Literal["start", "stop"], info: dict[str, int]) -> None:
        """Take notice of a collection that begins, or has ended; called by the collector."""
        if info["generation"] < _FULL:
            return
        now = clock.monotonic()
        if phase == "start":
            self._begun = now
        elif now - self._begun >= LONG:
            gc.freeze()
            self._loop.call_soon_threadsafe(self._look_at_nothing)

    def _look_at_nothing(self) -> None:
        """Have the next full collection come soon, and so be short: until then a part of what the last one has found has to grow."""
        if self._note in gc.callbacks:
            gc.collect()


def sweep() -> None:
    """Free what an office has left. It takes as long as that is large: to be called while there is none."""
    gc.collect()
