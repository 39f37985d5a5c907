"""An agent's instances on a runtime in memory, over several lives of the agent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from gestalt.agent.board import Board
from gestalt.agent.desired import Desired
from gestalt.agent.exclusive import Exclusive, NoFence
from gestalt.agent.instances import Instances
from gestalt.agent.local import Surroundings
from gestalt.agent.preparing import Preparing
from gestalt.agent.proxy import ProxyManager
from gestalt.agent.proxy_disabled import NoLoadBalancer
from gestalt.agent.records import RecordStore
from gestalt.agent.returning import NeverAway, Patience
from gestalt.config import AgentSettings, TlsSettings
from gestalt.model import DesiredInstance, NodeState, Observed, Phase
from gestalt.plugin.runtime import AttemptKey
from gestalt.spec.schema import AppSpec, Stop
from gestalt.spec.template import template_hash
from tests.unit.agent.memory_runtime import MemoryRuntime, MortalDisk, Mortality, World

ONE, TWO, STRAY = "web-0000aa-1", "web-0000aa-2", "old-0000bb-9"
PATIENCE = 10.0


def spec(**fields: object) -> AppSpec:
    return AppSpec.model_validate({"path": "/unit/test/agent/web", "image": "web:1", "stop": Stop(drain=0), **fields})


def wish(*instances: str, stop: bool = False, keep: bool = False, complete: bool = True, **fields: object) -> Desired:
    app = spec(**fields)
    key = template_hash(app)
    wanted = {item: DesiredInstance(item, app.path, 1, key, (), stop, keep=keep) for item in instances}
    return Desired(NodeState(1, 1, {key: app}, wanted, {}), complete=complete)


def key(instance: str, number: int = 1) -> AttemptKey:
    return AttemptKey(instance, number)


class Life:
    """One life of an agent on a world and a disk that outlive it."""

    def __init__(
        self,
        world: World,
        folder: Path,
        dies_at: int = 0,
        boot: str = "boot-1",
        grace: float = 0.05,
        *,
        exclusive: Exclusive | None = None,
        returning: Patience | None = None,
    ) -> None:
        nowhere = folder / "none"
        settings = AgentSettings(
            node_id="n",
            node_name="n",
            cluster_id="c",
            coordinators=(),
            tls=TlsSettings(ca=nowhere, certificate=nowhere, key=nowhere),
            orphan_grace=grace,
        )
        self.mortality = Mortality(dies_at)
        self.board = Board()
        self.disk = MortalDisk(self.mortality)
        self.records = RecordStore(folder / "instances", self.disk, boot)
        slots = asyncio.Semaphore(8)
        runtime = MemoryRuntime(world, self.mortality)
        proxy = ProxyManager(NoLoadBalancer())
        self.preparing = Preparing({"docker": runtime}, self.board)
        asks = exclusive or NoFence(), returning or NeverAway(), self.preparing.use
        self.around = Surroundings(settings, {"docker": runtime}, self.records, self.board, proxy, slots, slots, *asks)
        self.instances = Instances(self.around)
        self.world = world

    async def begin(self, desired: Desired) -> None:
        self.instances.adopt(self.records.load(), desired)
        await self.instances.ensure()

    async def until(self, what: str, condition: Callable[[], object]) -> None:
        """Wait for a condition, or for the death of this life."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not condition() and not self.mortality.died.is_set():  # noqa: ASYNC110 (any condition, seen from outside)
                    await asyncio.sleep(0.001)
        except TimeoutError:
            pytest.fail(f"waited for {what}; {self.board.observations()}, {self.world.attempts}")

    def at(self, instance: str, phase: Phase, number: int) -> bool:
        seen = self.board.get(instance)
        return seen is not None and (seen.phase, seen.attempt) == (phase, number)

    def saw(self, instance: str) -> Observed:
        seen = self.board.get(instance)
        assert seen is not None
        return seen

    def gone(self, instance: str) -> bool:
        return self.board.is_gone(instance)

    async def kill(self) -> None:
        """End as with SIGKILL: nothing is written any more."""
        self.mortality.died.set()
        self.world.listeners.clear()
        await self.instances.let_go()

    async def end(self) -> None:
        await self.instances.close()
        await self.disk.close()
