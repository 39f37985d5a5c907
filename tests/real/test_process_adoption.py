"""Processes outlive their agent, and no interruption of a start runs anything twice or loses it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gestalt import shell
from gestalt.clock import boot_id
from gestalt.config import AgentSettings
from gestalt.files import write_atomic
from gestalt.plugin.runtime import AttemptKey, AttemptState, LaunchRefused
from gestalt.plugins.runtime.process_records import AttemptFolder, Labels
from gestalt.plugins.runtime.process_supervisor import shim_command

from .process_lab import PATH, PATIENCE, clean_driver, driver, ended, exists, first_line, lines, order, settings_for, until

AGENT = Path(__file__).with_name("process_agent.py")
KEY = AttemptKey("app-aaaaaa-1", 1)


@pytest.fixture
def settings(tmp_path: Path) -> AgentSettings:
    return settings_for(tmp_path)


@asynccontextmanager
async def agent(settings: AgentSettings, *launches: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(sys.executable, str(AGENT), settings.model_dump_json(), *launches, stdout=PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def told(process: Process, word: bytes) -> None:
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        assert await process.stdout.readline() == word + b"\n"


def folder_of(settings: AgentSettings, key: AttemptKey = KEY) -> Path:
    return settings.data_dir / "process" / f"gestalt-{settings.cluster_id[:8]}-{key.instance}-{key.attempt}"


async def test_a_killed_agent_leaves_everything_running_and_the_next_adopts_it(settings: AgentSettings, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with agent(settings, "runs-1=echo $$; exec sleep 1000", f"ends-1=while [ ! -e {gate} ]; do sleep 0.02; done; exit 7") as process:
        await told(process, b"go")
        await told(process, b"done")
    assert process.returncode == -signal.SIGKILL
    gate.touch()  # it ends while there is no agent

    async with clean_driver(settings) as runtime:
        woken: list[AttemptKey | None] = []
        runtime.subscribe(woken.append)
        assert (await ended(runtime, AttemptKey("ends-1", 1))).exit_code == 7
        status = await runtime.inspect(AttemptKey("runs-1", 1))
        assert status is not None
        assert status.state is AttemptState.RUNNING
        assert await lines(runtime, status.key) == [f"{status.pid}\n".encode()]  # one start, and it is the same process
        os.kill(status.pid, signal.SIGTERM)
        await until("a wake-up for the adopted process", lambda: status.key in woken)
        assert (await ended(runtime, status.key)).exit_code == 128 + signal.SIGTERM


async def test_the_end_is_seen_as_it_was_however_slow_the_loop_is(settings: AgentSettings) -> None:
    """What is read and what is made of it must not be torn apart: the shim may leave in between."""

    async def hold_up() -> None:
        while True:
            time.sleep(0.015)  # noqa: ASYNC251 - blocking the loop is the point
            await asyncio.sleep(0)

    async with clean_driver(settings) as runtime:
        blocker = asyncio.ensure_future(hold_up())
        for number in range(6):
            key = AttemptKey(f"app-{number}", 1)
            await runtime.launch(order("exit 3", key))
            ends = await asyncio.gather(*(ended(runtime, key) for _ in range(3)))
            assert {(end.exit_code, end.error) for end in ends} == {(3, "")}
        blocker.cancel()


@pytest.mark.parametrize("seed", range(3))
async def test_an_agent_killed_at_any_moment_of_a_start_starts_nothing_twice(settings: AgentSettings, tmp_path: Path, seed: int) -> None:
    moments = random.Random(seed)
    rounds = 3
    for number in range(rounds):
        key, marker = AttemptKey(f"app-{number}", 1), tmp_path / f"marker-{number}"
        script = f"echo started >> {marker}; exec sleep 1000"
        async with agent(settings, f"{key.instance}={script}") as process:
            await told(process, b"go")
            await asyncio.sleep(moments.uniform(0, 0.06))  # the moment of the kill is what is tested
        async with driver(settings) as runtime:
            status = await runtime.launch(order(script, key))
            assert status.state is AttemptState.RUNNING
            await until("the start", marker.exists)
            assert [s.key for s in await runtime.list()].count(key) == 1
    async with clean_driver(settings):
        assert [(tmp_path / f"marker-{number}").read_text() for number in range(rounds)] == ["started\n"] * rounds


class TestHalfDoneStarts:
    """Each state in which a kill can leave the disk."""

    async def test_a_folder_that_was_never_finished_is_swept(self, settings: AgentSettings) -> None:
        half = settings.data_dir / "process" / ".unfinished-abc"
        half.mkdir(parents=True)
        (half / "labels").write_text("{")
        async with clean_driver(settings) as runtime:
            assert await runtime.list() == []
            assert not half.exists()

    async def test_on_record_but_never_started_is_created_and_then_starts(self, settings: AgentSettings) -> None:
        async with clean_driver(settings) as runtime:
            await self.put_on_record(settings, "echo one")
            status = await runtime.inspect(KEY)
            assert status is not None
            assert status.state is AttemptState.CREATED
            await runtime.launch(order("echo one", KEY))
            await ended(runtime, KEY)
            assert await lines(runtime, KEY) == [b"one\n"]

    async def test_never_started_can_be_removed(self, settings: AgentSettings) -> None:
        async with clean_driver(settings) as runtime:
            await self.put_on_record(settings, "echo one")
            await runtime.stop(KEY, "SIGTERM", 1.0)
            await runtime.remove(KEY)
            assert await runtime.list() == []

    @pytest.mark.parametrize("round_", range(3))
    async def test_shims_that_start_at_once_run_one_process(self, settings: AgentSettings, tmp_path: Path, round_: int) -> None:
        """As when the shim of a killed agent is still starting and the next agent starts one too."""
        marker = tmp_path / f"marker-{round_}"
        async with clean_driver(settings) as runtime:
            folder = await self.put_on_record(settings, f"echo started >> {marker}; exec sleep 1000")
            shim = next(folder.path.parent.glob(".shim-*/process_shim/__main__.pyc"))
            race = (shell.run(shim_command(shim, "start", str(folder.path)), limit=PATIENCE) for _ in range(8))
            outcomes = [racer.stdout for racer in await asyncio.gather(*race)]
            assert outcomes.count(b"started") == 1
            assert set(outcomes) <= {b"started", b"busy", b"already"}
            assert (await runtime.launch(order("", KEY))).state is AttemptState.RUNNING
            await until("the start", marker.exists)
            assert marker.read_text() == "started\n"

    async def test_a_start_that_another_shim_has_begun_is_waited_for(self, settings: AgentSettings) -> None:
        async with clean_driver(settings) as runtime:
            folder = await self.put_on_record(settings, "echo one")
            with folder.unsupervised(1.0):  # what the other shim holds
                launch = asyncio.ensure_future(runtime.launch(order("echo one", KEY)))
                await until("the second shim to come", (folder.path / "shim.err").exists)
                assert not launch.done()
                boot = boot_id()
                write_atomic(folder.path / "started", f"boot={boot}\nshim=1\nshim_start=0\npid=1\nstart=0\n")
                write_atomic(folder.path / "ended", "code=0\noom=0\n")
                assert (await launch).exit_code == 0

    async def test_a_shim_killed_before_the_end_takes_everything_along_and_is_told(self, settings: AgentSettings) -> None:
        async with clean_driver(settings) as runtime:
            woken: list[AttemptKey | None] = []
            runtime.subscribe(woken.append)
            status = await runtime.launch(order("setsid sleep 1000 & echo $!; exec sleep 1000", KEY))
            grandchild = int(await first_line(runtime, KEY))
            records = AttemptFolder(folder_of(settings)).read(boot_id())
            assert records is not None
            assert records.started is not None
            os.kill(records.started.shim.pid, signal.SIGKILL)
            await until("a wake-up", lambda: KEY in woken)
            end = await ended(runtime, KEY)
            assert (end.exit_code, end.error) == (None, "its supervisor was killed before it could record how the process ended")
            await until("the process to die", lambda: not exists(status.pid))
            await until("its child to die", lambda: not exists(grandchild))
            assert (await runtime.launch(order("echo never", KEY))).error == end.error

    async def test_a_process_dies_with_its_shim_even_when_no_agent_looks(self, settings: AgentSettings) -> None:
        async with driver(settings) as runtime:
            status = await runtime.launch(order("exec sleep 1000", KEY))
        records = AttemptFolder(folder_of(settings)).read(boot_id())
        assert records is not None
        assert records.started is not None
        os.kill(records.started.shim.pid, signal.SIGKILL)
        await until("the process to die", lambda: not exists(status.pid))
        async with clean_driver(settings) as runtime:
            assert "its supervisor was killed" in (await ended(runtime, KEY)).error

    async def test_a_reused_pid_is_not_taken_for_the_process(self, settings: AgentSettings) -> None:
        async with clean_driver(settings) as runtime:
            folder = await self.put_on_record(settings, "true")
            someone = await asyncio.create_subprocess_exec("sleep", "60")
            try:
                pid = someone.pid
                write_atomic(folder.path / "started", f"boot={boot_id()}\nshim={pid}\nshim_start=1\npid={pid}\nstart=1\n")
                status = await runtime.inspect(KEY)
                assert status is not None
                assert (status.state, status.pid) == (AttemptState.EXITED, 0)
                await runtime.stop(KEY, "SIGKILL", 0.0)
                await runtime.remove(KEY)
                assert exists(pid)
            finally:
                someone.kill()
                await someone.wait()

    async def test_what_ran_before_a_reboot_has_ended(self, settings: AgentSettings) -> None:
        async with clean_driver(settings) as runtime:
            folder = await self.put_on_record(settings, "true")
            start = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
            write_atomic(folder.path / "started", f"boot=other\nshim={os.getpid()}\nshim_start={start}\npid={os.getpid()}\nstart={start}\n")
            for status in (await runtime.inspect(KEY), await runtime.launch(order("true", KEY))):
                assert status is not None
                assert (status.state, status.exit_code, status.error) == (AttemptState.EXITED, None, "the node was rebooted")
            await runtime.stop(KEY, "SIGKILL", 0.0)

    async def test_a_refusal_that_nobody_heard_is_told_again_and_cleared(self, settings: AgentSettings) -> None:
        async with clean_driver(settings) as runtime:
            folder = await self.put_on_record(settings, "true")
            write_atomic(folder.path / "ended", "refused=the command was not found\n")
            with pytest.raises(LaunchRefused, match="the command was not found"):
                await runtime.launch(order("true", KEY))
            assert await runtime.list() == []

    async def put_on_record(self, settings: AgentSettings, script: str) -> AttemptFolder:
        """Leave what an agent leaves that was killed before it started the shim."""
        folder = AttemptFolder(folder_of(settings))
        labels = Labels(settings.cluster_id, settings.node_id, KEY.instance, KEY.attempt, PATH, "t-1", "shim")
        fields = [("arg", "/bin/sh"), ("arg", "-c"), ("arg", script), ("log_max_size", "10000"), ("log_max_files", "2")]
        await asyncio.to_thread(folder.create, labels, fields)
        return folder
