"""Which coordinator an agent tries next, and when."""

from __future__ import annotations

from gestalt.agent.search import BACK_OFF_FIRST, BACK_OFF_MAX, BACK_OFF_REFUSED, REFERRED, Ending, Search

A, B, C = "a:7400", "b:7400", "c:7400"
UNREACHABLE = Ending()
NOBODY_LEADS = Ending(refused=True)


def led_by(leader: str) -> Ending:
    return Ending(refused=True, leader=leader)


def test_goes_round_with_growing_pauses() -> None:
    search = Search([A, B, C])
    tried, pauses = [], []
    for _ in range(30):
        tried.append(search.next)
        pauses.append(search.ended(UNREACHABLE))
    assert tried[:4] == [A, B, C, A]
    assert pauses[0] == BACK_OFF_FIRST
    assert pauses == sorted(pauses)
    assert pauses[-1] == BACK_OFF_MAX


def test_goes_to_the_named_leader_at_once() -> None:
    search = Search([A, B, C])
    assert search.ended(led_by(C)) == REFERRED
    assert search.next == C


def test_also_to_one_that_is_not_configured() -> None:
    search = Search([A])
    search.ended(led_by(C))
    assert search.next == C
    search.ended(UNREACHABLE)
    assert search.next == A


def test_an_election_is_waited_for_with_short_pauses() -> None:
    search = Search([A, B, C])
    assert max(search.ended(NOBODY_LEADS) for _ in range(30)) == BACK_OFF_REFUSED


def test_is_not_sent_back_to_the_leader_that_has_just_failed_but_only_once() -> None:
    search = Search([A, B])
    search.ended(Ending(welcomed=True))  # the session with A broke
    assert search.next == B
    assert search.ended(led_by(A)) > REFERRED
    search = Search([B])
    search.ended(led_by(C))
    search.ended(Ending(welcomed=True))  # the session with C broke
    search.ended(led_by(C))
    assert search.next == B
    assert search.ended(led_by(C)) == REFERRED, "C leads all the same"


def test_one_that_took_office_while_it_kept_us_waiting_is_asked_again_but_not_in_a_circle() -> None:
    search = Search([A, B])
    assert search.ended(led_by(A)) == REFERRED
    assert search.next == A
    assert search.ended(led_by(A)) > REFERRED
    assert search.next == B


def test_learns_where_the_coordinators_are() -> None:
    search = Search([A])
    search.learn([B, C])
    search.ended(UNREACHABLE)
    assert search.next == B
    search.learn([])
    search.ended(UNREACHABLE)
    assert search.next == C
