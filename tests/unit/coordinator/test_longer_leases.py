"""A fence whose settings have a longer lease than the leader's: what it holds is waited for as long as it may hold it."""

from __future__ import annotations

import pytest

from tests.unit.coordinator.guarded import WAIT, Guarded, guarded, holder, why


def assert_that_its_own_lease_is_waited_for(fleet: Guarded, first: str) -> None:
    fleet.pass_time(WAIT)
    fleet.settle()
    assert holder(fleet) == first
    fleet.pass_time(60.0)
    fleet.settle()
    assert holder(fleet) != first


@pytest.mark.parametrize("is_new", [False, True], ids=["same leader", "another leader"])
def test_a_holder_with_a_longer_lease_in_its_settings_is_waited_for_as_long(is_new: bool) -> None:
    fleet = guarded()
    first = holder(fleet)
    fleet.fences[first].lease = 60.0
    fleet.lose(first, dead=False)
    fleet.settle()
    if is_new:
        fleet.take_office()
        fleet.settle()
    assert "may still hold it for 63 s" in why(fleet)
    fleet.pass_time(62.9)
    fleet.settle()
    assert holder(fleet) == first
    fleet.pass_time(0.2)
    fleet.settle()
    assert holder(fleet) != first
    assert len(fleet.at_work()) == 1


def test_what_was_told_of_a_lease_counts_when_its_znode_is_gone() -> None:
    fleet = guarded()
    first = holder(fleet)
    fleet.fences[first].lease = 60.0
    fleet.lose(first, dead=False)
    fleet.settle()
    del fleet.leases[first]
    assert_that_its_own_lease_is_waited_for(fleet, first)


def test_a_new_membership_of_the_holders_node_tells_the_times_of_the_old_one() -> None:
    """Its lease is written anew, and a leader that takes office then has not read the old one."""
    fleet = guarded(lease=60.0)
    first = holder(fleet)
    fleet.fences[first].deaf = True  # another machine with a copy of the disk: nobody ends what runs here
    fleet.lose(first, dead=False)
    fleet.rejoin(first)
    fleet.cut(first)
    fleet.take_office()
    fleet.settle()
    assert_that_its_own_lease_is_waited_for(fleet, first)
