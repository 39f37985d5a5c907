"""What the loss of the leading coordinator costs: seconds until the next launch is accepted, GETs meanwhile, instances that were touched.

    python -m bench.leader [--runs N] [--session 1s] [WAY ...]

Each run takes the lead away in one way after the other: the process is killed (systemd starts it again), the process is frozen, its node
loses its power with the ZooKeeper server on it, or an operator has it step down. A launch is called at that moment, by a client that
speaks to this leader and finds the next one. The first three nodes decide, instances run on the other two.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from bench.cluster import Gestalt
from bench.harness import machine_facts
from bench.load import Load, NotAnswered, failed, slowest
from bench.sheet import Sheet
from gestalt.client import Client, Target
from gestalt.clock import monotonic
from gestalt.ctl.contexts import choose
from gestalt.errors import GestaltError
from gestalt.proto.v1 import api_pb2
from gestalt.spec.load import validate_spec
from gestalt.wire import spec_to_wire
from tests.cluster.lab.cluster import Cluster, web
from tests.cluster.lab.lab import temporary_lab
from tests.cluster.lab.nodes import LabError, Node
from tests.real.docker_lab import docker

NODES = 5
HOST = "bench"
INSTANCES = 4
RATE = 100
_PATIENCE = 60.0
_WATCHED = 1.0
_SEEN = 50
_LABS = 4


@dataclass(frozen=True, slots=True)
class Way:
    """How the lead is taken. `aim`: for people."""

    what: str
    take: Callable[[Cluster, Node, Client], Awaitable[object]]
    aim: str = "median at most 3 s"


async def _crash(cluster: Cluster, leader: Node, _: Client) -> None:
    await cluster.lab.faults.crash(leader, "coordinator")


async def _freeze(cluster: Cluster, leader: Node, _: Client) -> None:
    await cluster.lab.faults.freeze(leader, "coordinator")


async def _kill(cluster: Cluster, leader: Node, _: Client) -> None:
    await cluster.lab.faults.kill(leader)


async def _step_down(_: Cluster, __: Node, client: Client) -> None:
    await client.call(lambda api: api.cluster.StepDown, api_pb2.StepDownRequest(reason="benchmark"))


WAYS = {
    "killed": Way("leader's process killed", _crash),
    "frozen": Way("leader's process frozen", _freeze),
    "node-lost": Way("leader's node lost", _kill),
    "step-down": Way("leader steps down", _step_down, "at most 0.5 s"),
}


async def take_the_lead(system: Gestalt, way: Way, sheet: Sheet) -> None:
    """Take the lead away, launch something, and have all as before."""
    cluster = system.cluster
    leader, before = await cluster.leader(), await _instances(cluster)
    context = choose(str(cluster.client), None)
    target = Target(context.coordinators, context.ca, context.certificate, context.key)
    path = f"/bench/lab/test/new-{uuid.uuid4().hex[:8]}"
    request = api_pb2.LaunchRequest(apps=[spec_to_wire(validate_spec(web(path)))])
    front = system.lab.nodes[-1]
    async with Load(front.address, 80, HOST, "/index.html", rate=RATE) as load, Client(target, patience=_PATIENCE) as client:
        await client.call(lambda api: api.nodes.List, api_pb2.ListNodesRequest())
        await load.until_answered(_SEEN)
        begun = monotonic()
        await way.take(cluster, leader, client)
        await client.call(lambda api: api.apps.Launch, request)
        accepted = monotonic() - begun
        cluster.ledger.acknowledged(path, 1)
        await asyncio.sleep(_WATCHED)
    requests = load.after(begun)
    sheet.add(f"{way.what}: to the next accepted launch", accepted, aim=way.aim)
    sheet.add(f"{way.what}: GETs sent", len(requests), "")
    sheet.add(f"{way.what}: GETs failed", failed(requests), "", aim="0")
    sheet.add(f"{way.what}: slowest GET", slowest(requests))
    await _mend(system, path)
    sheet.add(f"{way.what}: instances touched", len(before ^ await _instances(cluster)), "", aim="0")


async def _instances(cluster: Cluster) -> set[tuple[str, int, str]]:
    """Return the instances with their attempts and nodes."""
    _, listed = await cluster.view()
    return {(item.instance, item.attempt, item.node) for item in listed}


async def _mend(system: Gestalt, path: str) -> None:
    await system.lab.faults.heal_all()
    await system.until_whole()
    await system.cluster.delete(path)
    await system.until_whole()


async def measure(sheet: Sheet, runs: int, session: str, ways: list[str]) -> None:
    """Measure all ways in turn on one cluster; on a new one when that does not come to rest again, which is told."""
    left = iter([way for _ in range(runs) for way in ways])
    for _ in range(_LABS):
        try:
            await measure_on_a_lab(sheet, session, left)
            return
        except (LabError, NotAnswered, GestaltError) as error:
            print(f"  the lab is made anew: {error}", flush=True)


async def measure_on_a_lab(sheet: Sheet, session: str, left: Iterator[str]) -> None:
    """Measure for as long as ways are left.

    Raises:
        LabError, NotAnswered, GestaltError: the lab does not come to rest, or nobody takes the lead.
    """
    async with temporary_lab(NODES, "bench") as lab:
        system = Gestalt(lab, session)
        await system.start()
        await system.deploy(HOST, INSTANCES)
        await system.until_whole()
        for way in left:
            begun = monotonic()
            await take_the_lead(system, WAYS[way], sheet)
            print(f"  (the run took {monotonic() - begun:.0f} s)", flush=True)


def main() -> None:
    """Measure everything and print it."""
    chosen = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    chosen.add_argument("--runs", type=int, default=20)
    chosen.add_argument("--session", default="", help="length of ZooKeeper's sessions; default: that of the product, 2 s")
    chosen.add_argument("ways", nargs="*", metavar="WAY", help=f"of {', '.join(WAYS)}; default: all", default=list(WAYS))
    arguments = chosen.parse_args()
    if unknown := set(arguments.ways) - set(WAYS):
        chosen.error(f"there is no way {', '.join(sorted(unknown))}; there are {', '.join(WAYS)}")
    facts = machine_facts() | {"docker": docker("version", "-f", "{{.Server.Version}}"), "session": arguments.session or "default"}
    with Sheet("the loss of the leader", facts) as sheet:
        asyncio.run(measure(sheet, arguments.runs, arguments.session, arguments.ways))


if __name__ == "__main__":
    assert os.geteuid() == 0, "run it as root"
    main()
