"""Daemons without systemd are found by what the kernel says of them, and ended for good."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from gestalt.appliance.processes import Running, end, find, known_by
from gestalt.clock import monotonic
from gestalt.shell import spawn_detached

LIMIT = 10.0
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
OBEDIENT = "import time; time.sleep(600)"


async def start(folder: Path, code: str) -> tuple[list[Running], str]:
    """Start a program called gestalt-sample with a settings file of its own; return how it was found, and the file."""
    program, config, output = folder / "gestalt-sample", str(folder / "sample.yaml"), folder / "output"
    program.write_text(code, encoding="utf-8")
    pid = spawn_detached([sys.executable, str(program), "--config", config], output)
    assert known_by(pid).is_alive(), "it counts before the kernel shows its arguments, which may take a while"
    deadline = monotonic() + LIMIT
    while not (found := find("gestalt-sample", config)) or ("deaf" in code and "deaf" not in output.read_text()):
        assert monotonic() < deadline, f"process {pid} was not found; it said {output.read_text()!r}"
        await asyncio.sleep(0.01)
    assert [process.pid for process in found] == [pid]
    return found, config


async def test_a_daemon_is_found_and_ended(tmp_path: Path) -> None:
    found, config = await start(tmp_path, OBEDIENT)
    assert 0 <= found[0].age < LIMIT
    assert find("gestalt-sample", config + ".other") == []
    assert await end(found, LIMIT)
    assert find("gestalt-sample", config) == [], "a zombie counts as ended"
    assert await end(found, LIMIT), "ending what has ended is nothing to do"


async def test_a_deaf_daemon_is_killed(tmp_path: Path) -> None:
    found, config = await start(tmp_path, STUBBORN)
    assert not await end(found, 0.2)
    assert find("gestalt-sample", config) == []


async def test_another_process_with_the_same_pid_is_never_touched(tmp_path: Path) -> None:
    found, _ = await start(tmp_path, OBEDIENT)
    reused = Running(found[0].pid, found[0].started - 1)
    assert not reused.is_alive()
    assert await end([reused], 0)
    assert found[0].is_alive()
    await end(found, LIMIT)
