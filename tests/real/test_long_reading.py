"""An office begins with much to read: it is renewed meanwhile, and when it ends nothing is left of it."""

from __future__ import annotations

import time
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gestalt.config import CoordinatorSettings
from gestalt.coordinator import slices, state
from gestalt.coordinator.cluster import ClusterService
from gestalt.coordinator.leader import Leader, Seat
from gestalt.coordinator.office import Office
from gestalt.coordinator.state import Record, State
from gestalt.coordinator.store.base import Document
from gestalt.daemon import Life
from gestalt.settings_file import load_settings
from tests.real.agent_rig import until
from tests.real.coordinators_rig import Coordinators
from tests.real.zookeeper_lab import Ensemble
from tests.unit.coordinator.test_beginning import PATHS, records

pytestmark = pytest.mark.real

SESSION = 2.0


class Watched(ClusterService):
    """A coordinator in this process, and the leaders that it was. `kept`: those that were still in memory when the next office began."""

    def __init__(self, settings: CoordinatorSettings, life: Life) -> None:
        super().__init__(settings, life)
        self.office: Office | None = None
        self.states: list[State] = []
        self.leaders: list[weakref.ref[Leader]] = []
        self.kept: list[Leader] = []

    def new_leader(self, seat: Seat) -> Leader:
        self.kept += filter(None, (leader() for leader in self.leaders))
        leader = super().new_leader(seat)
        self.office = seat.office
        self.states.append(leader.ledger.state)
        self.leaders.append(weakref.ref(leader))
        return leader


@pytest.fixture
async def service(ensemble: Ensemble, tmp_path: Path) -> AsyncIterator[Watched]:
    cluster = Coordinators(tmp_path, ensemble, count=1, session=SESSION)
    there: dict[tuple[str, str], Record] = {}
    for path in PATHS:
        there |= records(path)
    await cluster.know(there)
    life = Life()
    made = Watched(load_settings(cluster.configure(0), CoordinatorSettings), life)
    yield made
    await made.stop()
    assert not life.dead


def before_each_document(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Have something happen before a leader reads a document."""
    decode = state.decode

    def acting(document: Document) -> Record:
        act()
        return decode(document)

    monkeypatch.setattr(state, "decode", acting)


async def test_an_office_outlasts_a_reading_that_is_longer_than_its_session(service: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    pause = 1.5 * SESSION / len(PATHS) / 3
    before_each_document(monkeypatch, lambda: time.sleep(pause))  # that this holds the loop is the point
    await service.start()
    await until("a leader", lambda: service.leader is not None)
    assert len(service.leaders) == 1, "the first office went on"
    assert service.states[0].apps.keys() == set(PATHS)


async def test_an_office_that_ends_in_mid_reading_leaves_nothing_and_the_next_one_reads_all(
    service: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "SLICE", 0.0)
    read: Counter[int] = Counter()

    def end_the_first() -> None:
        read[len(service.leaders)] += 1
        if read[1] == len(PATHS) and service.office is not None:
            service.office.end("the test has it end")

    before_each_document(monkeypatch, end_the_first)
    await service.start()
    await until("a leader", lambda: service.leader is not None)
    assert len(service.leaders) == 2
    assert read[1] < 2 * len(PATHS) < 3 * len(PATHS) <= read[2]
    assert (service.states[0], service.states[1].apps.keys()) == (State(), set(PATHS))
    assert not service.kept, "what an office leaves is freed before there is a new one"
