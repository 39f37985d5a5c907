"""The demo as a newcomer sees it: from nothing, interrupted and run again, removed without a trace."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from gestalt.appliance.layout import Layout
from gestalt.shell import Completed, child_environment, run

CLONE = Path(__file__).resolve().parents[2]
LIMIT = 110.0

pytestmark = pytest.mark.real


async def demo(word: str, environment: dict[str, str]) -> Completed:
    done = await run([sys.executable, "-m", "demo", word], limit=LIMIT, env=environment, cwd=str(CLONE))
    assert done.ok, f"demo {word}: exit {done.code}\n{done.stdout.decode()}\n{done.stderr.decode()}"
    return done


async def kill_at(words: str, environment: dict[str, str]) -> None:
    """Play the demo and kill it, with SIGKILL, when it says `words`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "demo", "up",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, stdin=asyncio.subprocess.DEVNULL,
        env=child_environment(environment), cwd=CLONE, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    said = b""
    async with asyncio.timeout(LIMIT):
        while words.encode() not in said:
            line = await process.stdout.readline()
            assert line, f"the demo ended before it said {words!r}:\n{said.decode()}"
            said += line
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def check_show(said: str) -> None:
    """Everything was shown, and no request was lost."""
    for line in (
        "Launch a web application with 3 instances",
        "is back, healthy",
        "Scale to 5 instances",
        "It goes on running",
        "make demo-down",
    ):
        assert line in said
    assert said.count(" 0 failed") == 2, said
    assert "version 1:" in said
    assert "version 2:" in said


def remains(root: Path) -> list[str]:
    """Return the command lines that speak of `root` or of its folder of sockets: daemons, shims, HAProxy."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace") if entry.name.isdigit() else ""
        except OSError:
            continue
        if str(root) in command or str(Layout(root).run) in command:
            found.append(command)
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("runtime", ["docker", "process"])
async def test_the_demo_works_after_an_interruption_and_leaves_nothing(tmp_path: Path, runtime: str) -> None:
    root = tmp_path / "demo"
    environment = {"DEMO_ROOT": str(root), "DEMO_RUNTIME": runtime}
    try:
        await kill_at("Kill an instance", environment)
        done = await demo("up", environment)
        check_show(done.stdout.decode())
    finally:
        await demo("down", environment)
    assert not root.exists()
    assert not Layout(root).run.exists()
    assert not remains(root)
    await demo("down", environment)
