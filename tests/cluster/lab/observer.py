"""Watches a lab from outside, whatever state its nodes, daemons and Docker Engines are in.

Which containers live is read from the host's process table and the nodes' disks: nobody in a node is asked, so that a hung Docker, a
frozen node or a dead agent hides nothing.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from gestalt import shell
from gestalt.clock import monotonic
from gestalt.config import ZooKeeperSettings
from gestalt.plugins.runtime.docker_options import LABEL_APP, LABEL_ATTEMPT, LABEL_INSTANCE
from gestalt.zk.client import Zk, ZkError, ZkState
from gestalt.zk.paths import Paths

from .invariants import Copy, Reign, Sample
from .nodes import LabError, Node

PERIOD = 0.1
"""Seconds between samples."""

_CONTAINER = re.compile(r"/docker[/-]([0-9a-f]{64})\S*?/(?:docker[/-]|gestalt-docker/(?:[^/\s]+/)?)([0-9a-f]{64})")
"""Node and container in a process's cgroups; a container that is exclusive has a parent of its own."""
_LIMIT = 20.0
_SESSION = 4.0


@dataclass(frozen=True, slots=True)
class _Process:
    """A living process of a container in a node."""

    pid: int
    node: str
    container: str
    frozen: bool


class Eyes:
    """Sees the containers of one lab's nodes. `look` blocks for some milliseconds."""

    def __init__(self, places: dict[str, tuple[str, Path]]) -> None:
        self._places = places
        self._copies: dict[tuple[str, str], Copy | None] = {}

    @classmethod
    async def on(cls, nodes: Sequence[Node]) -> Self:
        """Return eyes on these nodes; they may be down now, or go down later."""
        places = {}
        for node in nodes:
            identity, folder = await asyncio.gather(
                _told("inspect", "--format", "{{.Id}}", node.name),
                _told("volume", "inspect", "--format", "{{.Mountpoint}}", f"{node.name}-docker"),
            )
            places[identity] = (node.name, Path(folder, "containers"))
        return cls(places)

    def look(self) -> Sample:
        """Return Gestalt's copies of apps that all lived at one moment of this call."""
        seen = list(self._processes())
        still = {(process.node, process.container): process for process in seen if _in_container(process.pid) is not None}
        copies = (self._copy(process) for process in still.values())
        return Sample(monotonic(), tuple(sorted((copy for copy in copies if copy), key=lambda copy: copy.name)))

    def _processes(self) -> Iterator[_Process]:
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and (found := _in_container(int(entry.name))) and found[0] in self._places:
                yield _Process(int(entry.name), *found[:2], frozen=_is_frozen(found[2]))

    def _copy(self, process: _Process) -> Copy | None:
        key = process.node, process.container
        if key not in self._copies:
            self._copies[key] = self._read(*key)
        copy = self._copies[key]
        return None if copy is None else Copy(copy.node, copy.app, copy.instance, copy.attempt, process.frozen)

    def _read(self, node: str, container: str) -> Copy | None:
        name, folder = self._places[node]
        document = json.loads((folder / container / "config.v2.json").read_text(encoding="utf-8"))
        labels = document["Config"].get("Labels") or {}
        if LABEL_INSTANCE not in labels:
            return None
        return Copy(name, labels[LABEL_APP], labels[LABEL_INSTANCE], int(labels[LABEL_ATTEMPT]))


class Observer:
    """Takes samples all the time while its block runs; with `store`, also notes who leads.

    Args:
        eyes: on the nodes.
        store: ZooKeeper as the coordinators may read it.
    """

    def __init__(self, eyes: Eyes, store: ZooKeeperSettings | None = None) -> None:
        self._eyes = eyes
        self._store = store
        self._tasks: list[asyncio.Task[None]] = []
        self.samples: list[Sample] = []
        self.reigns: list[Reign] = []

    async def __aenter__(self) -> Self:
        self._tasks.append(asyncio.create_task(self._watch(), name="observer"))
        if self._store is not None:
            self._tasks.append(asyncio.create_task(self._chronicle(self._store), name="chronicle"))
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for task in self._tasks:
            if task.done():
                task.result()  # it saw nothing for a while: its failure is that of the test
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            due = monotonic() + PERIOD
            self.samples.append(await asyncio.to_thread(self._eyes.look))
            await asyncio.sleep(max(0.0, due - monotonic()))

    async def _chronicle(self, store: ZooKeeperSettings) -> None:
        while True:
            with suppress(ZkError):
                zk = await Zk.connect(store, session=_SESSION, name="observer", limit=_LIMIT)
                try:
                    while zk.state is not ZkState.LOST:
                        await self._note_leader(zk, Paths(store.root).leader)
                        await asyncio.sleep(PERIOD)
                finally:
                    await zk.close()
            await asyncio.sleep(PERIOD)

    async def _note_leader(self, zk: Zk, path: str) -> None:
        """Note who leads, unless ZooKeeper does not tell: a server that lags behind is made to catch up first."""
        with suppress(ZkError):
            await zk.sync(path)
            found = await zk.get(path)
            if found is not None and found[0]:
                document = json.loads(found[0])
                if "epoch" in document:  # nobody leads in between
                    self.reigns.append(Reign(monotonic(), document["epoch"], document["name"]))


def _in_container(pid: int) -> tuple[str, str, str] | None:
    """Return node, container and cgroups of a living process in a container of a node; None for all others."""
    try:
        groups = Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii")
        if (found := _CONTAINER.search(groups)) is None:
            return None
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return None if status.rpartition(")")[2].split()[0] in "ZX" else (found[1], found[2], groups)


def _is_frozen(groups: str) -> bool:
    """Return whether a process with these cgroups is stopped by a freezer, its own or that of the node."""
    paths = {line.split(":", 2)[1]: line.split(":", 2)[2] for line in groups.splitlines()}
    with suppress(OSError):
        if "freezer" in paths:
            return Path(f"/sys/fs/cgroup/freezer{paths['freezer']}/freezer.state").read_text(encoding="ascii").strip() == "FROZEN"
        return "frozen 1" in Path(f"/sys/fs/cgroup{paths['']}/cgroup.events").read_text(encoding="ascii")
    return False


async def _told(*argv: str) -> str:
    done = await shell.run(("docker", *argv), limit=_LIMIT)
    if not done.ok:
        raise LabError(f"docker {argv[0]}: {done.complaint()}")
    return done.stdout.decode().strip()
