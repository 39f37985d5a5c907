"""What becomes of an exported state on its way into another store, and what the store would lose."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gestalt.cluster.export_file import Header
from gestalt.cluster.init import Founder
from gestalt.coordinator.nodes import Tracker
from gestalt.coordinator.records import App, Coordinator, Grant, Node, Placed, Placements, Switches, Version
from gestalt.coordinator.recovery import Stranger, strangers
from gestalt.coordinator.restoring import STRIDE, Target, fitted, loss
from gestalt.coordinator.state import SWITCHES, Record, State, decode, encode, version_key
from gestalt.coordinator.store import Document, Snapshot
from gestalt.errors import GestaltError, Kind
from gestalt.model import Observed, Phase
from tests.unit.coordinator.world import spec

HEADER = Header("c", "h1", 4, 10, "0.2.0", "2026-01-01T00:00:00+00:00", 5, 1)
APP = App("/o/w/e/web", "abc123", 3, 1, 1, 1, 2, "2026-01-01T00:00:00+00:00", next_serial=3)
ONE = Node("n1", "one", address="10.0.0.1", incarnation=7, lost=7)
GRANT = Grant("/o/w/e/web", "web-abc123", 4, 2, "n1", 7)
CLUSTER, APPLIANCE = Target("cluster"), Target("appliance")


def document(kind: str, key: str, record: Record, revision: int = 2) -> Document:
    return Document(kind, key, encode(record), revision)


STATE = (
    document("app", APP.path, APP),
    document("coordinator", "one", Coordinator("one", "10.0.0.1:7400")),
    document("grant", GRANT.name, GRANT),
    document("node", "n1", ONE),
    document("switches", SWITCHES, Switches(paused="by ann", doubted=("n1",))),
)


def restored(target: Target, *documents: Document) -> dict[str, Record]:
    return {each.kind: decode(each) for each in fitted(documents or STATE, HEADER, target)}


def test_numbers_that_must_not_be_used_twice_are_raised() -> None:
    found = restored(CLUSTER)
    assert found["app"] == replace(APP, next_serial=3 + STRIDE)
    assert found["grant"] == replace(GRANT, generation=4 + STRIDE, revoked=True)
    assert found["node"] == ONE


def test_the_leader_is_recovering_and_keeps_what_an_operator_switched() -> None:
    switches = restored(CLUSTER)["switches"]
    assert isinstance(switches, Switches)
    assert (switches.paused, switches.doubted) == ("by ann", ())
    assert HEADER.at in switches.recovering
    assert restored(CLUSTER, document("app", APP.path, APP))["switches"] == replace(switches, paused="")


def test_only_what_changed_has_a_new_revision() -> None:
    revisions = {each.kind: each.revision for each in fitted(STATE, HEADER, CLUSTER)}
    assert revisions == {"app": 11, "coordinator": 2, "grant": 11, "node": 2, "switches": 11}


def test_an_appliance_takes_one_node_and_nothing_that_only_clusters_have() -> None:
    found = restored(APPLIANCE)
    assert set(found) == {"app", "node", "switches"}
    assert found["node"] == replace(ONE, incarnation=0, lost=0)
    with pytest.raises(GestaltError, match="exactly one") as refusal:
        fitted((*STATE, document("node", "n2", Node("n2", "two"))), HEADER, APPLIANCE)
    assert refusal.value.kind is Kind.REFUSED


def test_the_node_of_an_appliance_gets_the_address_that_it_has_in_the_cluster() -> None:
    target = Target("cluster", Founder("n1", "one", "10.0.0.9", ("edge",)))
    found = restored(target, document("node", "n1", Node("n1", "one")))["node"]
    assert found == Node("n1", "one", address="10.0.0.9", roles=("edge",))
    assert restored(target)["node"] == ONE, "one that has an address keeps it"


@pytest.mark.parametrize("bad", [Document("app", "/x", b"{}", 1), Document("dream", "x", b"{}", 1), Document("app", "/x", b"\xff", 1)])
def test_documents_that_nobody_understands_are_refused(bad: Document) -> None:
    with pytest.raises(GestaltError) as refusal:
        fitted((bad,), HEADER, CLUSTER)
    assert refusal.value.kind is Kind.INVALID


def snapshot(*documents: Document, commit: int = 10, history: str = "h1") -> Snapshot:
    return Snapshot(documents, commit, 4, "c", history, 1)


def test_a_store_that_is_empty_or_behind_loses_nothing() -> None:
    assert not loss(snapshot(commit=0, history="h0"), HEADER, STATE)
    assert not loss(snapshot(*STATE), HEADER, STATE)
    assert not loss(snapshot(STATE[0], commit=5), HEADER, STATE)


def test_what_would_be_lost_is_told() -> None:
    found = loss(snapshot(*STATE, commit=12), HEADER, (STATE[1], replace(STATE[2], value=b"{}")))
    assert found
    told = found.sentence()
    assert "2 commits after those of the file" in told
    assert "1 app would be gone: /o/w/e/web" in told
    assert "1 node would be gone: one" in told
    assert "4 documents would be changed or removed" in told
    assert "another history" in loss(snapshot(*STATE, history="h2"), HEADER, STATE).sentence()


def test_strangers_are_what_runs_where_nothing_is_placed() -> None:
    state, tracker = State(), Tracker(lambda: 0.0)
    placed = Placements(APP.path, (Placed(1, 1, "n1", ()), Placed(2, 1, "n2", ())))
    version = Version(APP.path, 1, "hash", spec(path=APP.path), "", "")
    state.load(
        (document("app", APP.path, APP), document("version", version_key(APP.path, 1), version), document("placements", APP.path, placed))
    )
    reports = [Observed(f"web-abc123-{serial}", 1, Phase.RUNNING) for serial in (1, 2, 9)]
    reports.append(Observed("later-000000-1", 1, Phase.RUNNING, app="/o/w/e/later"))
    tracker.node("n1", "one").unknown = {report.instance: report for report in reports}
    assert strangers(state, tracker) == [], "who is not recovering has none"
    state.switches_by_key[SWITCHES] = Switches(recovering="a backup")
    assert strangers(state, tracker) == [
        Stranger("one", "later-000000-1", "/o/w/e/later"),
        Stranger("one", "web-abc123-2", "web"),
        Stranger("one", "web-abc123-9", "web"),
    ]
