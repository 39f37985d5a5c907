"""Facts about runtimes of which one hangs: the others are told, and of that one what is known, until it has answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from gestalt.agent import ongoing
from gestalt.agent.board import Board
from gestalt.agent.facts import FactsKeeper
from gestalt.plugin.runtime import DriverUnavailable
from tests.unit.agent.memory_runtime import MemoryRuntime, World
from tests.unit.agent.test_agent_engine import SETTINGS


class Moody(MemoryRuntime):
    """Answers when it may, and with `error` when there is one."""

    def __init__(self) -> None:
        super().__init__(World())
        self.may = asyncio.Event()
        self.error: Exception | None = None

    async def probe(self) -> Mapping[str, str]:
        await self.may.wait()
        if self.error is not None:
            raise self.error
        return {"version": "9"}


async def until(what: str, condition: Callable[[], object]) -> None:
    try:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 (any condition, seen from outside)
                await asyncio.sleep(0.001)
    except TimeoutError:
        pytest.fail(f"waited for {what}")


async def test_a_runtime_that_hangs_holds_up_no_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ongoing, "PATIENCE", 0.02)
    board, moody = Board(), Moody()
    keeper = FactsKeeper(SETTINGS.model_copy(update={"data_dir": tmp_path}), {"moody": moody, "quick": MemoryRuntime(World())}, board)
    async with asyncio.timeout(10):
        await keeper.ensure()
        assert list(board.facts.runtimes) == ["quick"]
        moody.may.set()
        await until("it to be told without another round", lambda: list(board.facts.runtimes) == ["moody", "quick"])
        assert board.facts.attributes["runtime.moody.version"] == "9"
        moody.may.clear()
        await keeper.ensure()
        assert list(board.facts.runtimes) == ["moody", "quick"], "what is known stays while it hangs"
        moody.error = DriverUnavailable("it is away")
        moody.may.set()
        await until("its end to be told", lambda: list(board.facts.runtimes) == ["quick"])
        assert board.problems() == ()
        moody.error = ZeroDivisionError()
        await keeper.ensure()
        assert list(board.problems()) == ["the driver of moody failed, see the log of the agent"]
        moody.error = None
        await keeper.ensure()
        assert (list(board.facts.runtimes), board.problems()) == (["moody", "quick"], ())
        moody.may.clear()
        await keeper.ensure()
        await keeper.close()
