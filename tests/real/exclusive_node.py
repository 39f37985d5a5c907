"""A node with all that exclusive instances need: ZooKeeper, a fence as a process, an agent in this one, a coordinator in miniature."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from gestalt.agent.engine import Engine
from gestalt.agent.fence.cgroups import pids_in
from gestalt.agent.node import start_engine
from gestalt.agent.proxy import ProxyManager
from gestalt.agent.proxy_disabled import NoLoadBalancer
from gestalt.clock import boottime
from gestalt.config import AgentSettings, TimingSettings
from gestalt.daemon import Life
from gestalt.model import Grant
from gestalt.plugin.registry import find_driver
from gestalt.spec.schema import AppSpec
from gestalt.zk.client import Zk
from tests.real.agent_rig import StubCoordinator, desired, until
from tests.real.fence_rig import NODE, Rig, machine
from tests.real.zookeeper_lab import Ensemble

TIMING = TimingSettings(session=2.0, lease=3.0, kill=2.0, margin=1.0)
STUBBORN = ("/bin/sh", "-c", "trap '' TERM; while :; do sleep 1; done")
PATH = "/lab/agent/test/single"
GRANT = "single"


def single(**fields: Any) -> AppSpec:
    """Return an app that must never run twice, and that does not end when it is asked to."""
    values = {"path": PATH, "runtime": "process", "command": STUBBORN, "placement": {"exclusive": True}, "stop": {"grace": 0.5}}
    return AppSpec.model_validate(values | fields)


class Node:
    """The machine of a `Rig` with an agent."""

    def __init__(self, rig: Rig, ensemble: Ensemble, coordinator: StubCoordinator, settings: AgentSettings) -> None:
        self.rig = rig
        self.ensemble = ensemble
        self.coordinator = coordinator
        self.settings = settings
        self._engine: Engine | None = None

    async def start_agent(self) -> None:
        drivers = {name: find_driver("runtime", name).create(self.settings) for name in self.settings.runtimes}
        self._engine = await start_engine(self.settings, Life(), drivers, ProxyManager(NoLoadBalancer()))

    async def stop_agent(self) -> None:
        if self._engine is not None:
            await self._engine.stop()
            self._engine = None

    def want(self, spec: AppSpec, generation: int = 0, *, stop: bool = False) -> str:
        """Have the coordinator want one instance, under a grant unless the generation is 0; return its id."""
        item = replace(desired(spec, 1, stop=stop), grant=Grant(GRANT, generation) if generation else None)
        self.coordinator.want([item], [spec])
        return item.id

    async def give(self, spec: AppSpec, generation: int, **whom: Any) -> str:
        """Write the grant into ZooKeeper, as a leader does before it tells the node."""
        instance = desired(spec, 1).id
        await self.rig.grant(GRANT, generation, instance=instance, **whom)
        return instance

    async def run(self, spec: AppSpec, generation: int = 1) -> str:
        """Have it run under a grant of this generation; return its id."""
        await self.give(spec, generation)
        instance = self.want(spec, generation)
        await until("it runs", lambda: self.coordinator.phase(instance) == "running")
        return instance

    def reason(self, instance: str) -> str:
        return self.coordinator.observed[instance].reason if instance in self.coordinator.observed else ""

    def held(self) -> Mapping[str, Any]:
        """Return what the fence has on disk for the one instance."""
        return next(iter(self.rig.held()["holdings"].values()), {})

    def at_work(self) -> list[int]:
        """Return the processes in the cgroups that the fence was told of, dead ones that nobody has waited for left out."""
        return [pid for item in self.held().get("cgroups", ()) for pid in pids_in(Path(item)) if _lives(pid)]

    async def is_over_in_time(self) -> None:
        """Watch until the lease on disk, and the time for killing, are over: then nothing may be at work."""
        cgroups, over = self.held()["cgroups"], self.rig.held()["until"] + TIMING.kill
        while any(_lives(pid) for item in cgroups for pid in pids_in(Path(item))):
            assert boottime() < over, f"still at work {boottime() - over:g} s after its lease and the time for killing"
            await asyncio.sleep(0.02)


@asynccontextmanager
async def exclusive_node(ensemble: Ensemble, folder: Path, *, fence: Mapping[str, Any] | None = None, **fields: Any) -> AsyncIterator[Node]:
    """A node that is a member, in session with a coordinator. `fence` and `fields`: settings of the fence and of the agent."""
    coordinator = StubCoordinator(folder, heartbeat=0.2)
    coordinator.node_id = NODE
    coordinator.promises = fields.pop("promises", None)
    await coordinator.start()
    servers = ensemble.settings()
    zk = await Zk.connect(servers, session=10.0, name="test")
    async with machine(servers, zk, **{"timing": TIMING, **(fence or {})}) as rig:
        rig.start()
        await rig.member()
        settings = coordinator.agent_settings(folder, **{"runtimes": ("process",), "fence": rig.settings.socket, **fields})
        node = Node(rig, ensemble, coordinator, settings)
        await node.start_agent()
        await rig.member(lambda value, _: value["agent"] == "running")
        try:
            yield node
        finally:
            await clean_up(node)
    await zk.close()
    await coordinator.stop()


async def clean_up(node: Node) -> None:
    """Stop the agent, and end what ran."""
    await node.stop_agent()
    for name in node.settings.runtimes:
        driver = find_driver("runtime", name).create(node.settings)
        await driver.start()
        for status in await driver.list():
            await driver.remove(status.key)
        await driver.close()


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False
