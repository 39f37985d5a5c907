"""What a fence leaves behind ends what is held when nobody else does: whatever became of the folder, and whoever else looks into it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gestalt.agent.fence.lease import Held, Holding, closed, holding, renewed
from gestalt.agent.fence.rearguard import Rearguard, has_acted, leave
from gestalt.agent.fence.saved import HeldFile, SavedFile
from gestalt.agent.fence.service import life_id, start_fence
from gestalt.agent.fence.settings import FenceSettings, ZooKeeperSettings
from gestalt.clock import boottime, monotonic
from gestalt.daemon import Life
from gestalt.errors import GestaltError

BOOT, KILL = "b", 0.4
CGROUP = "/sys/fs/cgroup/pids/none/x"
LIMIT = 10.0


def held(lease: float = 0.1) -> Held:
    return holding(Held(BOOT, 3, boottime() + lease), "volume", Holding((CGROUP,), "volume", 1))


class Guard:
    """One that kills nothing, and notes what it would kill. `resists`: how often that does not end. `then`: is done at that."""

    def __init__(self, folder: Path, resists: int = 0, then: Callable[[], object] = int) -> None:
        self.killed: list[str] = []
        self._resists = resists
        self._then = then
        self.guard = Rearguard(folder, HeldFile(folder).load(), KILL, self._end)

    def _end(self, path: Path, _: float) -> bool:
        self.killed.append(str(path))
        self._then()
        return len(self.killed) > self._resists


KNOWN = holding(Held(BOOT, 3, 10.0), "volume", Holding((CGROUP,), "volume", 1))


@pytest.mark.parametrize(
    ("found", "acted"),
    [
        pytest.param(KNOWN, False, id="nothing has changed"),
        pytest.param(Held(), False, id="there is no file"),
        pytest.param(replace(KNOWN, until=9.0), False, id="it took over, and has renewed nothing"),
        pytest.param(renewed(KNOWN, 3, BOOT, 3.0, 8.0), True, id="it has renewed"),
        pytest.param(closed(KNOWN, "volume"), True, id="it has ended it"),
        pytest.param(replace(KNOWN, incarnation=4), True, id="another membership"),
        pytest.param(replace(KNOWN, boot="c"), True, id="another life"),
    ],
)
def test_a_fence_sees_to_it_when_it_has_written(found: Held, acted: bool) -> None:
    assert has_acted(KNOWN, found) is acted


def test_it_ends_what_is_held_with_the_lease_and_writes_it_down(tmp_path: Path) -> None:
    HeldFile(tmp_path).save(before := held())
    guard = Guard(tmp_path)
    guard.guard.run()
    assert boottime() >= before.until
    assert guard.killed == [CGROUP]
    assert not HeldFile(tmp_path).load().live


@pytest.mark.parametrize("spoil", [Path.unlink, lambda file: file.write_text("{")], ids=["gone", "damaged"])
def test_a_file_that_does_not_tell_ends_nothing(spoil: Callable[[Path], object], tmp_path: Path) -> None:
    HeldFile(tmp_path).save(held())
    guard = Guard(tmp_path)
    spoil(tmp_path / "held.json")
    guard.guard.run()
    assert guard.killed == [CGROUP]


def test_a_folder_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    HeldFile(folder).save(held())
    guard = Guard(folder)
    shutil.rmtree(folder)
    guard.guard.run()
    assert guard.killed == [CGROUP]
    assert not folder.exists()


def test_a_file_on_a_disk_that_hangs_keeps_nothing_alive(tmp_path: Path) -> None:
    HeldFile(tmp_path).save(before := held())
    guard, file = Guard(tmp_path), tmp_path / "held.json"
    file.unlink()
    os.mkfifo(file)  # whoever reads it waits for somebody who writes
    guard.guard.run()
    assert guard.killed == [CGROUP]
    assert boottime() < before.until + KILL, "in the time that ending it may take"
    os.close(os.open(file, os.O_WRONLY | os.O_NONBLOCK))


def test_a_lock_on_a_disk_that_hangs_keeps_nothing_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    HeldFile(tmp_path).save(before := held())
    guard, answers, asked = Guard(tmp_path, resists=1), threading.Event(), []

    def hangs(_: SavedFile, *, make: bool) -> None:
        asked.append(make)
        answers.wait(LIMIT)

    monkeypatch.setattr(SavedFile, "lock", hangs)
    guard.guard.run()
    assert guard.killed == [CGROUP, CGROUP]
    assert asked == [False], "asked once, since it hangs"
    assert HeldFile(tmp_path).load() == before
    answers.set()


def test_a_fence_that_starts_and_comes_to_nothing_is_waited_for(tmp_path: Path) -> None:
    HeldFile(tmp_path).save(held())
    guard, fence = Guard(tmp_path), SavedFile(tmp_path)
    fence.lock()
    ends = threading.Timer(0.5, fence.unlock)
    ends.start()
    guard.guard.run()
    ends.join()
    assert guard.killed == [CGROUP]


def test_a_fence_that_renews_is_left_alone(tmp_path: Path) -> None:
    HeldFile(tmp_path).save(before := held())
    guard, fence = Guard(tmp_path), SavedFile(tmp_path)
    fence.lock()
    renews = threading.Timer(0.5, lambda: HeldFile(tmp_path).save(renewed(before, 3, BOOT, boottime(), 8.0)))
    renews.start()
    guard.guard.run()
    renews.join()
    assert not guard.killed
    fence.unlock()


def test_a_fence_that_has_renewed_is_seen_long_before_the_lease_is_over(tmp_path: Path) -> None:
    """By its end the disk may not tell."""
    HeldFile(tmp_path).save(before := held(30.0))
    guard, fence = Guard(tmp_path), SavedFile(tmp_path)
    fence.lock()
    HeldFile(tmp_path).save(renewed(before, 3, BOOT, boottime(), 60.0))
    guard.guard.run()
    assert boottime() < before.until
    assert not guard.killed
    fence.unlock()


def test_a_renewal_that_was_the_last_one_of_a_fence_that_ended_counts_for_no_other(tmp_path: Path) -> None:
    HeldFile(tmp_path).save(before := held())
    guard = Guard(tmp_path)
    HeldFile(tmp_path).save(later := renewed(before, 3, BOOT, boottime(), 1.5))
    guard.guard.run()
    assert boottime() >= later.until
    assert guard.killed == [CGROUP]


def test_a_lock_that_is_had_late_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    HeldFile(tmp_path).save(held())
    guard, lock, asked = Guard(tmp_path, resists=2), SavedFile.lock, []

    def slow(self: SavedFile, *, make: bool) -> None:
        asked.append(make)
        threading.Event().wait(KILL / 2 if len(asked) == 1 else 0.0)
        lock(self, make=make)

    monkeypatch.setattr(SavedFile, "lock", slow)
    guard.guard.run()
    assert guard.killed == [CGROUP] * 3
    assert len(asked) > 1, "it is asked again, once it has answered"
    assert not HeldFile(tmp_path).load().live


def test_what_resists_keeps_no_fence_out(tmp_path: Path) -> None:
    HeldFile(tmp_path).save(before := held())
    fence = SavedFile(tmp_path)

    def get_in() -> None:
        end = monotonic() + LIMIT
        while not fence.locked and monotonic() < end:
            with contextlib.suppress(GestaltError):
                fence.lock()
            threading.Event().wait(0.02)
        HeldFile(tmp_path).save(renewed(before, 3, BOOT, boottime(), 8.0))

    starts = threading.Thread(target=get_in)
    guard = Guard(tmp_path, resists=1, then=starts.start)
    guard.guard.run()
    starts.join()
    assert guard.killed == [CGROUP], "the fence sees to it"
    fence.unlock()


def test_what_resists_is_killed_again(tmp_path: Path) -> None:
    HeldFile(tmp_path).save(held())
    guard = Guard(tmp_path, resists=1)
    guard.guard.run()
    assert guard.killed == [CGROUP, CGROUP]
    assert not HeldFile(tmp_path).load().live


def test_that_none_can_be_left_is_told_and_harms_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fork() -> int:
        raise BlockingIOError(errno.EAGAIN, "no process to be had")

    monkeypatch.setattr(os, "fork", fork)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    leave(tmp_path, held(), KILL)
    assert [(record.levelno, "nobody ends what is held" in record.message) for record in caplog.records] == [(logging.CRITICAL, True)]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def until_free(folder: Path) -> None:
    """Return when a fence could start, within a moment."""
    end, file = monotonic() + 2.0, SavedFile(folder)
    while not file.locked:
        try:
            file.lock()
        except GestaltError:
            assert monotonic() < end, "it keeps the next fence out"
            threading.Event().wait(0.02)
    file.unlock()


ENDS_BADLY = """
import asyncio, logging, sys
from pathlib import Path
from types import SimpleNamespace
from gestalt.agent.fence import main as command, saved, service
from gestalt.journal import Journal, Stream
from gestalt.log import JournalHandler

