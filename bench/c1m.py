"""A million containers: 1,000 apps of 1,000 instances with constraints over 5,000 nodes, through the API, durable in ZooKeeper.

A real coordinator, a real ZooKeeper, and nodes that only listen (`bench.shadows`): each has a stream of its own with the leader, over
mutual TLS; those of one process share a session with ZooKeeper. Measured: the seconds from the first request until the last placement is
durable, and the leader's memory. Then one node of a hundred is lost at once: seconds until all replacements are durable. At last an app is
scaled to twice its size and back: no placement of another app may move. What is counted is read back from ZooKeeper.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bench.agents import Fleets, enlist
from bench.harness import machine_facts, options
from bench.plot import Line, plot
from bench.sheet import Sheet
from gestalt.client import Client
from gestalt.clock import monotonic
from gestalt.coordinator.records import Placements
from gestalt.coordinator.state import decode
from gestalt.coordinator.store.zookeeper import ZookeeperStore
from gestalt.errors import GestaltError
from gestalt.pki import Role
from gestalt.proto.v1 import api_pb2
from gestalt.spec.load import validate_spec
from gestalt.wire import spec_to_wire
from gestalt.zk.client import Zk
from gestalt.zk.paths import Paths
from tests.real.coordinators_rig import Coordinators
from tests.real.zookeeper_lab import running

PROCESSES = 2
RACKS = 50
HEARTBEAT = 30.0
"""Seconds. What heartbeats cost is measured by `bench.agents`."""
IN_FLIGHT = 8
"""Launches that are asked for at a time."""
_LIMIT = 1800.0
_PAUSE = 0.02
_SETTLED = 1.0


class Shadows(Fleets):
    """The processes of nodes that only listen."""

    def ask(self, what: dict[str, Any]) -> None:
        """Have nodes do something, as `bench.shadows` understands it."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps(what).encode() + b"\n")


class Placed:
    """Counts what events say was placed durably, and when. `curve`: seconds since `begun`, and all until then."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Count from now on."""
        self.count = 0
        self.begun = monotonic()
        self.curve: list[tuple[float, int]] = []

    async def follow(self, client: Client) -> None:
        """Listen until cancelled."""
        async for batch in client.follow_events(api_pb2.WatchEventsRequest(follow=True, kinds=["app.placed"])):
            for event in batch.events:
                if event.kind == "app.placed":
                    self.count += int(event.message.split()[1])
            self.curve.append((monotonic() - self.begun, self.count))

    async def until(self, count: int, told: str) -> float:
        """Wait until so many were placed; return the seconds since `begun`."""
        shown = monotonic()
        while self.count < count:
            assert monotonic() - self.begun < _LIMIT, f"{self.count} of {count} {told} after {_LIMIT:g} s"
            if monotonic() - shown > 5:
                shown = monotonic()
                print(f"  {self.count:,} of {count:,} {told} after {shown - self.begun:.0f} s", flush=True)
            await asyncio.sleep(0.02)
        return next(at for at, number in self.curve if number >= count)


@dataclass(frozen=True)
class Size:
    """What is run."""

    nodes: int
    apps: int
    instances: int

    @property
    def total(self) -> int:
        return self.apps * self.instances

    def path(self, number: int) -> str:
        return f"/bench/c1m/live/app-{number:04}"


@dataclass
class World:
    """Everything that runs."""

    rig: Coordinators
    shadows: Shadows
    size: Size
    identities: list[str] = field(default_factory=list)

    async def held(self) -> float:
        """Return for how many seconds one callback held the leader's loop at most since the last time."""
        file, begun = self.rig.settings_file(0).with_suffix(".held"), monotonic()
        file.unlink(missing_ok=True)
        self.rig.signal(0, signal.SIGUSR1)
        while not file.exists():
            assert monotonic() - begun < _LIMIT, "the leader does not say what held its loop"
            await asyncio.sleep(_PAUSE)
        return float(file.read_text())

    async def placements(self) -> dict[str, Placements]:
        """Read back from ZooKeeper what is placed, by app."""
        zk = await Zk.connect(self.rig.ensemble.settings(self.rig.root), session=40.0, name="bench")
        store = ZookeeperStore(zk, Paths(self.rig.root), self.rig.cluster_id)
        try:
            await store.open()
            pieces = [decode(document) for document in (await store.load()).documents if document.kind == "placements"]
        finally:
            await store.close()
            await zk.close()
        found: dict[str, Placements] = {}
        for piece in pieces:
            if isinstance(piece, Placements):
                before = found.get(piece.app) or Placements(piece.app)
                found[piece.app] = Placements(piece.app, before.instances + piece.instances)
        return found


