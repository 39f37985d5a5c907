"""Nodes that run something exclusive: a real fence each, behind a wire of its own to ZooKeeper, and real processes in real cgroups.

The agents alone are simulated. What is at work is seen from outside, by the processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gestalt.agent.fence.cgroups import pids_in
from gestalt.clock import monotonic
from gestalt.config import FenceSettings, TimingSettings
from gestalt.model import DesiredInstance, Health, Observed, Phase
from gestalt.pki import Role
from gestalt.proto.v1 import agent_pb2, model_pb2
from gestalt.settings_file import dump_settings
from gestalt.wire import to_wire
from gestalt.zk.grants import GrantMark, parse_grant
from tests.real.cgroup_lab import hierarchies, new_cgroup, run_in
from tests.real.fence_rig import PREFIX, Agent, end_leftovers
from tests.real.members_rig import Members
from tests.real.relay import Relay, relay
from tests.real.simulated_agent import SimulatedAgent

TIMING = TimingSettings(session=2.0, lease=3.0, kill=1.0, margin=1.0)
WAIT = TIMING.lease + TIMING.kill + TIMING.margin
PERIOD = 0.02
_SECOND_TRY = 0.2


@dataclass
class GuardedAgent(SimulatedAgent):
    """Starts what its fence lets it, goes on without a leader, and reports gone only what it has handed back."""

    socket: Path = Path()
    cgroup: Path = Path()
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    async def start(self) -> None:
        await super().start()
        self._work = asyncio.create_task(self._look_after())

    async def stop(self) -> None:
        self._work.cancel()
        await asyncio.gather(self._work, return_exceptions=True)
        await super().stop()

    async def hang_up(self) -> None:
        """Lose the leader, and go on."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def call_again(self, port: int) -> None:
        """Turn to another leader."""
        await self._channel.close()
        self.port = port
        await SimulatedAgent.start(self)

    def _obey(self) -> None:
        """The work is done elsewhere: the fence has to be asked."""

    async def _look_after(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                fence = await Agent.connect(self.socket)
                try:
                    while True:
                        await self._turn(fence)
                        await asyncio.sleep(PERIOD)
                except (AssertionError, TimeoutError):
                    continue  # the fence hung up, or is frozen
                finally:
                    await fence.close()
            await asyncio.sleep(_SECOND_TRY)

    async def _turn(self, fence: Agent) -> None:
        for instance in list(self.state.instances.values()):
            if not instance.stop and instance.grant is not None and not self._lives(instance.id):
                await self._begin(fence, instance)
        for identity in list(self.running):
            if self.state.instances[identity].stop if identity in self.state.instances else not self.state.recovering:
                await self._end(fence, identity)
        gone = [item.id for item in self.state.instances.values() if item.stop and item.id not in self.running]
        if gone:
            self._outbox.put_nowait(agent_pb2.AgentMessage(observed=agent_pb2.ObservedChange(gone=gone)))
            await asyncio.sleep(_SECOND_TRY)

    def _lives(self, identity: str) -> bool:
        return identity in self.processes and self.processes[identity].poll() is None

    async def _begin(self, fence: Agent, instance: DesiredInstance) -> None:
        assert instance.grant is not None
        folder = self.cgroup / instance.id
        folder.mkdir(exist_ok=True)
        if await fence.hold(instance.id, folder, instance.grant.generation, instance.grant.name):
            await asyncio.sleep(_SECOND_TRY)
            return
        self.processes[instance.id] = run_in(folder, "exec sleep 1000")
        self.running[instance.id] = seen = Observed(instance.id, 1, Phase.RUNNING, Health.HEALTHY, ready=True)
        report = agent_pb2.ObservedChange(instances=[to_wire(seen, model_pb2.Observed)])
        self._outbox.put_nowait(agent_pb2.AgentMessage(observed=report))

    async def _end(self, fence: Agent, identity: str) -> None:
        self.processes[identity].kill()
        await asyncio.to_thread(self.processes[identity].wait)
        while await fence.ask(release=identity):  # noqa: ASYNC110 - the kernel tells nobody when a cgroup is empty
            await asyncio.sleep(PERIOD)
        del self.running[identity]


@dataclass
class Guard:
    """The fence of one node. `wire`: its way to ZooKeeper."""

    name: str
    folder: Path
    cgroup: Path
    wire: Relay
    process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.folder / "fence.sock"

    def start(self, node: str, settings: dict[str, Any]) -> None:
        file = self.folder / "fence.yaml"
        file.write_text(dump_settings(FenceSettings(node_id=node, node_name=self.name, socket=self.socket, **settings)))
        with (self.folder / "log").open("ab") as log:
            argv = [sys.executable, "-m", "gestalt.agent.fence.main", "--config", str(file)]
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-3000:]

    def at_work(self) -> list[str]:
        """Return the instances of which a process lives."""
        return [folder.name for folder in self.cgroup.iterdir() if folder.is_dir() and pids_in(folder)]

    def end(self) -> None:
        """Kill the fence, and wait for that."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@dataclass
class Watcher:
    """What was at work on all nodes, sampled all the time: moments with what lived then."""

    guards: list[Guard]
    samples: list[tuple[float, tuple[str, ...]]] = field(default_factory=list)

    async def watch(self) -> None:
        while True:
            found = itertools.chain.from_iterable([f"{item} on {guard.name}" for item in guard.at_work()] for guard in self.guards)
            self.samples.append((monotonic(), tuple(found)))
            await asyncio.sleep(PERIOD)

    def doubles(self) -> list[tuple[float, tuple[str, ...]]]:
        """Return the moments at which there was more than one."""
        return [sample for sample in self.samples if len(sample[1]) > 1]

    def first(self, guard: Guard, after: float) -> float:
        """Return when something was first seen at work on a node after a moment; 0: not yet."""
        return next((at for at, found in self.samples if at > after and any(item.endswith(f" on {guard.name}") for item in found)), 0.0)


@dataclass
class Exclusive(Members):
    """A leader, and nodes that are guarded. `guarded` gives them. `times`: of the fences."""

    times: TimingSettings = TIMING
    guards: dict[str, Guard] = field(default_factory=dict)
    watcher: Watcher = field(default_factory=lambda: Watcher([]))

    async def add(self, guard: Guard) -> None:
        """A new node: admitted, its fence at work, its agent connected."""
        assert self.ensemble is not None
        node = await self.admit(guard.name)
        await self.fences.ensure(self.paths.node(node))
        self.guards[guard.name] = guard
        self.watcher.guards.append(guard)
        self.begin(guard.name)
        await self.link(guard.name)
        await self.until_state(guard.name, "ready")

    def begin(self, name: str) -> None:
        """Start the fence of a node."""
        assert self.ensemble is not None
        guard = self.guards[name]
        servers = self.ensemble.settings(self.root).model_copy(update={"hosts": (f"127.0.0.1:{guard.wire.port}",)})
        settings = {
            "cluster_id": self.cluster_id,
            "zookeeper": servers,
            "timing": self.times,
            "data_dir": guard.folder / "data",
            "watchdog": "",
        }
        guard.start(self.ids[name], settings)

    async def link(self, name: str) -> None:
        """Start the agent of a node."""
        guard, node = self.guards[name], self.ids[name]
        tls = self.tls(Role.NODE, node)
        agent = GuardedAgent(self.port, tls, self.cluster_id, node, name, socket=guard.socket, cgroup=guard.cgroup)
        await agent.start()
        self.agents.append(agent)
        self.by_name[name] = agent

    async def relink(self, name: str) -> None:
        """Have the agent of a node, which hung up and goes on, follow the present leader."""
        agent = self.agent_of(name)
        await agent.call_again(self.port)

    def agent_of(self, name: str) -> GuardedAgent:
        agent = self.by_name[name]
        assert isinstance(agent, GuardedAgent)
        return agent

    async def holder(self) -> Guard:
        """Return the node on which the app is at work, as soon as there is one."""
        await self.until(lambda: any(guard.at_work() for guard in self.guards.values()), "the app is at work")
        return next(guard for guard in self.guards.values() if guard.at_work())

    def other(self, guard: Guard) -> Guard:
        return next(item for item in self.guards.values() if item is not guard)

    async def mark_alone(self) -> GrantMark | None:
        """Return what ZooKeeper says of the one grant, None if there are more."""
        return await self.mark() if len(await self.fences.children(self.paths.grants)) == 1 else None

    async def mark(self) -> GrantMark | None:
        """Return what ZooKeeper says of the one grant."""
        (name,) = await self.fences.children(self.paths.grants)
        await self.fences.sync(self.paths.grant(name))
        found = await self.fences.get(self.paths.grant(name))
        return parse_grant(found[0]) if found else None

    async def lost(self, guard: Guard) -> float:
        """Return the last moment at which the membership of a node was certainly there: no leader saw its loss before."""
        last = monotonic()
        async with asyncio.timeout(20):
            while True:
                asked = monotonic()
                if await self.fences.exists(self.paths.member(self.ids[guard.name])) is None:
                    return last
                last = asked
                await asyncio.sleep(PERIOD)


@asynccontextmanager
async def guarded(rig: Exclusive, *names: str) -> AsyncIterator[Exclusive]:
    """Have a leader, these nodes and somebody who watches them for the length of a block."""
    assert rig.ensemble is not None
    end_leftovers()
    async with AsyncExitStack() as stack:
        parent = stack.enter_context(new_cgroup(hierarchies()[-1]))
        await rig.up()
        stack.push_async_callback(rig.down)
        for name in names:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-")))
            wire = await stack.enter_async_context(relay(rig.ensemble.hosts[0]))
            (parent / name).mkdir()
            guard = Guard(name, folder, parent / name, wire)
            stack.callback(guard.end)
            await rig.add(guard)
        watching = asyncio.create_task(rig.watcher.watch())
        stack.callback(watching.cancel)
        yield rig


__all__ = ["TIMING", "WAIT", "Exclusive", "Guard", "GuardedAgent", "guarded"]
