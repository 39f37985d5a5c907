"""Leases with a real ZooKeeper and real processes in a real cgroup: they go on while it answers, and end in time when it does not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gestalt.clock import monotonic
from gestalt.config import TimingSettings
from gestalt.zk.client import Zk
from tests.real.cgroup_lab import hierarchies, new_cgroup, run_in, until_populated
from tests.real.fence_rig import PATIENCE, Agent, Rig, machine
from tests.real.zookeeper_lab import Ensemble

pytestmark = pytest.mark.real

TIMING = TimingSettings(session=2.0, lease=3.0, kill=1.0, margin=1.0)
SLACK = 3.0
"""What a busy machine may add."""


@pytest.fixture
async def rig(ensemble: Ensemble) -> AsyncIterator[Rig]:
    servers = ensemble.settings()
    zk = await Zk.connect(servers, session=10.0, name="test")
    async with machine(servers, zk, timing=TIMING) as rig:
        rig.start()
        await rig.member()
        yield rig
        with contextlib.suppress(KeyError, ProcessLookupError):
            ensemble.resume(0)
    await zk.close()


@pytest.fixture
def cgroup() -> Iterator[Path]:
    with new_cgroup(hierarchies()[-1]) as path:
        yield path


async def start(rig: Rig, cgroup: Path) -> tuple[Agent, subprocess.Popen[bytes]]:
    """Start something exclusive, as an agent would."""
    agent = await rig.agent()
    await agent.until(lambda state: bool(state["member"]))
    await rig.grant("volume")
    await agent.take("volume", cgroup)
    process = run_in(cgroup, "trap '' TERM; while :; do sleep 1; done")
    until_populated(cgroup, 1)
    return agent, process


async def end_of(process: subprocess.Popen[bytes], limit: float) -> int:
    return await asyncio.to_thread(process.wait, limit)


async def test_it_lives_while_the_lease_is_renewed_and_ends_in_time_when_zookeeper_hangs(
    ensemble: Ensemble, rig: Rig, cgroup: Path
) -> None:
    agent, process = await start(rig, cgroup)
    with pytest.raises(subprocess.TimeoutExpired):
        await end_of(process, TIMING.lease * 1.5)
    ensemble.pause(0)
    paused = monotonic()
    assert await end_of(process, TIMING.lease + TIMING.kill + SLACK) == -9
    assert monotonic() - paused > TIMING.lease / 4, "it ended long before its lease did"
    ensemble.resume(0)
    await agent.close()


async def test_a_fence_that_starts_again_ends_what_the_former_one_held(ensemble: Ensemble, rig: Rig, cgroup: Path) -> None:
    """The lease is on disk: no crash loop lengthens it."""
    agent, process = await start(rig, cgroup)
    ensemble.pause(0)
    rig.kill()
    rig.start()
    assert await end_of(process, TIMING.lease + TIMING.kill + SLACK) == -9
    ensemble.resume(0)
    await agent.close()


def left_behind(rig: Rig) -> list[int]:
    """Return the processes that a fence has left, by its command line, which they have, too."""
    found = subprocess.run(("pgrep", "--full", str(rig.settings.data_dir.parent / "fence.yaml")), capture_output=True, check=False)
    return [int(word) for word in found.stdout.split()]


async def until_none_is_left(rig: Rig) -> None:
    end = monotonic() + PATIENCE
    while left := left_behind(rig):
        assert monotonic() < end, f"{left} stay; the fence says: {rig.log}"
        await asyncio.sleep(0.05)


async def test_what_a_fence_held_that_was_stopped_in_order_ends_with_its_lease(rig: Rig, cgroup: Path) -> None:
    """Nobody is there any more, no agent either: as when both were stopped, or erased."""
    agent, process = await start(rig, cgroup)
    await agent.close()
    rig.send(signal.SIGTERM)
    stopped = monotonic()
    assert rig.wait() == 0
    assert monotonic() - stopped < TIMING.lease / 2, "who stopped it waits for nothing"
    assert await end_of(process, TIMING.lease + TIMING.kill + SLACK) == -9
    assert monotonic() - stopped > TIMING.lease / 4, "it ended long before its lease did"
    await until_none_is_left(rig)
    assert rig.held()["holdings"]["volume"]["closed"]


def erase(folder: Path) -> None:
    """Remove a folder in which somebody may be writing."""
    shutil.rmtree(folder.rename(folder.with_name("erased")))


@pytest.mark.parametrize("when", ["before the fence ends", "after it"])
async def test_it_ends_with_its_lease_also_when_the_data_were_erased(when: str, rig: Rig, cgroup: Path) -> None:
    agent, process = await start(rig, cgroup)
    await agent.close()
    if when == "before the fence ends":
        erase(rig.settings.data_dir)
    rig.send(signal.SIGTERM)
    assert rig.wait() == 0
    if when == "after it":
        erase(rig.settings.data_dir)
    assert await end_of(process, TIMING.lease + TIMING.kill + SLACK) == -9
    await until_none_is_left(rig)
    assert not rig.settings.data_dir.exists()


async def test_at_a_shutdown_what_is_held_ends_at_once(rig: Rig, cgroup: Path) -> None:
    """When all units are stopped, systemd tells whatever is left to end."""
    rig.change(timing=TIMING.model_copy(update={"lease": 60.0}))
    rig.send(signal.SIGTERM)
    rig.wait()
    rig.start()
    agent, process = await start(rig, cgroup)
    await agent.close()
    rig.send(signal.SIGTERM)
    assert rig.wait() == 0
    (guard,) = left_behind(rig)
    os.kill(guard, signal.SIGTERM)
    assert await end_of(process, TIMING.kill + SLACK) == -9
    await until_none_is_left(rig)


async def test_what_is_held_outlives_a_restart_of_the_fence(rig: Rig, cgroup: Path) -> None:
    agent, process = await start(rig, cgroup)
    rig.send(signal.SIGTERM)
    assert rig.wait() == 0
    rig.start()
    await agent.close()
    agent = await rig.agent()
    with pytest.raises(subprocess.TimeoutExpired):
        await end_of(process, TIMING.lease * 2)
    assert len(left_behind(rig)) == 1, "the fence; what the former one left is gone"
    assert "was ended" not in rig.log
    await agent.close()


async def test_what_is_handed_back_is_left_alone(ensemble: Ensemble, rig: Rig, cgroup: Path) -> None:
    agent, process = await start(rig, cgroup)
    assert "are left" in await agent.ask(release="volume")
    process.kill()
    await end_of(process, 10)
    while problem := await agent.ask(release="volume"):  # its last sleep ends within a second
        assert "are left" in problem
        await asyncio.sleep(0.05)
    other = run_in(cgroup, "exec sleep 1000")
    ensemble.pause(0)
    with pytest.raises(subprocess.TimeoutExpired):
        await end_of(other, TIMING.lease + TIMING.kill)
    ensemble.resume(0)
    other.kill()
    other.wait(10)
    await agent.close()


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ({"hold": {"name": "x", "cgroups": ["/etc"], "grant": {"name": "x", "generation": 1}}}, "is no cgroup below"),
        ({"hold": {"name": "x", "cgroups": [], "grant": {"name": "x", "generation": 1}}}, "has a name, cgroups and a grant"),
        ({"hold": {"name": "x", "cgroups": []}}, "cannot be understood"),
        ({"dance": 1}, "does not do that"),
    ],
)
async def test_nonsense_is_refused(what: dict[str, object], why: str, rig: Rig) -> None:
    agent = await rig.agent()
    assert why in await agent.ask(**what)
    await agent.close()


async def test_nothing_exclusive_starts_without_zookeeper(ensemble: Ensemble, rig: Rig, cgroup: Path) -> None:
    agent = await rig.agent()
    await agent.until(lambda state: bool(state["member"]))
    ensemble.pause(0)
    assert "there is no lease" in await agent.hold("volume", cgroup)
    ensemble.resume(0)
    await agent.close()
