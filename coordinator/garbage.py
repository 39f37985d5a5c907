"""Keeps Python's garbage collector from looking through the whole cluster again and again.

What the leader knows of a million instances is millions of objects, none of which is garbage: a full collection looks at all of them and
holds the loop for seconds. So what has grown is looked through once, and then left alone for good: `gc.freeze`. What is not needed any more
is freed by its reference count as ever; only cycles among frozen objects would stay, and records have none.
"""

from __future__ import annotations

import gc

from .records import Placements
from .state import Draft

EVERY = 10_000
"""Placements that are written between two looks: each is ten to twenty milliseconds for what came since."""


class Garbage:
    """Counts what commits write. `begin` once the state is read, `end` with the office."""

    def __init__(self) -> None:
        self._written = 0

    def begin(self) -> None:
        """Leave alone what is there."""
        gc.collect()
        gc.freeze()

    def committed(self, draft: Draft) -> None:
        """Look through what came, if it is much."""
        self._written += sum(len(record.instances) for record in draft.records.values() if isinstance(record, Placements))
        if self._written >= EVERY:
            self._written = 0
            self.begin()

    def end(self) -> None:
        """Have everything looked at again: of the office, nothing is needed any more."""
        gc.unfreeze()
