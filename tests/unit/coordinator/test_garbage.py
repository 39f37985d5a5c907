"""What has grown is looked through once, and then left alone."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from gestalt.coordinator import garbage
from gestalt.coordinator.garbage import Garbage
from gestalt.coordinator.records import App, Placed
from gestalt.coordinator.state import Draft, Moves, State
from tests.unit.coordinator.world import AT, PATH


@pytest.fixture(autouse=True)
def unfrozen() -> Iterator[None]:
    yield
    gc.unfreeze()


def draft(count: int) -> Draft:
    """A commit that brings so many instances."""
    made, app = Draft(State()), App(PATH, "u", 1, 1, 1, 1, count, AT)
    come = [Placed(serial, 1, "n1", (3000 + serial,)) for serial in range(count)]
    made.moves = [Moves([], [(app, placed) for placed in come], [])]
    return made


def test_a_little_is_left_to_the_collector_and_much_is_frozen() -> None:
    found, before = Garbage(), gc.get_freeze_count()
    little = draft(garbage.EVERY - 1)
    found.committed(little)
    assert gc.get_freeze_count() == before
    found.committed(draft(1))
    assert gc.get_freeze_count() > before + garbage.EVERY - 1
    frozen = gc.get_freeze_count()
    found.committed(draft(1))
    assert gc.get_freeze_count() <= frozen


def test_cycles_are_collected_before_anything_is_frozen_and_all_is_looked_at_again_at_the_end() -> None:
    class Knot:
        def __init__(self) -> None:
            self.me = self

    found, knot = Garbage(), weakref.ref(Knot())
    found.begin()
    assert knot() is None
    assert gc.get_freeze_count()
    found.end()
    assert not gc.get_freeze_count()
