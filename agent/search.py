"""Which coordinator to try next, and after what pause. Pure: it keeps no time and does nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

REFERRED = 0.02
"""Seconds before a named leader is gone to: hundreds of agents hear its name at the same moment."""

BACK_OFF_FIRST = 0.2
BACK_OFF_REFUSED = 0.4
"""The longest pause while coordinators answer: one that knows of no leader has kept us waiting already."""

BACK_OFF_MAX = 3.0


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended. `welcomed`: there was a session. `refused`: a coordinator stands by; `leader`: the one that it named."""

    welcomed: bool = False
    refused: bool = False
    leader: str = ""


class Search:
    """Goes round the coordinators, and to the leader that one of them names. `next` is the address to try."""

    def __init__(self, coordinators: Sequence[str]) -> None:
        self._addresses = tuple(coordinators)
        self._failures = 0
        self._suspect = ""
        self.next = self._addresses[0]

    def learn(self, coordinators: Sequence[str]) -> None:
        """Go round these from now on."""
        self._addresses = tuple(coordinators) or self._addresses

    def ended(self, ending: Ending) -> float:
        """Choose the next address after an attempt at the present one, and return the pause before it, in seconds."""
        tried = self.next
        self._failures = 0 if ending.welcomed else self._failures + 1
        if ending.leader and ending.leader != self._suspect:
            if ending.leader == tried:  # it took office while it kept us waiting; if it says so again, it is not believed
                self._suspect = tried
            self.next = ending.leader
            return REFERRED
        # a coordinator that does not know yet that the leader is gone sends us back to where we come from: once that is not followed
        self._suspect = "" if ending.refused else tried
        self.next = self._after(tried)
        longest = BACK_OFF_REFUSED if ending.refused else BACK_OFF_MAX
        rounds = self._failures // len(self._addresses)
        return float(min(BACK_OFF_FIRST * 2 ** min(rounds, 10), longest))

    def _after(self, address: str) -> str:
        place = self._addresses.index(address) + 1 if address in self._addresses else 0
        return self._addresses[place % len(self._addresses)]
