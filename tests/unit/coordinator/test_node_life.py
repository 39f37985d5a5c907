"""The table of the life and death of a node, row by row; what is noted of it; the brakes."""

from __future__ import annotations

import math

import pytest

from gestalt.coordinator.brakes import UNLIMITED, Allowance, Brakes, Doubt, cut_off
from gestalt.coordinator.membership import Life, Member, Signs, noted, parse_member, standing
from gestalt.coordinator.records import Node

MEMBER = Member(3, "boot", agent_running=True)
DOWN = Member(3, "boot", agent_running=False)
NODE = Node("id", "n1", incarnation=3)
CORDONED = Node("id", "n1", admin="cordoned", incarnation=3)
LOST = Node("id", "n1", incarnation=3, lost=3)
DEAD = Node("id", "n1", incarnation=3, lost=3, confirmed=3)
NEW = Node("id", "n1")


def signs(member: Member | None = MEMBER, *, heard: bool = False, missing: float = 0.0, fenced: bool = True) -> Signs:
    return Signs(fenced, member, heard, ever_heard=True, missing=missing)


@pytest.mark.parametrize(
    ("record", "seen", "life", "away", "confirmed"),
    [
        (NODE, signs(heard=True), Life.READY, None, False),
        (CORDONED, signs(heard=True), Life.CORDONED, None, False),
        (NODE, signs(missing=3.9), Life.READY, None, False),
        (NODE, signs(missing=4.0), Life.UNREACHABLE, 0.0, False),
        (CORDONED, signs(missing=10.0), Life.UNREACHABLE, 6.0, False),
        (NODE, signs(DOWN, missing=1e6), Life.AGENT_DOWN, None, False),
        (NODE, signs(DOWN, heard=True), Life.READY, None, False),
        (NODE, signs(None), Life.LOST, math.inf, False),
        (NODE, signs(None, heard=True), Life.LOST, math.inf, False),
        (LOST, signs(heard=True), Life.LOST, math.inf, False),
        (LOST, signs(Member(4, "boot", True), heard=True), Life.READY, None, False),
        (DEAD, signs(None), Life.LOST, math.inf, True),
        (DEAD, signs(Member(4, "boot", True), heard=True), Life.READY, None, False),
        (Node("id", "n1", incarnation=5, lost=5, confirmed=3), signs(None), Life.LOST, math.inf, False),
        (NEW, signs(None), Life.LOST, None, False),
        (NEW, signs(MEMBER, heard=True), Life.READY, None, False),
        (None, signs(), Life.LEFT, math.inf, True),
        (NODE, signs(None, heard=True, fenced=False), Life.READY, None, False),
        (NODE, signs(None, missing=1e6, fenced=False), Life.UNREACHABLE, None, False),
    ],
)
def test_how_a_node_stands(record: Node | None, seen: Signs, life: Life, away: float | None, confirmed: bool) -> None:
    found = standing(record, seen, 4.0)
    assert (found.life, found.away, found.confirmed) == (life, away, confirmed)
    assert bool(found.reason) == (life is not Life.READY)


@pytest.mark.parametrize(
    ("record", "member", "expected"),
    [
        (NEW, MEMBER, (3, 0)),
        (NODE, MEMBER, (3, 0)),
        (NODE, None, (3, 3)),
        (LOST, MEMBER, (3, 3)),
        (LOST, Member(4, "", True), (4, 0)),
        (NEW, None, (0, 0)),
    ],
)
def test_what_is_noted_of_a_node(record: Node, member: Member | None, expected: tuple[int, int]) -> None:
    after = noted(record, member)
    assert (after.incarnation, after.lost) == expected
    assert noted(after, member) == after


def test_a_membership_is_read_and_what_is_none_is_not() -> None:
    assert parse_member(b'{"incarnation": 3, "boot": "b", "agent": "down", "since": 1}') == Member(3, "b", agent_running=False)
    assert parse_member(b'{"incarnation": 3, "lease": 60, "kill": 5}') == Member(3, "", agent_running=True, lease=60.0, kill=5.0)
    for value in (b"", b"[]", b"{}", b"null", b'{"incarnation": "x"}', b"\xff"):
        assert parse_member(value) is None


