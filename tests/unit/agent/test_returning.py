"""A node that may have been replaced meanwhile starts nothing before it is told, and not for longer than a while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gestalt.agent.disk import Disk
from gestalt.agent.plan import Goal, Situation, Start, Wait, plan
from gestalt.agent.records import InstanceRecord
from gestalt.agent.returning import LIMIT, WAITS, Presence, Returning
from gestalt.model import Phase
from tests.unit.agent.agent_life import ONE, TWO, Life, key, wish
from tests.unit.agent.memory_runtime import World


@pytest.fixture
async def disk() -> AsyncIterator[Disk]:
    disk = Disk()
    yield disk
    await disk.close()


async def stay(folder: Path, disk: Disk, boot: str, incarnation: int = 0, *, heard: bool = True) -> Returning:
    """A life of the agent, as far as it got."""
    returning = Returning(folder / "presence.json", disk, boot, lambda: 100.0)
    if incarnation:
        returning.member(incarnation)
    if heard:
        returning.heard()
    await returning.ensure()
    return returning


async def test_the_first_life_waits_for_nobody(tmp_path: Path, disk: Disk) -> None:
    assert (await stay(tmp_path, disk, "boot-1", 1, heard=False)).until() == 0.0


async def test_an_agent_that_was_only_restarted_waits_for_nobody(tmp_path: Path, disk: Disk) -> None:
    await stay(tmp_path, disk, "boot-1", 1)
    assert (await stay(tmp_path, disk, "boot-1", 1, heard=False)).until() == 0.0


async def test_after_a_boot_the_coordinator_is_waited_for_until_it_is_heard(tmp_path: Path, disk: Disk) -> None:
    await stay(tmp_path, disk, "boot-1", 1)
    returning = await stay(tmp_path, disk, "boot-2", heard=False)
    assert returning.until() == 100.0 + LIMIT
    told = asyncio.Event()
    returning.subscribe(told.set)
    returning.heard()
    assert (returning.until(), told.is_set()) == (0.0, True)


async def test_a_life_that_heard_nothing_does_not_end_the_wait_of_the_next(tmp_path: Path, disk: Disk) -> None:
    await stay(tmp_path, disk, "boot-1", 1)
    await stay(tmp_path, disk, "boot-2", heard=False)
    assert (await stay(tmp_path, disk, "boot-2", heard=False)).until() > 0


async def test_another_membership_is_another_stay_whether_the_agent_ran_meanwhile_or_not(tmp_path: Path, disk: Disk) -> None:
    returning = await stay(tmp_path, disk, "boot-1", 1)
    returning.member(2)
    assert returning.until() == 100.0 + LIMIT
    returning.heard()
    await returning.ensure()
    assert (await stay(tmp_path, disk, "boot-1", 2, heard=False)).until() == 0.0
    assert (await stay(tmp_path, disk, "boot-1", 3, heard=False)).until() == 100.0 + LIMIT


async def test_a_membership_that_is_known_only_later_is_no_other(tmp_path: Path, disk: Disk) -> None:
    returning = await stay(tmp_path, disk, "boot-1")
    returning.member(4)
    assert returning.until() == 0.0
    returning.member(5)
    assert returning.until() > 0


@pytest.mark.parametrize("content", [b"", b"[]", b'{"boot": "x"}', b"\xff"])
async def test_a_damaged_file_is_as_none(tmp_path: Path, disk: Disk, content: bytes) -> None:
    (tmp_path / "presence.json").write_bytes(content)
    assert (await stay(tmp_path, disk, "boot-2", 1, heard=False)).until() == 0.0


def test_nothing_is_started_before_the_time_and_something_is_then() -> None:
    def at(now: float) -> Situation:
        return Situation(Goal.RUN, InstanceRecord("web-0000aa-1", "docker"), (), now, not_before=50.0)

    assert plan(at(49.0)) == Wait(50.0)
    assert plan(at(50.0)) == Start(1)


async def test_what_runs_goes_on_and_the_rest_starts_when_the_coordinator_has_spoken(tmp_path: Path, disk: Disk) -> None:
    world = World()
    first = Life(world, tmp_path)
    await first.begin(wish(ONE, TWO))
    for instance in (ONE, TWO):
        await first.until("it to run", lambda instance=instance: first.at(instance, Phase.RUNNING, 1))  # type: ignore[misc]
    await first.end()
    world.end(key(TWO), 1)
    await stay(tmp_path, disk, "boot-1", 1)
    returning = Returning(tmp_path / "presence.json", disk, "boot-1")
    returning.member(2)
    second = Life(world, tmp_path, returning=returning)
    try:
        await second.begin(wish(ONE, TWO, complete=False))
        await second.until("the wait", lambda: WAITS in second.saw(TWO).reason)
        assert second.at(ONE, Phase.RUNNING, 1)
        second.instances.set_desired(wish(ONE, TWO))
        await second.until("its second attempt", lambda: second.at(TWO, Phase.RUNNING, 2))
        assert second.at(ONE, Phase.RUNNING, 1)
    finally:
        await second.kill()


def test_presence() -> None:
    assert not Presence("b", 1).follows(None)
    assert not Presence("b", 0).follows(Presence("b", 1)), "the fence has not told yet"
