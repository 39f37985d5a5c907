"""The line of candidates, and what a standby says of the leader."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gestalt.coordinator.election import CandidacyLost, Candidate, LeaderSight, before, session_in
from gestalt.zk.client import Stat

STAT = Stat(1, 1, 1, 0, 0)


def seen(address: str, **more: Any) -> tuple[bytes, Stat]:
    return json.dumps({"name": "one", "address": address, "version": "1", **more}).encode(), STAT


def test_each_waits_for_the_one_right_before_it() -> None:
    names = ["c-0000000010", "c-0000000002", "c-0000000009"]
    assert before(names, "c-0000000002") == ""
    assert before(names, "c-0000000009") == "c-0000000002"
    assert before(names, "c-0000000010") == "c-0000000009"


def test_numbers_count_not_letters() -> None:
    assert before(["b-0000000003", "c-0000000002"], "c-0000000002") == ""
    assert before(["c-9999999999", "c-10000000000"], "c-10000000000") == "c-9999999999"


def test_a_stranger_among_them_is_before_nobody() -> None:
    assert before(["README", "c-0000000002"], "c-0000000002") == ""


def test_who_is_not_in_the_line_must_not_lead() -> None:
    with pytest.raises(CandidacyLost):
        before(["c-0000000002"], "c-0000000001")
    with pytest.raises(CandidacyLost):
        before([], "c-0000000001")


@pytest.mark.parametrize("value", [b"", b"\xff", b"[]", b"7", b'{"address": null}'])
def test_a_candidacy_that_cannot_be_understood_names_nobody(value: bytes) -> None:
    assert Candidate.decode(value) == Candidate("", "", "")


def test_fields_of_a_newer_version_are_ignored() -> None:
    assert Candidate.decode(b'{"name": "a", "address": "b:1", "version": "9", "mood": "good"}') == Candidate("a", "b:1", "9")


async def test_a_leader_that_does_not_renew_is_not_named_any_more() -> None:
    sight = LeaderSight(1.0)
    sight.seen(seen("10.0.0.1:7400"))
    assert sight.address == "10.0.0.1:7400"
    async with asyncio.timeout(10):
        while sight.address:  # noqa: ASYNC110 - time alone ends it, which tells nobody
            await asyncio.sleep(0.02)


async def test_a_leader_whose_session_is_longer_than_ours_is_named_for_longer() -> None:
    sight = LeaderSight(0.01)
    sight.seen(seen("10.0.0.1:7400", session=60.0))
    await asyncio.sleep(0.05)
    assert sight.address == "10.0.0.1:7400"
    sight.seen(seen("10.0.0.2:7400"))
    await asyncio.sleep(0.05)
    assert sight.address == "", "one that tells nothing is known by our own"


@pytest.mark.parametrize("value", [b"", b"[]", b"7", b"{}", b'{"session": "x"}'])
def test_a_leader_that_tells_nothing_of_its_session_tells_nothing(value: bytes) -> None:
    assert session_in(value) == 0.0


async def test_who_asks_while_nobody_leads_hears_of_the_new_leader_at_once() -> None:
    sight = LeaderSight(10.0)
    asked = asyncio.create_task(sight.wait(30.0))
    await asyncio.sleep(0)
    sight.seen(seen("10.0.0.2:7400"))
    assert await asyncio.wait_for(asked, 5) == "10.0.0.2:7400"
    sight.seen(None)
    assert await sight.wait(0.01) == ""


async def test_who_may_have_lost_the_leader_is_sent_to_it_only_if_it_renews_twice() -> None:
    sight = LeaderSight(10.0)
    sight.seen(seen("10.0.0.1:7400"))
    asked = asyncio.create_task(sight.wait(30.0, afresh=True))
    await asyncio.sleep(0.01)
    sight.seen(seen("10.0.0.1:7400"))  # what is told late
    await asyncio.sleep(0.01)
    assert not asked.done()
    assert await sight.wait(30.0) == "10.0.0.1:7400", "whoever else asks is told at once"
    sight.seen(seen("10.0.0.1:7400"))
    assert await asked == "10.0.0.1:7400"


async def test_who_may_have_lost_the_leader_is_sent_to_the_next_one_at_once() -> None:
    sight = LeaderSight(10.0)
    sight.own = "10.0.0.3:7400"
    sight.seen(seen("10.0.0.1:7400"))
    asked, other = (asyncio.create_task(sight.wait(30.0, afresh=True)) for _ in range(2))
    await asyncio.sleep(0.01)
    sight.seen(None)
    await asyncio.sleep(0.01)
    assert not asked.done(), "nobody leads now"
    sight.seen(seen("10.0.0.2:7400"))
    assert await asked == await other == "10.0.0.2:7400"
    assert await sight.wait(0.01, afresh=True) == "10.0.0.2:7400", "one that renews more seldom than that"
    asked = asyncio.create_task(sight.wait(30.0, afresh=True))
    await asyncio.sleep(0.01)
    sight.tell(sight.own)
    sight.seen(seen(sight.own))  # our own znode says the same, which is no news
    assert await asked == sight.own


def test_our_own_last_office_names_nobody() -> None:
    sight = LeaderSight(10.0)
    sight.own = "10.0.0.3:7400"
    sight.seen(seen("10.0.0.3:7400"))
    assert sight.address == ""