@asynccontextmanager
async def world(size: Size, folder: Path) -> AsyncIterator[World]:
    """Have a coordinator lead the nodes, all of which are connected."""
    with running() as ensemble:
        settings = {"heartbeat": HEARTBEAT, "unreachable_after": 2 * HEARTBEAT, "replacements_per_second": 0, "log_level": "warning"}
        timed = (sys.executable, "-m", "bench.held")
        rig = Coordinators(folder, ensemble, count=1, settings=settings, session=20.0, program=timed)
        made = World(rig, Shadows("bench.shadows"), size)
        try:
            made.identities = await enlist(made.rig, made.size.nodes, RACKS)
            await rig.up()
            await start_shadows(made)
            yield made
        except BaseException:
            print(f"--- the end of the coordinator's log:\n{rig.log(0)[-3000:]}", flush=True)
            raise
        finally:
            await made.shadows.end()
            await rig.down()


async def start_shadows(world: World) -> None:
    """Start all nodes and wait until they are connected."""
    rig, begun = world.rig, monotonic()
    common = {"cluster_id": rig.cluster_id, "leader": rig.address(0), "root": rig.root, "heartbeat": HEARTBEAT}
    for process in range(PROCESSES):
        nodes = []
        for number in range(process, world.size.nodes, PROCESSES):
            tls = rig.tls(Role.NODE, world.identities[number])
            files = {name: str(getattr(tls, name)) for name in ("ca", "certificate", "key")}
            nodes.append({"number": number, "node_id": world.identities[number], "node_name": f"node-{number:04}", "tls": files})
        file = rig.folder / f"shadows-{process}.json"
        zookeeper = {"hosts": list(rig.ensemble.hosts), "root": rig.root}
        file.write_text(json.dumps({"common": common, "nodes": nodes, "zookeeper": zookeeper}))
        await world.shadows.start(file)
    while len(world.shadows.said) < PROCESSES or world.shadows.sum("connected") < world.size.nodes:
        assert monotonic() - begun < _LIMIT, "the nodes do not connect"
        await asyncio.sleep(0.2)
    print(f"  {world.size.nodes:,} nodes in {PROCESSES} sessions of ZooKeeper connected after {monotonic() - begun:.0f} s", flush=True)


def spec(size: Size, number: int) -> dict[str, Any]:
    """Return an app's description."""
    return {
        "path": size.path(number),
        "image": "shop/web:1",
        "instances": size.instances,
        "resources": {"cpu": "0.1", "memory": "64M"},
        "placement": {
            "constraints": [{"attribute": "rack", "operator": "!=", "value": f"r{number % RACKS:02}"}],
            "spread": [{"attribute": "rack", "weight": 50}],
        },
        "update": {"progress_deadline": 3600, "health_deadline": 3600},
    }


async def launch(world: World, client: Client) -> None:
    """Launch all apps, a few at a time."""
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def one(number: int) -> None:
        async with slots:
            request = api_pb2.LaunchRequest(apps=[spec_to_wire(validate_spec(spec(world.size, number)))])
            await client.call(lambda api: api.apps.Launch, request, limit=_LIMIT)

    await asyncio.gather(*(one(number) for number in range(world.size.apps)))


