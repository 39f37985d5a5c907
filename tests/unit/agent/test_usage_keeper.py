"""What the agent tells of usage: rates between two measurements, of what runs, and of the load balancer as far as it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from gestalt.agent.board import Board
from gestalt.agent.proxy_disabled import NoLoadBalancer
from gestalt.agent.usage import UsageKeeper
from gestalt.model import Observed, Phase
from gestalt.plugin.loadbalancer import ServerTraffic
from gestalt.plugin.runtime import AttemptKey, DriverUnavailable, RuntimeDriver, Usage
from gestalt.proto.v1 import agent_pb2
from tests.unit.agent.memory_runtime import MemoryRuntime, Mortality, World
from tests.unit.agent.test_agent_engine import SETTINGS

WEB, DB = "web-0000aa-1", "db-0000bb-1"


class Metered(MemoryRuntime):
    """A runtime that says what a test wants used."""

    meter: dict[AttemptKey, Usage] = {}
    down = False

    async def usage(self, keys: Sequence[AttemptKey]) -> Mapping[AttemptKey, Usage]:
        if self.down:
            raise DriverUnavailable("it hangs")
        return {key: self.meter[key] for key in keys if key in self.meter}


class Balancer(NoLoadBalancer):
    served: Mapping[str, ServerTraffic] | None = None

    async def traffic(self) -> Mapping[str, ServerTraffic]:
        if self.served is None:
            raise DriverUnavailable("it does not answer")
        return self.served


@dataclass
class Node:
    """One node with an instance of each phase that a test put on its board."""

    runtime: Metered = field(default_factory=lambda: Metered(World(), Mortality()))
    balancer: Balancer = field(default_factory=Balancer)
    board: Board = field(default_factory=Board)

    def __post_init__(self) -> None:
        self.runtime.meter = {}
        self.attempts = {WEB: 1, DB: 1}
        self.keeper = UsageKeeper(SETTINGS, self._locate, self.balancer, self.board)

    def _locate(self, instance: str) -> tuple[RuntimeDriver, AttemptKey] | None:
        return self.runtime, AttemptKey(instance, self.attempts[instance])

    def runs(self, instance: str, phase: Phase = Phase.RUNNING) -> None:
        self.board.put(Observed(instance, 1, phase))

    def used(self, instance: str, at: float, cpu: float, memory: int = 0) -> None:
        self.runtime.meter[AttemptKey(instance, self.attempts[instance])] = Usage(at, cpu, memory)

    async def report(self) -> agent_pb2.UsageReport:
        await self.keeper.measure()
        report = self.board.usage.take()
        assert report is not None
        return report


@pytest.fixture
def node() -> Node:
    return Node()


async def test_cores_are_what_was_used_between_two_measurements(node: Node) -> None:
    node.runs(WEB)
    node.used(WEB, at=100, cpu=10)
    assert not (await node.report()).instances, "one measurement says nothing of a rate"
    node.used(WEB, at=105, cpu=13, memory=4096)
    (found,) = (await node.report()).instances
    assert (found.instance, round(found.cpu, 3), found.memory) == (WEB, 0.6, 4096)


async def test_how_often_is_measured_can_change(node: Node) -> None:
    await node.keeper.renew(SETTINGS.model_copy(update={"usage_interval": 0.01}))
    async with asyncio.timeout(10):
        while (report := node.board.usage.take()) is None:  # noqa: ASYNC110 (what is seen from outside)
            await asyncio.sleep(0.001)
    assert report.interval == pytest.approx(0.01)
    await node.keeper.renew(SETTINGS.model_copy(update={"usage_interval": 0}))
    assert "usage" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_a_new_attempt_begins_anew(node: Node) -> None:
    node.runs(WEB)
    node.used(WEB, at=100, cpu=10)
    await node.report()
    node.attempts[WEB] = 2
    node.used(WEB, at=105, cpu=0.5)
    assert not (await node.report()).instances


async def test_what_does_not_run_is_not_measured(node: Node) -> None:
    node.runs(WEB)
    node.runs(DB, Phase.FAILED)
    for second in (100, 105):
        node.used(WEB, at=second, cpu=1)
        node.used(DB, at=second, cpu=1)
        report = await node.report()
    assert [item.instance for item in report.instances] == [WEB]


async def test_a_runtime_that_does_not_answer_leaves_its_instances_out(node: Node) -> None:
    node.runs(WEB)
    node.balancer.served = {}
    node.used(WEB, at=100, cpu=10)
    await node.report()
    node.runtime.down = True
    await node.report()
    node.runtime.down = False
    node.used(WEB, at=110, cpu=20)
    report = await node.report()
    assert not report.instances
    assert report.balanced, "the load balancer is measured all the same"


async def test_requests_are_counted_from_one_measurement_to_the_next(node: Node) -> None:
    node.balancer.served = {WEB: ServerTraffic(1000, 0), DB: ServerTraffic(7, 0)}
    assert not (await node.report()).balanced, "how many came in between is not known yet"
    node.balancer.served = {WEB: ServerTraffic(1500, 3), DB: ServerTraffic(7, 0)}
    report = await node.report()
    assert report.balanced
    (found,) = report.traffic
    assert (found.instance, found.queue) == (WEB, 3)
    assert found.requests > 0


async def test_a_load_balancer_that_began_anew_counts_from_nothing(node: Node) -> None:
    node.balancer.served = {WEB: ServerTraffic(1_000_000, 0)}
    await node.report()
    node.balancer.served = {WEB: ServerTraffic(50, 0)}
    (found,) = (await node.report()).traffic
    assert found.requests > 0


async def test_a_load_balancer_that_does_not_answer_is_unknown_not_idle(node: Node) -> None:
    node.balancer.served = {}
    await node.report()
    assert (await node.report()).balanced
    node.balancer.served = None
    assert not (await node.report()).balanced
    node.balancer.served = {}
    assert not (await node.report()).balanced, "what came since is unknown, too"
    assert (await node.report()).balanced
