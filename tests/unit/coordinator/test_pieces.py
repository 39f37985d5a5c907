"""The placements of an app are stored in pieces: what is read back is what was written, and few changes are a small commit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from gestalt.coordinator.pieces import PIECE, Roster
from gestalt.coordinator.records import App, Placed, Placements, Version
from gestalt.coordinator.state import Draft, State, encode, version_key
from gestalt.coordinator.store.base import Document, Put
from tests.unit.coordinator.world import AT, PATH, spec

Stored = dict[tuple[str, str], bytes]


def placed(serials: Sequence[int], node: str = "n1") -> tuple[Placed, ...]:
    return tuple(Placed(serial, 1, node, (3000,)) for serial in serials)


def stored() -> Stored:
    """What a store holds of an app without instances."""
    app, version = App(PATH, "u", 1, 1, 1, 1, 1, AT), Version(PATH, 1, "h", spec(), AT, "tester")
    return {("app", PATH): encode(app), ("version", version_key(PATH, 1)): encode(version)}


def read(documents: Stored) -> State:
    state = State()
    state.load(tuple(Document(kind, key, value, 1) for (kind, key), value in documents.items()))
    return state


def written(documents: Stored, instances: tuple[Placed, ...] | None) -> tuple[Stored, int]:
    """Return what a store holds after a commit of these instances, None = the app has none any more, and how many documents it wrote."""
    draft = Draft(read(documents))
    if instances is None:
        draft.delete("placements", PATH)
    else:
        draft.put_placements(Placements(PATH, instances))
    changes = draft.changes()
    after = {**documents, **{(change.kind, change.key): change.value for change in changes if isinstance(change, Put)}}
    gone = {(change.kind, change.key) for change in changes if not isinstance(change, Put)}
    assert gone <= documents.keys(), "nothing is removed that is not there"
    return {name: value for name, value in after.items() if name not in gone}, len(changes)


SERIALS = st.sets(st.integers(1, 5 * PIECE), max_size=3 * PIECE).map(sorted)


@given(st.lists(st.tuples(SERIALS, st.sampled_from(["n1", "n2"])), min_size=1, max_size=4))
def test_what_is_read_back_is_what_was_written(steps: list[tuple[list[int], str]]) -> None:
    documents = stored()
    for serials, node in steps:
        instances = placed(serials, node)
        documents, _ = written(documents, instances)
        assert read(documents).placed(PATH).instances == instances
    documents, _ = written(documents, None)
    assert documents == stored()


def by_piece(instances: Iterable[Placed]) -> dict[int, tuple[Placed, ...]]:
    return {number: tuple(piece) for number, piece in groupby(instances, lambda item: item.serial // PIECE)}


@given(SERIALS, SERIALS, SERIALS, st.integers(0, 6 * PIECE))
def test_a_roster_is_what_a_list_would_be(there: list[int], drop: list[int], put: list[int], since: int) -> None:
    before = Roster(placed(there))
    after = before.edited(drop, placed(put, "n2"))
    expected = {item.serial: item for item in (*placed(there), *placed(put, "n2")) if item.serial not in drop}
    assert after == tuple(expected[serial] for serial in sorted(expected))
    assert Roster(reversed(tuple(after))) == after
    assert (len(after), list(after)[:2], after[1:3]) == (len(expected), list(after[:2]), tuple(after)[1:3])
    assert after.since(since) == tuple(item for item in after if item.serial >= since)
    assert [after.get(serial) for serial in range(6 * PIECE)] == [expected.get(serial) for serial in range(6 * PIECE)]
    assert before == placed(there), "what is made of it leaves it as it was"
    assert {number: piece for number, piece in {**by_piece(before), **before.changed(after)}.items() if piece} == by_piece(after)
    gone, come = before.differing(after)
    assert Roster(item for item in before if item not in gone).edited(put=come) == after
    assert not {id(item) for item in gone} & {id(item) for item in after}


def test_a_roster_shares_what_stays() -> None:
    before = Roster(placed(range(10 * PIECE)))
    after = before + placed([10 * PIECE])
    assert [id(item) for item in after][:-1] == [id(item) for item in before]
    assert before.differing(after) == ([], list(placed([10 * PIECE])))
    assert before.edited() is before


def test_only_pieces_that_differ_are_written() -> None:
    many = placed(range(1, 10 * PIECE))
    documents, number = written(stored(), many)
    assert number == 10
    documents, number = written(documents, (*many, *placed([10 * PIECE, 10 * PIECE + 1])))
    assert number == 1, "what is new has a piece of its own, or goes with the newest"
    stopped = tuple(replace(item, stop=item.serial in (1, PIECE - 1)) for item in many)
    roster = Roster(many)
    assert {key: len(piece) for key, piece in roster.changed(Roster(stopped)).items()} == {0: PIECE - 1}
    assert roster.changed(Roster(placed(range(1, 10 * PIECE)))) == {}, "an equal one is no change"
    assert roster.changed(Roster(many[PIECE - 1 :])) == {0: ()}, "of a piece that is empty nothing is left"


def test_a_state_that_is_read_again_is_the_same() -> None:
    documents, _ = written(stored(), placed(range(1, 3 * PIECE)))
    state = read(documents)
    again = tuple(Document(kind, key, value, 1) for (kind, key), value in documents.items())
    state.load(again)
    assert state == read(documents)


def test_placements_that_are_stored_whole_are_read_and_stored_in_pieces_from_the_first_change_on() -> None:
    before = placed([1, 2, 3])
    documents = {**stored(), ("placements", PATH): encode(Placements(PATH, before))}
    assert read(documents).placed(PATH).instances == before
    draft = Draft(read(documents))
    draft.put_placements(Placements(PATH, before[:2]))
    documents, _ = written(documents, before[:2])
    assert read(documents).placed(PATH).instances == before[:2]
    assert ("placements", PATH) not in documents
    draft.base.apply(draft)
    again = Draft(draft.base)
    again.put_placements(Placements(PATH, before[:1]))
    assert [(type(change), change.key) for change in again.changes()] == [(Put, f"{PATH}@00000000")], "what is gone is not removed again"