class Answers:
    """Asks the leader for next to nothing, all the time; `slowest` is the longest that it took, in seconds: so long its loop was busy.

    What was asked before `taken` was called last does not count: this process may have been busy itself, reading a million placements.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._since = 0.0
        self.slowest = 0.0

    async def watch(self) -> None:
        """Ask until cancelled."""
        while True:
            begun = monotonic()
            with suppress(GestaltError):  # there is no such task
                await self._client.call(lambda api: api.tasks.Get, api_pb2.GetTaskRequest(id="none"), limit=_LIMIT)
            if begun >= self._since:
                self.slowest = max(self.slowest, monotonic() - begun)
            await asyncio.sleep(_PAUSE)

    def taken(self) -> float:
        """Return the slowest since the last time."""
        slowest, self.slowest, self._since = self.slowest, 0.0, monotonic()
        return slowest


@dataclass
class Run:
    """One run. `name`: of its rows."""

    world: World
    client: Client
    sheet: Sheet
    placed: Placed
    answers: Answers

    @property
    def name(self) -> str:
        size = self.world.size
        return f"{size.apps:,} x {size.instances:,} over {size.nodes:,} nodes"

    async def launch(self, leader: psutil.Process) -> None:
        """Launch everything, and read back that it is durable."""
        size, cpu = self.world.size, sum(leader.cpu_times()[:2])
        self.placed.begin()
        self.answers.taken()
        launching = asyncio.create_task(launch(self.world, self.client))
        took = await self.placed.until(size.total, "placed")
        await launching
        slowest, held = self.answers.taken(), await self.world.held()
        stored = sum(len(item.instances) for item in (await self.world.placements()).values())
        assert stored == size.total, f"ZooKeeper has {stored:,} placements"
        self.sheet.add(f"{self.name}: placed, durable", took)
        self.sheet.add(f"{self.name}: placements a second", size.total / took, "/s", aim="at least 10,000", rate=True)
        self.sheet.add(f"{self.name}: leader, processor", sum(leader.cpu_times()[:2]) - cpu)
        self.sheet.add(f"{self.name}: leader, resident", leader.memory_info().rss / 1e6, "MB", aim="at most 3,000")
        self.sheet.add(f"{self.name}: slowest answer meanwhile", slowest)
        self.sheet.add(f"{self.name}: longest that one callback held the loop meanwhile", held)
        self.sheet.add(f"{self.name}: of which the nodes were told by then", self.world.shadows.sum("told") / size.total * 100, "%")

    async def told(self, leader: psutil.Process) -> None:
        """Wait until the nodes were told of everything."""
        begun, cpu = monotonic(), sum(leader.cpu_times()[:2])
        while self.world.shadows.sum("told") < self.world.size.total:
            assert monotonic() - begun < _LIMIT, f"the nodes were told of {self.world.shadows.sum('told'):,} instances"
            await asyncio.sleep(0.1)
        self.sheet.add(f"{self.name}: until the nodes were told of all, after that", monotonic() - begun)
        self.sheet.add(f"{self.name}: leader, processor, for the rest of that", sum(leader.cpu_times()[:2]) - cpu)

    async def report(self) -> None:
        """Have the nodes report that everything is at work, and wait until all launches have ended well."""
        begun = monotonic()
        self.answers.taken()
        await self.world.held()
        self.world.shadows.ask({"report": True})
        await self.all_ended()
        self.sheet.add(f"{self.name}: reported ready, all at once, until all launches have ended", monotonic() - begun)
        self.sheet.add(f"{self.name}: slowest answer meanwhile, reports", self.answers.taken())
        self.sheet.add(f"{self.name}: longest that one callback held the loop meanwhile, reports", await self.world.held())

    async def all_ended(self) -> None:
        """Wait until no task is under way."""
        begun, running = monotonic(), api_pb2.ListTasksRequest(running_only=True, limit=1)
        while (await self.client.call(lambda api: api.tasks.List, running, limit=_LIMIT)).tasks:
            assert monotonic() - begun < _LIMIT, "not all tasks have ended"
            await asyncio.sleep(0.5)

    async def lose(self, leader: psutil.Process) -> None:
        """Have one node of a hundred vanish."""
        before, size = await self.world.placements(), self.world.size
        lost = list(range(0, size.nodes, 100))
        there = {self.world.identities[number] for number in lost}
        instances = sum(placed.node in there for item in before.values() for placed in item.instances)
        await self.world.held()
        self.answers.taken()
        self.placed.begin()
        cpu = sum(leader.cpu_times()[:2])
        self.world.shadows.ask({"vanish": lost})
        took = await self.placed.until(instances, "replaced")
        self.sheet.add(f"{self.name}: {len(lost)} nodes lost, {instances:,} instances replaced, durable", took, aim="at most 3 s")
        self.sheet.add(f"{self.name}: leader, processor, nodes lost", sum(leader.cpu_times()[:2]) - cpu)
        self.sheet.add(f"{self.name}: slowest answer meanwhile, nodes lost", self.answers.taken())
        held = await self.world.held()
        self.sheet.add(f"{self.name}: longest that one callback held the loop meanwhile, nodes lost", held, aim="at most 0.05 s")

    async def scale(self) -> None:
        """Scale one app to twice its size and back, once what was lost is forgotten."""
        await self.all_ended()
        before, path, count = await self.world.placements(), self.world.size.path(0), self.world.size.instances
        self.placed.begin()
        for number in (2 * count, count):
            await self.client.call(lambda api: api.apps.Scale, api_pb2.ScaleRequest(app=path, count=number), limit=_LIMIT)
            if number > count:
                took = await self.placed.until(count, "added")
        after = await self.world.placements()
        moved = [app for app in before if app != path and before[app] != after[app]]
        assert not moved, f"instances of {len(moved)} other apps moved"
        self.sheet.add(f"{self.name}: one app scaled to twice its size; of the others none moved", took)


async def measure(sheet: Sheet, size: Size) -> Line:
    """Measure everything; return how many were placed after how many seconds."""
    folder = Path(tempfile.mkdtemp(prefix="gestalt-bench-", dir="/dev/shm"))  # the disks of thousands of nodes are not this one
    try:
        async with world(size, folder) as made, made.rig.client() as client, made.rig.client() as listener, made.rig.client() as asking:
            run = Run(made, client, sheet, Placed(), Answers(asking))
            watching = [asyncio.create_task(run.placed.follow(listener)), asyncio.create_task(run.answers.watch())]
            await asyncio.sleep(_SETTLED)
            leader = psutil.Process(made.rig.processes[0].pid)
            await run.launch(leader)
            curve = tuple((at, float(count)) for at, count in run.placed.curve if count)
            await run.told(leader)
            await run.report()
            await run.lose(leader)
            await run.scale()
            for task in watching:
                task.cancel()
            return Line(run.name, curve)
    finally:
        shutil.rmtree(folder)


def sized_options(purpose: str, runs: int) -> argparse.ArgumentParser:
    """Return the options of a benchmark of so many runs by default, with those that say the size."""
    chosen = options(purpose)
    chosen.set_defaults(runs=runs)
    chosen.add_argument("--nodes", type=int, default=5000)
    chosen.add_argument("--apps", type=int, default=1000)
    chosen.add_argument("--instances", type=int, default=1000)
    return chosen


def main() -> None:
    """Measure everything and print it."""
    chosen = sized_options(__doc__.splitlines()[0] if __doc__ else "", runs=1)
    chosen.add_argument("--plot", type=Path, help="write how many were placed after how many seconds as SVG")
    arguments = chosen.parse_args()
    size = Size(arguments.nodes, arguments.apps, arguments.instances)
    with Sheet("a million containers", machine_facts()) as sheet:
        lines = [asyncio.run(measure(sheet, size)) for _ in range(arguments.runs)]
    if arguments.plot is not None:
        last = max(at for line in lines for at, _ in line.points)
        arguments.plot.write_text(plot("Placed and durable", "seconds", "instances", lines, [last * part / 4 for part in range(5)]))


if __name__ == "__main__":
    main()
