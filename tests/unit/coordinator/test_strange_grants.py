"""Grants that a restored state does not know: what they keep from starting, and for how long."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from gestalt.config import TimingSettings
from gestalt.coordinator.grants import NoStorageFence
from gestalt.coordinator.leases import Leases
from gestalt.coordinator.membership import Member
from gestalt.coordinator.nodes import Tracker
from gestalt.coordinator.records import Node
from gestalt.coordinator.state import State
from gestalt.coordinator.strange_grants import StrangeGrants
from gestalt.model import Health, Observed, Phase
from gestalt.zk.grants import GrantMark, LeaseMark

TIMING = TimingSettings(session=2.0, lease=8.0, kill=2.0, margin=1.0)
WAIT = 11.0
NAME, PATH = "web-abc", "/org/ws/env/web"
HELD = LeaseMark(3, 8.0, {NAME: 5}, 2.0)


@dataclass
class Found:
    """A leader that found the grant of node n's membership 3, as of a time that the test sets."""

    mark: GrantMark = field(default_factory=lambda: GrantMark(PATH, 5, f"{NAME}-1", "n", 3))
    now: float = 100.0

    def __post_init__(self) -> None:
        state = State()
        state.nodes["n"] = Node("n", "node-1", incarnation=3)
        self.nodes = state.nodes
        self.tracker = Tracker(lambda: self.now, state.nodes, fenced=True)
        self.tracker.member(self.tracker.node("n", "node-1"), Member(3, "boot", agent_running=True))
        self.leases = Leases(TIMING)
        self.grants = StrangeGrants(state, self.tracker, self.leases, WAIT, storage=NoStorageFence, now=lambda: self.now)
        self.grants.note(NAME, self.mark)

    def revoke(self) -> GrantMark:
        """Have ZooKeeper name nobody; returns what it says then."""
        ((name, mark),) = self.grants.to_revoke()
        assert (name, mark.node) == (NAME, "")
        self.grants.revoked(name)
        return mark

    @property
    def why(self) -> str:
        return self.grants.why_taken(PATH)


def test_it_is_taken_until_the_recovery_ends_however_long_that_lasts() -> None:
    found = Found()
    found.now += 1000
    assert found.why == "node node-1 may run a copy that the restored state does not know: `gestaltctl cluster recover --confirm` ends it"
    assert found.grants.over() == []
    assert found.grants.why_taken("/org/ws/env/other") == ""


def test_taken_back_it_is_waited_for_while_the_lease_lists_it() -> None:
    found = Found()
    found.revoke()
    assert found.grants.to_read() == {"n"}
    found.leases.note("n", HELD, found.now)
    found.now += WAIT - 0.1
    assert "may still hold it for 1 s" in found.why
    found.now += 0.1
    assert (found.why, found.grants.over()) == ("", [NAME])


def test_a_leader_that_dies_while_it_waits_leaves_the_next_one_to_wait_for_the_same() -> None:
    mark = Found().revoke()
    again = Found(mark)
    assert again.grants.to_revoke() == []
    assert again.grants.to_read() == {"n"}
    again.leases.note("n", LeaseMark(3, 30.0, {NAME: 5}, 2.0), again.now)
    again.now += 32.9
    assert "node node-1 may run a copy" in again.why
    again.now += 0.1
    assert again.why == ""


def test_what_its_agent_saw_end_is_not_waited_for_beyond_the_lease() -> None:
    found = Found()
    view = found.tracker.node("n", "node-1")
    view.heard = True
    report = Observed(f"{NAME}-1", 1, Phase.RUNNING, Health.HEALTHY, ready=True)
    view.unknown = {report.instance: report}
    found.revoke()
    found.leases.note("n", HELD, found.now)
    found.now += WAIT
    assert "it has not ended it yet" in found.why
    view.unknown = {report.instance: replace(report, phase=Phase.STOPPED)}
    assert found.why == ""


def test_a_lease_that_does_not_list_it_ends_the_waiting_at_once() -> None:
    found = Found()
    found.revoke()
    found.leases.note("n", LeaseMark(3, 0.0, {}), found.now)
    assert (found.why, found.grants.to_read()) == ("", set())


def test_one_that_names_nobody_is_waited_for_in_full_since_nobody_knows_who_did() -> None:
    found = Found(GrantMark(PATH, 6))
    assert found.grants.to_revoke() == []
    assert found.grants.to_read() == set()
    found.now += WAIT - 0.1
    assert "may run a copy" in found.why
    found.now += 0.1
    assert found.grants.over() == [NAME]
    assert found.grants.forget(NAME) == PATH
    assert not found.grants


def test_a_node_that_the_state_does_not_know_is_waited_for_as_well() -> None:
    found = Found(GrantMark(PATH, 5, f"{NAME}-1", "stranger", 3))
    assert found.why.startswith("node stranger may run a copy")
    found.revoke()
    found.leases.note("stranger", None, found.now)
    assert found.why
    found.now += WAIT
    assert found.why == ""


def test_an_operator_who_declares_the_node_dead_ends_it() -> None:
    found = Found()
    found.nodes["n"] = Node("n", "node-1", incarnation=3, lost=3, confirmed=3)
    assert found.why == ""