class Erased:
    def find_spec(self, name, path=None, target=None):
        raise ImportError(f"{name} was erased")

file = saved.SavedFile(Path(sys.argv[1]))
logging.getLogger().addHandler(JournalHandler(Journal(Path(sys.argv[1]) / "journal"), Stream(2), {}))

async def start_fence(settings, life):
    file.lock()
    return SimpleNamespace(held=saved.HeldFile(Path(sys.argv[1])).load())

async def live(build):
    await build(SimpleNamespace(data_dir=Path(sys.argv[1]), timing=SimpleNamespace(kill=1.0)), None)
    sys.meta_path.insert(0, Erased())
    raise RuntimeError("this is no end in order")

def daemon_command(name, kind, config, build, *, load):
    asyncio.run(live(build))

service.start_fence, command.daemon_command = start_fence, daemon_command
command.main()
"""


@pytest.mark.parametrize("has_journal", [True, False])
def test_one_is_left_however_the_fence_ends_and_keeps_nothing_of_it_open(has_journal: bool, tmp_path: Path) -> None:
    """The fence has not let go of its lock, and its program is erased meanwhile. What is said arrives, also where the first way is shut."""
    HeldFile(tmp_path).save(holding(Held(life_id(), 3, boottime() + 60.0), "volume", Holding((), "volume", 1)))
    journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    if has_journal:
        journal.bind(str(tmp_path / "journal"))
    ours, theirs = socket.socketpair()
    command = (sys.executable, "-c", ENDS_BADLY, str(tmp_path))
    with subprocess.Popen(command, stderr=theirs, start_new_session=True) as fence:
        try:
            assert fence.wait(LIMIT) == 1
            until_free(tmp_path)
            os.killpg(fence.pid, signal.SIGTERM)
            theirs.close()
            ours.settimeout(LIMIT)
            said = ours.makefile().read()  # it ends with the last one who could say something
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(fence.pid, signal.SIGKILL)
    assert "this is no end in order" in said
    with journal, ours:
        told = "".join(journal.recv(4096).decode() for _ in range(2)) if has_journal else said
    assert "agent.fence.rearguard: no fence is here" in told
    assert "agent.fence.rearguard: volume was ended" in told
    assert not HeldFile(tmp_path).load().live


IS_TOLD_AGAIN = """
import asyncio, os, signal
from gestalt.agent.fence.main import main

