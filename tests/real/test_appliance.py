"""The appliance with both real daemons: made, started, stopped, broken, removed.

Its apps are plain processes here; the test of the demo has containers.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gestalt.appliance.layout import Layout
from gestalt.appliance.processes import find
from gestalt.clock import monotonic
from gestalt.shell import Completed, run

GESTALTCTL = str(Path(sys.executable).with_name("gestaltctl"))
LIMIT = 60.0
SLEEPER = {
    "runtime": "process",
    "command": [sys.executable, "-I", "-S", "-c", "import time\nwhile True: time.sleep(1)"],
    "instances": 2,
    "stop": {"grace": "1s", "drain": "0s"},
}

pytestmark = pytest.mark.real


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Machine:
    """One root, and the operator's commands on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.layout = Layout(root)
        self.api_port = free_port()
        self.app = f"/test/appliance/t{uuid.uuid4().hex[:8]}/sleeper"

    async def ctl(self, *words: str, expect: int = 0) -> Completed:
        """Run gestaltctl and check its exit code."""
        done = await run([GESTALTCTL, *words], limit=LIMIT, env={"GESTALT_CONFIG": str(self.layout.client_settings)})
        assert done.code == expect, f"gestaltctl {' '.join(words)}: exit {done.code}\n{done.stdout.decode()}\n{done.stderr.decode()}"
        return done

    async def appliance(self, command: str, *words: str, expect: int = 0) -> str:
        done = await self.ctl("appliance", command, "--root", str(self.root), *words, expect=expect)
        return done.stdout.decode() + done.stderr.decode()

    async def init(self) -> str:
        ports = {"--api-port": self.api_port, "--http-port": free_port(), "--health-port": free_port()}
        return await self.appliance("init", "--runtime", "process", *(word for name, port in ports.items() for word in (name, str(port))))

    def pids(self) -> dict[str, list[int]]:
        """Return the pids of this root's daemons."""
        settings = {"gestalt-coordinator": self.layout.coordinator_settings, "gestalt-agent": self.layout.agent_settings}
        return {name: [process.pid for process in find(name, str(file))] for name, file in settings.items()}

    async def status(self, expect: int = 0) -> dict[str, dict[str, Any]]:
        done = await self.ctl("appliance", "status", "--root", str(self.root), "-o", "json", expect=expect)
        return {part["part"]: part for part in json.loads(done.stdout)}

    async def launch(self) -> dict[str, int]:
        file = self.root / "sleeper.yaml"
        file.write_text(yaml.safe_dump({"path": self.app, **SLEEPER}), encoding="utf-8")
        await self.ctl("launch", "-f", str(file))
        return self.workers()

    def workers(self) -> dict[str, int]:
        """Return the pids of the app's processes by instance, as the kernel shows them."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "environ").read_bytes().decode(errors="replace").split("\0") if entry.name.isdigit() else []
                command = (entry / "cmdline").read_bytes() if words else b""
            except OSError:
                continue
            values = dict(word.partition("=")[::2] for word in words)
            if values.get("GESTALT_APP") == self.app and b"while True: time.sleep" in command:
                found[values["GESTALT_INSTANCE"]] = int(entry.name)
        return found

    async def wait_for_workers(self, count: int) -> dict[str, int]:
        deadline = monotonic() + LIMIT
        while len(workers := self.workers()) != count:
            assert monotonic() < deadline, f"{count} processes are wanted, there are {workers}; {(await self.ctl('ps')).stdout.decode()}"
            await asyncio.sleep(0.05)
        return workers


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    made = Machine(tmp_path / "r")
    yield made
    if made.layout.settings.exists():
        await made.appliance("destroy", "--yes")
    assert made.pids() == {"gestalt-coordinator": [], "gestalt-agent": []}


async def test_a_life_of_an_appliance(machine: Machine) -> None:
    await machine.init()
    said = await machine.appliance("up")
    assert "the node is ready" in said
    first = machine.pids()
    assert [len(pids) for pids in first.values()] == [1, 1]
    assert all(part["ok"] for part in (await machine.status()).values())

    workers = await machine.launch()
    assert len(workers) == 2
    assert "runs already" in await machine.appliance("up")
    assert machine.pids() == first, "a second up leaves alone what runs"

    assert "go on running" in await machine.appliance("down")
    assert machine.pids() == {"gestalt-coordinator": [], "gestalt-agent": []}
    assert machine.workers() == workers, "down leaves the instances alone"
    assert (await machine.status(expect=8))["gestalt-agent"]["state"] == "stopped"
    await machine.appliance("down")

    await machine.appliance("up")
    assert machine.workers() == workers, "they are adopted"
    await machine.appliance("down", "--stop-apps")
    assert machine.workers() == {}
    await machine.appliance("up")
    assert set(await machine.wait_for_workers(2)).isdisjoint({None}), "what should run is known still, and started"

    said = await machine.appliance("destroy", expect=4)
    assert "--yes" in said
    assert all(machine.pids().values()), "nothing was destroyed without a yes"
    await machine.appliance("destroy", "--yes")
    assert machine.workers() == {}
    assert not machine.layout.run.exists()
    assert [path.name for path in machine.root.rglob("*") if path.is_file()] == ["sleeper.yaml"], "only what others put there is left"
    await machine.appliance("destroy", "--yes")


async def test_daemons_that_were_killed_are_started_again(machine: Machine) -> None:
    await machine.init()
    await machine.appliance("up")
    workers = await machine.launch()
    killed = machine.pids()
    for pids in killed.values():
        os.kill(pids[0], signal.SIGKILL)
    await machine.appliance("up")
    assert all(len(pids) == 1 and pids != killed[name] for name, pids in machine.pids().items())
    assert machine.workers() == workers


async def test_a_daemon_that_cannot_start_is_told_with_its_last_words(machine: Machine) -> None:
    await machine.init()
    with socket.socket() as other:
        other.bind(("127.0.0.1", machine.api_port))
        other.listen()
        said = await machine.appliance("up", expect=8)
    assert "gestalt-coordinator ended" in said
    assert f"cannot listen on 127.0.0.1:{machine.api_port}" in said
    await machine.appliance("up")


async def test_settings_with_a_mistake_are_told_before_anything_starts(machine: Machine) -> None:
    await machine.init()
    good = machine.layout.agent_settings.read_text(encoding="utf-8")
    machine.layout.agent_settings.write_text(good + "porxy: {}\n", encoding="utf-8")
    said = await machine.appliance("up", expect=2)
    assert "did you mean 'proxy'?" in said
    assert machine.pids() == {"gestalt-coordinator": [], "gestalt-agent": []}
    machine.layout.agent_settings.write_text(good, encoding="utf-8")


@pytest.mark.parametrize("command", ["up", "down", "status"])
async def test_without_init_there_is_nothing_to_run(machine: Machine, command: str) -> None:
    assert "appliance init --root" in await machine.appliance(command, expect=3)


async def test_the_remains_of_an_interrupted_init_are_removed(machine: Machine) -> None:
    await machine.init()
    machine.layout.agent_settings.unlink()
    await machine.appliance("destroy", "--yes")
    assert not machine.root.exists()
