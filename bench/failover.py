"""What the loss of a node costs: Gestalt and Docker Swarm on the same nodes, behind the same HAProxy.

    python -m bench.failover [--runs N] [SCENARIO ...]

Each run takes the power of a node that has an instance of a service, while 100 GETs a second come in through the HAProxy of a node that
lives, and measures the seconds until a replacement answers there. Then the node gets its power back, and all is to be as before. Nodes
are made anew for each scenario, all of them alike. Scenarios:

    gestalt, gestalt-fast        two instances on three nodes that only work; session of 2 s, or 1 s
    swarm, swarm-fast            the same, as Docker Swarm; its default, or --dispatcher-heartbeat 1s
    leader                       an instance on each node; the lost one also has the leader and the leader of ZooKeeper
    exclusive                    one instance that must never run twice: no earlier than lease + kill + margin
    exclusive-confirmed          the same, from the moment in which an operator confirms that the lost node is dead
    requests, requests-fast      as gestalt, with 100 GETs and 25 POSTs a second until 15 s after the loss
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Protocol

from bench.cluster import Confirmed, Gestalt, WithLeader
from bench.harness import machine_facts
from bench.load import Load, NotAnswered, Sent, failed, slowest
from bench.sheet import Sheet
from bench.swarm import HTTP_PORT, Swarm
from gestalt.clock import monotonic
from tests.cluster.lab.lab import Lab, temporary_lab
from tests.cluster.lab.nodes import LabError, Node
from tests.real.docker_lab import docker

WHO, PAGE = "/cgi-bin/who", "/index.html"
RATES = {WHO: 40.0, PAGE: 60.0}
"""GETs a second, 100 altogether: the first say who answers, which costs the instance a process each."""

POSTS = 25.0
HOST = "bench"
_SEEN = 60
"""So many requests are answered before anything happens."""

_REST = 1.0
_LABS = 4
_EXCLUSIVE = {"placement": {"exclusive": True}}


class System(Protocol):
    """What runs services on the nodes of a lab."""

    @property
    def name(self) -> str: ...

    async def start(self) -> None:
        """Have it on all nodes."""

    async def deploy(self, host: str, instances: int) -> None:
        """Run so many instances of a web application behind a host name."""

    async def victim(self, homes: Sequence[str]) -> Node:
        """Return the node to be lost, of those that have instances."""

    def front(self) -> Node:
        """Return the node whose proxy is asked."""

    async def lost(self, victim: Node) -> float:
        """Do what is to be done once the power is gone; return from when on the time counts, 0 = from the loss."""

    async def until_whole(self) -> None:
        """Wait until every node takes part and every instance is up."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """`aim`: for people. `watch`: seconds after the loss for which requests count at least."""

    make: Callable[[Lab], System]
    aim: str = ""
    nodes: int = 6
    instances: int = 2
    posts: bool = False
    watch: float = 0.0


SCENARIOS = {
    "gestalt": Scenario(Gestalt, "median at most 4 s, worst 6 s"),
    "gestalt-fast": Scenario(lambda lab: Gestalt(lab, "1s"), "median at most 2 s, worst 3 s"),
    "swarm": Scenario(Swarm),
    "swarm-fast": Scenario(lambda lab: Swarm(lab, "1s")),
    "leader": Scenario(lambda lab: WithLeader(lab, label="node with both leaders lost"), "worst 9 s", nodes=5, instances=5),
    "exclusive": Scenario(lambda lab: Gestalt(lab, fields=_EXCLUSIVE, label="exclusive"), "at most 15 s", instances=1),
    "exclusive-confirmed": Scenario(
        lambda lab: Confirmed(lab, fields=_EXCLUSIVE, label="exclusive, confirmed dead"), "at most 3 s", instances=1
    ),
    "requests": Scenario(Gestalt, posts=True, watch=15.0),
    "requests-fast": Scenario(lambda lab: Gestalt(lab, "1s"), posts=True, watch=15.0),
}
BY_DEFAULT = tuple(SCENARIOS)


@dataclass(frozen=True, slots=True)
class Loss:
    """One loss. `dead`: when the power was gone for certain. `requests`: of each method, those that ended after the loss began."""

    victim: Node
    replaced: float
    begun: float
    dead: float
    requests: dict[str, list[Sent]]


async def lose_a_node(lab: Lab, system: System, scenario: Scenario) -> Loss:
    """Take the power of a node that has an instance; returns when somebody else answers, and enough requests were seen."""
    async with AsyncExitStack() as stack:
        front = system.front().address
        gets = [await stack.enter_async_context(Load(front, HTTP_PORT, HOST, path, rate=rate)) for path, rate in RATES.items()]
        posts = [await stack.enter_async_context(Load(front, HTTP_PORT, HOST, WHO, rate=POSTS, method="POST"))] if scenario.posts else []
        await gets[0].until_answered(_SEEN)
        await gets[0].until_different(scenario.instances)
        known = gets[0].answers
        victim = await system.victim(sorted({answer.split()[-1] for answer in known}))
        begun = monotonic()
        await lab.faults.kill(victim)
        dead = monotonic()
        counts_from = await system.lost(victim) or begun
        replaced = await gets[0].until_news(known) - counts_from
        await asyncio.sleep(max(begun + scenario.watch - monotonic(), _REST))
    requests = {"GET": [request for load in gets for request in load.after(begun)]}
    if posts:
        requests["POST"] = [request for load in posts for request in load.after(begun)]
    return Loss(victim, replaced, begun, dead, requests)


async def mend(lab: Lab, system: System, loss: Loss) -> None:
    """Give the node its power back and wait until all is as before."""
    await lab.faults.boot(loss.victim)
    await system.until_whole()


def note(sheet: Sheet, system: System, scenario: Scenario, loss: Loss) -> None:
    """Put a loss into the table."""
    sheet.add(f"{system.name}: to the replacement's answer", loss.replaced, aim=scenario.aim)
    if scenario.instances == 1:
        return
    for method, requests in loss.requests.items():
        kept = [request for request in requests if not scenario.watch or request.begun <= loss.begun + scenario.watch]
        open_then = sum(request.begun <= loss.dead and (request.ended or 0.0) > loss.dead for request in kept)
        late = sum(bool(request.failure) and request.begun > loss.dead for request in kept)
        sheet.add(f"{system.name}: {method}s sent", len(kept), "")
        aim = "0" if method == "GET" else "at most those in flight"
        why = "; ".join(sorted({request.failure for request in kept if request.failure}))
        sheet.add(f"{system.name}: {method}s failed", failed(kept), "", aim=aim, note=why)
        sheet.add(f"{system.name}: slowest {method}", slowest(kept))
        if method != "GET":
            sheet.add(f"{system.name}: {method}s open when the node was dead", open_then, "")
            sheet.add(f"{system.name}: {method}s failed that were sent later", late, "")


async def measure(sheet: Sheet, name: str, runs: int) -> None:
    """Measure one scenario on a lab of its own; on a new one when that does not come to rest again, which is told."""
    left = iter(range(runs))
    for _ in range(_LABS):
        try:
            await measure_on_a_lab(sheet, SCENARIOS[name], left)
            return
        except (LabError, NotAnswered) as error:
            print(f"  {name}: the lab is made anew: {error}", flush=True)


async def measure_on_a_lab(sheet: Sheet, scenario: Scenario, left: Iterator[int]) -> None:
    """Measure for as long as runs are left.

    Raises:
        LabError: the lab does not come to rest again after a loss.
        NotAnswered: nobody took over.
    """
    async with temporary_lab(scenario.nodes, "bench") as lab:
        system = scenario.make(lab)
        await system.start()
        await system.deploy(HOST, scenario.instances)
        await system.until_whole()
        for _ in left:
            begun = monotonic()
            loss = await lose_a_node(lab, system, scenario)
            note(sheet, system, scenario, loss)
            await mend(lab, system, loss)
            print(f"  (the run took {monotonic() - begun:.0f} s)", flush=True)


def main() -> None:
    """Measure everything and print it."""
    chosen = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    chosen.add_argument("--runs", type=int, default=20)
    chosen.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="default: all", default=BY_DEFAULT)
    arguments = chosen.parse_args()
    if unknown := set(arguments.scenarios) - set(SCENARIOS):
        chosen.error(f"there is no scenario {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    facts = machine_facts() | {"docker": docker("version", "-f", "{{.Server.Version}}")}
    with Sheet("the loss of a node", facts) as sheet:
        for name in arguments.scenarios:
            asyncio.run(measure(sheet, name, arguments.runs))


if __name__ == "__main__":
    assert os.geteuid() == 0, "run it as root"
    main()
