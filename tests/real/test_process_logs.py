"""Logs of the shim: rotation, following across it, a full disk; and what one shim costs."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from gestalt.clock import boot_id
from gestalt.config import AgentSettings
from gestalt.plugin.runtime import AttemptKey, LogOptions
from gestalt.plugins.runtime.process import ProcessRuntime
from gestalt.plugins.runtime.process_records import AttemptFolder
from gestalt.spec.schema import Logging

from .process_lab import PATIENCE, clean_driver, driver, ended, first_line, lines, order, settings_for, until


@pytest.fixture
def settings(tmp_path: Path) -> AgentSettings:
    return settings_for(tmp_path, log_max_size=20_000)


@pytest.fixture
async def runtime(settings: AgentSettings) -> AsyncIterator[ProcessRuntime]:
    async with clean_driver(settings) as runtime:
        yield runtime


def folder_of(settings: AgentSettings, name: str) -> Path:
    return settings.data_dir / "process" / name


async def test_logs_are_rotated_and_the_newest_are_kept(settings: AgentSettings, runtime: ProcessRuntime) -> None:
    status = await runtime.launch(order("seq 1 20000", logging=Logging(max_size=10_000, max_files=3)))
    await ended(runtime, status.key)
    files = sorted(path for path in folder_of(settings, status.runtime_id).iterdir() if path.name.startswith("log."))
    assert len(files) == 3
    assert all(path.stat().st_size <= 10_000 for path in files[:-1])
    found = [int(line) for line in await lines(runtime, status.key)]
    assert found == list(range(found[0], 20_001))
    assert await lines(runtime, status.key, tail=400) == [f"{number}\n".encode() for number in range(19_601, 20_001)]


async def test_the_node_bounds_the_size_of_logs(settings: AgentSettings, runtime: ProcessRuntime) -> None:
    status = await runtime.launch(order("seq 1 5000", logging=Logging(max_size=10**9, max_files=2)))
    await ended(runtime, status.key)
    files = [path for path in folder_of(settings, status.runtime_id).iterdir() if path.name.startswith("log.")]
    assert sum(path.stat().st_size for path in files) <= 40_000


async def test_a_follower_loses_nothing_over_rotations(runtime: ProcessRuntime) -> None:
    script = "n=0; while [ $n -lt 3000 ]; do n=$((n + 1)); echo $n; [ $((n % 100)) = 0 ] && sleep 0.01; done; true"
    status = await runtime.launch(order(script, logging=Logging(max_size=20_000, max_files=4)))
    async with asyncio.timeout(PATIENCE):
        found = [int(line.data) async for line in runtime.logs(status.key, LogOptions(follow=True))]
    assert found == list(range(1, 3001))


async def test_followers_go_away_and_others_stay(runtime: ProcessRuntime) -> None:
    status = await runtime.launch(order("echo first; read line; trap 'echo last; exit' TERM; while :; do sleep 0.02; done"))
    await first_line(runtime, status.key)

    async def follow() -> list[bytes]:
        return [line.data async for line in runtime.logs(status.key, LogOptions(follow=True))]

    stays, goes = asyncio.ensure_future(follow()), asyncio.ensure_future(follow())
    await asyncio.sleep(0)
    goes.cancel()
    await asyncio.gather(goes, return_exceptions=True)
    await runtime.stop(status.key, "SIGTERM", 5.0)
    async with asyncio.timeout(PATIENCE):
        assert await stays == [b"first\n", b"last\n"]


async def test_no_logs_when_they_are_not_wanted(settings: AgentSettings, runtime: ProcessRuntime) -> None:
    status = await runtime.launch(order("echo one", logging=Logging(driver="none")))
    await ended(runtime, status.key)
    assert await lines(runtime, status.key) == []
    assert list(folder_of(settings, status.runtime_id).glob("log.*")) == []


class TestFullDisk:
    @pytest.fixture
    def disk(self, tmp_path: Path) -> Iterator[Path]:
        place = tmp_path / "disk"
        place.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)], check=False)
        if mounted.returncode:
            pytest.skip("no right to mount here")
        try:
            yield place
        finally:
            subprocess.run(["umount", "-l", str(place)], check=True)

    async def test_a_full_disk_loses_output_but_neither_the_process_nor_its_end(self, disk: Path, tmp_path: Path) -> None:
        async with clean_driver(settings_for(disk)) as runtime:
            filler, full = disk / "filler", tmp_path / "full"
            chatter = "n=0; while [ $n -lt 600 ]; do echo $LINE; n=$((n + 1)); done"
            script = f"echo early; {chatter}; touch {full}; while [ -e {filler} ]; do sleep 0.02; done; echo late; exit 5"
            filler.write_bytes(b"x" * 150_000)  # more than a pipe still holds when the chatter ends
            status = await runtime.launch(order(script, env={"LINE": "x" * 1000}))
            await until("the end of its chatter", full.exists)
            assert os.statvfs(disk).f_bavail <= 4
            filler.unlink()
            end = await ended(runtime, status.key)
            assert (end.exit_code, end.error) == (5, "")
            found = await lines(runtime, status.key)
            assert found[0] == b"early\n"
            assert b"[gestalt: output was lost here, the disk was full]\n" in found
            assert found[-1] == b"late\n"

    async def test_the_end_is_recorded_where_nothing_more_fits(self, disk: Path, tmp_path: Path) -> None:
        async with clean_driver(settings_for(disk)) as runtime:
            gate = tmp_path / "gate"
            status = await runtime.launch(order(f"while [ ! -e {gate} ]; do sleep 0.02; done; exit 6"))
            with (disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
                while True:
                    filler.write(b"x" * 4096)
            assert os.statvfs(disk).f_bavail == 0
            gate.touch()
            end = await ended(runtime, status.key)
            assert (end.exit_code, end.error) == (6, "")


async def test_a_shim_starts_fast_and_stays_small(settings: AgentSettings) -> None:
    """Generous bounds for a busy machine; the figures are printed."""
    async with clean_driver(settings) as runtime:
        spans = []
        for number in range(7):
            begin = time.perf_counter()
            status = await runtime.launch(order("exec sleep 1000", AttemptKey(f"app-{number}", 1)))
            spans.append((time.perf_counter() - begin) * 1000)
        records = AttemptFolder(folder_of(settings, status.runtime_id)).read(boot_id())
    assert records is not None
    assert records.started is not None
    print(f"launch: median {statistics.median(spans):.0f} ms, {min(spans):.0f} to {max(spans):.0f} ms")
    assert statistics.median(spans) < 250


async def test_the_shim_takes_about_ten_megabytes_most_of_them_shared(settings: AgentSettings) -> None:
    async with clean_driver(settings) as runtime:
        status = await runtime.launch(order("echo up; exec sleep 1000"))
        await first_line(runtime, status.key)
        records = AttemptFolder(folder_of(settings, status.runtime_id)).read(boot_id())
        assert records is not None
        assert records.started is not None
        memory = dict(line.split(":") for line in Path(f"/proc/{records.started.shim.pid}/status").read_text().splitlines() if ":" in line)
        print(f"shim: {memory['VmRSS'].strip()} resident, {memory['RssAnon'].strip()} of its own")
        assert int(memory["VmRSS"].split()[0]) < 11_000
        assert int(memory["RssAnon"].split()[0]) < 5_000


async def test_two_drivers_may_read_the_same_logs(settings: AgentSettings, runtime: ProcessRuntime) -> None:
    status = await runtime.launch(order("echo one; exec sleep 1000"))
    await first_line(runtime, status.key)
    async with driver(settings) as other:
        assert await lines(other, status.key) == [b"one\n"]
