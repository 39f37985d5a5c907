"""What coordinators and fences write for each other is understood as it was meant, and nonsense as nothing."""

from __future__ import annotations

import pytest

from gestalt.zk.grants import GrantMark, LeaseMark, parse_grant, parse_lease


@pytest.mark.parametrize("mark", [GrantMark("/a/b/c/d", 3), GrantMark("/a/b/c/d", 4, "d-ab12cd-1", "n1", 7)])
def test_a_grant_comes_back_as_it_was(mark: GrantMark) -> None:
    assert parse_grant(mark.encode()) == mark


@pytest.mark.parametrize("mark", [LeaseMark(3), LeaseMark(3, 8.0, {"x": 1, "y": 2}), LeaseMark(3, 8.0, {"x": 1}, 2.5)])
def test_a_lease_comes_back_as_it_was(mark: LeaseMark) -> None:
    assert parse_lease(mark.encode()) == mark


def test_a_lease_without_grants_holds_none() -> None:
    assert parse_lease(b'{"incarnation": 3}') == LeaseMark(3)


@pytest.mark.parametrize("word", [b"Infinity", b"NaN", b"1e999"])
def test_times_that_never_end_are_nonsense(word: bytes) -> None:
    assert parse_lease(b'{"incarnation": 3, "length": %s}' % word) is None
    assert parse_lease(b'{"incarnation": 3, "length": 1, "kill": %s}' % word) is None


@pytest.mark.parametrize("value", [b"", b"{}", b"[]", b"null", b"\xff", b'{"incarnation": "x"}', b'{"incarnation": 1, "grants": 7}'])
def test_nonsense_is_nothing(value: bytes) -> None:
    assert parse_grant(value) is None
    assert parse_lease(value) is None
