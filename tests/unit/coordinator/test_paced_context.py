"""What is done for several at once is about none of them: its lines carry no app of whoever came first."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

from gestalt.coordinator.pace import Line, Pace
from gestalt.coordinator.store.base import Change
from gestalt.coordinator.store.zookeeper import _Log
from gestalt.coordinator.store.zookeeper_format import Entry
from gestalt.coordinator.store.zookeeper_group import Failure, Group
from gestalt.coordinator.store.zookeeper_znodes import Epoch
from gestalt.log import about, tell_what_about
from gestalt.zk.paths import Paths


def app_told() -> str:
    """Return which app a line that is logged now would carry."""
    record = logging.makeLogRecord({})
    tell_what_about(record)
    return str(record.__dict__.get("app", ""))


async def test_paced_work_is_about_nobody_also_after_a_rest_and_in_its_next_part() -> None:
    told: list[str] = []

    def work() -> bool:
        told.append(app_told())
        return len(told) == 1

    pace = Pace(work)
    with about(app="/first"):
        while len(told) < 4:
            pace.ask()
            await asyncio.sleep(0)
    assert set(told) == {""}


async def test_who_stands_in_line_is_served_in_nobodys_name() -> None:
    line, told = Line(), list[str]()
    with about(app="/first"):
        await line.do(lambda: told.append(app_told()))
    assert told == [""]


class Noting(_Log):
    """Notes which app lines of a group would carry, and of a fold that begins in it."""

    def __init__(self) -> None:
        super().__init__(self._none, Paths("/unit"), "c")
        self._office = Epoch(1, 0)
        self.told: list[str] = []

    async def _none(self) -> Any:
        raise AssertionError("there is no ZooKeeper")

    async def multi(self, _: object) -> None:
        self.told.append(app_told())

    async def _carry_out(self, group: Group, contents: Any) -> Failure | None:
        self._connection = cast(Any, SimpleNamespace(present=lambda: self))
        self._contents = contents
        return await super()._carry_out(group, contents)

    async def _run_fold(self) -> None:
        self.told.append(app_told())

    async def fold(self) -> None:
        assert self._fold is not None
        await self._fold


class Contents:
    """Knows numbers only."""

    is_fold_due = True

    def advance(self, changes: Sequence[Change], entry: Entry) -> int:
        return 7 + len(changes) + len(entry.records)

    def sent(self) -> int:
        return 1


async def test_a_group_of_commits_and_a_fold_are_about_none_of_them() -> None:
    log = Noting()
    with about(app="/first"):
        sent = log._send(cast(Any, Contents()), (), Entry(1))
    assert (await sent).number == 7
    await log.fold()
    assert log.told == ["", ""]
