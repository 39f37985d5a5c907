"""Taking and handing back grants, interrupted after each step: what is at work is always listed, and in the end nothing else is."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from gestalt.agent.fence import account
from gestalt.agent.fence.account import Account
from gestalt.agent.fence.asks import Asks
from gestalt.agent.fence.cgroups import ROOT, remove_cgroup
from gestalt.agent.fence.grants import Found, GrantLost
from gestalt.agent.fence.keeper import LeaseKeeper
from gestalt.agent.fence.lease import Held, Holding, Membership
from gestalt.agent.fence.saved import HeldFile
from gestalt.agent.fence.settings import FenceSettings, TimingSettings, ZooKeeperSettings
from gestalt.zk.grants import GrantMark, LeaseMark
from gestalt.zk.ops import ZkUnknown

LIMIT = 10.0
NEVER = ROOT / "pids" / "gestalt-never"
"""Nothing is ever at work in there. What is closed is made there, where that can be."""

SETTINGS = FenceSettings("n", "node", "c", ZooKeeperSettings(("127.0.0.1:1",)), TimingSettings(lease=60.0), failsafe=True)
HOLD = {"hold": {"name": "web-1", "cgroups": [f"{NEVER}/web-1"], "grant": {"name": "web", "generation": 3}}}
RELEASE = {"release": "web-1"}


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    for path in (NEVER / "web-1", NEVER / "web-2", NEVER, NEVER.parent):
        remove_cgroup(path)


class Died(BaseException):
    """The process is no more."""


@dataclass
class World:
    """What outlives the fence: ZooKeeper, and at which step of the fence's time stands still."""

    grants: dict[str, tuple[GrantMark, int]] = field(default_factory=lambda: {"web": (GrantMark("/web", 3, "web-1", "n", 1), 0)})
    lease: LeaseMark = field(default_factory=lambda: LeaseMark(1))
    writes: int = 0
    dies_after: int = 10**9
    loses: bool = False

    def step(self) -> None:
        self.dies_after -= 1
        if self.dies_after < 0:
            raise Died

    def give(self, generation: int, node: str = "n") -> None:
        self.grants["web"] = GrantMark("/web", generation, "web-1", node, 1), self.grants["web"][1] + 1


class MortalFile(HeldFile):
    def __init__(self, folder: Path, world: World) -> None:
        super().__init__(folder)
        self._world = world

    def save(self, held: Held) -> None:
        self._world.step()
        super().save(held)
        self._world.step()


