"""Five nodes, three of which decide: what the loss of several means."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest
import pytest_asyncio

from gestalt.clock import monotonic

from .lab.cluster import Cluster
from .lab.install import install
from .lab.invariants import failed_requests, touched, working
from .lab.lab import temporary_lab
from .lab.nodes import Node, can_run
from .lab.scene import APP, SOLO, heal, move_solo, others, set_up, watched

pytestmark = [
    pytest.mark.real,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(300),
    pytest.mark.skipif(not can_run(), reason="lab nodes need root, systemd-sysv and busybox-static"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def five() -> AsyncIterator[Cluster]:
    async with temporary_lab(5, "five") as lab:
        yield await install(lab)


@pytest_asyncio.fixture(loop_scope="session")
async def cluster(five: Cluster) -> AsyncIterator[Cluster]:
    await set_up(five)
    yield five
    await heal(five)


async def test_two_of_five_die_at_once_the_leader_among_them(cluster: Cluster) -> None:
    leader = await cluster.leader()
    victims = [leader, cluster.lab.nodes[4]]
    rest = others(cluster, *victims)
    async with watched(cluster, rest, lost=2) as scene:
        await asyncio.gather(*map(cluster.lab.faults.kill, victims))
        await scene.until_healthy(rest)
        states = await cluster.states()
        assert [states[node.name] for node in victims] == ["lost", "lost"]


async def test_when_more_than_half_vanish_nothing_more_is_replaced_and_their_return_heals_it(cluster: Cluster) -> None:
    """Their power goes; ZooKeeper keeps two of its three servers, or there would be no leader to doubt anything.

    Nobody can tell whether the nodes are dead or the network is: so it is said, and left to people. Memberships do not end all at the same
    moment: what was lost before there was reason for doubt may be replaced. Until the routes go around the nodes, requests may fail that
    meet none but such, however often they are repeated.
    """
    leader = await cluster.leader()
    vanished = [*others(cluster, leader, *cluster.lab.nodes[3:])[:1], *cluster.lab.nodes[3:]]
    rest = others(cluster, *vanished)
    async with watched(cluster, rest, judged=False) as scene:
        await asyncio.gather(*map(cluster.lab.faults.kill, vanished))
        for node in vanished:
            await scene.until_state(node, "lost")
        told = (await cluster.run("status")).stdout.decode()
        assert "3 of 5 nodes vanished at once" in told, told
        await cluster.until("what had begun to run", partial(_nothing_starts, cluster, rest))
        await cluster.until("routes around the nodes", partial(_routed_around, cluster, vanished, rest))
        calm = monotonic()
        await scene.traffic.flowing(100)
        held = [sample for sample in scene.observer.samples if sample.at > calm]
        assert touched(held, APP) == []
        assert sum(len(scene.on(node)) for node in rest) < len(scene.nodes), "of somebody's instance there is no other one"
        await asyncio.gather(*map(cluster.lab.faults.boot, vanished))
        await cluster.until_ready()
        assert "vanished" not in (await cluster.run("status")).stdout.decode()
        await scene.traffic.flowing()
    assert failed_requests(scene.traffic.requests, calm) == []


async def _routed_around(cluster: Cluster, nodes: list[Node], through: list[Node]) -> bool:
    addresses = {node.address for node in nodes}
    servers = [server for each in (await cluster.proxies(through)).values() for server in each if server.takes_requests]
    return not any(server.endpoint.rpartition(":")[0] in addresses for server in servers)


async def _nothing_starts(cluster: Cluster, nodes: list[Node]) -> bool:
    names = {node.name for node in nodes}
    _, listed = await cluster.view()
    return all(item.health == "healthy" for item in listed if item.node in names)


async def test_a_node_whose_only_server_of_zookeeper_is_cut_off_is_lost_with_it(cluster: Cluster) -> None:
    """A follower that is cut off still answers pings and questions for a while: they prove nothing, so nobody may live on them.

    No lease goes on by them, either: what is exclusive on that node has ended before it begins elsewhere.
    """
    quorum = await cluster.lab.ensemble.leader()
    leader = await cluster.leader()
    follower = next(node for node in cluster.lab.ensemble.servers if node not in (quorum, leader))
    node = cluster.lab.nodes[4]
    rest = others(cluster, follower, node)
    await move_solo(cluster, node)
    async with watched(cluster, rest) as scene:
        await cluster.lab.faults.split([follower, node])
        await scene.until_healthy(rest)
        states = await cluster.states()
        assert [states[each.name] for each in (follower, node)] == ["lost", "lost"]
        assert [len(scene.on(each)) for each in (follower, node)] == [1, 1], "isolation stops nothing that is not exclusive"
        await scene.until_solo_left(node)
        assert node.name not in working(scene.observer.samples[-1], SOLO)
