"""Grants with a real ZooKeeper, real processes in real cgroups, and the fence as a process that may be killed at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gestalt.agent.fence import settings
from gestalt.agent.fence.cgroups import pids_in
from gestalt.agent.fence.grants import GrantLost, Grants
from gestalt.agent.fence.membership import Enter
from gestalt.agent.fence.servers import Servers
from gestalt.clock import boottime, monotonic
from gestalt.config import TimingSettings, ZooKeeperSettings
from gestalt.zk.client import Zk, ZkRefused
from gestalt.zk.grants import LeaseMark
from gestalt.zk.paths import Paths
from tests.real.cgroup_lab import hierarchies, new_cgroup, run_in, until_populated
from tests.real.fence_rig import NODE, Agent, Rig, machine
from tests.real.zookeeper_lab import Ensemble

pytestmark = pytest.mark.real

TIMING = TimingSettings(session=2.0, lease=3.0, kill=1.0, margin=1.0)
SLACK = 3.0
STUBBORN = "trap '' TERM; while :; do sleep 1; done"


@pytest.fixture
async def zk(ensemble: Ensemble) -> AsyncIterator[Zk]:
    zk = await Zk.connect(ensemble.settings(), session=10.0, name="test")
    yield zk
    await zk.close()


@pytest.fixture
def servers(ensemble: Ensemble) -> ZooKeeperSettings:
    return ensemble.settings()


@pytest.fixture
async def rig(servers: ZooKeeperSettings, zk: Zk) -> AsyncIterator[Rig]:
    async with machine(servers, zk, timing=TIMING) as rig:
        rig.start()
        await rig.member()
        yield rig


@pytest.fixture
def cgroups() -> Iterator[tuple[Path, Path]]:
    with ExitStack() as stack:
        root = hierarchies()[-1]
        first = stack.enter_context(new_cgroup(root))
        second = first / "second"  # below the first, so that the leftovers of both are found
        second.mkdir()
        (first / "first").mkdir()
        yield first / "first", second


async def member(rig: Rig) -> Agent:
    agent = await rig.agent()
    await agent.until(lambda state: bool(state["member"]))
    await rig.member(lambda value, _: value["agent"] == "running")
    return agent


def work_in(cgroup: Path) -> subprocess.Popen[bytes]:
    process = run_in(cgroup, STUBBORN)
    until_populated(cgroup, 1)
    return process


async def until_empty(cgroup: Path, limit: float) -> None:
    end = monotonic() + limit
    while pids_in(cgroup):
        assert monotonic() < end, f"{pids_in(cgroup)} are still at work after {limit:g} s"
        await asyncio.sleep(0.02)


async def test_what_is_taken_is_listed_and_what_is_handed_back_is_not(rig: Rig, cgroups: tuple[Path, Path]) -> None:
    agent = await member(rig)
    await rig.grant("a", 4)
    await rig.grant("b", 7)
    await agent.take("a", cgroups[0], 4)
    assert await rig.lease() == LeaseMark(1, TIMING.lease, {"a": 4}, TIMING.kill)
    await agent.take("b", cgroups[1], 7)
    assert (await rig.lease()).grants == {"a": 4, "b": 7}
    state = await agent.until(lambda state: len(state["lease"]["held"]) == 2)
    assert state["lease"]["held"]["a"] == {"generation": 4, "cgroups": [str(cgroups[0])], "revoked": False, "ending": False}
    assert boottime() < state["lease"]["until"] <= boottime() + TIMING.lease
    assert await agent.ask(release="a") == ""
    assert (await rig.lease()).grants == {"b": 7}
    assert await agent.ask(release="b") == ""
    assert await rig.lease() == LeaseMark(1)
    await agent.close()


async def test_what_was_not_given_so_is_not_taken(rig: Rig, cgroups: tuple[Path, Path]) -> None:
    agent = await member(rig)
    assert "has no grant a" in await agent.hold("a", cgroups[0])
    for change, why in (
        ({"generation": 2}, "generation 2, not 1"),
        ({"node": "somebody"}, "that of node somebody"),
        ({"node": ""}, "nobody's"),
        ({"incarnation": 2}, "membership 2 of this node, which is now at 1"),
        ({"instance": "b"}, "is for b"),
    ):
        await rig.grant("a", **change)  # type: ignore[arg-type]
        assert why in await agent.hold("a", cgroups[0])
    assert await rig.lease() == LeaseMark(1)
    await rig.grant("a")
    await agent.take("a", cgroups[0])
    await agent.close()


async def test_a_transaction_fails_with_the_epoch_the_grant_and_the_membership(servers: ZooKeeperSettings, zk: Zk, tmp_path: Path) -> None:
    """The three checks, each by itself, at the servers."""
    async with machine(servers, zk) as rig:
        await rig.grant("a")
        paths = Paths(servers.root)
        places = settings.ZooKeeperSettings(servers.hosts, servers.root)
        fence = Servers(settings.FenceSettings(NODE, "one", "c", places, data_dir=tmp_path), lambda: None)
        grants = Grants(fence, paths, NODE, lambda grant, modified: None)
        await fence.connect(None)
        await fence.enter(Enter(1, agent=True, replaces=None, lease=None))
        await fence.look()
        found, mark = await grants.read("a"), LeaseMark(1, 3.0, {"a": 1})
        await zk.set(paths.epoch, b"2")
        with pytest.raises(ZkRefused, match="epoch"):
            await grants.write(mark, {"a": found.version}, found.epoch)
        await grants.write(mark, {"a": found.version}, None)
        await rig.grant("a")
        with pytest.raises(GrantLost, match="grant a"):
            await grants.write(LeaseMark(1), {"a": found.version}, None)
        await zk.delete(paths.member(NODE))
        with pytest.raises(ZkRefused, match="member"):
            await grants.write(LeaseMark(1), {}, None)
        assert await rig.lease() == mark
        await fence.close()


async def test_a_grant_that_is_given_to_another_ends_alone_and_at_once(rig: Rig, cgroups: tuple[Path, Path]) -> None:
    agent = await member(rig)
    for name, cgroup in zip("ab", cgroups, strict=True):
        await rig.grant(name)
        await agent.take(name, cgroup)
    doomed, other = (work_in(cgroup) for cgroup in cgroups)
    await rig.grant("a", 2, node="another")
    await until_empty(cgroups[0], TIMING.kill + SLACK)
    await rig.listed("b")
    assert doomed.wait(10) == -9
    assert "generation 2" in await agent.hold("a", cgroups[0])
    late = run_in(cgroups[0], "exec sleep 1000")  # somebody still had it in hand
    assert await asyncio.to_thread(late.wait, 10) == -9
    with pytest.raises(subprocess.TimeoutExpired):
        await asyncio.to_thread(other.wait, TIMING.lease)
    assert (await agent.until(lambda state: state["lease"]["closed"] == ["a"]))["lease"]["held"].keys() == {"b"}
    await agent.close()


async def test_a_membership_that_was_lost_takes_all_with_it(rig: Rig, cgroups: tuple[Path, Path]) -> None:
    """The fence hangs for longer than its session, not for the whole lease: what it held ends before it is a member again."""
    agent = await member(rig)
    await rig.grant("a")
    await agent.take("a", cgroups[0])
    work_in(cgroups[0])
    rig.send(signal.SIGSTOP)
    await rig.gone()
    rig.send(signal.SIGCONT)
    await rig.member(lambda value, _: value["incarnation"] == 2)
    assert not pids_in(cgroups[0])
    assert await rig.lease() == LeaseMark(2)
    await agent.until(lambda state: state["incarnation"] == 2)
    assert "membership 1 of this node, which is now at 2" in await agent.hold("a", cgroups[0])
    await agent.close()


async def test_a_node_gives_itself_up_only_when_nothing_is_left(servers: ZooKeeperSettings, zk: Zk, cgroups: tuple[Path, Path]) -> None:
    async with machine(servers, zk, timing=TIMING, agent_grace=1.0) as rig:
        rig.start()
        agent = await member(rig)
        await rig.grant("a")
        await agent.take("a", cgroups[0])
        work_in(cgroups[0])
        await agent.close()
        await rig.gone()
        assert not pids_in(cgroups[0])
        assert await rig.lease() == LeaseMark(1)


@pytest.mark.parametrize("seed", [1, 2])
async def test_the_fence_may_be_killed_at_any_time(seed: int, servers: ZooKeeperSettings, zk: Zk, cgroups: tuple[Path, Path]) -> None:
    """Its next life knows of all that it said yes to, ends nothing of that, and ZooKeeper lists it all along."""
    dice = random.Random(seed)
    async with machine(servers, zk, timing=TimingSettings(session=8.0, lease=16.0)) as rig:
        rig.start()
        await rig.grant("a")
        agent = await member(rig)
        await agent.take("a", cgroups[0])
        worker = work_in(cgroups[0])
        await rig.grant("b")
        for _ in range(4):
            asked = asyncio.ensure_future(_take_and_hand_back(agent, cgroups[1]))
            await asyncio.sleep(dice.uniform(0.0, 0.06))
            rig.kill()
            with contextlib.suppress(OSError, AssertionError):
                await asked
            on_disk = {what["grant"] for what in rig.held()["holdings"].values() if not what["closed"]}
            assert "a" in on_disk <= (await rig.lease()).grants.keys()
            rig.start()
            agent = await member(rig)
            await rig.listed(*(what["grant"] for what in rig.held()["holdings"].values()))
        assert worker.poll() is None
        worker.kill()
        await agent.close()


async def _take_and_hand_back(agent: Agent, cgroup: Path) -> None:
    while True:
        await agent.hold("b", cgroup)
        await agent.ask(release="b")


async def test_without_zookeeper_promises_count_for_nothing_unless_the_fence_is_set_to_it(
    ensemble: Ensemble, rig: Rig, cgroups: tuple[Path, Path]
) -> None:
    """With the setting on: test_exclusive_agent.py."""
    agent = await member(rig)
    await rig.grant("a")
    await agent.take("a", cgroups[0])
    work_in(cgroups[0])
    ensemble.pause(0)
    try:
        await agent.until(lambda state: state["lease"]["connected"] is False)
        assert "failsafe is off" in await agent.ask(extend={"incarnation": 1, "sent": boottime()})
        await until_empty(cgroups[0], TIMING.lease + TIMING.kill + SLACK)
    finally:
        ensemble.resume(0)
    await agent.close()