class MortalRegistry:
    """ZooKeeper's rules for these transactions."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def read(self, grant: str) -> Found:
        self._world.step()
        mark, version = self._world.grants[grant]
        return Found(0, mark, version, version)

    async def write(self, mark: LeaseMark, grants: Mapping[str, int], epoch: int | None) -> None:
        self._world.step()
        for name, version in grants.items():
            if self._world.grants[name][1] != version:
                raise GrantLost(name)
        self._world.lease, self._world.writes = mark, self._world.writes + 1
        self._world.step()
        if self._world.loses:
            self._world.loses = False
            raise ZkUnknown("lost")

    def watch(self, grants: Mapping[str, int]) -> None:
        """Nothing tells of changes: the versions do."""


class Fence:
    """One life of it."""

    def __init__(self, folder: Path, world: World) -> None:
        self.world = world
        self.account = Account(MortalFile(folder, world), "boot", 1.0, lambda: None)
        self.keeper = LeaseKeeper(SETTINGS, self.account, lambda: Membership(1, True), MortalRegistry(world))
        self._asks = Asks(SETTINGS, self.account, self.keeper)

    async def ask(self, message: Mapping[str, object]) -> str | None:
        """Return the answer; None when it died before it could give one."""
        try:
            return await self._asks.ask(dict(message))
        except Died:
            return None

    async def settle(self) -> None:
        """Let it do what it has to do of itself, until ZooKeeper lists what is held."""
        self.keeper.start()
        await until(lambda: self.world.lease.grants.keys() == {what.grant for what in self.account.live.values()} and self.world.writes > 0)
        await self.keeper.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("at", range(12))
async def test_it_may_die_after_any_step(at: int, tmp_path: Path) -> None:
    world = World(dies_after=at)
    fence = Fence(tmp_path, world)
    held = await fence.ask(HOLD) == ""
    handed_back: str | None = None
    if held:
        assert world.lease.grants == {"web": 3}
        assert HeldFile(tmp_path).load().live.keys() == {"web-1"}, "a yes must outlive the fence"
        handed_back = await fence.ask(RELEASE)
        assert handed_back is None or not (world.lease.grants or HeldFile(tmp_path).load().holdings)
    world.dies_after, world.writes = 10**9, 0
    again = Fence(tmp_path, world)
    live = {what.grant: what.generation for what in again.account.live.values()}
    assert live.items() <= world.lease.grants.items(), "something may be at work that ZooKeeper does not list"
    await again.settle()
    assert world.lease.grants == live
    assert await again.ask(HOLD) == ""
    assert await again.ask(RELEASE) == ""
    assert world.lease == LeaseMark(1)


async def test_an_answer_that_is_lost_counts_as_no_and_is_cleared_up(tmp_path: Path) -> None:
    world = World(loses=True)
    fence = Fence(tmp_path, world)
    assert "does not confirm" in (await fence.ask(HOLD) or "")
    assert world.lease.grants == {"web": 3}
    assert not fence.account.live
    await fence.settle()
    assert world.lease == LeaseMark(1)


async def test_a_grant_that_goes_elsewhere_is_closed_and_not_taken_again(tmp_path: Path) -> None:
    world = World()
    fence = Fence(tmp_path, world)
    assert await fence.ask(HOLD) == ""
    world.give(4, "another")
    fence.keeper.grant_changed("web", 1)
    fence.keeper.start()
    await until(lambda: world.lease == LeaseMark(1))
    assert fence.account.closed.keys() == {"web-1"}
    assert "generation 4" in (await fence.ask(HOLD) or "")
    assert await fence.ask(RELEASE) == ""
    assert not fence.account.held.holdings
    await fence.keeper.close()


async def test_a_restart_in_place_is_taken_anew_and_nothing_else_gets_in_between(tmp_path: Path) -> None:
    fence = Fence(tmp_path, World())
    assert await fence.ask(HOLD) == ""
    following = {"hold": HOLD["hold"] | {"cgroups": [f"{NEVER}/web-2"]}}
    assert await fence.ask(following) == ""
    assert fence.account.live["web-1"].cgroups == (f"{NEVER}/web-2",)
    other = {"hold": HOLD["hold"] | {"name": "web-2"}}
    assert "web-1 still holds" in (await fence.ask(other) or "")


async def test_a_membership_is_cleared_before_it_ends(tmp_path: Path) -> None:
    fence = Fence(tmp_path, World())
    assert await fence.ask(HOLD) == ""
    await fence.keeper.clear()
    await fence.keeper.tell()
    assert (fence.account.live, fence.world.lease) == ({}, LeaseMark(1))
    assert fence.keeper.state["closed"] == ["web-1"]


@pytest.mark.parametrize("why", ["its grant", "its lease", "the membership"])
async def test_that_something_is_killed_is_told_before_it_is(why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end may be heard before the disk knows of it; and what is taken anew, just as it was, is not being killed any more."""
    world = World()
    fence = Fence(tmp_path, world)
    assert await fence.ask(HOLD) == ""
    told, told_at_its_end = list[bool](), list[bool]()
    fence.account.announce = lambda: told.extend(what["ending"] for what in fence.keeper.state["held"].values())

    async def kill(what: Holding, deadline: float) -> bool:
        told_at_its_end.append(told[-1])
        return True

    monkeypatch.setattr(account, "_kill", kill)
    if why == "the membership":
        await fence.keeper.clear()
    elif why == "its grant":
        fence.keeper.grant_changed("web", 1)
    else:
        await fence.account.change(lambda held: replace(held, until=0.0))
    fence.keeper.start()
    await until(lambda: fence.account.closed.keys() == {"web-1"})
    await fence.keeper.close()
    assert told_at_its_end == [True]
    assert await fence.ask(HOLD) == ""
    assert fence.keeper.state["held"]["web-1"]["ending"] is False


async def test_a_disk_that_hangs_while_one_thing_ends_does_not_keep_the_next_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    world.grants["db"] = GrantMark("/db", 1, "db-1", "n", 1), 0
    fence = Fence(tmp_path, world)
    assert await fence.ask(HOLD) == ""
    db = {"name": "db-1", "cgroups": [f"{NEVER}/db-1"], "grant": {"name": "db", "generation": 1}}
    assert await fence.ask({"hold": db}) == ""
    disk, killed = threading.Event(), list[str]()
    save = HeldFile.save
    monkeypatch.setattr(HeldFile, "save", lambda file, held: (disk.wait(LIMIT), save(file, held))[1])

    async def kill(what: Holding, deadline: float) -> bool:
        killed.append(what.grant)
        return True

    monkeypatch.setattr(account, "_kill", kill)
    fence.keeper.start()
    try:
        world.give(4, "another")
        fence.keeper.grant_changed("web", 1)
        await until(lambda: killed == ["web"])
        world.grants["db"] = world.grants["db"][0], 1
        fence.keeper.grant_changed("db", 1)
        await until(lambda: "db" in killed)
        assert fence.account.closed == {}, "nothing is written down yet"
    finally:
        disk.set()
    await until(lambda: fence.account.closed.keys() == {"web-1", "db-1"})
    await fence.keeper.close()
