"""A process of simulated agents, for `bench.agents`: the agent's own session with a runtime that only exists in its memory.

    python -m bench.fleet SETTINGS.json

Each agent has the real session, board, desired state on disk and TLS, and a session with ZooKeeper that holds its membership as its
fence would. It runs at once what it is told to, and has something new to say of one instance every second. A line of JSON on stdout
says every quarter of a second how they all are.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gestalt.agent.board import Board
from gestalt.agent.bulk import Bulk
from gestalt.agent.coordinators import KnownCoordinators
from gestalt.agent.desired import Desired, DesiredStore
from gestalt.agent.disk import Disk
from gestalt.agent.session import Session
from gestalt.clock import monotonic
from gestalt.config import AgentSettings, ZooKeeperSettings
from gestalt.model import Health, Observed, Phase
from gestalt.proto.v1 import model_pb2
from gestalt.zk.client import Create, Delete, Op, Zk, ZkError, ZkState
from gestalt.zk.paths import Paths

log = logging.getLogger("bench.fleet")

CHANGE_EVERY = 1.0
TELL_EVERY = 0.25
_AT_ONCE = 16
_PLACE = re.compile(r"/dev/shm/[^\s:]+")
_WHO = re.compile(r"^(coordinator \S+|node-\d+): |session 0x[0-9a-f]+ |127\.0\.0\.1:\d+ ?")


class Complaints(logging.Handler):
    """Counts why sessions ended or did not begin."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.counts: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        """Count what tells of trouble, whoever of us it happened to."""
        if record.levelno >= logging.WARNING or "goes on" in str(record.msg):
            said = record.getMessage().partition(";")[0]
            self.counts[_WHO.sub("", _PLACE.sub("a folder", said))[:160]] += 1


@dataclass
class Simulated:
    """One node. `told`: the epoch whose full state it acts on."""

    settings: AgentSettings
    disk: Disk
    board: Board = field(default_factory=Board)
    zk: Zk | None = None
    incarnation: int = 0
    changes: int = 0

    def __post_init__(self) -> None:
        self.settings.data_dir.mkdir(parents=True)
        self.desired = DesiredStore(self.settings.data_dir, self.disk)
        self.board.facts = model_pb2.Facts(
            hostname=self.settings.node_name, cpu=8, memory=32 * 1024**3, port_first=3000, port_last=4000, runtimes=("docker",)
        )
        known = KnownCoordinators(self.settings, self.disk)
        self.session = Session(self.settings, self.desired, self.board, self._apply, Bulk(lambda _: None), known=known)

    @property
    def told(self) -> int:
        return self.desired.epoch if self.desired.current.complete and self.session.connected else 0

    async def live(self, zookeeper: ZooKeeperSettings, session: float, slots: asyncio.Semaphore) -> None:
        """Be a member, again after each end of the session, and look for the leader."""
        while True:
            over = asyncio.Event()
            try:
                async with slots:
                    await self._join(zookeeper, session, over)
                self.board.set_incarnation(self.incarnation)
                await self.session.ensure()
                await over.wait()
            except ZkError as error:
                log.warning("ZooKeeper: %s", error)
            if self.zk is not None:
                await self.zk.close()

    async def _join(self, zookeeper: ZooKeeperSettings, session: float, over: asyncio.Event) -> None:
        def heard(state: ZkState) -> None:
            if state is ZkState.LOST:
                over.set()

        self.incarnation += 1
        self.zk = await Zk.connect(zookeeper, session=session, name=self.settings.node_name, limit=60.0, on_state=heard)
        member = {"incarnation": self.incarnation, "boot": "simulated", "agent": "running", "since": time.time()}
        path = Paths(zookeeper.root).member(self.settings.node_id)
        leftover: list[Op] = [Delete(path)] if await self.zk.exists(path) else []
        await self.zk.multi([*leftover, Create(path, json.dumps(member).encode(), ephemeral=True)])

    async def _apply(self, desired: Desired) -> None:
        """Run what is wanted, at once."""
        wanted = desired.state.instances
        for observed in self.board.observations():
            if observed.instance not in wanted:
                self.board.drop(observed.instance)
        for instance, item in wanted.items():
            if item.stop:
                self.board.gone(instance)
            elif self.board.get(instance) is None:
                self.board.put(Observed(instance, 1, Phase.RUNNING, Health.HEALTHY, ready=True, runtime_id="simulated"))

    def change(self) -> None:
        """Have something new to say of one instance, as a check does that finds other words."""
        observed = next(iter(self.board.observations()), None)
        if observed is not None:
            self.changes += 1
            self.board.put(replace(observed, reason=f"answered {self.changes} times"))


@dataclass(frozen=True, slots=True)
class Fleet:
    """All agents of this process."""

    agents: list[Simulated]
    complaints: Complaints

    async def live(self, zookeeper: ZooKeeperSettings, session: float) -> None:
        """Start all, a few at a time, and have each say something every second, spread over it; until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tell())
            slots = asyncio.Semaphore(_AT_ONCE)
            for agent in self.agents:
                group.create_task(agent.live(zookeeper, session, slots))
            group.create_task(self._change())

    async def _change(self) -> None:
        due = monotonic()
        while True:
            for agent in self.agents:
                agent.change()
                due += CHANGE_EVERY / len(self.agents)
                if (pause := due - monotonic()) > 0:
                    await asyncio.sleep(pause)
            await asyncio.sleep(0)

    async def _tell(self) -> None:
        while True:
            print(json.dumps(self._status()), flush=True)
            await asyncio.sleep(TELL_EVERY)

    def _status(self) -> dict[str, Any]:
        return {
            "at": monotonic(),
            "members": sum(agent.zk is not None and agent.zk.state is ZkState.CONNECTED for agent in self.agents),
            "told": dict(Counter(str(agent.told) for agent in self.agents)),
            "running": sum(len(agent.board.observations()) for agent in self.agents),
            "changes": sum(agent.changes for agent in self.agents),
            "complaints": dict(self.complaints.counts),
        }


def main() -> None:
    """Live until killed."""
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    complaints = Complaints()
    logging.getLogger().addHandler(complaints)
    logging.getLogger("gestalt.agent.session").setLevel(logging.DEBUG)
    disk = Disk()
    agents = [Simulated(AgentSettings.model_validate(given["common"] | one), disk) for one in given["agents"]]
    asyncio.run(Fleet(agents, complaints).live(ZooKeeperSettings.model_validate(given["zookeeper"]), given["session"]))


if __name__ == "__main__":
    main()
