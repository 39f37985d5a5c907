"""Signs of life for systemd's watchdog: the real daemons tell a real notify socket that they work, and nothing when they hang."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gestalt.appliance.init import InitOptions, initialise
from gestalt.appliance.layout import Layout
from gestalt.shell import child_environment

pytestmark = pytest.mark.real

LIMIT = 20.0
INTERVAL = 1.0
"""Seconds within which the service manager wants a sign."""

SIGN = ["WATCHDOG=1"]
HANGS = """
import signal, sys, time

def hang(*_):
    print("hangs", flush=True)
    time.sleep(3600)

signal.signal(signal.SIGUSR1, hang)
"""
AGENT = HANGS + "from gestalt.agent.main import main\nsys.exit(main())\n"
COORDINATOR = HANGS + "from gestalt.coordinator.main import main\nsys.exit(main())\n"
STUCK = """
import asyncio, sys
from pathlib import Path
from gestalt.agent import engine
from gestalt.agent.board import Board
from gestalt.config import AgentSettings
from gestalt.daemon import daemon_command

class Once:
    name = "once"
    turns = 0

    async def ensure(self):
        self.turns += 1
        if self.turns > 1:
            print("stuck", flush=True)
            await asyncio.Event().wait()

    async def close(self):
        pass

async def build(settings, life):
    agent = engine.Engine(settings.model_copy(update={"resync": 0.1}), (Once(),), Board(), life)
    await agent.start()
    return agent

engine.TURN_MAX = 3.0
sys.exit(daemon_command("agent", AgentSettings, Path("/nowhere"), build))
"""


class Daemon:
    """A daemon that runs, and what it tells the service manager."""

    def __init__(self, process: asyncio.subprocess.Process, channel: socket.socket) -> None:
        self.process = process
        self._channel = channel

    async def told(self, limit: float = LIMIT) -> list[str]:
        async with asyncio.timeout(limit):
            return (await asyncio.get_running_loop().sock_recv(self._channel, 4096)).decode().splitlines()

    async def until_told(self, lines: list[str]) -> None:
        async with asyncio.timeout(LIMIT):
            while await self.told() != lines:
                pass

    async def until_said(self, line: str) -> None:
        assert self.process.stdout is not None
        async with asyncio.timeout(LIMIT):
            while (seen := (await self.process.stdout.readline()).decode()).strip() != line:
                assert seen, f"it ended without saying {line!r}"

    async def until_silent(self) -> int:
        """Return how many signs came until there was none for three intervals."""
        signs = 0
        async with asyncio.timeout(LIMIT):
            while True:
                try:
                    assert await self.told(3 * INTERVAL) == SIGN
                except TimeoutError:
                    return signs
                signs += 1


@contextlib.asynccontextmanager
async def daemon(folder: Path, program: str, settings: Path) -> AsyncIterator[Daemon]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as channel:
        channel.bind(str(folder / "notify"))
        environment = {**child_environment(), "NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": str(int(INTERVAL * 1e6))}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, "--config", str(settings),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment,
        )  # fmt: skip
        try:
            yield Daemon(process, channel)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def prepare(folder: Path, kind: str) -> tuple[str, Path]:
    """Return a daemon's program and settings. What it would speak to is not there: it works without."""
    layout = Layout(folder)
    initialise(layout, InitOptions(node_name="n", runtimes=("process",)))
    settings = layout.agent_settings if kind == "agent" else layout.coordinator_settings
    document: dict[str, Any] = yaml.safe_load(settings.read_text(encoding="utf-8"))
    if kind == "agent":
        document |= {"coordinators": ["127.0.0.1:1"], "health_port": 0, "proxy": {"enabled": False}}
    else:
        document |= {"listen": "127.0.0.1:0"}
    if kind == "coordinator of a cluster":
        document |= {"mode": "cluster", "store": {"kind": "zookeeper"}, "zookeeper": {"hosts": ["127.0.0.1:1"]}}
    settings.write_text(json.dumps(document), encoding="utf-8")
    return AGENT if kind == "agent" else COORDINATOR, settings


@pytest.mark.parametrize("kind", ["agent", "coordinator", "coordinator of a cluster"])
async def test_a_daemon_whose_loop_hangs_gives_no_sign_and_its_end_says_where(tmp_path: Path, kind: str) -> None:
    async with daemon(tmp_path, *prepare(tmp_path, kind)) as one:
        await one.until_told(["READY=1"])
        for _ in range(5):
            assert await one.told(INTERVAL) == SIGN, "in time, again and again"
        one.process.send_signal(signal.SIGUSR1)
        await one.until_said("hangs")
        assert await one.until_silent() <= 1
        one.process.send_signal(signal.SIGABRT)  # as systemd does
        async with asyncio.timeout(LIMIT):
            _, said = await one.process.communicate()
        assert one.process.returncode == -signal.SIGABRT
        assert "in hang\n" in said.decode()


async def test_an_agent_with_a_manager_that_never_comes_back_gives_no_sign(tmp_path: Path) -> None:
    """Though its loop turns."""
    async with daemon(tmp_path, STUCK, prepare(tmp_path, "agent")[1]) as one:
        await one.until_said("stuck")
        await one.until_told(["READY=1"])
        assert await one.until_silent() >= 5, "a turn may take its time"
