"""The judges of the cluster lab find what they are there to find, and nothing else."""

from __future__ import annotations

import pytest

from tests.cluster.lab.invariants import (
    Copy,
    Ledger,
    Listed,
    ProxyServer,
    Reign,
    Request,
    Sample,
    disagreements,
    double_holders,
    epochs_that_shrank,
    failed_requests,
    lost_changes,
    shortages,
    touched,
    wrong_counts,
    wrong_servers,
)

ONE = Copy("n1", "/a/b/c/one", "one-1", 1)
OTHER = Copy("n2", "/a/b/c/one", "one-2", 1)
FROZEN = Copy("n1", "/a/b/c/one", "one-1", 1, frozen=True)
WEB = (Copy("n1", "/a/b/c/web", "web-1", 1), Copy("n2", "/a/b/c/web", "web-2", 1))
LISTED = (
    Listed("/a/b/c/web", "web-1", 1, "n1", "running", "healthy", "10.0.0.1:3000"),
    Listed("/a/b/c/web", "web-2", 1, "n2", "running", "healthy", "10.0.0.2:3000"),
)
SERVERS = (ProxyServer("web-1", "10.0.0.1:3000", True), ProxyServer("web-2", "10.0.0.2:3000", True))


def test_a_double_holder_is_found_in_the_one_sample_that_has_it() -> None:
    samples = [Sample(1, (ONE,)), Sample(2, (ONE, OTHER, *WEB)), Sample(3, (OTHER,))]
    assert double_holders(samples, {ONE.app}) == ["at 2.00 /a/b/c/one is at work 2 times: one-1 (attempt 1) on n1, one-2 (attempt 1) on n2"]


def test_two_attempts_on_one_node_are_two_holders() -> None:
    assert double_holders([Sample(1, (ONE, Copy("n1", ONE.app, "one-1", 2)))], {ONE.app})


@pytest.mark.parametrize("copies", [(ONE,), (FROZEN, OTHER), WEB, ()])
def test_one_holder_a_frozen_one_and_ordinary_apps_are_no_double_holders(copies: tuple[Copy, ...]) -> None:
    assert double_holders([Sample(1, copies)], {ONE.app}) == []


def test_a_moment_with_too_few_copies_at_work_is_found() -> None:
    samples = [
        Sample(1, WEB),
        Sample(2, WEB[:1]),
        Sample(3, (WEB[0], Copy("n2", "/a/b/c/web", "web-2", 1, frozen=True), ONE)),
        Sample(4, WEB),
    ]
    assert shortages(samples, "/a/b/c/web", 2) == [
        "at 2.00 /a/b/c/web is at work 1 times only, not 2",
        "at 3.00 /a/b/c/web is at work 1 times only, not 2",
    ]
    assert shortages(samples, "/a/b/c/web", 1) == []


def test_copies_that_end_or_begin_are_found_and_those_that_freeze_are_none() -> None:
    again = Copy("n2", "/a/b/c/web", "web-2", 2)
    samples = [Sample(1, WEB), Sample(2, WEB[:1]), Sample(3, (WEB[0], again))]
    assert touched(samples, "/a/b/c/web") == ["at 2.00 web-2 (attempt 1) on n2 ended", "at 3.00 web-2 (attempt 2) on n2 began"]
    assert touched([Sample(1, (ONE,)), Sample(2, (FROZEN, *WEB))], ONE.app) == []


def test_a_lower_epoch_and_two_leaders_of_one_are_found() -> None:
    assert epochs_that_shrank([Reign(1, 1, "a"), Reign(2, 3, "b"), Reign(3, 3, ""), Reign(4, 4, "a")]) == []
    assert epochs_that_shrank([Reign(1, 3, "a"), Reign(2, 2, "b")]) == ["at 2.00 the epoch went from 3 to 2"]
    assert epochs_that_shrank([Reign(1, 3, "a"), Reign(2, 3, "b")]) == ["epoch 3 had the leaders a, b"]


