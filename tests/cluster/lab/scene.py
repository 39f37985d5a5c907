"""What a scenario has: an app that runs and is used, eyes on everything, and judges that look at what they saw."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from .cluster import Cluster, web
from .invariants import Copy, epochs_that_shrank, failed_requests, shortages
from .nodes import LabError, Node
from .observer import Observer
from .traffic import Traffic

APP = "/lab/main/prod/shop"
HOST = "shop"

_LIMIT = 5.0
PATIENT_CHECK = {"kind": "http", "path": "/index.html", "interval": "2s", "timeout": "2s", "failures": 5}
"""Does not call an instance sick because the machine under the lab is busy."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A cluster with the app, watched and used."""

    cluster: Cluster
    observer: Observer
    traffic: Traffic

    @property
    def nodes(self) -> tuple[Node, ...]:
        return self.cluster.lab.nodes

    def on(self, node: Node) -> list[Copy]:
        """Return the app's copies on a node, as last seen."""
        return [copy for copy in self.observer.samples[-1].copies if copy.node == node.name and copy.app == APP]

    async def until_state(self, node: Node, *states: str) -> None:
        """Wait until the leader says that a node is in one of these states."""
        said: list[str] = []

        async def so() -> bool:
            try:
                found = await self.cluster.states()
            except LabError as error:
                said[:] = [str(error)]
                return False
            said[:] = [str(found)]
            return found.get(node.name) in states

        await self.cluster.until(f"{node.name} to be {' or '.join(states)}", so, state=lambda: "".join(said))

    async def until_healthy(self, nodes: Sequence[Node]) -> None:
        """Wait until the app has all its instances, healthy and on these nodes alone."""
        count = len(self.nodes)
        names, seen = {node.name for node in nodes}, [""]

        async def whole() -> bool:
            try:
                _, listed = await self.cluster.view()
            except LabError as error:
                seen[:] = [str(error)]
                return False
            mine = [item for item in listed if item.app == APP]
            seen[:] = [f"{item.instance} on {item.node}: {item.phase}, {item.health}" for item in mine]
            return len(mine) == count and all(item.node in names and item.health == "healthy" for item in mine)

        await self.cluster.until(f"{count} healthy instances on {sorted(names)}", whole, state=lambda: "; ".join(seen))

    async def until_led_by(self, nodes: Sequence[Node]) -> Node:
        """Wait until the coordinator of one of these nodes leads, as ZooKeeper says; return it."""
        named = {node.name: node for node in nodes}

        async def so() -> bool:
            return bool(self.observer.reigns) and self.observer.reigns[-1].leader in named

        await self.cluster.until(f"a leader among {list(named)}", so, state=lambda: str(self.observer.reigns[-1:]))
        return named[self.observer.reigns[-1].leader]


@asynccontextmanager
async def watched(
    cluster: Cluster, through: Sequence[Node], *, lost: int = 0, rate: float = 50, judged: bool = True
) -> AsyncIterator[Scene]:
    """Watch and use the app while the block runs; then judge: no request failed, no epoch shrank, no copy was missing.

    Args:
        cluster: whole, with the app.
        through: the nodes whose HAProxies are asked.
        lost: how many of the app's copies the scenario itself may take.
        rate: requests a second.
        judged: judge at the end; else the caller does.
    """
    async with await cluster.observer() as observer, Traffic(through, host=HOST, rate=rate, limit=_LIMIT) as traffic:
        scene = Scene(cluster, observer, traffic)
        await scene.traffic.flowing(20)
        yield scene
        await scene.traffic.flowing(20)
    wrong = failed_requests(traffic.requests) + epochs_that_shrank(observer.reigns)
    wrong += shortages(observer.samples, APP, len(cluster.lab.nodes) - lost)
    if judged and wrong:
        raise AssertionError(f"{len(traffic.requests)} requests; " + "\n".join(wrong[:20]))


async def set_up(cluster: Cluster) -> None:
    """Have the app with one instance on each node."""
    await cluster.until_ready()
    apps, listed = await cluster.view()
    if APP in apps and {item.node for item in listed if item.app == APP} != {node.name for node in cluster.lab.nodes}:
        await cluster.delete(APP)
    if APP not in (await cluster.view())[0]:
        await cluster.launch(web(APP, instances=len(cluster.lab.nodes), checks=[PATIENT_CHECK]))
    await cluster.until_converged()


async def heal(cluster: Cluster) -> None:
    """Have everything right again, and the cluster converge by itself.

    Raises:
        LabError: it does not converge, or a daemon died of itself.
    """
    await cluster.lab.faults.heal_all()
    await cluster.until_ready()
    await cluster.until_converged()
    if died := await cluster.deaths():
        raise LabError("\n".join(died))


def others(cluster: Cluster, *without: Node) -> list[Node]:
    """Return the cluster's nodes but for some."""
    return [node for node in cluster.lab.nodes if node not in without]
