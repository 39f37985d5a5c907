"""Reports of usage at the leader: the newest counts, old ones are unknown, what all load balancers do is added up."""

from __future__ import annotations

import math

from gestalt.coordinator.usage import Given, Usages
from gestalt.proto.v1 import agent_pb2

WEB = "web-0000aa-1"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def report(cpu: float = 0.5, requests: float = 0.0, *, balanced: bool = True, interval: float = 5.0) -> agent_pb2.UsageReport:
    made = agent_pb2.UsageReport(interval=interval, balanced=balanced)
    made.instances.add(instance=WEB, cpu=cpu, memory=4096)
    made.traffic.add(instance=WEB, requests=requests, queue=1)
    return made


def test_a_report_is_good_for_a_while() -> None:
    clock = Clock()
    usages = Usages(clock)
    assert usages.used("n1", WEB) is None
    usages.take("n1", report())
    clock.now += 15
    used = usages.used("n1", WEB)
    assert used is not None
    assert (used.cpu, used.memory, used.age) == (0.5, 4096, 15)
    assert usages.balanced("n1")
    clock.now += 0.1
    assert usages.used("n1", WEB) is None
    assert not usages.balanced("n1")


def test_who_measures_seldom_is_known_for_longer() -> None:
    clock = Clock()
    usages = Usages(clock)
    usages.take("n1", report(interval=20))
    clock.now += 60
    assert usages.used("n1", WEB) is not None
    clock.now += 0.1
    assert usages.used("n1", WEB) is None


def test_no_agent_makes_its_report_last_for_ever() -> None:
    clock = Clock()
    usages = Usages(clock)
    usages.take("n1", report(interval=math.inf))
    clock.now += 200
    assert usages.used("n1", WEB) is None


def test_an_instance_is_known_by_its_own_node_only() -> None:
    usages = Usages(Clock())
    usages.take("n2", report())
    assert usages.used("n1", WEB) is None


async def test_all_load_balancers_are_added_up() -> None:
    clock = Clock()
    usages = Usages(clock)
    for number in range(50):
        usages.take(f"n{number}", report(requests=2.0))
    await usages.gather()
    assert usages.given(WEB) == Given(100.0, 50.0)
    assert usages.given("db-0000bb-1") == Given()
    usages.take("n1", report(requests=1000.0))
    await usages.gather()
    assert usages.given(WEB).requests == 100.0, "sums are kept for a moment: they cost a look at all reports"
    clock.now += 1.0
    await usages.gather()
    assert usages.given(WEB).requests == 1098.0
    clock.now += 16
    await usages.gather()
    assert usages.given(WEB) == Given()


async def test_what_is_no_number_counts_as_nothing() -> None:
    usages = Usages(Clock())
    usages.take("n1", report(cpu=math.nan, requests=math.inf))
    usages.take("n2", report(cpu=-1.0, requests=3.0))
    await usages.gather()
    used = usages.used("n1", WEB)
    assert used is not None
    assert used.cpu == 0.0
    assert usages.given(WEB).requests == 3.0