def test_acknowledged_changes_must_be_there() -> None:
    ledger = Ledger()
    ledger.acknowledged("/kept", 3)
    ledger.acknowledged("/lost", 1)
    ledger.acknowledged("/scaled", 1)
    ledger.acknowledged("/scaled", 5)
    ledger.acknowledged("/deleted", 2)
    ledger.acknowledged("/deleted", None)
    assert lost_changes(ledger, {"/kept": 3, "/scaled": 1, "/deleted": 2, "/odd": 1}) == [
        "/lost is gone, but was acknowledged to be there with 1 instances",
        "/scaled is there with 1 instances, but was acknowledged to be there with 5 instances",
        "/deleted is there with 2 instances, but was acknowledged to be gone",
        "/odd is there, and nobody asked for it",
    ]


@pytest.mark.parametrize("count", [None, 2])
def test_a_change_of_unknown_outcome_may_be_there_or_not(count: int | None) -> None:
    ledger = Ledger()
    ledger.uncertain("/new", 2)
    assert lost_changes(ledger, {} if count is None else {"/new": count}) == []
    assert lost_changes(ledger, {"/new": 1})


def test_what_runs_is_what_is_listed() -> None:
    assert disagreements(LISTED, Sample(1, WEB)) == []
    assert disagreements(LISTED, Sample(1, WEB[:1])) == ["web-2 (attempt 1) on n2 is listed 1 times and runs 0 times"]
    assert disagreements(LISTED[:1], Sample(1, WEB)) == ["web-2 (attempt 1) on n2 is listed 0 times and runs 1 times"]
    again = Copy("n1", "/a/b/c/web", "web-1", 2)
    assert disagreements(LISTED, Sample(1, (*WEB, again))) == ["web-1 (attempt 2) on n1 is listed 0 times and runs 1 times"]


def test_every_app_has_as_many_healthy_instances_as_wanted() -> None:
    assert wrong_counts({"/a/b/c/web": 2}, LISTED) == []
    assert wrong_counts({"/a/b/c/web": 3}, LISTED) == ["/a/b/c/web has 2 instances, 2 of them healthy; wanted are 3"]
    assert wrong_counts({}, LISTED[:1]) == ["/a/b/c/web has 1 instances, 1 of them healthy; wanted are 0"]
    sick = Listed("/a/b/c/web", "web-2", 1, "n2", "running", "unknown")
    assert wrong_counts({"/a/b/c/web": 2}, (LISTED[0], sick)) == ["/a/b/c/web has 2 instances, 1 of them healthy; wanted are 2"]


def test_every_haproxy_has_exactly_the_instances() -> None:
    assert wrong_servers(LISTED, {"n1": SERVERS, "n2": SERVERS}) == []
    orphan, away, idle = (
        ProxyServer("web-9", "10.0.0.9:3000", True),
        ProxyServer("web-1", "10.0.0.9:1", True),
        ProxyServer("web-2", "10.0.0.2:3000", False),
    )
    assert wrong_servers(LISTED, {"n1": (*SERVERS, orphan), "n2": (away, idle), "n3": SERVERS[:1]}) == [
        "HAProxy of n1 has web-9, which is no instance",
        "HAProxy of n2 has web-1 at 10.0.0.9:1, it is at 10.0.0.1:3000",
        "HAProxy of n2 sends web-2 no requests",
        "HAProxy of n3 does not have web-2",
    ]


def test_failed_requests_are_those_of_the_time_asked_for() -> None:
    requests = [Request(1, "n1", 0.1, by="web-1"), Request(2, "n1", 2, failure="no answer"), Request(9, "n2", 0, failure="refused")]
    assert failed_requests(requests, end=5) == ["at 2.00 through n1 after 2.00 s: no answer"]
    assert len(failed_requests(requests)) == 2
