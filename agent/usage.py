"""Measures every few seconds what the instances of this node use and what its load balancer does, and tells it. Nothing of it is kept.

Instances cost a few small files each, read off the loop; the load balancer one question, whatever it has.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from gestalt.clock import monotonic
from gestalt.config import AgentSettings
from gestalt.model import Phase
from gestalt.plugin.loadbalancer import LoadBalancerDriver, ServerTraffic
from gestalt.plugin.runtime import AttemptKey, DriverUnavailable, RuntimeDriver, Usage
from gestalt.proto.v1 import agent_pb2

from .board import Board
from .ongoing import Ongoing

log = logging.getLogger(__name__)

Locate = Callable[[str], tuple[RuntimeDriver, AttemptKey] | None]
"""Says which attempt of an instance there is, and which driver has it."""


class UsageKeeper:
    """Measures once in each interval, and tells of what is between two measurements."""

    name = "usage"

    def __init__(self, settings: AgentSettings, locate: Locate, balancer: LoadBalancerDriver, board: Board) -> None:
        self._interval = settings.usage_interval
        self._locate = locate
        self._balancer = balancer
        self._board = board
        self._used: dict[AttemptKey, Usage] = {}
        self._served: Mapping[str, ServerTraffic] | None = None
        self._served_at = 0.0
        self._task = Ongoing("usage", self._run)

    async def ensure(self) -> None:
        """Have it going. Idempotent."""
        if self._interval:
            self._task.begin()

    async def renew(self, settings: AgentSettings) -> None:
        """Measure as often as the settings say now."""
        if settings.usage_interval != self._interval:
            await self._task.end()
            self._interval = settings.usage_interval
            await self.ensure()

    async def close(self) -> None:
        await self._task.end()

    async def _run(self) -> None:
        while True:
            try:
                await self.measure()
            except Exception:  # the next round may do better
                log.exception("what instances use could not be measured")
            await asyncio.sleep(self._interval)

    async def measure(self) -> None:
        """Measure once and put it on the board."""
        report = agent_pb2.UsageReport(interval=self._interval)
        report.instances.extend(await self._instances())
        await self._traffic(report)
        self._board.usage.put(report)

    async def _instances(self) -> list[agent_pb2.InstanceUsage]:
        before, self._used = self._used, {}
        for driver, keys in self._running():
            try:
                self._used |= await driver.usage(keys)
            except DriverUnavailable as error:
                log.debug("what instances use is unknown: %s", error)
        return [
            agent_pb2.InstanceUsage(instance=key.instance, cpu=_rate(usage.cpu - last.cpu, usage.at - last.at), memory=usage.memory)
            for key, usage in self._used.items()
            if (last := before.get(key)) is not None
        ]

    def _running(self) -> Iterable[tuple[RuntimeDriver, list[AttemptKey]]]:
        """Return the attempts that run, by the driver that has them."""
        drivers: dict[int, RuntimeDriver] = {}
        keys: defaultdict[int, list[AttemptKey]] = defaultdict(list)
        for seen in self._board.observations():
            place = self._locate(seen.instance) if seen.phase in (Phase.RUNNING, Phase.STOPPING) else None
            if place is not None:
                drivers[id(place[0])] = place[0]
                keys[id(place[0])].append(place[1])
        return [(driver, keys[number]) for number, driver in drivers.items()]

    async def _traffic(self, report: agent_pb2.UsageReport) -> None:
        """Add what the load balancer did since the last time; nothing while it does not answer, or did not then."""
        before, self._served, since = self._served, None, self._served_at
        try:
            served = await self._balancer.traffic()
        except DriverUnavailable as error:
            log.debug("what the load balancer does is unknown: %s", error)
            return
        self._served, self._served_at = served, monotonic()
        if before is None:
            return
        report.balanced = True
        for instance, now in served.items():
            requests = _rate(_more(before.get(instance), now), self._served_at - since)
            if requests or now.queue:
                report.traffic.add(instance=instance, requests=requests, queue=now.queue)


def _more(before: ServerTraffic | None, now: ServerTraffic) -> int:
    """Return how many requests came in between. Who counts fewer than before has begun anew."""
    known = before.requests if before is not None else 0
    return now.requests - known if now.requests >= known else now.requests


def _rate(amount: float, seconds: float) -> float:
    return max(0.0, amount / seconds) if seconds > 0 else 0.0
