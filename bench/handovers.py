"""What handing over the lead costs, again and again: seconds to the next accepted launch, and what the processes hold on to.

Two coordinators with a real ZooKeeper; 20 agents come and go at both all the time. The leader is told to step down, and the launch is
called in the same moment by a client that speaks to it. A process that dies, or grows by more than it may, ends the run as failed.
"""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.harness import Measurement, machine_facts, options, report
from gestalt.client import Client
from gestalt.clock import monotonic
from gestalt.proto.v1 import api_pb2
from gestalt.spec.load import validate_spec
from gestalt.wire import spec_to_wire
from tests.real.coordinators_rig import Coordinators
from tests.real.knocking import knocking
from tests.real.zookeeper_lab import running

AGENTS = 20
WARM = 20
"""Handovers before the processes are looked at for the first time: caches fill."""

GROWTH = 16.0
"""MiB that a process may hold more at the end than after the warm-up."""

MORE_FILES = 20
_LOOK = 0.02


@dataclass(frozen=True, slots=True)
class Holdings:
    """What one process holds. `memory` in MiB, resident."""

    memory: float
    files: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> Holdings:
        process = psutil.Process(pid)
        return cls(process.memory_info().rss / 1024**2, process.num_fds(), process.num_threads())


async def hand_over(cluster: Coordinators, leader: int, number: int) -> float:
    """Have the leader step down, and launch something at once; returns the seconds until that was accepted."""
    app = {"path": f"/bench/lab/test/app-{number % 10}", "image": "web:1", "instances": 0}
    async with cluster.client(leader) as client:
        before = await _both_there(client)
        begun = monotonic()
        await client.call(lambda api: api.cluster.StepDown, api_pb2.StepDownRequest(epoch=before.epoch))
        await client.call(lambda api: api.apps.Apply, api_pb2.LaunchRequest(apps=[spec_to_wire(validate_spec(app))]))
        accepted = monotonic() - begun
    assert await cluster.settled() == 1 - leader
    return accepted


async def _both_there(client: Client) -> api_pb2.StatusReply:
    """Return the status once the other coordinator stands by: else the leader does not step down."""
    while True:
        status = await client.call(lambda api: api.cluster.Status, api_pb2.StatusRequest())
        if len(status.coordinators) == 2:
            return status
        await asyncio.sleep(_LOOK)


async def measure(runs: int) -> list[Measurement]:
    """Hand over `runs` times after the warm-up."""
    seconds, held = [], list[list[Holdings]]()
    with running() as ensemble, tempfile.TemporaryDirectory() as folder:
        cluster = Coordinators(Path(folder), ensemble, count=2, session=50.0)
        try:
            async with knocking(cluster, AGENTS) as agents:
                leader = await cluster.up()
                pids = [process.pid for _, process in sorted(cluster.processes.items())]
                for number in range(WARM + runs):
                    seconds.append(await hand_over(cluster, leader, number))
                    leader = 1 - leader
                    assert [process.poll() for process in cluster.processes.values()] == [None, None], "a coordinator has died"
                    if number >= WARM:
                        held.append([Holdings.of(pid) for pid in pids])
                print(f"agents were answered: {dict(agents.outcomes)}")
        finally:
            await cluster.down()
    for first, last in zip(held[0], held[-1], strict=True):
        print(f"after the warm-up {first}, at the end {last}")
        assert last.memory - first.memory < GROWTH, "memory is leaking"
        assert last.files - first.files < MORE_FILES, "files are leaking"
    return [
        Measurement("step-down: to the next accepted launch", "s", tuple(seconds[WARM:])),
        Measurement("step-down: resident memory of the coordinators", "MiB", tuple(item.memory for both in held for item in both)),
        Measurement("step-down: open files of the coordinators", "", tuple(float(item.files) for both in held for item in both)),
    ]


def main() -> None:
    """Measure everything and print it."""
    chosen = options(__doc__.splitlines()[0] if __doc__ else "")
    chosen.set_defaults(runs=100)
    arguments = chosen.parse_args()
    report(machine_facts() | {"agents": str(AGENTS)}, asyncio.run(measure(arguments.runs)), [], arguments.output)


if __name__ == "__main__":
    main()
