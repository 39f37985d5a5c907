"""Nodes in maintenance: drained before, expected to be away, ready again when it ends."""

from __future__ import annotations

import math
from datetime import datetime

import pytest

from gestalt.coordinator import changes, drain, maintenance
from gestalt.coordinator.changes import Asked
from gestalt.coordinator.maintenance import Wish
from gestalt.coordinator.records import Node, Task, TaskState
from gestalt.coordinator.state import Draft, encode
from gestalt.coordinator.store.base import Document
from gestalt.errors import GestaltError
from tests.unit.coordinator.fleet import Fleet, settled
from tests.unit.coordinator.test_drain import begin as begin_drain
from tests.unit.coordinator.test_drain import conclude, homes, least_ready, mark
from tests.unit.coordinator.test_drain_limits import after
from tests.unit.coordinator.world import AT, PATH


def begin(fleet: Fleet, name: str, wish: Wish = Wish(), number: int = 1) -> Task:  # noqa: B008 (frozen)
    draft = Draft(fleet.state)
    life = fleet.tracker.standing(name).life
    task = maintenance.begin(draft, fleet.state.nodes[name], life, Asked("tester", AT, 0, f"m{number}", ""), wish)
    fleet.state.apply(draft)
    return task


def end(fleet: Fleet, name: str) -> Task | None:
    draft = Draft(fleet.state)
    task = maintenance.end(draft, fleet.state.nodes[name], Asked("tester", AT, 0, "end", ""))
    fleet.state.apply(draft)
    return task


def at(fleet: Fleet, moment: datetime) -> None:
    """What the leader does from time to time."""
    draft = Draft(fleet.state)
    maintenance.conclude(draft, maintenance.over(fleet.state, moment), moment.isoformat())
    fleet.state.apply(draft)


def test_a_node_is_drained_and_then_in_maintenance_until_it_is_ended() -> None:
    fleet = settled(3, 3)
    task = begin(fleet, "n1", Wish("new disks"))
    assert (task.kind, fleet.state.nodes["n1"].admin) == ("drain", "draining")
    assert least_ready(fleet) >= 3
    conclude(fleet)
    node = fleet.state.nodes["n1"]
    assert (node.admin, node.maintenance, node.maintenance_until) == ("maintenance", "by tester: new disks", "")
    assert fleet.state.tasks[task.id].state is TaskState.SUCCEEDED
    told = "is in maintenance by tester: new disks, until it is ended (gestaltctl node maintenance n1 --end)"
    assert maintenance.told(node, "") == told
    assert maintenance.told(node, "is dead") == f"{told}; it is dead"
    fleet.lose("n1")
    fleet.back("n1")
    at(fleet, after(10**7))
    assert (str(fleet.tracker.standing("n1").life), fleet.tracker.standing("n1").reason) == ("maintenance", "is in maintenance")
    fleet.settle()
    assert homes(fleet)["n1"] == 0, "it is back, and takes nothing"
    assert end(fleet, "n1") is not None
    assert (fleet.state.nodes["n1"].admin, fleet.state.nodes["n1"].maintenance) == ("ready", "")
    assert end(fleet, "n1") is None


def test_it_ends_by_itself_so_long_after_the_node_was_drained() -> None:
    fleet = settled(3, 3)
    begin(fleet, "n1", Wish(lasts=60.0))
    at(fleet, after(61))
    assert fleet.state.nodes["n1"].admin == "draining", "its time has not begun"
    fleet.settle()
    draft = Draft(fleet.state)
    drain.conclude(draft, drain.done(fleet.state), after(100).isoformat())
    fleet.state.apply(draft)
    at(fleet, after(159))
    assert maintenance.is_expected(fleet.state.nodes["n1"])
    at(fleet, after(160))
    assert (fleet.state.nodes["n1"].admin, fleet.state.nodes["n1"].maintenance_until) == ("ready", "")


