"""What the loss of the leading coordinator costs: seconds until the next launch is accepted, and GETs through HAProxy meanwhile.

Each run ends the leader in one of three ways: its process is killed (systemd starts it again), its process is frozen, or its node loses
its power, with the ZooKeeper server on it. The launch is called at that moment, by a client that speaks to this leader and finds the
next one.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bench.cluster import MANAGERS, cluster_of
from bench.harness import Measurement, machine_facts, options, report
from gestalt.client import Client, Target
from gestalt.clock import monotonic
from gestalt.ctl.contexts import choose
from gestalt.proto.v1 import api_pb2
from gestalt.spec.load import validate_spec
from gestalt.wire import spec_to_wire
from tests.cluster.lab.cluster import Cluster, web
from tests.cluster.lab.lab import temporary_lab
from tests.cluster.lab.nodes import Node
from tests.real.docker_lab import docker
from tests.real.haproxy_lab import OpenLoop

NODES = 5
HOST = "bench"
RATE = 100
_PATIENCE = 60.0
_WATCHED = 5.0


@dataclass(frozen=True, slots=True)
class Loss:
    """What one loss cost. `accepted`: seconds until a launch was. `slowest`: seconds of the slowest GET that was answered."""

    accepted: float
    sent: int
    failed: int
    slowest: float


async def lose_the_leader(cluster: Cluster, how: str) -> Loss:
    """End the leader, launch something, and have all as before."""
    leader, front = await cluster.leader(), cluster.lab.nodes[MANAGERS]
    context = choose(str(cluster.client), None)
    target = Target(context.coordinators, context.ca, context.certificate, context.key)
    path = f"/bench/lab/test/new-{uuid.uuid4().hex[:8]}"
    async with OpenLoop(80, RATE, HOST, "/index.html", front.address) as client, Client(target, patience=_PATIENCE) as api:
        await api.call(lambda api: api.apps.List, api_pb2.ListRequest())
        await client.answered(RATE)
        before = client.total
        client.slowest = 0.0
        begun = monotonic()
        await WAYS[how](cluster, leader)
        request = api_pb2.LaunchRequest(apps=[spec_to_wire(validate_spec(web(path)))])
        await api.call(lambda api: api.apps.Launch, request)
        accepted = monotonic() - begun
        await asyncio.sleep(_WATCHED)
        loss = Loss(accepted, client.total - before, len(client.failures), client.slowest)
    await _mend(cluster, path)
    return loss


async def _mend(cluster: Cluster, path: str) -> None:
    await cluster.lab.faults.heal_all()
    for server in cluster.lab.ensemble.servers:
        await cluster.lab.ensemble.until_serving(server)
    await cluster.until_ready()
    await cluster.delete(path)
    await cluster.until_converged()


async def _crash(cluster: Cluster, leader: Node) -> None:
    await cluster.lab.faults.crash(leader, "coordinator")


async def _freeze(cluster: Cluster, leader: Node) -> None:
    await cluster.lab.faults.freeze(leader, "coordinator")


async def _kill(cluster: Cluster, leader: Node) -> None:
    await cluster.lab.faults.kill(leader)


WAYS: dict[str, Callable[[Cluster, Node], Awaitable[None]]] = {"process killed": _crash, "process frozen": _freeze, "node lost": _kill}


async def measure(runs: int, session: str) -> list[Measurement]:
    """Measure all ways in turn on one cluster."""
    losses: dict[str, list[Loss]] = {way: [] for way in WAYS}
    async with temporary_lab(NODES, "bench") as lab:
        cluster = await cluster_of(lab, session)
        await cluster.launch(web(f"/bench/lab/test/{HOST}", instances=3))
        for number in range(runs):
            for way, seen in losses.items():
                seen.append(await lose_the_leader(cluster, way))
                print(f"{way}, run {number + 1}: {seen[-1]}", flush=True)
    return [
        measurement
        for way, seen in losses.items()
        for measurement in (
            Measurement(f"leader, {way}: to the next accepted launch", "s", tuple(loss.accepted for loss in seen)),
            Measurement(f"leader, {way}: GETs sent", "", tuple(float(loss.sent) for loss in seen)),
            Measurement(f"leader, {way}: GETs failed", "", tuple(float(loss.failed) for loss in seen)),
            Measurement(f"leader, {way}: slowest GET", "s", tuple(loss.slowest for loss in seen)),
        )
    ]


def main() -> None:
    """Measure everything and print it."""
    chosen = options(__doc__.splitlines()[0] if __doc__ else "")
    chosen.set_defaults(runs=10)
    chosen.add_argument("--session", default="", help="length of ZooKeeper's sessions; default: that of the product")
    arguments = chosen.parse_args()
    facts = machine_facts() | {"docker": docker("version", "-f", "{{.Server.Version}}"), "nodes": str(NODES)}
    facts["session"] = arguments.session or "default"
    report(facts, asyncio.run(measure(arguments.runs, arguments.session)), [], arguments.output)


if __name__ == "__main__":
    assert os.geteuid() == 0, "run it as root"
    main()
