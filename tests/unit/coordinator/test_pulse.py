"""Every agent hears of its leader often enough, and never all of them at once."""

from __future__ import annotations

import random
from collections import defaultdict
from itertools import pairwise

import pytest

from gestalt import clock
from gestalt.coordinator.dispatch import Link
from gestalt.coordinator.pulse import TICK, Pulse

PERIOD = 0.6


class Sessions:
    """Sessions with agents that read at once, or not at all."""

    def __init__(self, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(clock, "monotonic", lambda: self.now)
        self.links: dict[str, Link] = {}
        for number in range(count):
            self.add(f"n{number}")
        self.deaf: set[str] = set()
        self.heard: dict[str, list[float]] = defaultdict(list)
        self.pulse = Pulse(self.links, PERIOD)

    def add(self, node: str) -> None:
        self.links[node] = Link(node, "", sent=self.now)

    def hear(self, node: str) -> None:
        """A node hears something else."""
        self.links[node].sent = self.now
        self.heard[node].append(self.now)

    def step(self, seconds: float = TICK) -> int:
        """Let time pass; return how many heartbeats were sent then."""
        self.now += seconds
        self.pulse.step(self.now)
        sent = 0
        for node, link in self.links.items():
            while node not in self.deaf and not link.outbox.empty():
                assert link.outbox.get_nowait().HasField("heartbeat")
                self.hear(node)
                sent += 1
        return sent

    def longest(self, node: str) -> float:
        times = [100.0, *self.heard[node], self.now]
        return max(after - before for before, after in pairwise(times))


def test_who_hears_nothing_else_hears_a_heartbeat_once_a_period_and_few_do_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions(120, monkeypatch)
    most = max(sessions.step() for _ in range(200))
    assert most <= 120 * TICK / PERIOD + 1
    for node in sessions.links:
        assert sessions.longest(node) < 2 * PERIOD
        assert len(sessions.heard[node]) == pytest.approx(200 * TICK / PERIOD, abs=2)


def test_whatever_else_they_hear_nobody_waits_for_longer_than_one_and_a_half_periods(monkeypatch: pytest.MonkeyPatch) -> None:
    dice, sessions = random.Random(7), Sessions(40, monkeypatch)
    for _ in range(400):
        sessions.step()
        for node in dice.sample(sorted(sessions.links), 3):
            sessions.hear(node)
    assert max(map(sessions.longest, sessions.links)) <= 1.5 * PERIOD + 2 * TICK


def test_sessions_come_and_go_and_one_that_is_not_read_gathers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions(3, monkeypatch)
    sessions.deaf.add("n0")
    for number in range(100):
        sessions.step()
        if number == 50:
            del sessions.links["n1"]
            sessions.add("late")
            sessions.heard["late"] = [sessions.now]
    assert sessions.links["n0"].outbox.qsize() == 1
    times = [*sessions.heard["late"], sessions.now]
    assert max(after - before for before, after in pairwise(times)) < 2 * PERIOD
    sessions.links.clear()
    assert sessions.step() == 0


def test_a_loop_that_was_held_up_sends_each_one_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions(5, monkeypatch)
    assert sessions.step(100 * PERIOD) == 5


def test_those_that_stay_hear_as_often_when_most_others_vanish(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions(200, monkeypatch)
    for _ in range(5):
        sessions.step()
    for number in range(3, 200):
        del sessions.links[f"n{number}"]
    for _ in range(200):
        sessions.step()
    assert max(map(sessions.longest, sessions.links)) < 2 * PERIOD