class Runner(asyncio.Runner):
    def close(self):
        super().close()
        os.kill(os.getpid(), signal.SIGTERM)

asyncio.Runner = Runner
main()
"""


SETTINGS = """
node_id: n
node_name: one
cluster_id: c
zookeeper: {{hosts: ["127.0.0.1:1"]}}
timing: {{lease: 60.0}}
data_dir: {folder}/data
socket: {folder}/socket
watchdog: ""
"""


@contextlib.contextmanager
def fence_at_work(folder: Path, program: str) -> Iterator[subprocess.Popen[str]]:
    """A fence that holds something, as it did in a former life; it reaches no ZooKeeper. What it leaves is in its process group."""
    (folder / "data").mkdir()
    HeldFile(folder / "data").save(holding(Held(life_id(), 3, boottime() + 60.0), "volume", Holding((), "volume", 1)))
    (folder / "fence.yaml").write_text(SETTINGS.format(folder=folder))
    command = (sys.executable, "-c", program, "--config", str(folder / "fence.yaml"))
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as fence:
        try:
            end = monotonic() + LIMIT
            while not (folder / "socket").exists():
                assert monotonic() < end, f"it does not start; its exit code: {fence.poll()}"
                threading.Event().wait(0.02)
            yield fence
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(fence.pid, signal.SIGKILL)


def said_by_the_one_left(fence: subprocess.Popen[str]) -> str:
    """Have it told to end, and return what it said until it had."""
    os.killpg(fence.pid, signal.SIGTERM)
    assert fence.stderr is not None
    return fence.stderr.read()


def test_one_is_left_by_a_fence_that_is_told_to_end_once_more_after_its_loop(tmp_path: Path) -> None:
    with fence_at_work(tmp_path, IS_TOLD_AGAIN) as fence:
        fence.send_signal(signal.SIGTERM)
        assert fence.wait(LIMIT) == -signal.SIGTERM
        assert "volume was ended" in said_by_the_one_left(fence)


def test_one_is_left_by_a_fence_whose_data_were_erased(tmp_path: Path) -> None:
    with fence_at_work(tmp_path, "from gestalt.agent.fence.main import main; main()") as fence:
        shutil.rmtree((tmp_path / "data").rename(tmp_path / "erased"))  # it may be writing
        fence.send_signal(signal.SIGTERM)
        assert fence.wait(LIMIT) == 0
        assert "volume was ended" in said_by_the_one_left(fence)
    assert not (tmp_path / "data").exists()


async def test_a_stop_that_is_cut_short_lets_the_next_fence_in(tmp_path: Path) -> None:
    servers = ZooKeeperSettings(("127.0.0.1:1",))
    settings = FenceSettings("n", "one", "c", servers, data_dir=tmp_path, socket=tmp_path / "socket", watchdog="")
    fence = await start_fence(settings, Life())
    stopping = asyncio.create_task(fence.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    next_one = SavedFile(tmp_path)
    next_one.lock()
    next_one.unlock()
    await fence.stop()
