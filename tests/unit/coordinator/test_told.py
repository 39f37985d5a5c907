"""Whatever changes, and however little of it is looked at: agents know what follows from the records."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gestalt.coordinator import beginning, dispatch
from gestalt.coordinator.grant_book import PLAIN, Terms
from gestalt.coordinator.records import Placed, Placements
from gestalt.coordinator.state import Draft
from tests.unit.coordinator.told_world import EDGE, EDGES_ALL_BELOW, NODES, PATHS, Office, OnDemand

CHANGES = ("scale", "scale", "update", "end", "delete", "grant", "prepare", "report", "node", "node", "recover")
EVENTS = (*CHANGES, "begin", "turn", "turn", "flush", "flush")


@settings(max_examples=120, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, len(PATHS) - 1), st.integers(0, 13)), min_size=10, max_size=50))
def test_agents_know_what_follows_from_the_records(story: list[tuple[str, int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "Pace", OnDemand)
        patch.setattr(beginning, "SLICE", 0.0)
        patch.setattr(dispatch, "ALL_EDGES", EDGES_ALL_BELOW)
        office = Office()
        for which, path in enumerate(PATHS):
            office.launch(which, len(path) + which)
        for event, which, number in (*story, ("flush", 0, 0)):
            _happen(office, event, which, number)
            if event == "flush":
                office.flush()
                assert {name: office.told(name) for name in NODES} == {name: office.scratch(name) for name in NODES}


def _happen(office: Office, event: str, which: int, number: int) -> None:
    match event:
        case "flush":
            return
        case "turn":
            OnDemand.turn()
        case "begin":
            office.begin()
        case "recover":
            office.recover(number)
        case "node":
            office.node(which, number)
        case _ if PATHS[which] in office.state.apps:
            getattr(office, event)(which, number)
        case _:
            office.launch(which, number)


@pytest.fixture
def office(monkeypatch: pytest.MonkeyPatch) -> Office:
    monkeypatch.setattr(dispatch, "Pace", OnDemand)
    monkeypatch.setattr(dispatch, "ALL_EDGES", EDGES_ALL_BELOW)
    return Office()


def test_of_a_node_only_those_instances_are_looked_at_that_changed(office: Office) -> None:
    for which in range(len(PATHS)):
        office.launch(which, 2)
    office.flush()
    looked_at: list[Placed] = []

    def terms(_: object, placed: Placed) -> Terms:
        looked_at.append(placed)
        return PLAIN

    office.dispatcher.terms = terms
    there = office.state.placed(PATHS[0]).instances
    draft = Draft(office.state)
    draft.put_placements(Placements(PATHS[0], (replace(there[0], stop=True), *there[1:])))
    office.commit(draft)
    office.flush()
    assert looked_at == [office.state.placed(PATHS[0]).instances[0]]


def test_what_is_nothing_to_an_agent_is_no_message(office: Office) -> None:
    """Whether an instance is ready its own agent knows best; the others that route it are told."""
    office.launch(1, 0)
    office.flush()
    (item,) = office.state.placed(PATHS[1]).instances
    assert item.node != EDGE
    before = {name: agent.messages for name, agent in office.agents.items()}
    office.report(1, 3)
    office.report(1, 1)
    office.flush()
    assert {name for name, agent in office.agents.items() if agent.messages > before[name]} == set()  # it was the same again
    for number in (3, 1, 3):
        before = {name: agent.messages for name, agent in office.agents.items()}
        office.report(1, number)
        office.flush()
        assert {name for name, agent in office.agents.items() if agent.messages > before[name]} == {EDGE}
        assert {name: office.told(name) for name in NODES} == {name: office.scratch(name) for name in NODES}


def test_what_cannot_be_told_ends_the_session(office: Office) -> None:
    office.launch(0, 0)

    def broken(_: object, placed: Placed) -> Terms:
        raise ValueError(placed.node)

    office.dispatcher.terms = broken
    (item,) = office.state.placed(PATHS[0]).instances
    office.flush()
    assert [name for name, agent in office.agents.items() if agent.link.closed.is_set()] == [item.node]


def test_in_one_turn_no_more_is_told_than_can_be_sent(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    office.flush()
    monkeypatch.setattr(dispatch, "SENDING", 1.0)
    office.recover(1)
    (work,) = OnDemand.asked
    for count in (1, 2, 3, 4):
        assert work() is (count < len(NODES))
        assert sum(agent.link.outbox.qsize() for agent in office.agents.values()) == count
