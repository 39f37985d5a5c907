"""Records in columns: nothing is lost, and what is damaged is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from gestalt.coordinator.packing import from_columns, to_columns
from gestalt.coordinator.records import Placed, Placements, Unpacked
from gestalt.coordinator.state import decode, encode
from gestalt.coordinator.store.base import Document

INSTANCES = st.lists(
    st.builds(
        Placed,
        st.integers(1, 10**9),
        st.integers(1, 5),
        st.sampled_from(["a", "b", "c"]),
        st.lists(st.integers(1, 65_535), max_size=3).map(tuple),
        stop=st.booleans(),
    ),
    max_size=30,
    unique_by=lambda item: item.serial,
).map(tuple)


@dataclass(frozen=True)
class Plain:
    """A record that may be as by default altogether."""

    word: str = "x"


@given(INSTANCES)
def test_placements_survive_the_store(instances: tuple[Placed, ...]) -> None:
    placements = Placements("/a/b/c/d", instances)
    assert decode(Document("placements", placements.app, encode(placements), 1)) == placements


@given(INSTANCES)
def test_placements_that_were_written_one_by_one_are_read_as_well(instances: tuple[Placed, ...]) -> None:
    placements = Placements("/a/b/c/d", instances)
    written = TypeAdapter(Unpacked).dump_json(Unpacked("/a/b/c/d", instances))
    assert decode(Document("placements", placements.app, written, 1)) == placements


def test_what_all_have_alike_is_written_once() -> None:
    records = [Placed(number, 3, f"node-{number % 2}", (3000,)) for number in range(1, 5)]
    assert to_columns(records) == {
        "serial": {"each": [1, 2, 3, 4]},
        "version": {"same": 3},
        "node": {"values": ["node-1", "node-0"], "at": [0, 1, 0, 1]},
        "ports": {"same": (3000,)},
    }


def test_records_that_are_as_by_default_need_a_number_only() -> None:
    assert to_columns([Plain(), Plain()]) == {}
    assert from_columns(Plain, {}, 2) == (Plain(), Plain())


@pytest.mark.parametrize(
    "columns",
    [
        {"serial": {"each": [1]}, "version": {"same": 1}, "node": {"same": "a"}, "ports": {"same": []}},
        {"serial": {"each": [1, 2]}, "version": {"same": 1}, "node": {"values": ["a"], "at": [0, 1]}, "ports": {"same": []}},
        {"serial": {"each": [1, 2]}, "version": {"same": "one"}, "node": {"same": "a"}, "ports": {"same": []}},
        {"serial": {"each": [1, 2]}, "version": {"same": 1}, "node": {"same": "a"}},
        {"serial": {"each": [1, 2]}, "version": {"same": 1}, "node": {"same": "a"}, "ports": {"same": []}, "colour": {"same": 1}},
    ],
    ids=["too short", "no such value", "wrong kind", "missing", "unknown"],
)
def test_what_is_damaged_is_refused(columns: dict[str, dict[str, object]]) -> None:
    value = json.dumps({"app": "/a/b/c/d", "count": 2, "columns": columns}).encode()
    with pytest.raises(ValueError, match=r"column|valid"):
        decode(Document("placements", "/a/b/c/d", value, 1))
