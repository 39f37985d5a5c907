"""The limits of a drain: its deadline, how much is on the move at once, and the room that is kept for what stops before it can move."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gestalt.coordinator import changes, drain, turns
from gestalt.coordinator.capacity import Survey
from gestalt.coordinator.drain import Limits
from gestalt.coordinator.records import App, Node, Placed, Placements, TaskState, Version
from gestalt.coordinator.scheduler.fleet import Ground
from gestalt.coordinator.scheduler.place import place
from gestalt.coordinator.scheduler.values import Capacity
from gestalt.coordinator.state import Draft, State
from gestalt.coordinator.turns import Turns
from gestalt.errors import GestaltError
from gestalt.proto.v1 import model_pb2
from tests.unit.coordinator.fleet import Fleet, settled
from tests.unit.coordinator.test_drain import Narrow, begin, conclude, homes, mark
from tests.unit.coordinator.test_reservations import reloaded
from tests.unit.coordinator.world import AT, PATH, spec

FIXED = {"ports": [{"name": "http", "container_port": 80, "host_port": 3500}]}


def after(seconds: float) -> datetime:
    return datetime.fromisoformat(AT) + timedelta(seconds=seconds)


def at_deadline(fleet: Fleet, seconds: float) -> None:
    """What the leader does from time to time."""
    draft = Draft(fleet.state)
    drain.force(draft, drain.overdue(fleet.state, after(seconds)))
    fleet.state.apply(draft)


# -- the deadline --


@pytest.mark.parametrize("fields", [{}, FIXED, {"placement": {"exclusive": True}}])
def test_what_finds_no_room_stops_at_the_deadline_and_is_placed_when_there_is_some(fields: dict[str, object]) -> None:
    fleet = Narrow(2, 1, **fields)
    fleet.settle()
    fleet.is_stuck = bool(fields)  # as the leader finds of what would stop first
    task = begin(fleet, "n1", limits=Limits(60.0))
    assert task is not None
    at_deadline(fleet, 59.9)
    fleet.settle()
    assert len(fleet.ready()) == 1, "the last node that fits keeps it until then"
    at_deadline(fleet, 60.0)
    fleet.take_office()
    fleet.settle()
    assert homes(fleet) == {}
    conclude(fleet)
    assert fleet.state.tasks[task.id].message == (
        "nothing runs on n1 any more; the deadline was over with 1 instance left, stopped without waiting for replacements"
    )
    assert (fleet.state.nodes["n1"].admin, fleet.state.nodes["n1"].forced, fleet.state.nodes["n1"].drain_until) == ("drained", False, "")
    mark(fleet, "n1", "ready")
    fleet.settle()
    assert homes(fleet) == {"n1": 1}


def test_at_the_deadline_only_what_is_on_that_node_stops() -> None:
    fleet = settled(3, 6)
    fleet.broken = frozenset({"web:1"})  # no replacement becomes healthy
    begin(fleet, "n1", limits=Limits(60.0))
    fleet.settle()
    kept = {item.serial for item in fleet.placed if item.node != "n1"}
    at_deadline(fleet, 60.0)
    fleet.settle()
    assert homes(fleet)["n1"] == 0
    assert kept <= {item.serial for item in fleet.placed}
    assert len(fleet.ready()) == 4


def test_a_drain_that_is_ended_before_its_deadline_stops_nothing() -> None:
    fleet = Narrow(2, 2)
    fleet.settle()
    begin(fleet, "n1", limits=Limits(60.0))
    mark(fleet, "n1", "ready")
    assert (fleet.state.nodes["n1"].drain_until, fleet.state.nodes["n1"].parallel) == ("", 0)
    at_deadline(fleet, 60.0)
    fleet.settle()
    assert homes(fleet) == {"n1": 2}


def test_a_drain_asked_for_again_has_other_limits() -> None:
    fleet = Narrow(2, 2)
    fleet.settle()
    task = begin(fleet, "n1", 1, Limits(60.0, 3))
    assert begin(fleet, "n1", 2, Limits(600.0)) == task
    node = fleet.state.nodes["n1"]
    assert (node.drain_until, node.parallel) == (after(600).isoformat(), 3)
    begin(fleet, "n1", 3, Limits(math.inf, 7))
    assert (fleet.state.nodes["n1"].drain_until, fleet.state.nodes["n1"].parallel) == ("", 7)
    revision = fleet.state.nodes["n1"]
    begin(fleet, "n1", 4)
    assert fleet.state.nodes["n1"] is revision
    assert drain.overdue(fleet.state, after(10**6)) == []


@pytest.mark.parametrize(("limits", "message"), [
    (Limits(deadline=0.0), "deadline: 0 s is not a time to leave; allowed: more than 0 s and at most 30d, or none"),
    (Limits(deadline=-5.0), "deadline: -5 s is not a time to leave; allowed: more than 0 s and at most 30d, or none"),
    (Limits(deadline=math.nan), "deadline: nan s is not a time to leave; allowed: more than 0 s and at most 30d, or none"),
    (Limits(deadline=31 * 86400.0), "deadline: 2.6784e+06 s is not a time to leave; allowed: more than 0 s and at most 30d, or none"),
    (Limits(parallel=0), "parallel: 0 instances at once move nothing, or too much; allowed: 1 to 1000"),
    (Limits(parallel=-1), "parallel: -1 instances at once move nothing, or too much; allowed: 1 to 1000"),
])  # fmt: skip
def test_limits_that_cannot_be_are_refused_and_nothing_is_drained(limits: Limits, message: str) -> None:
    fleet = settled(2, 2)
    with pytest.raises(GestaltError) as refused:
        begin(fleet, "n1", limits=limits)
    assert refused.value.message == message
    assert fleet.state.nodes["n1"].admin == "ready"


# -- how much is on the move at once --


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.sampled_from(["25%", "100%"]), st.lists(st.integers(0, 5), max_size=60), st.integers(0, 40))
@example(2, "25%", [0, 0, 0, 1], 3)
def test_no_more_than_that_are_on_the_move_at_once_and_everything_leaves(parallel: int, surge: str, story: list[int], leader: int) -> None:
    fleet = settled(3, 12, update={"max_surge": surge})
    begin(fleet, "n1", limits=Limits(parallel=parallel))
    for number, which in enumerate(story):
        if number == leader:
            fleet.take_office()
        fleet.decide()
        assert len(fleet.placed) <= 12 + parallel
        assert len(fleet.ready()) >= 12
        fleet.agent_step(which)
    fleet.heal()
    assert homes(fleet)["n1"] == 0
    assert len(fleet.ready()) == 12


def state_of(*apps: tuple[str, int, tuple[Placed, ...]], parallel: int = 2) -> State:
    """Apps with their instances; n1 drains."""
    state = State()
    draft = Draft(state)
    draft.put_node(Node("n1", "n1", admin="draining", drain="t", parallel=parallel))
    draft.put_node(Node("n2", "n2"))
    for path, count, placed in apps:
        draft.put_version(Version(path, 1, "hash", spec(path=path, ports=[], checks=[]), AT, "me"))
        draft.put_app(App(path, path[-1] * 6, 0, 1, 1, 1, count, AT))
        draft.put_placements(Placements(path, placed))
    state.apply(draft)
    return state


def on(node: str, *serials: int, stop: bool = False) -> tuple[Placed, ...]:
    return tuple(Placed(serial, 1, node, (), stop=stop) for serial in serials)


def movers(state: State, path: str, waiting: Turns) -> list[int]:
    fleet = Fleet(2, 1)
    views = fleet.tracker.views(state.apps[path], state.placed(path).instances)
    moving = tuple(replace(view, moving=view.placed.node == "n1") for view in views)
    return [view.placed.serial for view in waiting.take(state.apps[path], moving) if view.moving]


def test_what_is_replaced_already_or_stops_has_its_turn_and_others_wait_for_it() -> None:
    a, b, c = "/o/w/e/a", "/o/w/e/b", "/o/w/e/c"
    state = state_of((a, 1, (*on("n1", 1), *on("n2", 2))), (b, 2, (*on("n1", 1, stop=True), *on("n1", 2))), (c, 1, on("n1", 1)))
    waiting = Turns(state)
    assert movers(state, a, waiting) == [1], "its replacement is placed already"
    assert movers(state, b, waiting) == [1], "one stops; the other waits"
    assert movers(state, c, waiting) == []
    assert waiting.waiting == {c}
    assert waiting.next() == []
    draft = Draft(state)
    draft.put_placements(Placements(a, on("n2", 2)))
    state.apply(draft)
    assert waiting.next() == [c]
    assert movers(state, c, waiting) == [1]
    assert (waiting.waiting, waiting.next()) == (frozenset(), [])


def test_what_has_no_room_holds_up_nobody() -> None:
    """An app that has its turn and makes no use of it is not on the move."""
    paths = [f"/o/w/e/{name}" for name in "abc"]
    state = state_of(*((path, 1, on("n1", 1)) for path in paths), parallel=1)
    waiting = Turns(state)
    assert [movers(state, path, waiting) for path in paths] == [[1], [1], [1]]


def test_a_deadline_that_is_over_waits_for_no_turn() -> None:
    state = state_of(("/o/w/e/a", 3, on("n1", 1, 2, 3)), parallel=1)
    draft = Draft(state)
    draft.put_node(replace(state.nodes["n1"], forced=True))
    state.apply(draft)
    assert movers(state, "/o/w/e/a", Turns(state)) == [1, 2, 3]


def test_steps_say_who_waits_for_a_turn_and_until_when() -> None:
    fleet = settled(2, 2)
    task = begin(fleet, "n1", limits=Limits(90.0))
    assert task is not None
    left = {"a-1": "/a", "b-1": "/b", "c-1": "/c", "c-2": "/c"}
    (step,) = drain.steps(task, fleet.state.nodes["n1"], left, {"/a": "", "/b": "no room"}, frozenset({"/c", "/z"}))
    assert step.message == (
        "waits for /b: no room; /a; 1 app waits for its turn, 10 instances at once; what is left then stops at 2026-01-01 00:01:30 UTC"
    )
    assert turns.told(frozenset({"/a", "/b"}), left, 1) == "2 apps wait for their turn, 1 instances at once"


# -- room that is kept --


class Sized(Fleet):
    """Nodes as the coordinator itself sees them, with what is reserved on them. Each has room for one instance."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.say()

    def say(self) -> None:
        for name in self.machines:
            self.view_of(name).facts = model_pb2.Facts(cpu=1.0, memory=1 << 30, runtimes=["docker"])

    def take_office(self) -> None:
        super().take_office()
        self.say()

    def _nodes(self) -> tuple[Capacity, ...]:
        return tuple(self.ground(PATH))

    def ground(self, path: str) -> Ground:
        return Survey(self.state, self.tracker, lambda: self.now).ground(path)

    def room_for_others(self) -> set[str]:
        """Return where an instance of another app could go."""
        other = spec(path="/o/w/e/other", ports=[], checks=[], resources={"cpu": 1.0, "memory": 0})
        return {choice.node for choice in place(other, 9, self.ground("/o/w/e/other")).choices}


