"""A cluster of lab nodes that have the packages: how a node is upgraded, what runs on it, and how long a daemon of it was away."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from gestalt.clock import monotonic
from gestalt.proto.v1 import api_pb2
from tests.cluster.lab.cluster import Cluster
from tests.cluster.lab.install import assemble
from tests.cluster.lab.lab import Lab
from tests.cluster.lab.nodes import LabError, Node

from .machine import prepare, rpm

UNITS = ("gestalt-coordinator", "gestalt-fence", "gestalt-agent")

_PERIOD = 0.1
_TIMES = ("ActiveExitTimestampMonotonic", "InactiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic")
_HOME = re.compile(r"^/usr/lib/gestalt/([^/]+)/bin/python ")


@dataclass(frozen=True, slots=True)
class Away:
    """How long a unit was away at its last restart, in seconds, as systemd counts: since it began to stop, and since it began to start."""

    unit: str
    away: float
    starting: float

    def __str__(self) -> str:
        return f"{self.unit.removeprefix('gestalt-')} away {self.away:.2f} s, START to READY {self.starting:.2f} s"


@dataclass(frozen=True, slots=True)
class States:
    """The states of nodes at many moments, as the leader told them; a moment at which none answered is not among them."""

    seen: list[tuple[float, dict[str, str]]]

    def not_ready(self, node: Node) -> float:
        """Return for how many seconds a node was not ready, to the tenth at which the leader was asked."""
        return sum(later - at for (at, states), (later, _) in pairwise(self.seen) if states.get(node.name) != "ready")


@asynccontextmanager
async def states_watched(cluster: Cluster) -> AsyncIterator[States]:
    """Ask the leader for the states of all nodes while the block runs."""
    states = States([])

    async def watch() -> None:
        while True:
            with suppress(LabError):
                states.seen.append((monotonic(), await cluster.states()))
            await asyncio.sleep(_PERIOD)

    task = asyncio.create_task(watch(), name="states")
    try:
        yield states
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def raise_fleet(lab: Lab, packages: Sequence[Path]) -> Cluster:
    """Install packages on all nodes of a lab, and make a cluster of them.

    Raises:
        LabError: a step failed; the sentence holds what it said.
    """
    for node in lab.nodes:  # one after the other: they share a disk
        await prepare(node)
        await rpm(node, "-i", *map(str, packages))
    return await assemble(lab)


async def change_release(node: Node, packages: Sequence[Path]) -> list[Away]:
    """Put other packages in place of those of a node, newer or older ones; return how long each daemon was away.

    Raises:
        LabError: rpm did not, or complained.
    """
    before = [await _times(node, unit) for unit in UNITS]
    await rpm(node, "-U", "--oldpackage", *map(str, packages))
    after = [await _times(node, unit) for unit in UNITS]
    assert all(new[0] > old[0] for old, new in zip(before, after, strict=True)), f"{node.name}: a unit was not restarted: {before} {after}"
    return [Away(unit, (ready - left) / 1e6, (ready - began) / 1e6) for unit, (left, began, ready) in zip(UNITS, after, strict=True)]


async def releases(nodes: Sequence[Node]) -> dict[str, set[str]]:
    """Return of which versions and releases the daemons are that run on each node; all three have to run."""
    found = {}
    for node in nodes:
        pids = (await node.do("systemctl", "show", "--property=MainPID", "--value", *UNITS)).split()
        lines = (await node.do("ps", "-o", "args=", "--pid", ",".join(pids))).splitlines()
        homes = [match[1] for line in lines if (match := _HOME.match(line))]
        assert len(homes) == len(UNITS), f"{node.name}: {lines}"
        found[node.name] = set(homes)
    return found


async def incarnations(cluster: Cluster) -> dict[str, int]:
    """Return the number of the membership of each node: a node that was lost has another one when it is back."""
    reply = await cluster.ask(lambda api: api.nodes.List, api_pb2.ListNodesRequest())
    return {node.name: node.incarnation for node in reply.nodes}


async def losses(cluster: Cluster) -> list[str]:
    """Return what the coordinators say of nodes that were lost, since the cluster began."""
    return [line for line in (await cluster.ctl("events", "--kind", "node.lost", "--output", "json")).splitlines() if line]


async def containers(nodes: Sequence[Node]) -> dict[str, set[str]]:
    """Return the containers that run on each node, by their full ids."""
    found = await asyncio.gather(*(node.do("docker", "ps", "--no-trunc", "--quiet") for node in nodes))
    return {node.name: set(text.split()) for node, text in zip(nodes, found, strict=True)}


async def _times(node: Node, unit: str) -> tuple[float, ...]:
    shown = await node.do("systemctl", "show", *(f"--property={time}" for time in _TIMES), unit)
    values = dict(line.split("=", 1) for line in shown.splitlines())
    return tuple(float(values[time]) for time in _TIMES)
