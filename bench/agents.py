"""What a thousand agents cost one coordinator, and how they take the loss of the leader.

Two real coordinators, a real ZooKeeper, and simulated agents in a few processes (`bench.fleet`): each has a session of its own with the
coordinator, over mutual TLS, and one with ZooKeeper. Each runs an instance; a heartbeat and a change of what is observed go up every
second. Measured at rest: processor and memory of the leader, apart from those of the simulators and of ZooKeeper. Then the leader is
killed with SIGKILL, again and again: seconds until the next one has heard all agents and they act on what it told them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bench.harness import machine_facts, options
from bench.sheet import Sheet
from gestalt.client import Client
from gestalt.clock import monotonic
from gestalt.coordinator.records import Node
from gestalt.coordinator.state import encode
from gestalt.coordinator.store.base import Put
from gestalt.coordinator.store.zookeeper import ZookeeperStore
from gestalt.pki import Role
from gestalt.proto.v1 import api_pb2
from gestalt.spec.load import validate_spec
from gestalt.wire import spec_to_wire
from gestalt.zk.client import Zk
from gestalt.zk.paths import Paths
from tests.real.coordinators_rig import Coordinators
from tests.real.zookeeper_lab import running

PROCESSES = 4
APP = "/bench/agents/live/app-{:02}"
APP_SIZE = 50
"""Instances of an app: one an agent, of as many apps as that makes."""

HEARTBEAT = 0.9
"""Seconds: with a change every second, each agent sends one of both a second."""

NICE = 10
"""The simulators stand for other machines: what they want of this one's processors comes last."""

_WATCHED = 20.0
_SETTLED = 5.0
_START_LIMIT = 60.0
_CHANGE_LIMIT = 120.0


