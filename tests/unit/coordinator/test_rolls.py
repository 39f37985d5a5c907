"""What a look at an app looks at: what is not as it should be, and what changed. That it decides the same is asserted by every world."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gestalt.coordinator import capacity, changes
from gestalt.coordinator.capacity import Survey
from gestalt.coordinator.records import instance_id
from gestalt.coordinator.scheduler.fleet import Fleet as Nodes
from gestalt.coordinator.state import Draft

from .fleet import Fleet, settled
from .world import PATH


def looked_at(fleet: Fleet) -> tuple[list[int], int]:
    """Return the serials that the next look is about, and how many instances are only counted."""
    views, others = fleet.rolls.views(fleet.app)
    return [view.placed.serial for view in views], others


def test_what_is_at_work_is_only_counted() -> None:
    assert looked_at(settled(count=3, instances=6)) == ([], 6)


def test_an_instance_that_is_reported_unwell_is_looked_at_until_it_is_well_again() -> None:
    fleet = settled(count=3, instances=6)
    sick = fleet.placed[2]
    running = fleet.machines[sick.node].running
    healthy = running[instance_id(fleet.app, sick.serial)]
    fleet.tracker.observed(fleet.view_of(sick.node), [replace(healthy, ready=False, attempt=healthy.attempt + 1)], ())
    assert looked_at(fleet) == ([sick.serial], 5)
    assert looked_at(fleet) == ([sick.serial], 5)
    fleet.tracker.observed(fleet.view_of(sick.node), [replace(healthy, attempt=healthy.attempt + 2)], ())
    fleet.now += 60
    assert looked_at(fleet) == ([], 6)


def test_an_instance_that_its_node_lost_is_looked_at() -> None:
    fleet = settled(count=3, instances=6)
    lost = fleet.placed[0]
    fleet.tracker.observed(fleet.view_of(lost.node), (), [instance_id(fleet.app, lost.serial)])
    assert looked_at(fleet) == ([lost.serial], 5)


def test_those_of_a_lost_node_are_looked_at_and_nobody_else() -> None:
    fleet = settled(count=3, instances=6)
    there = fleet.on("n2")
    fleet.lose("n2")
    assert looked_at(fleet) == (there, 6 - len(there))


def test_those_of_a_node_that_drains_are_looked_at() -> None:
    fleet = settled(count=3, instances=6)
    draft = Draft(fleet.state)
    draft.put_node(replace(fleet.state.nodes["n3"], admin="draining"))
    fleet.state.apply(draft)
    assert looked_at(fleet) == (fleet.on("n3"), 6 - len(fleet.on("n3")))


def test_of_more_than_are_wanted_all_are_looked_at_for_some_are_chosen_out() -> None:
    fleet = settled(count=3, instances=6)
    fleet.ask(changes.scale, PATH, 5)
    assert looked_at(fleet) == ([item.serial for item in fleet.placed], 0)


def test_what_comes_is_looked_at_until_it_is_settled() -> None:
    fleet = settled(count=3, instances=6)
    fleet.ask(changes.scale, PATH, 8)
    fleet.decide()
    assert looked_at(fleet) == ([item.serial for item in fleet.placed[6:]], 6)
    fleet.settle()
    assert looked_at(fleet) == ([], 8)


@pytest.mark.parametrize("is_large", [False, True])
@pytest.mark.parametrize("node", ["n1", "n2", "n3"])
def test_who_is_where_is_known_from_those_that_are_not_settled(node: str, is_large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Nodes, "is_large", is_large)
    monkeypatch.setattr(capacity, "BY_ROW", 0)
    fleet = settled(count=3, instances=7)
    brief = Survey(fleet.state, fleet.tracker, lambda: fleet.now, fleet.rolls.special)
    whole = Survey(fleet.state, fleet.tracker, lambda: fleet.now)
    looked_at(fleet)
    assert fleet.rolls.special(fleet.app) == ()
    assert brief.ground(PATH).same_app == whole.ground(PATH).same_app
    there = len(fleet.on(node))
    fleet.lose(node)
    assert brief.ground(PATH).same_app == whole.ground(PATH).same_app
    assert sum(brief.ground(PATH).same_app.values()) == 7 - there
    fleet.decide()
    assert brief.ground(PATH).same_app == whole.ground(PATH).same_app
    assert sum(brief.ground(PATH).same_app.values()) == 7


def test_a_new_version_makes_all_others_old() -> None:
    fleet = settled(count=3, instances=6)
    fleet.apply(fleet.state.version(PATH, 1).spec.model_copy(update={"image": "web:2"}))
    assert looked_at(fleet) == ([item.serial for item in fleet.placed], 0)


def test_the_only_one_is_never_only_counted() -> None:
    fleet = settled(count=3, instances=1, ports=[], checks=[], placement={"exclusive": True})
    assert looked_at(fleet) == ([fleet.placed[0].serial], 0)