ONE = {"resources": {"cpu": 1.0, "memory": 0}}


@pytest.mark.parametrize("fields", [FIXED, {"placement": {"exclusive": True}}])
@pytest.mark.parametrize("how", ["drain", "migrate"])
def test_room_is_kept_from_the_stop_until_the_replacement_is_placed(fields: dict[str, object], how: str) -> None:
    fleet = Sized(2, 1, **fields, **ONE)
    fleet.settle()
    (home,) = homes(fleet)
    other = "n2" if home == "n1" else "n1"
    assert fleet.room_for_others() == {other}
    if how == "drain":
        begin(fleet, home)
    else:
        fleet.ask(changes.migrate, PATH, fleet.state.nodes[home], None)
    fleet.decide()
    assert [item.stop for item in fleet.placed] == [True]
    assert fleet.room_for_others() == set(), "what is kept for it is not given to others"
    fleet.restart_coordinator()
    assert reloaded(fleet.state).reservations == fleet.state.reservations
    fleet.decide()
    assert fleet.app.held == (other,)
    fleet.settle()
    assert homes(fleet) == {other: 1}
    assert fleet.app.held == ()
    assert len(fleet.ready()) == 1
    assert reloaded(fleet.state).reservations == fleet.state.reservations


def test_room_is_kept_by_the_version_that_is_to_be_placed_and_given_free_with_the_app() -> None:
    fleet = Sized(2, 1, **FIXED, **ONE)
    fleet.settle()
    (home,) = homes(fleet)
    begin(fleet, home)
    fleet.decide()
    (kept,) = fleet.app.held
    fleet.apply(spec("web:2", 1, **FIXED, resources={"cpu": 0.25, "memory": 0}))
    assert fleet.state.reservations.on(kept).cpu == 0.25
    fleet.ask(changes.delete, PATH)
    fleet.settle()
    assert fleet.state.reservations.nodes == {}


