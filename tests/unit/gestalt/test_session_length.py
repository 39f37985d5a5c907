"""What is said of a session that ZooKeeper grants."""

from __future__ import annotations

import pytest

from gestalt.zk.session_length import is_beyond, objection


@pytest.mark.parametrize("granted", [2.0, 2.001, 1.999])
def test_a_session_as_asked_for_is_nothing_to_talk_about(granted: float) -> None:
    assert objection(2.0, granted, 8.0) == ""


def test_a_longer_one_is_told_with_its_effect_and_the_way_out() -> None:
    told = objection(1.0, 4.0, 8.0)
    assert told.startswith("ZooKeeper grants sessions of 4 s, not of 1 s as timing.session asks: ")
    assert "only after 4 s" in told
    assert "minSessionTimeout=1000 or tickTime=500" in told
    assert "exclusive" not in told


def test_one_that_outlasts_a_lease_ends_what_is_exclusive_before_a_node_is_lost() -> None:
    assert not is_beyond(4.0, 4.0)
    assert is_beyond(4.0, 3.0)
    assert "what is exclusive ends before that, for a lease is 3 s" in objection(1.0, 4.0, 3.0)


def test_a_shorter_one_is_told_too() -> None:
    told = objection(60.0, 40.0, 80.0)
    assert "after 40 s of silence" in told
    assert "maxSessionTimeout" in told
