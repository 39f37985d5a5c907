"""What a scenario has: an app that is used, one that must never run twice, eyes on everything, and judges that look at what they saw."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from gestalt.clock import monotonic
from gestalt.config import TimingSettings

from .cluster import Cluster, web
from .invariants import Copy, Listed, double_holders, epochs_that_shrank, failed_requests, shortages, touched, working
from .nodes import LabError, Node
from .observer import Observer
from .traffic import Traffic

APP = "/lab/main/prod/shop"
HOST = "shop"
SOLO = "/lab/main/prod/solo"
"""An exclusive app: it must never be at work twice."""

_LIMIT = 5.0
_TIMING = TimingSettings()
_HEALING = _TIMING.lease + _TIMING.kill + _TIMING.margin + 20.0
"""Seconds within which all is as wanted when every node is ready again, what is exclusive too."""
PATIENT_CHECK = {"kind": "http", "path": "/index.html", "interval": "2s", "timeout": "2s", "failures": 5}
"""Does not call an instance sick because the machine under the lab is busy."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A cluster with the apps, watched and used."""

    cluster: Cluster
    observer: Observer
    traffic: Traffic
    _excused: list[tuple[float, float]] = field(default_factory=list)

    @property
    def nodes(self) -> tuple[Node, ...]:
        return self.cluster.lab.nodes

    def on(self, node: Node) -> list[Copy]:
        """Return the app's copies on a node, as last seen."""
        return [copy for copy in self.observer.samples[-1].copies if copy.node == node.name and copy.app == APP]

    def disturbed(self) -> list[str]:
        """Return which copies of both apps ended or began since the block began."""
        return touched(self.observer.samples, APP) + touched(self.observer.samples, SOLO)

    def excuse_two_holders(self) -> None:
        """From now on two copies are not judged for as long as a fence may take: a machine that hung moves again, and its fence with it."""
        self._excused.append((monotonic(), monotonic() + _TIMING.kill + _TIMING.margin))

    def double_holders(self) -> list[str]:
        """Return where the exclusive app was at work twice at once, unless that was excused."""
        judged = (sample for sample in self.observer.samples if not any(begin <= sample.at < end for begin, end in self._excused))
        return double_holders(judged, {SOLO})

    async def until_solo_left(self, node: Node) -> None:
        """Wait until the exclusive app is at work on another node than this one."""

        async def so() -> bool:
            return bool(working(self.observer.samples[-1], SOLO) - {node.name})

        await self.cluster.until(f"{SOLO} to be at work on another node than {node.name}", so, state=lambda: str(self.observer.samples[-1]))

    async def until_replacing(self, known: Collection[str]) -> Listed:
        """Wait until the leader has decided that another instance of the app takes the place of one of these; return that one."""
        found: list[Listed] = []

        async def so() -> bool:
            with suppress(LabError):
                found[:] = [item for item in (await self.cluster.view())[1] if item.app == APP and item.instance not in known]
            return bool(found)

        await self.cluster.until("a replacement to be placed", so)
        return found[0]

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
    cluster: Cluster, through: Sequence[Node], *, lost: int = 0, rate: float = 50, limit: float = _LIMIT, judged: bool = True
) -> AsyncIterator[Scene]:
    """Watch and use the app while the block runs; then judge.

    What is exclusive was never at work twice, no epoch shrank, no request failed, no copy of the app was missing.

    Args:
        cluster: whole, with the apps.
        through: the nodes whose HAProxies are asked.
        lost: how many of the app's copies the scenario itself may take.
        rate: requests a second.
        limit: seconds after which a request has failed.
        judged: judge requests and missing copies as well; else the caller does.
    """
    async with await cluster.observer() as observer, Traffic(through, host=HOST, rate=rate, limit=limit) as traffic:
        scene = Scene(cluster, observer, traffic)
        await scene.traffic.flowing(20)
        yield scene
        await scene.traffic.flowing(20)
    wrong = scene.double_holders() + epochs_that_shrank(observer.reigns)
    if judged:
        wrong += failed_requests(traffic.requests) + shortages(observer.samples, APP, len(cluster.lab.nodes) - lost)
    if wrong:
        raise AssertionError(f"{len(traffic.requests)} requests; " + "\n".join(wrong[:20]))


async def set_up(cluster: Cluster, **fields: Any) -> None:
    """Have the app with one instance on each node, and the exclusive one somewhere; `fields`: of the first one's description."""
    await cluster.until_ready()
    apps, listed = await cluster.view()
    if APP in apps and {item.node for item in listed if item.app == APP} != {node.name for node in cluster.lab.nodes}:
        await cluster.delete(APP)
    if APP not in (await cluster.view())[0]:
        await cluster.launch(web(APP, **{"instances": len(cluster.lab.nodes), "checks": [PATIENT_CHECK], **fields}))
    if SOLO not in apps:
        await cluster.launch(web(SOLO, checks=[PATIENT_CHECK], placement={"exclusive": True}))
    await cluster.until_converged()


async def holder(cluster: Cluster) -> Node:
    """Return the node that the exclusive app is on."""
    name = next(item.node for item in (await cluster.view())[1] if item.app == SOLO)
    return next(node for node in cluster.lab.nodes if node.name == name)


async def move_solo(cluster: Cluster, node: Node) -> None:
    """Have the exclusive app at work on this node."""
    if await holder(cluster) != node:
        await cluster.ctl("migrate", SOLO, "--to", node.name)
        await cluster.until_converged()


async def heal(cluster: Cluster) -> None:
    """Have everything right again, and the cluster converge by itself: the exclusive app, too, is at work once.

    Raises:
        LabError: it does not converge, or a daemon died of itself.
    """
    await cluster.lab.faults.heal_all()
    await cluster.until_ready()
    await cluster.until_converged(limit=_HEALING)
    if died := await cluster.deaths():
        raise LabError("\n".join(died))


def others(cluster: Cluster, *without: Node) -> list[Node]:
    """Return the cluster's nodes but for some."""
    return [node for node in cluster.lab.nodes if node not in without]
