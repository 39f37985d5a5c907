"""The engine: managers in order, none stops another; what is told lies on the board until it is taken."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gestalt.agent.board import Board
from gestalt.agent.engine import Engine
from gestalt.config import AgentSettings, TlsSettings
from gestalt.daemon import Life
from gestalt.errors import GestaltError, Kind
from gestalt.model import Observed, Phase
from gestalt.proto.v1 import agent_pb2

NOWHERE = Path("/nonexistent")
SETTINGS = AgentSettings(
    node_id="n", node_name="n", cluster_id="c", coordinators=(), tls=TlsSettings(ca=NOWHERE, certificate=NOWHERE, key=NOWHERE)
)
ID = "web-0000aa-1"


class Recorder:
    """A manager that writes down what is asked of it."""

    def __init__(self, name: str, journal: list[str], error: Exception | None = None) -> None:
        self.name = name
        self.error = error
        self._journal = journal

    async def ensure(self) -> None:
        self._journal.append(f"ensure {self.name}")
        if self.error is not None:
            raise self.error

    async def close(self) -> None:
        self._journal.append(f"close {self.name}")
        if self.error is not None:
            raise self.error


class Taken:
    """Takes over settings, and remembers them."""

    settings: AgentSettings | None = None

    async def renew(self, settings: AgentSettings) -> None:
        self.settings = settings


async def test_new_settings_reach_those_who_take_them_over() -> None:
    first, second = Taken(), Taken()
    engine = Engine(SETTINGS, (), Board(), Life(), takers=(first, second))
    settings = SETTINGS.model_copy(update={"resync": 1.0})
    await engine.reload(settings)
    assert first.settings is second.settings is settings


async def test_rounds_are_made_as_often_as_new_settings_say() -> None:
    journal: list[str] = []
    engine = Engine(SETTINGS.model_copy(update={"resync": 30.0}), (Recorder("a", journal),), Board(), Life())
    await engine.start()
    for resync, rounds in ((30.0, 2), (0.001, 6)):  # a reload is a round, too
        await engine.reload(SETTINGS.model_copy(update={"resync": resync}))
        async with asyncio.timeout(10):
            while len(journal) < rounds:  # noqa: ASYNC110 (what is seen from outside)
                await asyncio.sleep(0.001)
    await engine.stop()


@pytest.mark.parametrize("error", [GestaltError(Kind.UNAVAILABLE, "it is away"), OSError("it is away"), ZeroDivisionError()])
async def test_one_manager_does_not_stop_the_others(error: Exception) -> None:
    journal: list[str] = []
    board = Board()
    bad = Recorder("b", journal, error)
    engine = Engine(SETTINGS, (Recorder("a", journal), bad, Recorder("c", journal)), board, Life())
    await engine.start()
    assert journal == ["ensure a", "ensure b", "ensure c"]
    [problem] = board.problems()
    assert problem.startswith("b")
    bad.error = None
    await engine.cycle()
    assert board.problems() == ()
    bad.error = error
    journal.clear()
    await engine.stop()
    assert journal == ["close c", "close b", "close a"]


def observed(attempt: int, phase: Phase, reason: str = "") -> Observed:
    return Observed(ID, attempt, phase, reason=reason)


def taken(board: Board) -> list[agent_pb2.ObservedChange]:
    changes = []
    while (change := board.take()) is not None:
        changes.append(change)
    return changes


def test_only_the_latest_counts_but_no_end_is_lost() -> None:
    board = Board()
    woken: list[bool] = []
    board.attach(lambda: woken.append(True))
    for attempt, phase in ((1, Phase.STARTING), (1, Phase.RUNNING), (1, Phase.FAILED), (2, Phase.STARTING), (2, Phase.RUNNING)):
        assert board.put(observed(attempt, phase))
    assert not board.put(observed(2, Phase.RUNNING))
    assert len(woken) == 5
    seen = [(item.attempt, item.phase) for change in taken(board) for item in change.instances]
    assert seen == [(1, Phase.FAILED), (2, Phase.RUNNING)]
    assert taken(board) == []
    board.put(observed(2, Phase.FAILED))
    taken(board)
    board.put(observed(3, Phase.STARTING))
    assert [item.attempt for change in taken(board) for item in change.instances] == [3], "an end that was told is not told again"


def test_inventory_is_everything_and_what_is_gone_follows() -> None:
    board = Board()
    board.put(observed(1, Phase.RUNNING))
    board.put(Observed("old-0000aa-1", 1, Phase.STOPPING))
    board.gone("old-0000aa-1")
    board.set_problems("a", ["one", "two"])
    taken(board)
    inventory = board.inventory()
    assert [item.instance for item in inventory.instances] == [ID]
    assert list(inventory.problems) == ["one", "two"]
    [change] = taken(board)
    assert (list(change.gone), len(change.instances), change.problems_changed) == (["old-0000aa-1"], 0, False)
    board.drop("old-0000aa-1")
    board.inventory()
    assert taken(board) == []


def test_problems_are_told_when_they_change() -> None:
    board = Board()
    board.set_problems("b", ["second"])
    board.set_problems("a", ["first"])
    [change] = taken(board)
    assert (change.problems_changed, list(change.problems)) == (True, ["first", "second"])
    board.set_problems("a", ["first"])
    assert taken(board) == []
    board.set_problems("a", [])
    [change] = taken(board)
    assert list(change.problems) == ["second"]
