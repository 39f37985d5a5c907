"""A model of a full cluster: a real leader's decisions on a store in memory, several apps, nodes whose agents stop when they are let."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from gestalt import clock
from gestalt.coordinator import changes
from gestalt.coordinator.decider import Decider
from gestalt.coordinator.dispatch import Dispatcher
from gestalt.coordinator.events import EventRing
from gestalt.coordinator.ledger import Ledger, Retention
from gestalt.coordinator.membership import Member
from gestalt.coordinator.nodes import Tracker, take_facts
from gestalt.coordinator.records import App, Node, Placed
from gestalt.coordinator.scheduler.obstacles import SLACK
from gestalt.coordinator.state import State
from gestalt.coordinator.store.base import Change, Committed, Document, MetaStore, Put, Restored, Snapshot
from gestalt.model import Health, Observed, Phase
from gestalt.proto.v1 import model_pb2
from gestalt.spec.schema import AppSpec
from tests.unit.coordinator.world import AT

AREA = "/org/ws/env/"
_CHECK = {"kind": "exec", "command": ["ok"], "grace": 0}


def app(name: str, instances: int = 1, cpu: float = 1, *, priority: int = 50, preempt: bool = False, **fields: object) -> AppSpec:
    placement = {"priority": priority, "preempt": preempt, **fields.pop("placement", {})}  # type: ignore[dict-item]
    base = {"path": AREA + name, "image": "web:1", "instances": instances, "resources": {"cpu": cpu}, "checks": [_CHECK]}
    return AppSpec.model_validate(base | {"placement": placement} | fields)


def urgent(instances: int = 1, cpu: float = 1, **fields: object) -> AppSpec:
    """An app for which others are stopped."""
    return app("urgent", instances, cpu, **({"priority": 80, "preempt": True} | fields))  # type: ignore[arg-type]


class Memory(MetaStore):
    """What a store holds while this process lives."""

    def __init__(self) -> None:
        self.documents: dict[tuple[str, str], Document] = {}
        self.number = self.epoch = 0

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def take_office(self) -> int:
        self.epoch += 1
        return self.epoch

    async def load(self) -> Snapshot:
        return Snapshot(tuple(self.documents.values()), self.number, self.epoch, "cluster", "history", 1)

    async def commit(self, changes: Sequence[Change], epoch: int) -> Committed:
        assert epoch == self.epoch
        self.number += 1
        for change in changes:
            if isinstance(change, Put):
                self.documents[change.kind, change.key] = Document(change.kind, change.key, change.value, self.number)
            else:
                self.documents.pop((change.kind, change.key), None)
        return Committed(self.number)

    async def last_commit(self) -> int:
        return self.number

    async def raise_format(self, number: int, epoch: int) -> bool:
        return False

    async def restore(self, documents: Sequence[Document], *, commit: int, epoch: int, expected: int) -> Restored:
        raise NotImplementedError


@dataclass
class Machine:
    """The truth on a node. `slow`: nothing stops there until it is let, but those that are `quick`."""

    cores: float
    slow: bool = False
    quick: set[str] = field(default_factory=set)
    labels: dict[str, str] = field(default_factory=dict)
    running: dict[str, Observed] = field(default_factory=dict)


class Crowd:
    """A cluster of nodes n1, n2 … with so many cores each."""

    def __init__(self, *cores: float) -> None:
        self.machines = {f"n{number}": Machine(each) for number, each in enumerate(cores, 1)}
        self.store = Memory()
        self.asked = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def begin(self, *, deaf_to: str = "") -> None:
        """A new leader. `deaf_to`: a node whose agent does not reach it yet."""
        self.ledger = Ledger(self.store, EventRing(1000), Retention(100, 1000, 3600.0))
        await self.ledger.take_office()
        self.tracker = Tracker(clock.monotonic, self.state.nodes, fenced=True)
        dispatcher = Dispatcher(self.state, self.tracker, lambda: self.ledger.epoch)
        self.decider = Decider(self.ledger, self.tracker, dispatcher)
        async with self.ledger.draft("test", "join") as draft:
            for name, machine in self.machines.items():
                draft.put_node(Node(name, name, labels=machine.labels, incarnation=1))
        for name in self.machines:
            self.tracker.member(self.tracker.node(name, name), Member(1, "boot", agent_running=True))
            if name != deaf_to:
                self.hear(name)
        self._tasks = [asyncio.create_task(self.decider.run()), asyncio.create_task(self.decider.preemption.run())]
        await self.settle()

    async def end(self) -> None:
        for task in self._tasks:
            assert not task.done()
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def change_leader(self, *, deaf_to: str = "") -> None:
        await self.end()
        await self.begin(deaf_to=deaf_to)

    def hear(self, name: str) -> None:
        """Have a node's agent connect and tell of everything."""
        view, machine = self.tracker.node(name, name), self.machines[name]
        self.tracker.connected(view)
        take_facts(self.tracker, view, model_pb2.Facts(cpu=machine.cores, memory=2**40, runtimes=["docker"]))
        self.tracker.inventory(view, self.state.placed_on(name), list(machine.running.values()))
        self.decider.wake(self.state.apps)

    def lose(self, name: str) -> None:
        """End a node with everything on it."""
        view = self.tracker.node(name, name)
        self.machines.pop(name)
        self.tracker.disconnected(view)
        self.tracker.member(view, None)
        self.decider.wake(self.state.apps)

    @property
    def state(self) -> State:
        return self.ledger.state

    async def ask(self, change: object, *arguments: object) -> None:
        self.asked += 1
        async with self.ledger.draft("tester", "change") as draft:
            change(draft, *arguments, changes.Asked("tester", AT, 0, f"task{self.asked}", f"{self.asked:06x}"))  # type: ignore[operator]
        await self.settle()

    async def apply(self, *specs: AppSpec) -> None:
        for spec in specs:
            await self.ask(changes.describe, None, spec, ())

    async def put_node(self, name: str, **fields: object) -> None:
        async with self.ledger.draft("tester", "change") as draft:
            draft.put_node(Node(name, name, incarnation=1, **fields))  # type: ignore[arg-type]
        await self.settle()

    async def settle(self) -> None:
        """Let both sides go on until nothing changes any more."""
        still = 0
        while still < 30:
            before = self.store.number
            self._obey()
            await asyncio.sleep(0)
            still = still + 1 if before == self.store.number else 0
            self.check()

    async def until(self, condition: Callable[[], object], what: str = "what time brings about") -> None:
        """Wait for what time alone brings about; fail with where everything is."""
        try:
            async with asyncio.timeout(10):
                while not condition():
                    await asyncio.sleep(0.01)
                    await self.settle()
        except TimeoutError:
            raise AssertionError(f"waited 10 s for {what}; placed is {self.state.placements}") from None

    def _obey(self) -> None:
        for name, machine in self.machines.items():
            view, news, gone = self.tracker.node(name, name), list[Observed](), list[str]()
            for identity, placed in self.state.placed_on(name).items() if view.heard else ():
                if placed.stop and (not machine.slow or identity in machine.quick) and not self._is_told(identity):
                    machine.running.pop(identity, None)
                    gone.append(identity)
                elif not placed.stop and identity not in machine.running:
                    machine.running[identity] = Observed(identity, 1, Phase.RUNNING, Health.HEALTHY, ready=True)
                    news.append(machine.running[identity])
            if news or gone:
                self.tracker.observed(view, news, gone)
                self.decider.wake({self.state.owners[identity] for identity in (*gone, *(item.instance for item in news))})

    def _is_told(self, identity: str) -> bool:
        return (sighting := self.tracker.sightings.get(identity)) is not None and sighting.gone

    def check(self) -> None:
        """Nothing is reserved twice: what is at work, or may be, fits on its node."""
        for name, machine in self.machines.items():
            used = sum(
                self._spec(self.state.owners[item], placed.version).resources.cpu for item, placed in self.state.placed_on(name).items()
            )
            assert used <= machine.cores + SLACK, f"{name}: {used} of {machine.cores} cores"

    def _spec(self, path: str, version: int) -> AppSpec:
        return self.state.version(path, version).spec

    # -- what there is to see --

    def of(self, name: str) -> App:
        return self.state.apps[AREA + name]

    def placed(self, name: str) -> list[Placed]:
        return [item for item in self.state.placed(AREA + name).instances if not item.stop]

    def on(self, name: str) -> dict[str, int]:
        """Return how many instances of an app stay, by node."""
        return dict(sorted(Counter(item.node for item in self.placed(name)).items()))

    def leaving(self, name: str) -> int:
        return sum(item.stop for item in self.state.placed(AREA + name).instances)

    def why(self, name: str) -> str:
        return self.decider.lacks(AREA + name)

    def told(self, kind: str) -> list[str]:
        """Return the events of a kind."""
        return [event.message for audit in self.state.audits.values() for event in audit.events if event.kind == kind]

    async def let(self, *names: str) -> None:
        """Have nodes stop what is to stop."""
        for name in names:
            self.machines[name].slow = False
        await self.settle()


Begin = Callable[..., Awaitable[Crowd]]
"""What the fixture `begin` is."""
