"""gestalt-fence as a process of its own, against a real ZooKeeper, with a hand-made agent at its socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from gestalt.clock import monotonic
from gestalt.config import FenceSettings, TimingSettings, ZooKeeperSettings
from gestalt.settings_file import dump_settings
from gestalt.zk.client import Stat, Zk
from gestalt.zk.grants import GrantMark, LeaseMark, parse_lease
from gestalt.zk.paths import Paths

PATIENCE = 20.0
SESSION = 2.0
PREFIX = "gestalt-fence-"
NODE = "11111111-2222-3333-4444-555555555555"

Found = tuple[dict[str, Any], Stat] | None


class Agent:
    """One that holds a connection to the fence. `state`: what it heard last."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._asked = 0
        self.state: dict[str, Any] = {}

    @classmethod
    async def connect(cls, path: Path) -> Self:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b'{"hello": {"version": "0"}}\n')
        return cls(reader, writer)

    async def until(self, good: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the first state that is `good`."""
        async with asyncio.timeout(PATIENCE):
            while not (self.state and good(self.state)):
                line = await self._reader.readline()
                assert line, f"the fence hung up; it said last: {self.state}"
                self.state = json.loads(line)
        return self.state

    async def ask(self, **what: Any) -> str:
        """Ask the fence for something; return why not, or nothing."""
        self._asked += 1
        self._writer.write(json.dumps({"id": self._asked, **what}).encode() + b"\n")
        async with asyncio.timeout(PATIENCE):
            while line := await self._reader.readline():
                message = json.loads(line)
                if "id" not in message:
                    self.state = message
                if message.get("id") == self._asked:
                    assert message["ok"] is not bool(message["problem"])
                    return str(message["problem"])
        raise AssertionError("the fence hung up")

    async def hold(self, name: str, cgroup: Path, generation: int = 1, grant: str = "") -> str:
        """Ask to start something, of which everything will be in `cgroup`, under the grant of the same name."""
        return await self.ask(hold={"name": name, "cgroups": [str(cgroup)], "grant": {"name": grant or name, "generation": generation}})

    async def take(self, name: str, cgroup: Path, generation: int = 1) -> None:
        """Hold something; what the fence says while it looks anew at its membership does not count."""
        end = monotonic() + PATIENCE
        while problem := await self.hold(name, cgroup, generation):
            assert "no member" in problem, problem
            assert monotonic() < end, problem
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


class Rig:
    """One machine: settings, data and socket in `folder`."""

    def __init__(self, folder: Path, servers: ZooKeeperSettings, zk: Zk, **changes: Any) -> None:
        self._zk = zk
        places: dict[str, Any] = {"data_dir": folder / "data", "socket": folder / "fence.sock", "watchdog": ""}
        choices = {"timing": TimingSettings(session=SESSION), **places, **changes}
        self.settings = FenceSettings(node_id=NODE, node_name="one", cluster_id="c", zookeeper=servers, **choices)
        self._file = folder / "fence.yaml"
        self._file.write_text(dump_settings(self.settings))
        self._log = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def change(self, **changes: Any) -> None:
        """Change settings, for the next start."""
        self.settings = self.settings.model_copy(update=changes)
        self._file.write_text(dump_settings(self.settings))

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gestalt.agent.fence.main", "--config", str(self._file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(PATIENCE)

    def until_stopped(self) -> None:
        """Return when a SIGSTOP that was sent has stopped it."""
        assert self.process is not None
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGCONT)
            self.kill()

    async def agent(self) -> Agent:
        """Return an agent at the fence's socket, waiting for the fence to answer there."""
        end = monotonic() + PATIENCE
        while True:
            try:
                return await Agent.connect(self.settings.socket)
            except OSError:
                assert monotonic() < end, f"the fence does not listen: {self.log}"
                await asyncio.sleep(0.02)

    async def member(self, good: Callable[[dict[str, Any], Stat], bool] = lambda value, stat: True) -> tuple[dict[str, Any], Stat]:
        """Return the member znode as soon as it is there and `good`."""
        found: Found = None
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    found = await self.look()
                    if found is not None and good(*found):
                        return found
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"the member znode is {found}; the fence says: {self.log}") from None

    async def gone(self) -> None:
        """Return when there is no member znode."""
        end = monotonic() + PATIENCE
        while await self.look() is not None:
            assert monotonic() < end, f"the member znode stays; the fence says: {self.log}"
            await asyncio.sleep(0.02)

    async def grant(self, name: str, generation: int = 1, *, instance: str = "", node: str = NODE, incarnation: int = 1) -> None:
        """Give a grant, as a leader does; to nobody if `node` is empty."""
        path = Paths(self.settings.zookeeper.root).grant(name)
        await self._zk.ensure(path)
        await self._zk.set(path, GrantMark(name, generation, instance or name, node, incarnation).encode())

    async def lease(self) -> LeaseMark:
        """Return what ZooKeeper knows of what this node holds."""
        path = Paths(self.settings.zookeeper.root).lease(NODE)
        await self._zk.sync(path)
        found = await self._zk.get(path)
        mark = parse_lease(found[0]) if found else None
        assert mark is not None, f"the lease is {found}"
        return mark

    async def listed(self, *names: str) -> LeaseMark:
        """Return the lease as soon as it lists exactly these grants."""
        end = monotonic() + PATIENCE
        while (mark := await self.lease()).grants.keys() != set(names):
            assert monotonic() < end, f"the lease stays {mark}; the fence says: {self.log}"
            await asyncio.sleep(0.02)
        return mark

    def held(self) -> dict[str, Any]:
        """Return what the fence has on disk."""
        return dict(json.loads((self.settings.data_dir / "held.json").read_text()))

    async def look(self) -> Found:
        found = await self._zk.get(Paths(self.settings.zookeeper.root).member(NODE))
        return (json.loads(found[0]), found[1]) if found else None

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]


def end_leftovers() -> None:
    """Kill the fences, and remove the folders, of test runs that do not run any more."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_text().split("\0")
            if "gestalt.agent.fence.main" in words and _is_left(next((Path(word).parent for word in words if PREFIX in word), None)):
                os.kill(int(process.name), signal.SIGKILL)
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if _is_left(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_left(folder: Path | None) -> bool:
    """Whether the process that made the folder, and is named by it, is gone."""
    owner = folder.name.removeprefix(PREFIX).partition("-")[0] if folder is not None else ""
    return owner.isdigit() and not Path(f"/proc/{owner}").exists()


@asynccontextmanager
async def machine(servers: ZooKeeperSettings, zk: Zk, **changes: Any) -> AsyncIterator[Rig]:
    """A machine whose node the cluster knows; its fence is started by the test."""
    end_leftovers()
    await zk.ensure(Paths(servers.root).node(NODE))
    await zk.ensure(Paths(servers.root).epoch)
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-") as folder:
        rig = Rig(Path(folder), servers, zk, **changes)
        try:
            yield rig
        finally:
            rig.end()


class History:
    """Every state that the member znode of a node was seen in, by a watch."""

    def __init__(self, zk: Zk, rig: Rig) -> None:
        self.seen: list[dict[str, Any] | None] = []
        self._watch = zk.watch(Paths(rig.settings.zookeeper.root).member(NODE), self._told)

    def _told(self, found: tuple[bytes, Stat] | None) -> None:
        self.seen.append(json.loads(found[0]) if found else None)

    def close(self) -> None:
        self._watch.close()