def test_what_is_kept_stays_and_is_replaced_when_the_node_is_lost() -> None:
    fleet = settled(3, 3)
    before = fleet.placed
    task = begin(fleet, "n1", Wish(lasts=60.0, keep=True))
    assert (task.state, task.message) == (TaskState.SUCCEEDED, "n1 is in maintenance")
    assert fleet.state.nodes["n1"].maintenance_until == after(60).isoformat()
    fleet.settle()
    assert fleet.placed == before
    fleet.ask(changes.scale, PATH, 5)
    fleet.settle()
    assert homes(fleet) == {"n1": 1, "n2": 2, "n3": 2}
    fleet.lose("n1")
    fleet.settle()
    assert (homes(fleet)["n1"], len(fleet.ready())) == (0, 5)
    assert maintenance.is_expected(fleet.state.nodes["n1"])


def test_a_lost_node_is_in_maintenance_once_what_ran_there_is_replaced() -> None:
    fleet = settled(2, 2)
    fleet.lose("n1")
    task = begin(fleet, "n1")
    assert task.message == "n1 is lost, and in maintenance once what ran there is replaced"
    fleet.settle()
    assert homes(fleet) == {"n2": 2}


def test_a_node_that_is_drained_already_needs_no_drain() -> None:
    fleet = settled(2, 2)
    begin_drain(fleet, "n1")
    fleet.settle()
    conclude(fleet)
    assert begin(fleet, "n1").kind == "maintenance"
    assert fleet.state.nodes["n1"].admin == "maintenance"


@pytest.mark.parametrize("admin", ["ready", "cordoned"])
def test_another_word_of_an_operator_ends_it_and_the_drain_before_it(admin: str) -> None:
    fleet = settled(3, 3)
    task = begin(fleet, "n1")
    mark(fleet, "n1", admin)
    assert (fleet.state.nodes["n1"].admin, fleet.state.nodes["n1"].maintenance) == (admin, "")
    assert fleet.state.tasks[task.id].state is TaskState.SUPERSEDED
    fleet.settle()
    assert homes(fleet)["n1"] == 1
    draining = begin(fleet, "n1", number=2)
    assert end(fleet, "n1") is not None
    assert fleet.state.tasks[draining.id].message == "superseded by the end of the maintenance"


def test_a_new_leader_knows_of_it() -> None:
    fleet = settled(2, 2)
    begin(fleet, "n1", Wish("why", 60.0, keep=True))
    node = fleet.state.nodes["n1"]
    fleet.state.load((Document("node", "n1", encode(node), 1),))
    assert fleet.state.nodes["n1"] == node
    fleet.state.load((Document("node", "n1", b'{"id": "n1", "name": "n1"}', 1),))
    assert fleet.state.nodes["n1"] == Node("n1", "n1"), "one that was written before there was any maintenance"


@pytest.mark.parametrize(("wish", "message"), [
    (Wish(lasts=-1.0), "for: -1 s is no time; allowed: more than 0 s and at most 30d, or none: until somebody ends it"),
    (Wish(lasts=math.nan), "for: nan s is no time; allowed: more than 0 s and at most 30d, or none: until somebody ends it"),
    (Wish("a\nb"), "reason: is too long, or not one line; allowed: at most 200 printable characters"),
    (Wish(keep=True, limits=drain.Limits(5.0)), "keep: goes with no limits of a drain: nothing is drained; allowed: one of both"),
    (Wish(limits=drain.Limits(0.0)), "deadline: 0 s is not a time to leave; allowed: more than 0 s and at most 30d, or none"),
])  # fmt: skip
def test_what_cannot_be_is_refused_and_changes_nothing(wish: Wish, message: str) -> None:
    fleet = settled(2, 2)
    with pytest.raises(GestaltError) as refused:
        begin(fleet, "n1", wish)
    assert refused.value.message == message
    assert fleet.state.nodes["n1"].admin == "ready"


def test_the_only_node_can_be_in_maintenance_with_what_runs_there_only() -> None:
    alone = settled(1, 1)
    with pytest.raises(GestaltError, match="n1 is the only node: there is nowhere to go"):
        begin(alone, "n1")
    begin(alone, "n1", Wish(keep=True))
    alone.settle()
    assert len(alone.ready()) == 1


def test_nothing_is_migrated_to_a_node_in_maintenance() -> None:
    fleet = settled(2, 2)
    begin(fleet, "n1", Wish(keep=True))
    with pytest.raises(GestaltError, match="n1 is in maintenance: nothing is placed there"):
        fleet.ask(changes.migrate, PATH, None, fleet.state.nodes["n1"])
