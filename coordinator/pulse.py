"""Has every agent hear of its leader often enough, a few at a time: a timer for each message costs more than to send it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping

from gestalt import clock
from gestalt.proto.v1 import agent_pb2

from .dispatch import Link

TICK = 0.05
"""Seconds between two steps."""

_BEAT = agent_pb2.CoordinatorMessage(heartbeat=agent_pb2.Heartbeat())


class Pulse:
    """Goes round all sessions once in `period` seconds, and sends a heartbeat where nothing else was sent in the last half of that.

    So one who hears nothing else hears of us every `period` seconds, and nobody hears nothing for longer than one and a half of that; a new
    session, which was told everything at its beginning, for longer than two.

    Args:
        links: the sessions by node; read at each step.
        period: seconds.
    """

    def __init__(self, links: Mapping[str, Link], period: float) -> None:
        self._links = links
        self._period = period
        self._waiting: deque[str] = deque()
        self._due = 0.0
        self._stepped = clock.monotonic()

    async def run(self) -> None:
        """Do so for ever."""
        while True:
            await asyncio.sleep(TICK)
            self.step(clock.monotonic())

    def step(self, now: float) -> None:
        """Visit as many as have their turn by now, all of them at most."""
        number = len(self._links)
        self._due, self._stepped = min(self._due + number * (now - self._stepped) / self._period, number), now
        while self._due >= 1:
            self._due -= 1
            while self._waiting and self._waiting[0] not in self._links:
                self._waiting.popleft()  # those that are gone take no turn from those that are there
            if not self._waiting:
                self._waiting.extend(self._links)
            link = self._links[self._waiting.popleft()]
            if now - link.sent >= self._period / 2 and link.outbox.empty():
                link.send(_BEAT)
