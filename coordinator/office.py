"""How long a leader leads: until its own deadline, which only committed writes move.

The servers give the leadership away no earlier than a session's length after they last heard of the leader. They heard of it when a
write of it was committed, and that was after it was sent. So who stops at the sending time of the last answered write plus a part of
the session has stopped before another can start, whatever the network and the scheduler do in between. Pings and reads prove
nothing: a follower that is cut off from the others still answers them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from gestalt import clock
from gestalt.errors import GestaltError, Kind

SHARE = 0.8
"""The part of a session for which one answered write is good; the rest is for clocks that run apart."""

RENEWALS = 4
"""How often in a session's length a leader renews. At least two renewals may fail before the office ends."""


class Office:
    """The right to lead, of one coordinator for one epoch. It begins with the first answered write, ends once, and never comes back.

    `span`: seconds for which one answered write is good. `now`: the boot-time clock, which goes on in suspend.
    """

    def __init__(self, span: float, now: Callable[[], float] = clock.boottime) -> None:
        self._span = span
        self._now = now
        self._until = -math.inf
        self._on_end: list[Callable[[], None]] = []
        self.reason = ""

    @classmethod
    def of_session(cls, timeout: float, now: Callable[[], float] = clock.boottime) -> Office:
        """Return an office that is held through a ZooKeeper session of `timeout` seconds."""
        return cls(timeout * SHARE, now)

    @classmethod
    def for_life(cls) -> Office:
        """Return the office of an appliance, which has no rival: the lock of its store guards it."""
        return cls(math.inf)

    def on_end(self, callback: Callable[[], None]) -> None:
        """Have `callback` called once, as soon as it is noticed that the office is over. It must not block."""
        self._on_end.append(callback)

    def now(self) -> float:
        """Return the time to hand to `answered` later; to be taken before the write is sent."""
        return self._now()

    def answered(self, sent: float) -> None:
        """Note that a write sent at `sent` was committed. What comes after the deadline does not bring the office back."""
        if self._begun() and not self.holds():
            return
        self._until = max(self._until, sent + self._span)

    def holds(self) -> bool:
        """Return whether we may act now. To be asked right before each act; the deadline may have passed since the last time."""
        if not self.reason and self._begun() and self._now() >= self._until:
            self.end(f"no write was answered for {self._span:.2g} s")
        return not self.reason and self._begun()

    def remaining(self) -> float:
        """Return the seconds to the deadline; 0 when it is over."""
        return max(self._until - self._now(), 0.0) if self.holds() else 0.0

    def require(self) -> None:
        """Go on only in office.

        Raises:
            GestaltError: NOT_LEADER.
        """
        if not self.holds():
            raise not_leader()

    def end(self, reason: str) -> None:
        """End it. Idempotent: the first reason stays."""
        if self.reason:
            return
        self.reason = reason
        for callback in self._on_end:
            callback()

    def _begun(self) -> bool:
        return self._until != -math.inf


def not_leader(leader: str = "", trouble: str = "", handicap: str = "") -> GestaltError:
    """Return the refusal of a coordinator that does not lead.

    Args:
        leader: the address to ask instead, as far as it is known.
        trouble: why no leader is known, a sentence, if there is more to say than that.
        handicap: why this coordinator may not lead itself, a sentence, if there is more to say than that.
    """
    if leader:
        return GestaltError(Kind.NOT_LEADER, f"this coordinator stands by, {leader} leads", hint=f"ask {leader}", leader=leader)
    if trouble:
        hint = "instances go on as they are; see to ZooKeeper's servers, more than half of them must run"
        return GestaltError(Kind.NOT_LEADER, f"nothing can be changed now: {trouble}", hint=hint)
    alone = f"; it may not lead itself: {handicap}" if handicap else ""
    return GestaltError(
        Kind.NOT_LEADER, f"this coordinator does not lead, and knows of none that does{alone}", hint="try again in a moment"
    )