NODES = frozenset(f"n{number}" for number in range(10))


class TestDoubt:
    @staticmethod
    def of(present: frozenset[str], known: frozenset[str] = NODES) -> Doubt:
        doubt = Doubt()
        doubt.assess(known, present, 100.0)
        return doubt

    @pytest.mark.parametrize(("gone", "doubts"), [(5, False), (6, True), (10, True)])
    def test_it_begins_when_more_than_half_vanish_at_once(self, gone: int, doubts: bool) -> None:
        doubt = self.of(NODES)
        left = frozenset(sorted(NODES)[gone:])
        assert doubt.assess(NODES, left, 101.0) is doubts
        assert bool(doubt.sentence(left)) is doubts

    def test_never_with_two_nodes(self) -> None:
        two = frozenset({"n1", "n2"})
        assert not self.of(two, two).assess(two, frozenset(), 101.0)

    def test_what_vanishes_over_minutes_is_believed(self) -> None:
        doubt, left = self.of(NODES), set(NODES)
        for step, name in enumerate(sorted(NODES), 1):
            left.discard(name)
            assert not doubt.assess(NODES, left, 100.0 + 61 * step) or len(left) < 2

    def test_it_lasts_until_enough_are_back(self) -> None:
        doubt = self.of(NODES)
        few = frozenset(sorted(NODES)[6:])
        assert doubt.assess(NODES, few, 101.0)
        assert doubt.assess(NODES, few, 10_000.0), "time alone does not end it"
        assert not doubt.assess(NODES, frozenset(sorted(NODES)[5:]), 10_001.0)

    def test_an_operator_ends_it_and_it_does_not_begin_again_for_the_same(self) -> None:
        doubt = self.of(NODES)
        few = frozenset(sorted(NODES)[6:])
        assert doubt.assess(NODES, few, 101.0)
        doubt.confirm(few)
        assert not doubt.assess(NODES, few, 102.0)

    def test_removing_the_nodes_ends_it(self) -> None:
        doubt = self.of(NODES)
        few = frozenset(sorted(NODES)[6:])
        assert doubt.assess(NODES, few, 101.0)
        assert not doubt.assess(few, few, 102.0)

    def test_a_new_leader_remembers_those_whose_loss_nobody_noted(self) -> None:
        doubt = Doubt()
        doubt.remember(NODES, 100.0)
        assert doubt.assess(NODES, frozenset({"n1"}), 100.0)
        fresh = Doubt()
        assert not fresh.assess(NODES, frozenset({"n1"}), 100.0), "old losses"


def test_replacements_are_limited_and_the_limit_fills_up_again() -> None:
    allowance = Allowance(rate=10.0)
    assert allowance.left(100.0) == 10
    allowance.take(10)
    assert allowance.left(100.05) == 0
    assert 0 < allowance.wait <= 0.1
    assert allowance.left(100.35) == 3
    assert allowance.left(1000.0) == 10
    assert Allowance(rate=0).left(0.0) == UNLIMITED


@pytest.mark.parametrize(
    ("members", "unreachable", "stands_down"), [(2, 2, False), (3, 1, False), (3, 2, True), (4, 2, False), (10, 6, True)]
)
def test_a_leader_that_most_nodes_do_not_reach_is_the_one_that_is_cut_off(members: int, unreachable: int, stands_down: bool) -> None:
    assert bool(cut_off(members, unreachable)) is stands_down


def test_why_nothing_is_replaced() -> None:
    brakes = Brakes()
    assert brakes.why_not("") == ""
    assert brakes.why_not("by alice: maintenance") == "replacement is paused by alice: maintenance"
    brakes.held = "most vanished"
    assert brakes.why_not("") == "most vanished"
