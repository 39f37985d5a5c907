"""What a store may hold, who may lead, and when an upgrade is over: the rules alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from gestalt.coordinator.admission import check_admission
from gestalt.coordinator.election import Candidate
from gestalt.coordinator.store import formats
from gestalt.coordinator.store.base import WrongFormat
from gestalt.coordinator.store.formats import Formats, check_format, later_fields, since
from gestalt.coordinator.upgrade import check_finalizable, common_format
from gestalt.errors import GestaltError, Kind

ONE, TWO = Candidate("one", "a:1", "1.3.0", 2), Candidate("two", "b:1", "1.3.5", 2)


def refused(work: Callable[[], object]) -> GestaltError:
    with pytest.raises(GestaltError) as told:
        work()
    assert told.value.kind is Kind.REFUSED
    assert told.value.hint
    return told.value


@pytest.mark.parametrize(("written", "supported"), [(1, Formats(1, 1)), (1, Formats(1, 2)), (2, Formats(1, 2)), (2, Formats(2, 3))])
def test_a_format_within_the_range_is_read(written: int, supported: Formats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "SUPPORTED", supported)
    check_format(written, "the store")


def test_formats_beyond_the_range_are_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "SUPPORTED", Formats(2, 3))
    newer, older = refused(lambda: check_format(4, "the store")), refused(lambda: check_format(1, "the store"))
    assert isinstance(newer, WrongFormat)
    assert "format 4" in newer.message
    assert "upgrade this coordinator" in newer.hint
    assert "the version before" in older.hint


@dataclass(frozen=True)
class _Record:
    name: str
    old: int = 0
    new: int = since(2, 7)
    newest: int = since(3, 8)


def test_fields_that_came_later_are_left_out_of_older_stores() -> None:
    assert later_fields(_Record, 1) == {"new", "newest"}
    assert later_fields(_Record, 2) == {"newest"}
    assert later_fields(_Record, 3) == set()
    assert _Record("x").new == 7, "as if it had been there"


def test_an_upgrade_is_over_when_all_have_it() -> None:
    check_finalizable("1.3.0", 2, (ONE, TWO), {"one", "two"}, {"a": "1.3.0", "b": "1.4.0"})
    check_finalizable("1.3.0", 2, (), {"one"}, {"a": "1.3.0"})  # an appliance


@pytest.mark.parametrize(
    ("roster", "known", "agents", "why"),
    [
        ((ONE, Candidate("two", "b:1", "1.2.9", 1)), {"one", "two"}, {}, "coordinator two has version 1.2.9"),
        ((ONE, Candidate("two", "b:1", "1.3.0", 1)), {"one", "two"}, {}, "coordinator two understands format 1"),
        ((ONE,), {"one", "two"}, {}, "coordinator two does not run"),
        ((ONE,), {"one"}, {"web-1": "1.2.0"}, "the agent of node web-1 has version 1.2.0"),
    ],
)
def test_nobody_older_may_be_left(roster: tuple[Candidate, ...], known: set[str], agents: dict[str, str], why: str) -> None:
    error = refused(lambda: check_finalizable("1.3.0", 2, roster, known, agents))
    assert why in error.message
    assert "1.3.0 is not complete" in error.message


def test_a_long_list_is_cut() -> None:
    agents = {f"n{number}": "1.2.0" for number in range(9)}
    assert "and 4 more" in refused(lambda: check_finalizable("1.3.0", 2, (ONE,), {"one"}, agents)).message


def test_the_common_format_is_the_lowest() -> None:
    assert common_format(2, (ONE, Candidate("two", "b:1", "1.2.0"))) == 1
    assert common_format(2, (ONE, TWO)) == 2
    assert common_format(2, ()) == 2


def test_a_candidacy_says_what_its_coordinator_understands() -> None:
    assert Candidate.decode(TWO.encode()) == TWO
    assert Candidate.decode(b'{"name": "old", "address": "c:1", "version": "1.2.0"}') == Candidate("old", "c:1", "1.2.0", 1)


def test_who_may_lead() -> None:
    check_admission(ONE, barred=False, leader=None, written=None)
    check_admission(ONE, barred=False, leader=TWO, written=1)
    check_admission(ONE, barred=False, leader=Candidate("one", "a:1", "0.9.0"), written=1)  # what we were ourselves is no obstacle


def test_who_may_not_lead_hears_why() -> None:
    removed = refused(lambda: check_admission(ONE, barred=True, leader=TWO, written=1))
    assert "one was removed" in removed.message
    assert "join --again" in removed.hint
    older = refused(lambda: check_admission(ONE, barred=False, leader=Candidate("new", "c:1", "1.5.0"), written=1))
    assert "upgrade coordinator one" in older.hint
    refused(lambda: check_admission(ONE, barred=False, leader=None, written=formats.newest() + 1))
