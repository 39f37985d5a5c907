"""The watchdog with a real fence and ZooKeeper, and a stand-in that shows every byte: no machine of tests has one that may reset it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import termios
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from gestalt.agent.fence import watchdog_device
from gestalt.agent.fence.settings import TimingSettings as Timing
from gestalt.agent.fence.watchdog import Guarded, Watchdog
from gestalt.agent.fence.watchdog_device import Device, Marker
from gestalt.clock import boottime, monotonic
from gestalt.config import TimingSettings
from gestalt.zk.client import Zk
from tests.real.cgroup_lab import hierarchies, new_cgroup, run_in, until_populated
from tests.real.fence_rig import PATIENCE, Agent, Rig, machine
from tests.real.watchdog_stand_in import StandIn
from tests.real.zookeeper_lab import Ensemble

pytestmark = pytest.mark.real

TIMING = TimingSettings(session=2.0, lease=4.0, kill=1.0, margin=1.0)
SEEN = 0.3
"""Seconds within which the stand-in has seen what was written."""

STUBBORN = "trap '' TERM; while :; do sleep 1; done"


@pytest.fixture
def dog(tmp_path: Path) -> Iterator[StandIn]:
    dog = StandIn(tmp_path / "watchdog")
    yield dog
    dog.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a fence keeps its data."""
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
async def rig(ensemble: Ensemble, dog: StandIn) -> AsyncIterator[Rig]:
    servers = ensemble.settings()
    zk = await Zk.connect(servers, session=10.0, name="test")
    async with machine(servers, zk, timing=TIMING, watchdog=str(dog.path)) as rig:
        rig.start()
        await rig.member()
        yield rig
    await zk.close()


@pytest.fixture
def cgroup() -> Iterator[Path]:
    with new_cgroup(hierarchies()[-1]) as path:
        yield path


async def until(good: Callable[[], bool], dog: StandIn, limit: float = PATIENCE) -> None:
    end = monotonic() + limit
    while not good():
        assert monotonic() < end, f"after {limit:g} s the watchdog has seen {dog.story!r}"
        await asyncio.sleep(0.02)


async def member(rig: Rig) -> Agent:
    """Return the agent of a node that has come to rest as a member."""
    agent = await rig.agent()
    await rig.member(lambda value, _: value["agent"] == "running")
    await agent.until(lambda state: bool(state["member"]))
    await rig.grant("volume")
    return agent


async def held(rig: Rig, cgroup: Path) -> Agent:
    """Return an agent that has taken something, which is at work."""
    agent = await member(rig)
    await agent.take("volume", cgroup)
    run_in(cgroup, STUBBORN)
    until_populated(cgroup, 1)
    return agent


async def test_it_is_armed_with_the_first_thing_held_and_disarmed_in_order_with_the_last(rig: Rig, dog: StandIn, cgroup: Path) -> None:
    agent = await member(rig)
    assert dog.story == ""
    await agent.take("volume", cgroup)
    await until(lambda: dog.fed() >= 4, dog)
    told = await agent.until(lambda state: bool(state["problem"]))
    assert "does not say after what time it resets the machine" in told["problem"]
    assert await agent.ask(release="volume") == ""
    await until(lambda: dog.story.endswith("|"), dog)
    assert dog.story.strip(".") == "V|"
    assert not (rig.settings.data_dir / "watchdog").exists()
    await agent.until(lambda state: not state["problem"])
    rig.send(signal.SIGTERM)
    assert rig.wait() == 0
    assert dog.story.strip(".") == "V|"
    assert rig.log.count("does not say after what time") == 1
    await agent.close()


async def test_the_next_life_of_a_killed_fence_feeds_on_and_disarms(rig: Rig, dog: StandIn, cgroup: Path) -> None:
    agent = await held(rig, cgroup)
    await until(lambda: dog.fed() >= 1, dog)
    rig.kill()
    await until(lambda: dog.story.endswith("|"), dog)
    assert "V" not in dog.story
    again = monotonic()
    rig.start()
    await until(lambda: dog.fed(again) >= 2, dog)
    await agent.close()
    rig.send(signal.SIGTERM)
    assert rig.wait() == 0
    await until(lambda: dog.story.endswith("V|"), dog)
    assert dog.story.count("|") == 2, "one that was asked to end disarms it, also while something is held: it does not hang"


async def test_it_is_fed_while_zookeeper_hangs_until_what_is_held_was_killed(
    ensemble: Ensemble, rig: Rig, dog: StandIn, cgroup: Path
) -> None:
    agent = await held(rig, cgroup)
    await until(lambda: dog.fed() >= 1, dog)
    ensemble.pause(0)
    try:
        await until(lambda: dog.story.endswith("V|"), dog)
    finally:
        ensemble.resume(0)
    times = [seen.at for seen in dog.seen]
    gaps = [after - before for before, after in pairwise(times)]
    assert max(gaps) < 1.0, f"a watchdog of the shortest time-out would have reset the machine: {gaps}"
    await agent.close()


