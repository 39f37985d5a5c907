"""Keeps Python's garbage collector from looking through the whole cluster again and again.

What the leader knows of a million instances is millions of objects, none of which is garbage: a full collection looks at all of them and
holds the loop for seconds. So what has grown is looked through once, and then left alone for good: `gc.freeze`. What is not needed any more
is freed by its reference count as ever; only cycles among frozen objects would stay, and records have none.
"""

from __future__ import annotations

import gc

from .state import Draft

EVERY = 10_000
"""Instances that come or change between two looks: each is ten to twenty milliseconds for what came since."""


class Garbage:
    """Counts what commits bring. `begin` once the state is read, `end` with the office."""

    def __init__(self) -> None:
        self._came = 0

    def begin(self) -> None:
        """Leave alone what is there."""
        gc.collect()
        gc.freeze()

    def committed(self, draft: Draft) -> None:
        """Look through what came, if it is much."""
        self._came += sum(len(moves.come) + len(moves.changed) for moves in draft.moves)
        if self._came >= EVERY:
            self._came = 0
            self.begin()

    def end(self) -> None:
        """Have everything looked at again: of the office, nothing is needed any more."""
        gc.unfreeze()
