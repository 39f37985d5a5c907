"""What the loss of a node costs: Gestalt and Docker Swarm on the same nodes, behind the same HAProxy.

Each run takes the power of a node that has one of two instances of a service, while 100 GETs a second come in through the HAProxy of
a node that lives. It measures the seconds until a replacement answers, and what became of the GETs until 15 seconds after the loss.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from bench.cluster import Gestalt
from bench.harness import Measurement, machine_facts, options, report
from bench.swarm import HTTP_PORT, Swarm
from gestalt.clock import monotonic
from tests.cluster.lab.lab import Lab, temporary_lab
from tests.cluster.lab.nodes import Node
from tests.real.docker_lab import docker
from tests.real.haproxy_lab import OpenLoop

NODES = 6
RATE = 100
WATCHED = 15.0
HOST, INSTANCES = "bench", 2
_GIVEN_UP = 90.0
_REST = 3.0


class System(Protocol):
    """What runs services on the nodes of a lab. `front`: the node whose proxy is asked; nothing takes its power."""

    @property
    def name(self) -> str: ...

    @property
    def front(self) -> Node: ...

    async def start(self) -> None:
        """Have it on all nodes."""

    async def deploy(self, host: str, instances: int) -> None:
        """Run so many instances of a web application behind a host name; none of them on a node that decides."""

    async def until_whole(self) -> None:
        """Wait until every node takes part and every instance is up."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What one loss cost. `replaced`: seconds until the replacement answered. `slowest`: seconds of the slowest GET that was answered."""

    replaced: float
    sent: int
    failed: int
    slowest: float


SYSTEMS: dict[str, Callable[[Lab], System]] = {
    "gestalt": Gestalt,
    "gestalt-fast": lambda lab: Gestalt(lab, "1s"),
    "swarm": Swarm,
    "swarm-fast": lambda lab: Swarm(lab, "1s"),
}


async def lose_a_node(lab: Lab, system: System) -> Loss:
    """Take the power of a node that has an instance; give it back and wait until all is as before."""
    async with OpenLoop(HTTP_PORT, RATE, HOST, "/cgi-bin/who", system.front.address) as client:
        await client.answered(RATE)
        homes = {answer.split()[-1] for answer in client.answers}
        victim = random.choice([node for node in lab.nodes if node.name in homes])
        known, before = set(client.answers), client.total
        client.slowest = 0.0
        begun = monotonic()
        await lab.faults.kill(victim)
        replaced = await _replaced(client, known) - begun
        await asyncio.sleep(begun + WATCHED - monotonic())
        sent = client.total - before
    await lab.faults.boot(victim)
    await system.until_whole()
    await asyncio.sleep(_REST)
    return Loss(replaced, sent, len(client.failures), client.slowest)


async def _replaced(client: OpenLoop, known: Collection[str]) -> float:
    """Wait until somebody new answers; return when."""
    deadline = monotonic() + _GIVEN_UP
    while client.answers.keys() <= known:
        assert monotonic() < deadline, f"nobody took over within {_GIVEN_UP:g} s"
        await asyncio.sleep(0.005)
    return monotonic()


async def measure(name: str, runs: int) -> list[Measurement]:
    """Measure one system on a lab of its own."""
    async with temporary_lab(NODES, "bench") as lab:
        system = SYSTEMS[name](lab)
        await system.start()
        await system.deploy(HOST, INSTANCES)
        await system.until_whole()
        losses = []
        for number in range(runs):
            losses.append(await lose_a_node(lab, system))
            print(f"{system.name}, run {number + 1}: {losses[-1]}", flush=True)
    return [
        Measurement(f"{system.name}: to the replacement's answer", "s", tuple(loss.replaced for loss in losses)),
        Measurement(f"{system.name}: GETs sent", "", tuple(float(loss.sent) for loss in losses)),
        Measurement(f"{system.name}: GETs failed", "", tuple(float(loss.failed) for loss in losses)),
        Measurement(f"{system.name}: slowest GET", "s", tuple(loss.slowest for loss in losses)),
    ]


def main() -> None:
    """Measure everything and print it."""
    chosen = options(__doc__.splitlines()[0] if __doc__ else "")
    chosen.set_defaults(runs=20)
    chosen.add_argument("systems", nargs="*", choices=[*SYSTEMS, []], help="default: all")
    arguments = chosen.parse_args()
    facts = machine_facts() | {"docker": docker("version", "-f", "{{.Server.Version}}"), "nodes": str(NODES)}
    measurements: list[Measurement] = []
    for name in arguments.systems or SYSTEMS:
        measurements += asyncio.run(measure(name, arguments.runs))
    report(facts, measurements, [], arguments.output)


if __name__ == "__main__":
    assert os.geteuid() == 0, "run it as root"
    main()
