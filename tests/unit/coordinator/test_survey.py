"""The fleet that is kept from decision to decision is the one that would be found by looking at everything anew."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gestalt.coordinator import capacity, changes
from gestalt.coordinator.capacity import MOST, Survey
from gestalt.coordinator.membership import Life
from gestalt.coordinator.nodes import take_facts
from gestalt.coordinator.records import Node
from gestalt.coordinator.reservations import Reservations
from gestalt.coordinator.scheduler.columns import Columns
from gestalt.coordinator.scheduler.fleet import Fleet as Nodes
from gestalt.coordinator.scheduler.presence import Presences
from gestalt.coordinator.state import Draft
from gestalt.proto.v1 import model_pb2
from tests.unit.coordinator.fleet import Fleet, settled
from tests.unit.coordinator.world import PATH, node


def note(fleet: Fleet, node: Node | None, name: str) -> None:
    draft = Draft(fleet.state)
    if node is None:
        draft.delete("node", name)
    else:
        draft.put_node(node)
    fleet.state.apply(draft)


def surveyed(fleet: Fleet) -> Survey:
    return Survey(fleet.state, fleet.tracker, lambda: fleet.now)


FAULTS = {"lose": Fleet.lose, "cut": Fleet.cut, "back": Fleet.back, "agent-down": Fleet.agent_down}


def happen(fleet: Fleet, event: str, name: str) -> None:
    record = fleet.state.nodes[name]
    match event:
        case "lose" | "cut" | "back" | "agent-down":
            FAULTS[event](fleet, name)
        case "cordon":
            note(fleet, replace(record, admin=Life.CORDONED), name)
        case "label":
            note(fleet, replace(record, labels={"rack": f"r{len(record.labels)}"}), name)
        case "facts":
            take_facts(fleet.tracker, fleet.view_of(name), model_pb2.Facts(cpu=8, memory=2**34, runtimes=["docker"]))
        case "join":
            note(fleet, Node("n9", "n9"), "n9")
        case "scale":
            fleet.ask(changes.scale, PATH, 5)
        case "time":
            fleet.pass_time(3.0)


_EVENT = st.sampled_from(["lose", "cut", "back", "agent-down", "cordon", "label", "facts", "join", "scale", "time", "decide"])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(_EVENT, st.sampled_from(["n1", "n2", "n3"])), max_size=15))
def test_what_is_kept_is_what_would_be_found_anew(story: list[tuple[str, str]]) -> None:
    fleet = settled(3, 3)
    survey = surveyed(fleet)
    for event, name in story:
        happen(fleet, event, name)
        if event == "decide":
            fleet.decide()
            fleet.agent_step()
        fleet.pass_time(1.5)  # what is told of a node that is away may be a moment old
        assert tuple(survey.ground(PATH)) == tuple(surveyed(fleet).ground(PATH))


async def test_what_changes_while_all_nodes_are_looked_at_is_not_missed() -> None:
    fleet = settled(1, 0)
    for number in range(2, 1001):
        note(fleet, Node(f"n{number}", f"n{number}"), f"n{number}")
    survey = surveyed(fleet)
    warming = asyncio.create_task(survey.warm_up())
    for _ in range(3):
        await asyncio.sleep(0)
    note(fleet, None, "n1000")
    note(fleet, replace(fleet.state.nodes["n1"], labels={"rack": "r1"}), "n1")
    await warming
    assert tuple(survey.ground()) == tuple(surveyed(fleet).ground())
    assert [len(survey.ground()), survey.ground().node("n1").attributes["rack"]] == [999, "r1"]


def test_a_node_that_was_removed_is_no_ground() -> None:
    fleet = settled(3, 1)
    survey = surveyed(fleet)
    assert [item.id for item in survey.ground()] == ["n1", "n2", "n3"]
    note(fleet, None, "n2")
    assert [item.id for item in survey.ground()] == ["n1", "n3"]


def test_of_an_app_those_count_that_stay() -> None:
    fleet = settled(3, 3)
    survey = surveyed(fleet)
    assert {item.id: item.same_app for item in survey.ground(PATH)} == {"n1": 1, "n2": 1, "n3": 1}
    note(fleet, replace(fleet.state.nodes["n2"], admin=Life.DRAINING), "n2")
    assert {item.id: item.same_app for item in survey.ground(PATH)} == {"n1": 1, "n2": 0, "n3": 1}
    assert {item.same_app for item in survey.ground("/org/ws/env/other")} == {0}


def test_what_no_machine_can_have_is_bounded() -> None:
    fleet = settled(3, 3)
    absurd = {"cpu": math.inf, "memory": 2**62, "disk": 2**62, "pids": 2**62, "devices": {"gpu": 2**62}, "runtimes": ["docker"]}
    take_facts(fleet.tracker, fleet.view_of("n1"), model_pb2.Facts(**absurd, memory_overcommit=4.0))
    take_facts(fleet.tracker, fleet.view_of("n2"), model_pb2.Facts(cpu=math.nan, memory=2**34, memory_overcommit=math.inf))
    first, second, _ = surveyed(fleet).ground(PATH)
    assert (first.cpu, first.memory, set(first.supply.values())) == (MOST, MOST, {MOST})
    assert (second.cpu, second.memory) == (0.0, MOST)
    Columns([first, second], fleet.state.reservations).supply("disk")


def test_what_is_counted_beforehand_takes_nobody_with_it(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    fleet = settled(3, 3)
    survey = surveyed(fleet)
    monkeypatch.setattr(Nodes, "is_large", True)
    monkeypatch.setattr(capacity, "BY_ROW", 0)
    monkeypatch.setattr(Presences, "of", lambda *_: 1 / 0)
    survey.follow([PATH])
    assert "not counted by node" in caplog.text


def test_columns_that_are_changed_by_half_are_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Nodes(Reservations(), large=0)
    fleet.put(node("n1", cpu=4))
    before = fleet.columns()
    with monkeypatch.context() as broken:
        broken.setattr(Columns, "change", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fleet.put(node("n1", cpu=8))
    assert (fleet.columns() is before, fleet.columns().cpu.tolist()) == (False, [8.0])


def test_a_migration_leaves_its_ground() -> None:
    fleet = settled(3, 3)
    survey = surveyed(fleet)
    fleet.state.apps[PATH] = replace(fleet.app, moving=(fleet.placed[0].serial,), target="n2")
    why = {item.id: item.why_not for item in survey.ground(PATH)}
    there = fleet.placed[0].node
    expected = dict.fromkeys(("n1", "n2", "n3"), "is not where the migration goes") | {"n2": ""} | {there: "is left by the migration"}
    assert why == expected


def test_a_node_is_ready_once_its_inventory_is_in() -> None:
    fleet = settled(1, 1)
    survey, view = surveyed(fleet), fleet.view_of("n1")
    for step, is_ready in (
        (fleet.tracker.disconnected, False),
        (fleet.tracker.connected, False),
        (lambda view: fleet.tracker.inventory(view, (), ()), True),
        (lambda view: fleet.tracker.member(view, None), False),
    ):
        step(view)
        assert [item.ready for item in survey.ground()] == [is_ready]
