"""The loss of one node in a hundred, decided about in memory: no ZooKeeper, no agents, one core; what `bench.c1m` does in a real leader.

    python -m bench.loss [--runs N] [--nodes N] [--apps N] [--instances N]

The apps are those of `bench.c1m`, all of whose instances are ready. Measured: the seconds that deciding took, and those until all was
committed to a store in memory, with what a leader keeps of it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from bench.c1m import RACKS, Size, sized_options, spec
from bench.harness import machine_facts
from bench.shadows import CPU, MEMORY
from bench.sheet import Sheet
from gestalt import clock
from gestalt.coordinator import changes
from gestalt.coordinator.brakes import Allowance, Brakes, Doubt
from gestalt.coordinator.decider import Decider
from gestalt.coordinator.dispatch import Dispatcher
from gestalt.coordinator.events import EventRing
from gestalt.coordinator.garbage import Garbage, sweep
from gestalt.coordinator.ledger import Ledger, Retention
from gestalt.coordinator.membership import Member
from gestalt.coordinator.nodes import Tracker, take_facts
from gestalt.coordinator.records import Node, TaskState
from gestalt.coordinator.state import Draft
from gestalt.model import Health, Observed, Phase
from gestalt.proto.v1 import model_pb2
from gestalt.spec.load import validate_spec
from tests.unit.coordinator.crowd import Memory
from tests.unit.coordinator.world import AT

_AT_ONCE = 500
_LIMIT = 600.0
_SETTLED = 1.2


class Timed(Decider):
    """A decider that knows how long it decided."""

    spent = 0.0

    def _try_to_decide(self, draft: Draft, path: str) -> None:
        begun = clock.monotonic()
        super()._try_to_decide(draft, path)
        self.spent += clock.monotonic() - begun


@dataclass
class World:
    """A leader's parts that decide, and nodes of which it is only told. `come`: instances that were placed."""

    size: Size
    ledger: Ledger = field(default_factory=lambda: Ledger(Memory(), EventRing(1000), Retention(100, 1000, 3600.0)))
    come: int = 0

    async def begin(self) -> None:
        """Have all nodes there, and a decider that works."""
        await self.ledger.take_office()
        state = self.ledger.state
        self.tracker = Tracker(clock.monotonic, state.nodes, fenced=True)
        dispatcher = Dispatcher(state, self.tracker, lambda: self.ledger.epoch)
        self.decider = Timed(self.ledger, self.tracker, dispatcher, Brakes(Doubt(1.0), Allowance(0.0)))
        self.ledger.on_commit(self._count)
        self.nodes = [f"node-{number:04}" for number in range(self.size.nodes)]
        for begin in range(0, len(self.nodes), _AT_ONCE):
            async with self.ledger.draft("bench", "join") as draft:
                for number, node in enumerate(self.nodes[begin : begin + _AT_ONCE], begin):
                    draft.put_node(Node(node, node, labels={"rack": f"r{number % RACKS:02}"}, incarnation=1))
        facts = model_pb2.Facts(cpu=CPU, memory=MEMORY, port_first=3000, port_last=4000, runtimes=["docker"])
        for node in self.nodes:
            view = self.tracker.node(node, node)
            self.tracker.member(view, Member(1, "boot", agent_running=True))
            self.tracker.connected(view)
            take_facts(self.tracker, view, facts)
            self.tracker.inventory(view, (), ())
        self.work = asyncio.create_task(self.decider.run())

    def _count(self, draft: Draft) -> None:
        self.come += sum(len(moves.come) for moves in draft.moves)

    async def until_come(self, count: int) -> None:
        """Wait until so many were placed since the begin."""
        async with asyncio.timeout(_LIMIT):
            while self.come < count:
                assert not self.work.done(), "the decider has ended"
                await asyncio.sleep(0)  # the decider has its turn

    async def launch(self) -> None:
        """Place all apps, and have all instances ready."""
        for number in range(self.size.apps):
            async with self.ledger.draft("bench", "launch") as draft:
                asked = changes.Asked("bench", AT, 0, f"task{number}", f"{number:06x}")
                changes.describe(draft, None, validate_spec(spec(self.size, number)), (), asked)
        await self.until_come(self.size.total)
        for node in self.nodes:
            ready = [Observed(one, 1, Phase.RUNNING, Health.HEALTHY, ready=True) for one in self.ledger.state.placed_on(node)]
            self.tracker.observed(self.tracker.node(node, node), ready, ())
        await asyncio.sleep(_SETTLED)  # time has to pass: an instance without a check counts after a second
        self.decider.wake(self.ledger.state.apps)
        begun = clock.monotonic()
        while any(task.state is TaskState.RUNNING for task in self.ledger.state.tasks.values()):
            assert clock.monotonic() - begun < _LIMIT, "not all tasks have ended"
            await asyncio.sleep(0.1)

    async def lose(self) -> tuple[int, float]:
        """Have one node of a hundred vanish; return how many instances were replaced, and the seconds that it took."""
        state, lost = self.ledger.state, self.nodes[::100]
        for node in lost:
            view = self.tracker.node(node, node)
            self.tracker.disconnected(view)
            self.tracker.member(view, None)
        gone, self.decider.spent, begun = sum(len(state.placed_on(node)) for node in lost), 0.0, clock.monotonic()
        self.decider.wake({path for node in lost for path in state.apps_on(node)})
        await self.until_come(self.come + gone)
        return gone, clock.monotonic() - begun


async def measure(sheet: Sheet, size: Size) -> None:
    """Measure one loss."""
    world, garbage = World(size), Garbage()
    garbage.begin()
    try:
        await world.begin()
        await world.launch()
        gone, took = await world.lose()
    finally:
        world.work.cancel()
        await asyncio.gather(world.work, return_exceptions=True)
        garbage.end()
    name = f"{size.apps:,} x {size.instances:,} over {size.nodes:,} nodes, {gone:,} instances lost"
    sheet.add(f"{name}: deciding", world.decider.spent, aim="at most 1 s")
    sheet.add(f"{name}: with commits in memory", took)


def main() -> None:
    """Measure everything and print it."""
    arguments = sized_options(__doc__.splitlines()[0] if __doc__ else "", runs=3).parse_args()
    with Sheet("the loss of one node in a hundred, in memory", machine_facts()) as sheet:
        for _ in range(arguments.runs):
            asyncio.run(measure(sheet, Size(arguments.nodes, arguments.apps, arguments.instances)))
            sweep()


if __name__ == "__main__":
    main()
