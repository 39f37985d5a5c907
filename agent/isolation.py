"""Whether the node is cut off from the cluster: no member, and in session with no leader. Some apps are not to run there then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from gestalt.clock import monotonic

from .fence_link import FenceLink
from .ongoing import Ongoing

PERIOD = 0.5


@dataclass(frozen=True, slots=True)
class Isolation:
    """`since`: when the node was seen alone first, None = it is not. `cut_off`: it has been so for long enough."""

    since: float | None = None
    cut_off: bool = False


def judge(before: Isolation, *, member: bool, session: bool, now: float, settled: float) -> Isolation:
    """Return how it is now. `settled`: seconds after which a node that nobody hears counts as cut off."""
    if member or session:
        return Isolation()
    since = now if before.since is None else before.since
    return Isolation(since, now - since >= settled)


class IsolationWatch:
    """The manager that looks. `session`: whether there is a session with a leader; `tell` is called when the node is cut off, or is not."""

    name = "isolation"

    def __init__(self, link: FenceLink, session: Callable[[], bool], tell: Callable[[bool], None]) -> None:
        self._link = link
        self._session = session
        self._tell = tell
        self._task = Ongoing("isolation", self._run)
        self._state = Isolation()

    async def ensure(self) -> None:
        """Have somebody look. Idempotent."""
        self._task.begin()

    async def close(self) -> None:
        await self._task.end()

    async def _run(self) -> None:
        while True:
            before, settled = self._state, self._link.lease.settled
            self._state = judge(before, member=self._link.member, session=self._session(), now=monotonic(), settled=settled)
            if self._state.cut_off != before.cut_off:
                self._tell(self._state.cut_off)
            await asyncio.sleep(PERIOD)