def test_what_keeps_room_on_a_node_that_goes_away_keeps_it_elsewhere() -> None:
    fleet = Sized(3, 1, **FIXED, **ONE)
    fleet.settle()
    (home,) = homes(fleet)
    begin(fleet, home)
    fleet.decide()
    (kept,) = fleet.app.held
    fleet.lose(kept)
    fleet.decide()
    assert fleet.app.held not in ((), (kept,))


def test_two_that_would_stop_first_do_not_count_on_the_same_room() -> None:
    fleet = Sized(2, 1, **FIXED, **ONE)
    fleet.settle()
    (home,) = homes(fleet)
    begin(fleet, home)
    fleet.decide()
    assert fleet.app.held
    again = place(spec(path="/o/w/e/second", **FIXED, **ONE), 1, fleet.ground("/o/w/e/second"))
    assert again.missing == 1


def test_a_drain_and_its_end_at_once_leave_everything_somewhere() -> None:
    fleet = Sized(2, 1, **FIXED, **ONE)
    fleet.settle()
    (home,) = homes(fleet)
    task = begin(fleet, home)
    assert task is not None
    fleet.decide()
    mark(fleet, home, "ready")
    fleet.settle()
    assert fleet.state.tasks[task.id].state is TaskState.SUPERSEDED
    assert (len(fleet.ready()), fleet.app.held) == (1, ())
