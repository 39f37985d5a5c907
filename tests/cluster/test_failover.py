"""Nodes, leaders and ZooKeeper fail under a running app: what its users, and people who look, see of it."""

from __future__ import annotations

import asyncio

import pytest

from .lab.cluster import Cluster, web
from .lab.invariants import Copy, epochs_that_shrank, failed_requests
from .lab.nodes import LabError, Node, can_run
from .lab.traffic import Traffic

pytestmark = [
    pytest.mark.real,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(240),
    pytest.mark.skipif(not can_run(), reason="lab nodes need root, systemd-sysv and busybox-static"),
]

APP = "/lab/main/prod/shop"
HOST = "shop"


def others(cluster: Cluster, *without: Node) -> list[Node]:
    return [node for node in cluster.lab.nodes if node not in without]


async def worker(cluster: Cluster) -> Node:
    """Return a node with neither the leader nor ZooKeeper's."""
    return others(cluster, await cluster.leader(), await cluster.lab.ensemble.leader())[0]


async def until_healthy(cluster: Cluster, nodes: list[Node], count: int = 3) -> None:
    """Wait until the app has all its instances, healthy and on these nodes alone."""
    seen: list[str] = []

    async def whole() -> bool:
        try:
            _, listed = await cluster.view()
        except LabError as error:
            seen[:] = [str(error)]
            return False
        seen[:] = [f"{item.instance} on {item.node}: {item.phase}, {item.health}" for item in listed]
        names = {node.name for node in nodes}
        return len(listed) == count and all(item.node in names and item.health == "healthy" for item in listed)

    await cluster.until(f"{count} healthy instances on {[node.name for node in nodes]}", whole, state=lambda: "; ".join(seen))


async def test_the_loss_of_a_node_fails_no_request_and_its_instances_run_elsewhere(cluster: Cluster) -> None:
    await cluster.launch(web(APP, instances=3))
    await cluster.until_converged()
    victim = await worker(cluster)
    survivors = others(cluster, victim)
    async with Traffic(survivors, host=HOST) as traffic:
        await traffic.flowing()
        await cluster.lab.faults.kill(victim)
        await until_healthy(cluster, survivors)
        await traffic.flowing()
    assert failed_requests(traffic.requests) == []
    assert (await cluster.states())[victim.name] == "lost"
    await cluster.until_converged(survivors)

    await cluster.lab.faults.boot(victim)
    await cluster.until_ready()
    await cluster.until_converged()


async def test_the_loss_of_the_leaders_node_is_survived_by_apps_and_by_the_cluster(cluster: Cluster) -> None:
    await cluster.launch(web(APP, instances=3))
    await cluster.until_converged()
    victim = await cluster.leader()
    survivors = others(cluster, victim)
    async with await cluster.observer() as observer, Traffic(survivors, host=HOST) as traffic:
        await traffic.flowing()
        await cluster.lab.faults.kill(victim)
        await cluster.launch(web("/lab/main/prod/second", instances=1))
        await until_healthy(cluster, survivors, count=4)
        await traffic.flowing()
        assert await cluster.leader() in survivors
    assert failed_requests(traffic.requests) == []
    assert epochs_that_shrank(observer.reigns) == []
    assert len({reign.leader for reign in observer.reigns}) == 2, "the observer saw both leaders"
    await cluster.lab.faults.boot(victim)
    await cluster.until_ready()
    await cluster.until_converged()


async def test_a_node_that_was_cut_off_keeps_its_instances_until_it_is_back(cluster: Cluster) -> None:
    await cluster.launch(web(APP, instances=3))
    await cluster.until_converged()
    away = await worker(cluster)
    async with await cluster.observer() as observer, Traffic(others(cluster, away), host=HOST) as traffic:
        await traffic.flowing()
        await cluster.lab.faults.isolate(away)
        await until_healthy(cluster, others(cluster, away))
        assert len(_on(away, observer.samples[-1].copies)) == 1, "isolation stops nothing"
        await cluster.lab.faults.heal()
        await cluster.until_ready()
        await cluster.until_converged()
        await traffic.flowing()
    assert failed_requests(traffic.requests) == []
    least = min(len(sample.copies) for sample in observer.samples)
    assert least >= 3, "at every moment there were as many instances as wanted"


def _on(node: Node, copies: tuple[Copy, ...]) -> list[Copy]:
    return [copy for copy in copies if copy.node == node.name]


async def test_crashes_of_all_daemons_touch_no_instance(cluster: Cluster) -> None:
    await cluster.launch(web(APP, instances=3))
    await cluster.until_converged()
    before = await cluster.listed()
    async with await cluster.observer() as observer, Traffic(cluster.lab.nodes, host=HOST) as traffic:
        await traffic.flowing()
        crashes = (cluster.lab.faults.crash(node, part) for node in cluster.lab.nodes for part in ("agent", "fence", "coordinator"))
        await asyncio.gather(*crashes)
        await cluster.until_answering()
        await cluster.until_ready()
        await cluster.until_converged()
        await traffic.flowing()
    assert await cluster.listed() == before
    assert {sample.copies for sample in observer.samples} == {observer.samples[0].copies}, "the same containers all the time"
    assert failed_requests(traffic.requests) == []


async def test_without_zookeepers_quorum_apps_go_on_and_nothing_is_promised(cluster: Cluster) -> None:
    await cluster.launch(web(APP, instances=3))
    await cluster.until_converged()
    two = cluster.lab.ensemble.servers[:2]
    async with await cluster.observer() as observer, Traffic(cluster.lab.nodes, host=HOST) as traffic:
        await asyncio.gather(*(cluster.lab.faults.stop(node, "zookeeper") for node in two))
        scaling = asyncio.create_task(cluster.scale(APP, 4))
        await traffic.flowing(250)
        assert not scaling.done() or scaling.exception(), "nothing can be promised now: the change is refused, or it waits"
        await asyncio.gather(*(cluster.lab.faults.start(node, "zookeeper") for node in two))
        await asyncio.wait([scaling])
        if scaling.exception():
            await cluster.until_answering()
            await cluster.scale(APP, 4)
        await cluster.until_ready()
        await cluster.until_converged()
    assert failed_requests(traffic.requests) == []
    assert epochs_that_shrank(observer.reigns) == []
    assert min(len(sample.copies) for sample in observer.samples) == 3, "ordinary apps need no ZooKeeper"
