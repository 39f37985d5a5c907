"""When an office ends: the arithmetic that keeps two leaders apart."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from gestalt.coordinator.office import RENEWALS, SHARE, Office
from gestalt.errors import GestaltError, Kind

S = 2.0


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def office(clock: Clock) -> Office:
    return Office.of_session(S, clock)


def test_it_does_not_begin_before_a_write_was_answered(office: Office) -> None:
    assert not office.holds()
    office.answered(office.now())
    assert office.holds()


def test_it_counts_from_the_sending_not_from_the_answer(office: Office, clock: Clock) -> None:
    sent = office.now()
    clock.now += 1.0
    office.answered(sent)
    assert office.remaining() == pytest.approx(S * SHARE - 1.0)
    clock.now = sent + S * SHARE
    assert not office.holds()


def test_an_answer_after_the_deadline_does_not_bring_it_back(office: Office, clock: Clock) -> None:
    office.answered(office.now())
    clock.now += S * SHARE - 0.01
    late = office.now()
    clock.now += 0.02
    office.answered(late)
    assert not office.holds()


def test_a_stall_ends_it_at_the_first_look_even_if_a_renewal_is_answered_meanwhile(office: Office, clock: Clock) -> None:
    office.answered(office.now())
    clock.now += 60.0
    office.answered(office.now())
    assert not office.holds()
    assert "no write was answered" in office.reason


def test_an_older_write_that_is_answered_later_takes_nothing_back(office: Office, clock: Clock) -> None:
    first = office.now()
    clock.now += 0.5
    office.answered(office.now())
    office.answered(first)
    assert office.remaining() == pytest.approx(S * SHARE)


def test_it_is_over_before_the_servers_can_give_it_to_another(clock: Clock) -> None:
    """They count a session's length from when they heard of us, which is never before the sending of what they answered."""
    for delay in (0.0, 0.3, 1.0, 1.5):
        office = Office.of_session(S, clock)
        sent = office.now()
        clock.now += delay
        office.answered(sent)
        clock.now = sent + S
        assert not office.holds()


def test_two_renewals_may_fail_in_a_row(office: Office, clock: Clock) -> None:
    period = S / RENEWALS
    office.answered(office.now())
    clock.now += 3 * period
    assert office.holds()


def test_the_end_is_told_once_with_its_first_reason(office: Office) -> None:
    told: list[str] = []
    office.on_end(lambda: told.append(office.reason))
    office.answered(office.now())
    office.end("handed over")
    office.end("something else")
    assert not office.holds()
    assert told == ["handed over"]
    assert office.remaining() == 0
    with pytest.raises(GestaltError) as refused:
        office.require()
    assert refused.value.kind is Kind.NOT_LEADER


def test_that_of_an_appliance_lasts() -> None:
    office = Office.for_life()
    office.answered(office.now())
    assert office.holds()
    office.end("the store is not ours any more")
    assert not office.holds()
