"""A small honest runtime in memory: a world that outlives agents, and the driver that is an agent's way to it.

The world keeps the rules of a real product: a name is taken once, what runs goes on when the driver goes away, events tell of
every change. It fails a test as soon as two attempts of one instance run at a time. Its mortality is the point: at the step
that a test chose, the agent "dies" there, before or after the step had its effect.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Self

from gestalt.agent.disk import Disk
from gestalt.config import AgentSettings
from gestalt.plugin.runtime import (
    AttemptKey,
    AttemptState,
    AttemptStatus,
    DriverUnavailable,
    ExecRequest,
    ExecSession,
    Launch,
    LaunchRefused,
    LogLine,
    LogOptions,
    Progress,
    RuntimeDriver,
)
from gestalt.spec.schema import AppSpec


class World:
    """Everything that runs, whoever started it."""

    def __init__(self) -> None:
        self.attempts: dict[AttemptKey, AttemptStatus] = {}
        self.starts: Counter[str] = Counter()
        self.images = {"web:1"}
        self.cgroups: tuple[str, ...] = ()
        self.refusal = ""
        self.down = False
        self.answers_lost = 0
        self.registry_down = False
        self.registry_asked = 0
        self.slow: asyncio.Event | None = None
        self.steps: list[str] = []
        self.listeners: list[Callable[[AttemptKey | None], None]] = []

    def put(self, status: AttemptStatus) -> None:
        self.attempts[status.key] = status
        beside = [item.key.attempt for item in self.of(status.key.instance) if item.state is AttemptState.RUNNING]
        assert len(beside) <= 1, f"attempts {beside} of {status.key.instance} run at a time"
        self.tell(status.key)

    def of(self, instance: str) -> list[AttemptStatus]:
        return [item for key, item in self.attempts.items() if key.instance == instance]

    def running(self, instance: str) -> list[int]:
        return [item.key.attempt for item in self.of(instance) if item.state is AttemptState.RUNNING]

    def end(self, key: AttemptKey, code: int, *, oom: bool = False) -> None:
        self.put(replace(self.attempts[key], state=AttemptState.EXITED, exit_code=code, oom_killed=oom))

    def tell(self, key: AttemptKey | None) -> None:
        for listener in self.listeners:
            listener(key)


class Mortality:
    """Counts the steps of one agent and stops time for it at number `at`; odd: before the step had its effect, even: after it."""

    def __init__(self, at: int = 0) -> None:
        self._left = at
        self.died = asyncio.Event()

    async def before(self) -> None:
        await self._count()

    async def after(self) -> None:
        await self._count()

    async def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            self.died.set()
        if self.died.is_set():
            await asyncio.Event().wait()


class MortalDisk(Disk):
    """Writes like any disk, while its agent lives."""

    def __init__(self, mortality: Mortality) -> None:
        super().__init__()
        self._mortality = mortality

    async def write(self, path: Path, data: bytes) -> None:
        await self._mortality.before()
        await super().write(path, data)
        await self._mortality.after()

    async def remove(self, path: Path) -> None:
        await self._mortality.before()
        await super().remove(path)
        await self._mortality.after()


class MemoryRuntime(RuntimeDriver):
    """One agent's way to the world."""

    name: ClassVar[str] = "docker"

    def __init__(self, world: World, mortality: Mortality | None = None) -> None:
        self._world = world
        self._mortality = mortality or Mortality()

    @classmethod
    def create(cls, settings: AgentSettings) -> Self:
        return cls(World())

    async def start(self) -> None:
        """Nothing to connect to."""

    async def close(self) -> None:
        self._world.listeners.clear()

    async def probe(self) -> Mapping[str, str]:
        await self._answer()
        return {"version": "memory"}

    def subscribe(self, wake: Callable[[AttemptKey | None], None]) -> None:
        self._world.listeners.append(wake)

    async def _answer(self) -> None:
        await asyncio.sleep(0)
        if self._mortality.died.is_set():
            await asyncio.Event().wait()
        if self._world.down:
            raise DriverUnavailable("the runtime does not answer: start it")

    def _lose_answer(self) -> None:
        """The step had its effect, and the agent does not hear of it."""
        if self._world.answers_lost:
            self._world.answers_lost -= 1
            raise DriverUnavailable("the answer was lost")

    async def list(self) -> Sequence[AttemptStatus]:
        await self._answer()
        return tuple(self._world.attempts.values())

    async def inspect(self, key: AttemptKey) -> AttemptStatus | None:
        await self._answer()
        return self._world.attempts.get(key)

    async def prepare(self, spec: AppSpec, progress: Progress) -> None:
        await self._answer()
        if self._world.slow is not None:
            progress("pulls web:1: 50 %")
            await self._world.slow.wait()
        self._world.registry_asked += 1
        if self._world.registry_down:
            raise DriverUnavailable("the registry does not answer")
        if spec.image not in self._world.images:
            raise LaunchRefused(f"the image {spec.image} is absent")

    async def cgroups(self, key: AttemptKey) -> Sequence[str]:
        return self._world.cgroups or await super().cgroups(key)

    async def launch(self, launch: Launch) -> AttemptStatus:
        await self._mortality.before()
        await self._answer()
        if self._world.refusal:
            raise LaunchRefused(self._world.refusal)
        status = self._world.attempts.get(launch.key)
        if status is None:
            status = AttemptStatus(launch.key, AttemptState.CREATED, f"id-{launch.key.attempt}", launch.app, launch.template)
            self._world.put(status)
        await self._mortality.after()
        if status.state is AttemptState.CREATED:
            status = replace(status, state=AttemptState.RUNNING)
            self._world.starts[launch.key.instance] += 1
            self._world.put(status)
        await self._mortality.after()
        self._lose_answer()
        return status

    async def stop(self, key: AttemptKey, signal: str, grace: float) -> None:
        await self._mortality.before()
        await self._answer()
        status = self._world.attempts.get(key)
        if status is not None and status.state is AttemptState.RUNNING:
            self._world.end(key, 143)
        await self._mortality.after()
        self._lose_answer()

    async def remove(self, key: AttemptKey) -> None:
        await self._mortality.before()
        await self._answer()
        self._world.attempts.pop(key, None)
        self._world.tell(key)
        await self._mortality.after()
        self._lose_answer()

    async def logs(self, key: AttemptKey, options: LogOptions) -> AsyncIterator[LogLine]:
        await self._answer()
        for number in range(options.tail or 30):
            yield LogLine(f"line {number} of attempt {key.attempt}\n".encode())

    async def exec(self, key: AttemptKey, request: ExecRequest) -> ExecSession:
        raise LaunchRefused("this world has no commands")
