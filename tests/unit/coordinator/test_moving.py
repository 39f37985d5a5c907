"""The course of a rebalance: its moves are migrations, a new leader goes on, newer changes come first, a move that fails ends it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from gestalt.coordinator import changes, moving
from gestalt.coordinator.changes import Asked
from gestalt.coordinator.records import App, Move, Placed, Placements, Task, TaskState, Version, instance_id
from gestalt.coordinator.state import Draft, State, encode
from gestalt.coordinator.store.base import Document
from tests.unit.coordinator.fleet import Fleet, settled
from tests.unit.coordinator.test_drain import homes, mark
from tests.unit.coordinator.world import AT, PATH, spec

ROOM = moving.Fits


def moves_of(fleet: Fleet, *targets: str) -> list[Move]:
    """Moves of the first instances to these nodes."""
    return [Move(PATH, item.serial, item.node, target, 1.0, "fit") for item, target in zip(fleet.placed, targets, strict=False)]


def begin(fleet: Fleet, moves: list[Move], parallel: int = 1, number: int = 1) -> Task:
    draft = Draft(fleet.state)
    task = moving.begin(draft, moves, parallel, Asked("tester", AT, 0, f"balance{number}", ""))
    fleet.state.apply(draft)
    assert task is not None
    return task


def go_on(fleet: Fleet, fits: ROOM = lambda move: "") -> None:
    """What the leader does whenever anything is committed."""
    draft = Draft(fleet.state)
    fleet.asked += 1
    for task in moving.under_way(fleet.state):
        moving.go_on(draft, task, fits, Asked("leader", AT, 0, f"move{fleet.asked}", ""))
    fleet.state.apply(draft)


def rest(fleet: Fleet, fits: ROOM = lambda move: "") -> None:
    still = 0
    for _ in range(300):
        before = (fleet.placed, dict(fleet.state.tasks), {name: dict(machine.running) for name, machine in fleet.machines.items()})
        go_on(fleet, fits)
        fleet.decide()
        fleet.agent_step()
        still = still + 1 if before == (fleet.placed, fleet.state.tasks, {name: it.running for name, it in fleet.machines.items()}) else 0
        if still > 2:  # an agent may have told the same once more
            return
    raise AssertionError("no end")


def test_moves_are_migrations_one_after_the_other_and_nothing_is_missing_meanwhile() -> None:
    fleet = settled(3, 3)
    task = begin(fleet, moves_of(fleet, "n3", "n3"))
    assert (task.steps[0].done, task.steps[0].total) == (0, 2)
    for _ in range(60):
        go_on(fleet)
        fleet.decide()
        fleet.agent_step()
        assert len(fleet.ready()) >= 3
        assert sum(move.state == "running" for move in fleet.state.tasks[task.id].moves) <= 1
    assert homes(fleet) == {"n3": 3}
    ended = fleet.state.tasks[task.id]
    assert (ended.state, ended.message) == (TaskState.SUCCEEDED, "2 of 2 instances moved")
    assert (ended.steps[0].state, ended.steps[0].done) == ("done", 2)
    assert [fleet.state.tasks[move.task].kind for move in ended.moves] == ["migrate", "migrate"]


def test_no_more_than_that_are_under_way_at_once() -> None:
    fleet = settled(3, 3)
    paths = [f"/o/w/e/{name}" for name in "abcd"]
    draft = Draft(fleet.state)
    for path in paths:
        draft.put_version(Version(path, 1, "hash", spec(path=path, ports=[], checks=[]), AT, "me"))
        draft.put_app(App(path, path[-1] * 6, 0, 1, 1, 1, 1, AT))
        draft.put_placements(Placements(path, (Placed(1, 1, "n1", ()),)))
    fleet.state.apply(draft)
    task = begin(fleet, [Move(path, 1, "n1", "n2", 1.0, "fit") for path in paths], 2)
    go_on(fleet)
    assert [move.state for move in fleet.state.tasks[task.id].moves] == ["running", "running", "pending", "pending"]
    assert fleet.state.tasks[task.id].steps[0].message == "a-aaaaaa-1 from n1 to n2; b-bbbbbb-1 from n1 to n2"
    draft = Draft(fleet.state)
    draft.put_task(replace(fleet.state.tasks[fleet.state.apps[paths[1]].task], state=TaskState.SUCCEEDED))
    fleet.state.apply(draft)
    go_on(fleet)
    assert [move.state for move in fleet.state.tasks[task.id].moves] == ["running", "done", "running", "pending"]


def test_nothing_to_move_is_no_task() -> None:
    fleet = settled(2, 2)
    assert moving.begin(Draft(fleet.state), [], 1, Asked("tester", AT, 0, "t", "")) is None


def test_a_move_that_fails_ends_it_and_what_was_there_stays() -> None:
    fleet = settled(3, 3)
    before = fleet.placed
    task = begin(fleet, moves_of(fleet, "n3", "n3"))
    fleet.broken = frozenset({"web:1"})
    for _ in range(4):
        rest(fleet)
        fleet.pass_time(130)
    ended = fleet.state.tasks[task.id]
    assert (ended.state, [move.state for move in ended.moves]) == (TaskState.FAILED, ["failed", "skipped"])
    name = instance_id(fleet.app, 1)
    assert ended.message.startswith(f"0 of 2 instances moved; {name} from n1 to n3 failed: an instance did not become healthy within 120 s")
    assert ended.message.endswith(f"{instance_id(fleet.app, 2)} from n2 to n3 was left out: an earlier move failed")
    assert fleet.placed == before


def test_a_newer_change_of_the_app_takes_its_moves_out() -> None:
    fleet = settled(3, 3)
    task = begin(fleet, moves_of(fleet, "n3", "n3"))
    go_on(fleet)
    fleet.decide()
    update = fleet.apply(spec("web:2", 3))
    assert update is not None
    go_on(fleet)
    ended = fleet.state.tasks[task.id]
    assert [move.state for move in ended.moves] == ["skipped", "skipped"]
    assert ended.moves[0].message == f"superseded by update (task {update.id})"
    assert ended.moves[1].message == f"a newer change of the app is under way (update, task {update.id})"
    assert (ended.state, ended.message.split(";")[0]) == (TaskState.SUCCEEDED, "0 of 2 instances moved")
    rest(fleet)
    assert {item.version for item in fleet.placed} == {2}
    assert len(fleet.ready()) == 3


def test_moves_that_make_no_sense_any_more_are_left_out() -> None:
    for change, words in (
        (lambda fleet: mark(fleet, "n3", "cordoned"), "node n3 takes no instances any more"),
        (lambda fleet: fleet.ask(changes.stop, PATH), "the app does not run any more"),
        (lambda fleet: fleet.lose("n1"), "the instance is not there any more"),
    ):
        fleet = settled(3, 3)
        task = begin(fleet, moves_of(fleet, "n3"))
        change(fleet)
        fleet.settle()
        go_on(fleet)
        assert fleet.state.tasks[task.id].moves[0].message == words


def test_what_finds_no_room_waits_for_others_and_is_left_out_in_the_end() -> None:
    fleet = settled(3, 3)
    task = begin(fleet, moves_of(fleet, "n2", "n3"), 2)
    rest(fleet, lambda move: "it is full" if move.target == "n2" else "")
    ended = fleet.state.tasks[task.id]
    assert [(move.state, move.message) for move in ended.moves] == [("skipped", "it is full"), ("done", "")]
    assert ended.state is TaskState.SUCCEEDED


def test_what_was_not_looked_at_is_told_also_when_nothing_is_moved() -> None:
    fleet = settled(3, 3)
    draft = Draft(fleet.state)
    told = "the search was cut off after 10 s: …"
    task = moving.begin(draft, [], 1, Asked("tester", AT, 0, "balance1", ""), told)
    fleet.state.apply(draft)
    assert task is not None
    assert (task.state, task.message, task.warnings) == (TaskState.SUCCEEDED, "nothing was found to move", (told,))
    assert not moving.under_way(fleet.state)
    draft = Draft(fleet.state)
    begun = moving.begin(draft, moves_of(fleet, "n3"), 1, Asked("tester", AT, 0, "balance2", ""), told)
    assert begun is not None
    assert begun.warnings == (told,)


def test_a_look_asks_for_a_bounded_number_of_moves_and_all_have_their_turn() -> None:
    fleet = settled(3, 60)
    moves = [replace(move, target="n1" if move.source != "n1" else "n2") for move in moves_of(fleet, *["n1"] * 60)]
    task, asked = begin(fleet, moves), Counter[int]()
    looks = 0
    while moving.under_way(fleet.state):
        looks += 1
        before = sum(asked.values())
        go_on(fleet, lambda move: asked.update([move.serial]) or "has no room")
        assert sum(asked.values()) - before <= moving.ASKED
        assert looks < 10
    assert set(asked.values()) == {1}
    assert len(asked) == 60
    assert fleet.state.tasks[task.id].message.startswith("0 of 60 instances moved; ")


def test_a_move_that_is_refused_is_left_out_and_says_why() -> None:
    fleet = settled(3, 3)
    task = begin(fleet, moves_of(fleet, "n3"))
    draft = Draft(fleet.state)
    draft.put_app(replace(fleet.app, count=changes.MAX_INSTANCES + 1))  # as an earlier version may have stored it
    fleet.state.apply(draft)
    go_on(fleet)
    ended = fleet.state.tasks[task.id]
    assert ended.state is TaskState.SUCCEEDED
    assert "was left out: instances: 2501 are more than one app may have in this version" in ended.message
    assert fleet.app.moving == ()


def test_the_newer_of_two_rebalances_goes_on() -> None:
    fleet = settled(3, 3)
    first = begin(fleet, moves_of(fleet, "n3"))
    second = begin(fleet, moves_of(fleet, "n2"), number=2)
    assert fleet.state.tasks[first.id].state is TaskState.SUPERSEDED
    assert moving.under_way(fleet.state) == [second]


def new_leader(fleet: Fleet) -> None:
    """All that is durable through its encoding and back."""
    kinds = ("app", "version", "placements", "task", "node")
    fresh = State()
    fresh.load(tuple(Document(kind, key, encode(record), 1) for kind in kinds for key, record in fleet.state.table(kind).items()))
    assert fresh.tasks == fleet.state.tasks
    fleet.state = fresh
    fleet.take_office()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.integers(1, 3), st.lists(st.sampled_from(["n1", "n2", "n3"]), min_size=1, max_size=4))
def test_killed_after_any_step_it_ends_as_it_should(after: int, parallel: int, targets: list[str]) -> None:
    fleet = settled(3, 4)
    moves = [move for move in moves_of(fleet, *targets) if move.source != move.target]
    if not moves:
        return
    wanted = Counter(move.target for move in moves)
    staying = [item.node for item in fleet.placed if item.serial not in {move.serial for move in moves}]
    task = begin(fleet, moves, parallel)
    steps = (go_on, lambda fleet: fleet.decide(), lambda fleet: fleet.agent_step())
    for number in range(after):
        steps[number % 3](fleet)
        assert len(fleet.ready()) >= 4
    new_leader(fleet)
    rest(fleet)
    assert fleet.state.tasks[task.id].message == f"{len(moves)} of {len(moves)} instances moved"
    assert homes(fleet) == wanted + Counter(staying)
    assert (fleet.app.moving, fleet.app.target) == ((), "")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["update", "scale", "stop", "start", "lose", "back", "cordon", "leader", "step", "again"]), max_size=20))
def test_whatever_comes_in_between_it_ends_and_nothing_is_stopped_too_early(story: list[str]) -> None:
    fleet = settled(3, 3)
    begin(fleet, moves_of(fleet, "n3", "n3", "n1"), 2)
    for number, event in enumerate(story):
        happen(fleet, event, number)
        serving = len(fleet.ready())
        go_on(fleet)
        fleet.decide()
        assert len(fleet.ready()) >= min(serving, fleet.app.wanted)
        fleet.agent_step()
    fleet.back("n2")
    for name in fleet.machines:
        mark(fleet, name, "ready")
    for _ in range(4):
        rest(fleet)
        fleet.pass_time(61)
    assert not moving.under_way(fleet.state)
    assert len(fleet.ready()) == fleet.app.wanted == len(fleet.placed)


def happen(fleet: Fleet, event: str, number: int) -> None:
    others = {"n1": "n2", "n2": "n3", "n3": "n1"}
    again = [replace(move, target=others[move.source]) for move in moves_of(fleet, "n1", "n1")]
    match event:
        case "update":
            fleet.apply(spec(f"web:{number + 2}", instances=fleet.app.count))
        case "scale":
            fleet.ask(changes.scale, PATH, 1 + number % 5)
        case "stop" | "start":
            fleet.ask(getattr(changes, event), PATH)
        case "lose" | "back":
            getattr(fleet, event)("n2")
        case "cordon":
            mark(fleet, "n3", "cordoned")
        case "leader":
            new_leader(fleet)
        case "again" if again:
            begin(fleet, again, 1, 100 + number)