async def test_a_fence_that_hangs_feeds_nothing(rig: Rig, dog: StandIn, cgroup: Path) -> None:
    agent = await held(rig, cgroup)
    await until(lambda: dog.fed() >= 2, dog)
    rig.send(signal.SIGSTOP)
    rig.until_stopped()
    hung = monotonic() + SEEN
    await until(lambda: monotonic() - hung > TIMING.lease + TIMING.kill, dog)
    assert dog.fed(hung) == 0
    rig.send(signal.SIGCONT)
    await until(lambda: dog.story.endswith("V|"), dog)
    await agent.close()


class Shell:
    """The watchdog's task alone, with what it is to guard in hand."""

    def __init__(self, path: str, folder: Path) -> None:
        self.guarded = Guarded()
        self.told: list[str] = []
        self.marker = Marker(folder, "this boot")
        timing = Timing(session=0.1, lease=2.0, kill=1.0, margin=0.5)
        self.watchdog = Watchdog(path, timing, self.marker, lambda: self.guarded, self._changed)
        self.watchdog.start()

    def _changed(self) -> None:
        self.told.append(self.watchdog.problem)

    def guard(self, lease: float, *names: str) -> None:
        self.guarded = Guarded(frozenset(names), boottime() + lease)
        self.watchdog.wake()


async def test_what_cannot_be_ended_starves_it(dog: StandIn, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    shell = Shell(str(dog.path), folder)
    shell.guard(0.5, "volume")
    await until(lambda: "not fed any more: volume should have ended" in caplog.text, dog)
    late = monotonic() + SEEN
    await until(lambda: monotonic() > late + 2 * watchdog_device.SHORTEST, dog)
    assert dog.fed() > 0
    assert dog.fed(late) == 0
    assert "V" not in dog.story
    assert shell.marker.read() == str(dog.path)
    shell.guard(0.0)
    await until(lambda: dog.story.endswith("V|"), dog)
    await shell.watchdog.close()


async def test_one_left_ticking_by_a_killed_fence_is_disarmed_when_nothing_is_held_now(dog: StandIn, folder: Path) -> None:
    Marker(folder, "this boot").write(str(dog.path))
    shell = Shell(str(dog.path), folder)
    await until(lambda: dog.story == "V|", dog)
    await shell.watchdog.close()
    assert shell.marker.read() == ""
    Marker(folder, "another boot").write(str(dog.path))
    assert Marker(folder, "this boot").read() == ""


async def test_one_that_the_settings_do_not_name_any_more_is_disarmed(dog: StandIn, folder: Path) -> None:
    Marker(folder, "this boot").write(str(dog.path))
    shell = Shell("", folder)
    shell.guard(5.0, "volume")
    await until(lambda: dog.story == "V|", dog)
    await shell.watchdog.close()
    assert dog.story == "V|"
    assert shell.told == []


async def test_what_is_not_there_or_no_device_is_told_once_and_harms_nothing(
    dog: StandIn, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shell = Shell(str(folder / "none"), folder)
    for _ in range(3):
        shell.guard(5.0, "volume")
        await until(lambda: bool(shell.told), dog)
    assert shell.told == [f"{folder}/none cannot be used: No such file or directory"]
    assert caplog.text.count("No such file") == 1
    shell.guard(0.0)
    await until(lambda: shell.told[-1] == "", dog)
    await shell.watchdog.close()
    other = Shell(str(folder), folder)
    other.guard(5.0, "volume")
    await until(lambda: bool(other.told), dog)
    assert "Is a directory" in other.told[0]
    await other.watchdog.close()


def test_the_bytes_in_a_file_and_the_answer_of_one_that_knows_no_ioctl(folder: Path) -> None:
    file = folder / "file"
    file.touch()
    device = Device(str(file), Marker(folder, "this boot"), 10)
    assert device.feed(boottime() + 5) is not None
    assert device.timeout == 1.0
    assert "does not say" in device.note
    assert device.feed(boottime()) is None
    device.disarm()
    device.disarm()
    assert file.read_bytes() == b".V"
    assert not device.is_open


def test_one_that_another_program_has_is_named_so(folder: Path) -> None:
    """A terminal that is open for one program only answers like a watchdog that is in use: EBUSY, unless one is root."""
    ours, theirs = os.openpty()
    path = os.ttyname(theirs)
    fcntl.ioctl(theirs, termios.TIOCEXCL)
    Path(path).chmod(0o666)
    user = os.geteuid()
    os.seteuid(65534 if user == 0 else user)
    try:
        with pytest.raises(OSError, match=r"another program has it, systemd's RuntimeWatchdogSec or a watchdog daemon"):
            Device(path, Marker(folder, "this boot"), 10).feed(boottime() + 5)
    finally:
        os.seteuid(user)
        os.close(ours)
        os.close(theirs)
    assert Marker(folder, "this boot").read() == ""
