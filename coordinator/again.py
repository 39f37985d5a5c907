"""What failed for one thing is tried again for that one: a few times, after pauses that grow."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

PAUSES = (1.0, 5.0, 30.0, 120.0)
"""Seconds before each further try. After the last one it is tried when something asks for it, and not by itself."""


class Again:
    """Remembers what failed and has it tried anew. Every failure is logged with where it came from.

    Args:
        ask: called with what is to be tried.
        pauses: before each further try.
    """

    def __init__(self, ask: Callable[[str], None], pauses: Sequence[float] = PAUSES) -> None:
        self._ask = ask
        self._pauses = pauses
        self._failures: dict[str, int] = {}
        self._planned: dict[str, asyncio.TimerHandle] = {}

    def failed(self, key: str, what: str, error: Exception) -> None:
        """Note that it failed once more for `key`; `what` says in the log what did."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        self._stop(key)
        if failures > len(self._pauses):
            log.error("%s: failed %d times: not tried again until something about it changes", what, failures, exc_info=error)
            return
        pause = self._pauses[failures - 1]
        log.error("%s: failed %d times: tried again in %g s", what, failures, pause, exc_info=error)
        self._planned[key] = asyncio.get_running_loop().call_later(pause, _try, weakref.ref(self), key)

    def succeeded(self, key: str) -> None:
        """Forget what failed before. Costs next to nothing when nothing did."""
        if self._failures.pop(key, None) is not None:
            self._stop(key)

    def try_again(self, key: str) -> None:
        """Have it tried now: its pause is over."""
        self._stop(key)
        self._ask(key)

    def _stop(self, key: str) -> None:
        if (handle := self._planned.pop(key, None)) is not None:
            handle.cancel()


def _try(again: weakref.ref[Again], key: str) -> None:
    """Try again, unless nobody needs it any more: a plan keeps nothing of an office that has ended."""
    if (found := again()) is not None:
        found.try_again(key)
