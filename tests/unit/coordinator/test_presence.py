"""How many instances of an app are on each node is known at any time, however often they and the nodes change."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gestalt.coordinator.pieces import Roster
from gestalt.coordinator.records import Placed
from gestalt.coordinator.reservations import Reservations
from gestalt.coordinator.scheduler.columns import Columns
from gestalt.coordinator.scheduler.presence import Presence, Presences
from gestalt.coordinator.scheduler.values import Capacity

PATH = "/org/ws/env/web"
NODES = [f"n{number}" for number in range(5)]


def columns_of(nodes: int) -> Columns:
    return Columns([Capacity(name, name, ready=True) for name in NODES[:nodes]], Reservations())


INSTANCES = st.lists(
    st.builds(Placed, st.integers(1, 200), st.just(1), st.sampled_from(NODES), st.just(())), unique_by=lambda item: item.serial, max_size=60
)
STEPS = st.lists(st.tuples(st.sets(st.integers(1, 200)), INSTANCES, st.none() | st.integers(1, len(NODES))), max_size=6)


@given(STEPS)
def test_what_is_kept_is_what_a_count_of_all_would_find(steps: list[tuple[set[int], list[Placed], int | None]]) -> None:
    presences, columns, instances = Presences(), columns_of(4), Roster()
    before = presences.of(PATH, instances, columns)
    for drop, put, nodes in steps:
        columns = columns_of(nodes) if nodes is not None else columns
        instances, as_told = instances.edited(drop, put), before.tolist()
        found = Presence(columns, presences.of(PATH, instances, columns))
        expected = Counter(item.node for item in instances if item.node in columns.rows)
        assert (dict(found), len(found)) == (expected, len(expected))
        assert [found.get(node, 0) for node in NODES] == [expected[node] for node in NODES]
        assert before.tolist() == as_told, "what was told before stays as it was"
        before = found.numbers
    presences.forget(PATH)
    presences.forget(PATH)
