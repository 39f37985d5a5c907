"""Apps that share no node: it holds for both, whichever of them came first and whichever says so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gestalt.coordinator.records import App, Placed, Placements, Version
from gestalt.coordinator.scheduler.place import place
from gestalt.coordinator.state import Draft, State
from gestalt.proto.v1 import model_pb2
from gestalt.spec.honour import warnings
from gestalt.spec.schema import AppSpec
from tests.unit.coordinator.fleet import Fleet, settled
from tests.unit.coordinator.test_reservations import reloaded
from tests.unit.coordinator.test_survey import surveyed
from tests.unit.coordinator.world import AT, PATH, spec

RIVAL = "/org/ws/env/rival"
WHY = f"has an instance of {RIVAL}, from which it is kept apart"


def described(path: str, *apart_from: str, instances: int = 1) -> AppSpec:
    return spec(path=path, ports=[], checks=[], instances=instances, placement={"apart_from": list(apart_from)})


def put(state: State, asked: AppSpec, *nodes: str) -> None:
    """Have instances of an app on some nodes."""
    draft = Draft(state)
    draft.put_version(Version(asked.path, 1, "hash", asked, AT, "me"))
    draft.put_app(App(asked.path, "bbbbbb", 0, 1, 0, 1, len(nodes), AT))
    draft.put_placements(Placements(asked.path, tuple(Placed(serial, 1, node, ()) for serial, node in enumerate(nodes, 1))))
    state.apply(draft)


def ready(count: int) -> Fleet:
    fleet = settled(count, 0)
    for name in fleet.machines:
        fleet.view_of(name).facts.CopyFrom(model_pb2.Facts(cpu=8, memory=2**34, runtimes=["docker"]))
    return fleet


@pytest.mark.parametrize(("mine", "theirs"), [((RIVAL,), ()), ((), (PATH,)), ((RIVAL,), (PATH,))])
def test_what_is_kept_apart_shares_no_node(mine: tuple[str, ...], theirs: tuple[str, ...]) -> None:
    fleet, asked = ready(3), described(PATH, *mine, instances=4)
    put(fleet.state, described(RIVAL, *theirs), "n1", "n3")
    placing = place(asked, 4, surveyed(fleet).ground(PATH, spec=asked))
    assert {choice.node for choice in placing.choices} == {"n2"}
    put(fleet.state, described(RIVAL, *theirs), "n1", "n3", "n2")
    assert place(asked, 4, surveyed(fleet).ground(PATH, spec=asked)).reason == f"3 nodes: {WHY}"


def test_nobody_else_is_kept_away() -> None:
    fleet = ready(2)
    put(fleet.state, described(RIVAL, PATH), "n1", "n2")
    other = described("/org/ws/env/other")
    assert place(other, 1, surveyed(fleet).ground(other.path, spec=other)).missing == 0
    assert all(node.ready for node in surveyed(fleet).ground(RIVAL)), "not by its own instances either"


def test_it_holds_for_as_long_as_the_wanted_version_says_so() -> None:
    fleet, asked = ready(1), described(PATH)
    put(fleet.state, described(RIVAL, PATH), "n1")
    assert fleet.state.apart == reloaded(fleet.state).apart == {RIVAL: (PATH,)}
    draft = Draft(fleet.state)
    draft.put_version(Version(RIVAL, 2, "hash", described(RIVAL), AT, "me"))
    draft.put_app(replace(fleet.state.apps[RIVAL], version=2, last_version=2))
    fleet.state.apply(draft)
    assert fleet.state.apart == {}
    assert place(asked, 1, surveyed(fleet).ground(PATH)).missing == 0


def test_a_system_app_that_is_kept_apart_is_told_to_miss_nodes() -> None:
    one_by_one = {"max_surge": "0", "max_unavailable": "1"}
    everywhere = spec(instances=0, ports=[], checks=[], kind="system", update=one_by_one, placement={"apart_from": [RIVAL]})
    assert "placement.apart_from: on nodes that have an instance of one of those apps it does not run" in warnings(everywhere)


def test_what_is_gone_keeps_nobody_away() -> None:
    fleet, asked = ready(1), described(PATH, RIVAL)
    put(fleet.state, described(RIVAL), "n1")
    assert place(asked, 1, surveyed(fleet).ground(PATH, spec=asked)).reason == f"node n1 {WHY}"
    put(fleet.state, described(RIVAL))
    assert place(asked, 1, surveyed(fleet).ground(PATH, spec=asked)).missing == 0
