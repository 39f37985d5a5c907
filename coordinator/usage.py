"""What instances use and are given, as of the last report of each node: soft, never stored, and unknown when it has grown old.

A report is kept as it came and looked into only when somebody asks: thousands of nodes tell every few seconds, and few ask.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from gestalt.proto.v1 import agent_pb2

PATIENCE = 15.0
"""Seconds for which a report counts at least; three of the node's intervals if those are longer."""

_INTERVALS = 3
_LONGEST = 60.0
_SUM_FOR = 1.0
"""Seconds for which sums over all nodes are good at least: they cost a look at every report."""

_SHARE = 10
_AT_ONCE = 10
"""So many reports are added up before others have their turn."""


@dataclass(frozen=True, slots=True)
class Used:
    """What one instance uses: cores, bytes, and for how long that is known."""

    cpu: float
    memory: int
    age: float


@dataclass(frozen=True, slots=True)
class Given:
    """What load balancers give one instance: HTTP requests a second, and what is under way."""

    requests: float = 0.0
    queue: float = 0.0


@dataclass(frozen=True)
class _Report:
    at: float
    message: agent_pb2.UsageReport

    @cached_property
    def used(self) -> Mapping[str, tuple[float, int]]:
        """Return cores and bytes by instance."""
        return {item.instance: (_sound(item.cpu), max(0, item.memory)) for item in self.message.instances}

    @property
    def lasts(self) -> float:
        return max(PATIENCE, _INTERVALS * min(_sound(self.message.interval), _LONGEST))


@dataclass(slots=True)
class Usages:
    """The reports of all nodes. `now`: the monotonic clock."""

    now: Callable[[], float]
    _reports: dict[str, _Report] = field(default_factory=dict)
    _sums: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Requests and queue by instance; pairs of numbers, which the garbage collector need not look into."""
    _summed_until: float = -math.inf

    def take(self, node: str, message: agent_pb2.UsageReport) -> None:
        """Take in the report of a node, instead of the one before."""
        self._reports[node] = _Report(self.now(), message)

    def used(self, node: str, instance: str) -> Used | None:
        """Return what an instance on a node uses; None: nobody knows."""
        report = self._fresh(node)
        found = report.used.get(instance) if report is not None else None
        return Used(*found, age=self.now() - report.at) if report is not None and found is not None else None

    def balanced(self, node: str) -> bool:
        """Tell whether it is known what the load balancer of a node does."""
        report = self._fresh(node)
        return report is not None and report.message.balanced

    def given(self, instance: str) -> Given:
        """Return what all load balancers that are known of gave an instance together when `gather` was called last."""
        return Given(*self._sums.get(instance, ()))

    async def gather(self) -> None:
        """Add up what the load balancers of all nodes do, unless that is known well enough. Never holds the loop."""
        begun = self.now()
        if begun < self._summed_until:
            return
        self._summed_until = begun + _SUM_FOR  # who asks meanwhile takes what there is
        sums: dict[str, tuple[float, float]] = {}
        for number, node in enumerate(tuple(self._reports)):
            if (report := self._fresh(node)) is not None:
                _add(sums, report.message)
            else:
                self._reports.pop(node, None)  # it says nothing any more; the node may be no more
            if number % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)
        self._sums, took = sums, self.now() - begun
        self._summed_until = begun + max(_SUM_FOR, _SHARE * took)

    def _fresh(self, node: str) -> _Report | None:
        report = self._reports.get(node)
        return report if report is not None and self.now() - report.at <= report.lasts else None


def _add(sums: dict[str, tuple[float, float]], report: agent_pb2.UsageReport) -> None:
    for item in report.traffic:
        requests, queue = sums.get(item.instance, (0.0, 0.0))
        sums[item.instance] = requests + _sound(item.requests), queue + _sound(item.queue)


def _sound(value: float) -> float:
    """Return what an agent said as a number that can be reckoned with."""
    return value if math.isfinite(value) and value > 0 else 0.0
