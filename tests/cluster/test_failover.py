"""Nodes, leaders and ZooKeeper fail under a running app: what its users, and people who look, see of it."""

from __future__ import annotations

import asyncio

import pytest
import pytest_asyncio

from gestalt.clock import monotonic
from gestalt.config import TimingSettings

from .lab.cluster import Cluster, web
from .lab.invariants import working
from .lab.nodes import Node, can_run
from .lab.scene import APP, SOLO, others, set_up, watched
from .lab.traffic import LIMIT

pytestmark = [
    pytest.mark.real,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(240),
    pytest.mark.skipif(not can_run(), reason="lab nodes need root, systemd-sysv and busybox-static"),
]

OVER = TimingSettings().lease + TimingSettings().kill


@pytest_asyncio.fixture(loop_scope="session")
async def cluster(cluster: Cluster) -> Cluster:
    """The cluster with the apps, new and with the checks that users have."""
    await set_up(cluster, checks=web(APP)["checks"])
    return cluster


async def worker(cluster: Cluster) -> Node:
    """Return a node with neither the leader nor ZooKeeper's."""
    return others(cluster, await cluster.leader(), await cluster.lab.ensemble.leader())[0]


async def test_the_loss_of_a_node_fails_no_request_and_its_instances_run_elsewhere(cluster: Cluster) -> None:
    victim = await worker(cluster)
    survivors = others(cluster, victim)
    async with watched(cluster, survivors, lost=1, limit=LIMIT) as scene:
        await cluster.lab.faults.kill(victim)
        await scene.until_healthy(survivors)
        assert (await cluster.states())[victim.name] == "lost"
        await cluster.until_converged(survivors)
    await cluster.lab.faults.boot(victim)
    await cluster.until_ready()
    await cluster.until_converged()


async def test_the_loss_of_the_leaders_node_is_survived_by_apps_and_by_the_cluster(cluster: Cluster) -> None:
    victim = await cluster.leader()
    survivors = others(cluster, victim)
    async with watched(cluster, survivors, lost=1, limit=LIMIT) as scene:
        await cluster.lab.faults.kill(victim)
        await cluster.launch(web("/lab/main/prod/second", instances=1))
        await scene.until_healthy(survivors)
        assert await cluster.leader() in survivors
    assert len({reign.leader for reign in scene.observer.reigns}) == 2, "the observer saw both leaders"
    await cluster.lab.faults.boot(victim)
    await cluster.until_ready()
    await cluster.until_converged()


async def test_a_node_that_was_cut_off_keeps_its_instances_until_it_is_back(cluster: Cluster) -> None:
    away = await worker(cluster)
    rest = others(cluster, away)
    async with watched(cluster, rest, limit=LIMIT) as scene:
        await cluster.lab.faults.isolate(away)
        await scene.until_healthy(rest)
        assert len(scene.on(away)) == 1, "isolation stops nothing"
        await cluster.lab.faults.heal()
        await cluster.until_ready()
        await cluster.until_converged()


async def test_crashes_of_all_daemons_touch_no_instance(cluster: Cluster) -> None:
    before = await cluster.listed()
    async with watched(cluster, cluster.lab.nodes, limit=LIMIT) as scene:
        crashes = (cluster.lab.faults.crash(node, part) for node in cluster.lab.nodes for part in ("agent", "fence", "coordinator"))
        await asyncio.gather(*crashes)
        await cluster.until_answering()
        await cluster.until_ready()
        await cluster.until_converged()
    assert await cluster.listed() == before
    assert scene.disturbed() == []


async def test_without_zookeepers_quorum_apps_go_on_and_nothing_is_promised(cluster: Cluster) -> None:
    """What is exclusive ends with its lease, and is back when the quorum is."""
    two = cluster.lab.ensemble.servers[:2]
    async with watched(cluster, cluster.lab.nodes, limit=LIMIT) as scene:

        async def ended() -> bool:
            return not working(scene.observer.samples[-1], SOLO)

        await asyncio.gather(*(cluster.lab.faults.crash_for_good(node, "zookeeper") for node in two))
        dead = monotonic()
        scaling = asyncio.create_task(cluster.scale(APP, 4))
        await cluster.until("the exclusive app to end", ended)
        assert monotonic() - dead < OVER + 1.0
        assert not scaling.done() or scaling.exception(), "nothing can be promised now: the change is refused, or it waits"
        await asyncio.gather(*(cluster.lab.faults.start(node, "zookeeper") for node in two))
        await asyncio.wait([scaling])
        if scaling.exception():
            await cluster.until_answering()
            await cluster.scale(APP, 4)
        await cluster.until_ready()
        await cluster.until_converged()