@dataclass
class Fleets:
    """The processes of simulated agents, and the last line that each said. `module`: what they run."""

    module: str = "bench.fleet"
    processes: list[asyncio.subprocess.Process] = field(default_factory=list)
    said: dict[int, dict[str, Any]] = field(default_factory=dict)
    readers: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self, settings: Path) -> None:
        process = await asyncio.create_subprocess_exec(
            *("nice", f"--adjustment={NICE}", sys.executable, "-m", self.module, str(settings)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "GRPC_VERBOSITY": "NONE"},
        )
        self.processes.append(process)
        self.readers.append(asyncio.create_task(self._read(process)))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            self.said[process.pid] = json.loads(line)

    def told(self, epoch: int) -> int:
        """Return how many agents act on what the leader of this epoch told them."""
        return sum(said["told"].get(str(epoch), 0) for said in self.said.values())

    def epochs(self) -> set[int]:
        """Return the epochs of the leaders that agents are in session with."""
        return {int(epoch) for said in self.said.values() for epoch in said["told"]}

    def sum(self, what: str) -> int:
        return sum(said[what] for said in self.said.values())

    def complaints(self) -> Counter[str]:
        """Return why sessions ended or did not begin, and how often."""
        return sum((Counter(said["complaints"]) for said in self.said.values()), Counter())

    async def end(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await asyncio.gather(*(process.wait() for process in self.processes), *self.readers, return_exceptions=True)


@dataclass
class World:
    """Everything that runs."""

    rig: Coordinators
    fleets: Fleets
    nodes: int
    leader: int = 0

    async def status(self) -> api_pb2.StatusReply | None:
        """Return what the leader says, None while nobody does."""
        answers = await asyncio.gather(*map(self.rig.ask, self.rig.processes))
        return next((answer for answer in answers if isinstance(answer, api_pb2.StatusReply)), None)

    async def until_whole(self, above: int, limit: float) -> int:
        """Wait until all agents act on what a leader of a higher epoch told them; return the epoch."""
        deadline = monotonic() + limit
        while True:
            for epoch in self.fleets.epochs():
                if epoch > above and self.fleets.told(epoch) == self.nodes:
                    return epoch
            told = {epoch: self.fleets.told(epoch) for epoch in self.fleets.epochs()}
            assert monotonic() < deadline, f"{told} of {self.nodes} after {limit:g} s; {self.fleets.complaints()}"
            await asyncio.sleep(0.05)


@asynccontextmanager
async def world(nodes: int, folder: Path) -> AsyncIterator[World]:
    """Have coordinators at work that know so many nodes, none of which has started."""
    with running() as ensemble:
        settings = {"heartbeat": HEARTBEAT, "hands_off_share": 1.0, "replacements_per_second": 0, "log_level": "warning"}
        rig = Coordinators(folder, ensemble, count=2, settings=settings)
        made = World(rig, Fleets(), nodes)
        try:
            yield made
        except BaseException:
            for number in range(rig.count):
                code = rig.processes[number].poll() if number in rig.processes else None
                print(f"--- coordinator {number}, exit code {code}; the end of its log:\n{rig.log(number)[-2000:]}", flush=True)
            raise
        finally:
            for number in list(rig.processes):
                rig.kill(number)
            await made.fleets.end()
            await rig.down()


async def enlist(rig: Coordinators, nodes: int, racks: int = 0) -> list[str]:
    """Make nodes members before anybody leads, with labels of so many racks; return their ids."""
    identities = [f"{number:08}-0000-4000-8000-000000000000" for number in range(nodes)]
    zk = await Zk.connect(rig.ensemble.settings(rig.root), session=10.0, name="bench")
    paths = Paths(rig.root)
    store = ZookeeperStore(zk, paths, rig.cluster_id)
    try:
        await store.open()
        epoch = await store.take_office()
        records = [
            Node(identity, f"node-{number:04}", address="127.0.0.1", labels={"rack": f"r{number % racks:02}"} if racks else {})
            for number, identity in enumerate(identities)
        ]
        await store.commit([Put("node", record.id, encode(record)) for record in records], epoch)
        await zk.ensure(paths.nodes)
        for identity in identities:
            await zk.create(paths.node(identity))
    finally:
        await store.close()
        await zk.close()
    return identities


async def start_fleets(world: World, identities: list[str], session: float) -> None:
    """Start all agents; returns before they are there."""
    rig = world.rig
    common = {
        "cluster_id": rig.cluster_id,
        "coordinators": rig.addresses,
        "health_port": 0,
        "proxy": {"enabled": False},
    }
    share = -(-len(identities) // PROCESSES)
    for first in range(0, len(identities), share):
        agents = []
        for number, identity in enumerate(identities[first : first + share], first):
            tls = rig.tls(Role.NODE, identity)
            files = {name: str(getattr(tls, name)) for name in ("ca", "certificate", "key")}
            data = str(rig.folder / f"agent-{number}")
            agents.append({"node_id": identity, "node_name": f"node-{number:04}", "tls": files, "data_dir": data})
        file = rig.folder / f"fleet-{first}.json"
        zookeeper = {"hosts": list(rig.ensemble.hosts), "root": rig.root}
        file.write_text(json.dumps({"common": common, "agents": agents, "zookeeper": zookeeper, "session": session}))
        await world.fleets.start(file)


async def launch(client: Client, count: int) -> None:
    """Launch apps until there is an instance for each agent."""
    requests = []
    for number in range(-(-count // APP_SIZE)):
        spec = {
            "path": APP.format(number),
            "image": "shop/web:1",
            "instances": min(APP_SIZE, count - number * APP_SIZE),
            "resources": {"cpu": "5", "memory": "64M"},  # of 8: one instance a node
            "ports": [{"name": "http", "container_port": 80, "http": {"hosts": [f"app-{number:02}.example"]}}],
            "checks": [{"kind": "http", "path": "/"}],
        }
        requests.append(spec_to_wire(validate_spec(spec)))
    await client.call(lambda api: api.apps.Launch, api_pb2.LaunchRequest(apps=requests))


class Costs:
    """Processor seconds of some processes since they were looked at first."""

    def __init__(self, processes: Mapping[str, list[psutil.Process]]) -> None:
        self._processes = processes
        self._at, self._before = monotonic(), self._now()

    def _now(self) -> dict[str, float]:
        return {name: sum(sum(one.cpu_times()[:2]) for one in group) for name, group in self._processes.items()}

    def shares(self) -> dict[str, float]:
        """Return the percent of a core that each group took."""
        passed = monotonic() - self._at
        return {name: 100 * (now - self._before[name]) / passed for name, now in self._now().items()}

    def memory(self) -> dict[str, float]:
        """Return the resident megabytes of each group."""
        return {name: sum(one.memory_info().rss for one in group) / 1e6 for name, group in self._processes.items()}


def process_groups(world: World, leader: int) -> dict[str, list[psutil.Process]]:
    """Return who is measured."""
    servers = [psutil.Process(pid) for pid in world.rig.ensemble.pids]
    return {
        "coordinator": [psutil.Process(world.rig.processes[leader].pid)],
        "simulators": [psutil.Process(process.pid) for process in world.fleets.processes],
        "ZooKeeper": servers,
    }


async def slowest_call(world: World, seconds: float) -> float:
    """Return the seconds of the slowest of many calls of the API."""
    slowest, end = 0.0, monotonic() + seconds
    async with world.rig.client() as client:
        while monotonic() < end:
            begun = monotonic()
            await client.call(lambda api: api.apps.Get, api_pb2.GetRequest(app=APP.format(0)))
            slowest = max(slowest, monotonic() - begun)
            await asyncio.sleep(0.2)
    return slowest


async def at_rest(world: World, sheet: Sheet, empty: float) -> None:
    """Measure what goes on when nothing happens but what always does. `empty`: megabytes of the leader without agents."""
    leader = await world.rig.settled()
    costs = Costs(process_groups(world, leader))
    before = world.fleets.sum("changes")
    slowest = await slowest_call(world, _WATCHED)
    changes = (world.fleets.sum("changes") - before) / _WATCHED
    for name, share in costs.shares().items():
        sheet.add(f"{world.nodes} agents: {name}, processor", share, "%")
    for name, megabytes in costs.memory().items():
        sheet.add(f"{world.nodes} agents: {name}, resident", megabytes, "MB")
    sheet.add("coordinator, processor for each agent", 10_000 * costs.shares()["coordinator"] / world.nodes, "µs/s")
    sheet.add("coordinator, memory for each agent", 1000 * (costs.memory()["coordinator"] - empty) / world.nodes, "kB")
    sheet.add("changes that all agents observe", changes, "/s", rate=True)
    sheet.add("slowest of the calls of the API meanwhile", slowest)


async def lose_the_leader(world: World, sheet: Sheet) -> None:
    """Kill the leader, and have all as before."""
    leader = await world.rig.settled()
    status = await world.status()
    assert status is not None
    before = world.fleets.complaints()
    begun = monotonic()
    world.rig.kill(leader)
    in_office = await _office(world, status.epoch) - begun
    await world.until_whole(status.epoch, _CHANGE_LIMIT)
    passed = monotonic() - begun
    complaints = world.fleets.complaints() - before
    sheet.add("leader killed: to the next one in office", in_office)
    sheet.add("leader killed: all agents reported to the next one", passed, aim="at most 10 s", note=_shown(complaints))
    sheet.add("leader killed: ended or refused sessions, for each agent", sum(complaints.values()) / world.nodes, "")
    world.rig.start(leader)
    await world.rig.settled()


async def _office(world: World, above: int) -> float:
    """Wait until a leader of a higher epoch answers; return when."""
    while True:
        found = await world.status()
        if found is not None and found.epoch > above:
            return monotonic()
        await asyncio.sleep(0.02)


def _shown(complaints: Counter[str]) -> str:
    return ", ".join(f"{count} {why}" for why, count in complaints.most_common(4))


async def measure(sheet: Sheet, nodes: int, session: float, runs: int) -> None:
    """Measure everything."""
    folder = Path(tempfile.mkdtemp(prefix="gestalt-bench-", dir="/dev/shm"))  # the disks of a thousand nodes are not this one
    try:
        async with world(nodes, folder) as made:
            identities = await enlist(made.rig, nodes)
            leader = await made.rig.up()
            empty = psutil.Process(made.rig.processes[leader].pid).memory_info().rss / 1e6
            begun = monotonic()
            await start_fleets(made, identities, session)
            await made.until_whole(0, _START_LIMIT)
            print(f"{nodes} agents in session after {monotonic() - begun:.0f} s: {_shown(made.fleets.complaints())}", flush=True)
            async with made.rig.client() as client:
                await launch(client, nodes)
            await _until_running(made)
            for _ in range(max(runs // 3, 1)):
                await asyncio.sleep(_SETTLED)
                await at_rest(made, sheet, empty)
            for _ in range(runs):
                await asyncio.sleep(_SETTLED)
                await lose_the_leader(made, sheet)
    finally:
        shutil.rmtree(folder)


async def _until_running(world: World) -> None:
    begun = monotonic()
    while world.fleets.sum("running") < world.nodes:
        assert monotonic() < begun + _CHANGE_LIMIT, f"{world.fleets.sum('running')} of {world.nodes} instances run"
        await asyncio.sleep(0.1)
    print(f"{world.nodes} instances run after {monotonic() - begun:.1f} s", flush=True)


def main() -> None:
    """Measure everything and print it."""
    chosen = options(__doc__.splitlines()[0] if __doc__ else "")
    chosen.set_defaults(runs=5)
    chosen.add_argument("--nodes", type=int, default=1000)
    chosen.add_argument("--session", type=float, default=10.0, help="seconds of the agents' ZooKeeper sessions; the coordinators' have 2 s")
    arguments = chosen.parse_args()
    with Sheet(f"{arguments.nodes} agents", machine_facts() | {"session": f"{arguments.session:g} s"}) as sheet:
        asyncio.run(measure(sheet, arguments.nodes, arguments.session, arguments.runs))


if __name__ == "__main__":
    main()
