"""What is reserved is the sum of what is placed, whatever came and went; a new leader adds it up to the same."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from gestalt.coordinator import changes
from gestalt.coordinator.records import App, Placed, Placements, Version
from gestalt.coordinator.state import Draft, State, encode
from gestalt.coordinator.store.base import Document
from tests.unit.coordinator.fleet import Fleet, settled
from tests.unit.coordinator.world import AT, PATH, spec


def reloaded(state: State) -> State:
    kinds = ("app", "version", "placements", "node")
    fresh = State()
    fresh.load(tuple(Document(kind, key, encode(record), 1) for kind in kinds for key, record in state.table(kind).items()))
    return fresh


def happen(fleet: Fleet, event: str, number: int) -> None:
    match event:
        case "update":
            cpu, memory = 0.1 * (1 + number % 7), f"{8 + number % 5}MiB"
            fleet.apply(
                spec(f"web:{number}", instances=fleet.app.count, resources={"cpu": cpu, "memory": memory, "disk": f"{number % 3}GiB"})
            )
        case "scale":
            fleet.ask(changes.scale, PATH, number % 7)
        case "lose":
            fleet.lose("n1")
        case "back":
            fleet.back("n1")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["update", "scale", "lose", "back", "settle", "step"]), max_size=20))
def test_what_is_reserved_is_what_a_new_leader_adds_up(story: list[str]) -> None:
    fleet = settled(3, 3, resources={"cpu": 0.1, "memory": "8MiB"})
    for number, event in enumerate(story):
        happen(fleet, event, number)
        if event == "settle":
            fleet.settle()
        fleet.decide()
        fleet.agent_step()
        fresh = reloaded(fleet.state)
        assert fleet.state.reservations == fresh.reservations
        assert (fleet.state.owners, fleet.state.residents) == (fresh.owners, fresh.residents)


def test_an_app_that_is_gone_and_made_anew_leaves_nothing_behind() -> None:
    state, draft = State(), None
    for uid, cores in (("aaaaaa", 1.5), ("bbbbbb", 0.25)):
        described = spec(resources={"cpu": cores, "memory": 0})
        draft = Draft(state)
        draft.put_version(Version(PATH, 1, "hash", described, AT, "me"))
        draft.put_app(App(PATH, uid, 0, 1, 0, 1, 1, AT))
        draft.put_placements(Placements(PATH, (Placed(1, 1, "n1", (3000,)),)))
        state.apply(draft)
        assert (state.reservations.on("n1").cpu, state.reservations.on("n1").ports) == (cores, {3000: 1})
        assert list(state.owners) == [f"web-{uid}-1"]
    draft = Draft(state)
    for kind, key in (("app", PATH), ("placements", PATH), ("version", f"{PATH}@00000001")):
        draft.delete(kind, key)
    state.apply(draft)
    assert (state.reservations.on("n1").cpu, state.reservations.on("n1").ports, state.owners, state.residents) == (0.0, {}, {}, {})


def test_sums_are_exact_and_a_marked_instance_still_counts() -> None:
    state = State()
    draft = Draft(state)
    draft.put_version(Version(PATH, 1, "hash", spec(resources={"cpu": 0.1, "memory": 0}), AT, "me"))
    draft.put_app(App(PATH, "aaaaaa", 0, 1, 0, 1, 10, AT))
    placed = tuple(Placed(serial, 1, "n1", (3000 + serial,)) for serial in range(10))
    draft.put_placements(Placements(PATH, placed))
    state.apply(draft)
    assert state.reservations.on("n1").cpu == 1.0
    assert state.reservations.cursors == {"n1": 3010}
    draft = Draft(state)
    draft.put_placements(Placements(PATH, tuple(replace(item, stop=True) for item in placed)))
    state.apply(draft)
    assert state.reservations.on("n1").cpu == 1.0
