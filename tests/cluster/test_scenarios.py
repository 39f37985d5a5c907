"""What can fail, one after the other, under an app that is used all the time; each scenario ends with the cluster whole again.

In all of them no request through the HAProxy of a node that is up may fail, no epoch may shrink, of the app no more copies may be
missing than the fault itself takes, and the exclusive app beside it may never be at work twice: `watched` judges that from outside.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime
from functools import partial

import pytest
import pytest_asyncio

from gestalt.clock import wall
from gestalt.plugins.runtime.docker_options import LABEL_APP, LABEL_ATTEMPT, LABEL_INSTANCE

from .lab import nodes as power
from .lab.clocks import own_clocks, set_clock
from .lab.cluster import Cluster, web
from .lab.engine import WEB_IMAGE, start_engines
from .lab.ensemble import PORT
from .lab.invariants import touched
from .lab.nodes import Node, can_run
from .lab.scene import APP, SOLO, Scene, heal, holder, move_solo, others, set_up, watched

pytestmark = [
    pytest.mark.real,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(240),
    pytest.mark.skipif(not can_run(), reason="lab nodes need root, systemd-sysv and busybox-static"),
]

COORDINATOR_PORT = 7400
ZOOKEEPER_PORTS = (PORT, 2888, 3888)
OTHER = "/lab/main/prod/other"
_PROGRAMS = ("usr/bin/gestalt-agent", "usr/bin/gestalt-fence")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stage(shared_cluster: Cluster) -> AsyncIterator[Cluster]:
    """The shared cluster with the apps, which one scenario leaves to the next."""
    yield shared_cluster
    apps, _ = await shared_cluster.view()
    await asyncio.gather(*map(shared_cluster.delete, apps))


@pytest_asyncio.fixture(loop_scope="session")
async def cluster(stage: Cluster) -> AsyncIterator[Cluster]:
    await set_up(stage)
    yield stage
    await heal(stage)


async def worker(cluster: Cluster) -> Node:
    """Return a node with neither the leader nor ZooKeeper's."""
    return others(cluster, await cluster.leader(), await cluster.lab.ensemble.leader())[0]


async def leader_apart_from_zookeepers(cluster: Cluster) -> tuple[Node, Node]:
    """Have leader and ZooKeeper's leader on two nodes; return both."""
    quorum = await cluster.lab.ensemble.leader()
    while (leader := await cluster.leader()) == quorum:
        await cluster.ctl("cluster", "step-down")
    return leader, quorum


async def leader_beside_zookeepers(cluster: Cluster) -> Node:
    """Have leader and ZooKeeper's leader on one node; return it."""
    quorum = await cluster.lab.ensemble.leader()
    while await cluster.leader() != quorum:
        await cluster.ctl("cluster", "step-down")
    return quorum


# Nodes that die


async def test_zookeepers_leader_dies_with_its_node(cluster: Cluster) -> None:
    leader, victim = await leader_apart_from_zookeepers(cluster)
    rest = others(cluster, victim)
    async with watched(cluster, rest, lost=1) as scene:
        await cluster.lab.faults.kill(victim)
        await scene.until_healthy(rest)
        assert (await cluster.states())[victim.name] == "lost"
        assert await cluster.leader() in rest, leader.name


async def test_the_leader_and_zookeepers_leader_die_with_one_node(cluster: Cluster) -> None:
    victim = await leader_beside_zookeepers(cluster)
    rest = others(cluster, victim)
    async with watched(cluster, rest, lost=1) as scene:
        await cluster.lab.faults.kill(victim)
        await scene.until_healthy(rest)
        assert await cluster.leader() in rest


async def test_the_leader_dies_while_it_replaces_a_nodes_instances(cluster: Cluster) -> None:
    """It has decided the replacement, which does not run yet, as Docker hangs on the other nodes until another coordinator leads.

    On one node there would be no quorum without the leader's: so its coordinator alone dies, and stays dead.
    """
    victim = await worker(cluster)
    leader = await cluster.leader()
    rest = others(cluster, victim)
    known = {item.instance for item in (await cluster.view())[1]}
    async with watched(cluster, rest, lost=1) as scene:
        await asyncio.gather(*(cluster.lab.faults.freeze(node, "docker") for node in rest))
        await cluster.lab.faults.kill(victim)
        replacement = await scene.until_replacing(known)
        assert scene.observer.reigns[-1].leader == leader.name, "its own decision"
        await cluster.lab.faults.crash_for_good(leader, "coordinator")
        await scene.until_led_by(others(cluster, victim, leader))
        assert not _ran(scene, replacement.instance), "it died in the middle"
        await asyncio.gather(*(cluster.lab.faults.thaw(node, "docker") for node in rest))
        await scene.until_healthy(rest)
        assert _ran(scene, replacement.instance), "the next leader goes on with what was decided"


def _ran(scene: Scene, instance: str) -> bool:
    return any(copy.instance == instance for sample in scene.observer.samples for copy in sample.copies)


# ZooKeeper


async def test_zookeepers_servers_go_one_by_one_and_come_back(cluster: Cluster) -> None:
    """One is missed by nobody. Without the majority nothing is promised, and nothing is touched but what is exclusive."""
    first, second, _ = cluster.lab.ensemble.servers
    async with watched(cluster, cluster.lab.nodes) as scene:
        await cluster.lab.faults.crash_for_good(first, "zookeeper")
        await cluster.launch(web(OTHER, checks=[], ports=[]))
        await cluster.delete(OTHER)
        await cluster.lab.faults.crash_for_good(second, "zookeeper")
        await _until_old_answers(cluster)
        refused = await cluster.run("scale", APP, "5", "--detach")
        assert not refused.ok
        assert "ZooKeeper has not been reached" in refused.stderr.decode()
        await cluster.lab.faults.start(second, "zookeeper")
        await cluster.until_answering()
        await cluster.until_ready()
        await cluster.launch(web(OTHER, checks=[], ports=[]))
        await cluster.delete(OTHER)
    assert touched(scene.observer.samples, APP) == []


async def _until_old_answers(cluster: Cluster) -> None:
    """Wait until questions are answered with the age of what is said."""
    said: list[str] = []

    async def old() -> bool:
        done = await cluster.run("nodes", "--output", "json")
        said[:] = [f"gestaltctl nodes: exit {done.code}, {done.stderr.decode()}"]
        return done.ok and b"this is what was known" in done.stderr

    await cluster.until("old answers", old, state=lambda: "".join(said))


async def test_zookeepers_disk_is_slow(cluster: Cluster) -> None:
    """Every fsync of the majority takes 300 ms more: changes take longer, and nobody is given up for it, nor does a lease end."""
    leader = await cluster.leader()
    async with watched(cluster, cluster.lab.nodes) as scene:
        slow = {await cluster.lab.ensemble.leader(), *cluster.lab.ensemble.servers[:2]}
        await asyncio.gather(*(cluster.lab.faults.slow_disk(node, 0.3) for node in slow))
        await cluster.launch(web(OTHER, checks=[], ports=[]))
        await cluster.delete(OTHER)
        await scene.traffic.flowing(150)
        await cluster.until_ready()
        assert await cluster.leader() == leader
    assert scene.disturbed() == []


# Links


async def test_the_leader_is_cut_from_zookeeper_and_not_from_the_agents(cluster: Cluster) -> None:
    """It ends its office by its own clock; what runs on its node runs on, besides its replacement, until the node is back."""
    old = await cluster.leader()
    rest = others(cluster, old)
    await move_solo(cluster, rest[0])  # nobody refuses the node then
    async with watched(cluster, cluster.lab.nodes) as scene:
        await cluster.lab.faults.cut_ports(old, *ZOOKEEPER_PORTS)
        await scene.until_led_by(rest)
        await scene.until_state(old, "lost")
        await scene.until_healthy(rest)
        assert len(scene.on(old)) == 1, "isolation stops nothing"
        await cluster.lab.faults.heal()
        await scene.until_state(old, "ready")


async def test_the_leader_is_cut_from_the_agents_and_not_from_zookeeper(cluster: Cluster) -> None:
    """It knows that it is the one who is cut off, steps down, and replaces nothing."""
    old = await cluster.leader()
    async with watched(cluster, cluster.lab.nodes) as scene:
        await cluster.lab.faults.cut_ports(old, COORDINATOR_PORT)
        await scene.until_led_by(others(cluster, old))
        await cluster.lab.faults.heal()
        await cluster.until_ready()
    assert scene.disturbed() == []


async def test_the_network_is_slow(cluster: Cluster) -> None:
    """A narrow network with long queues: everything takes longer, and nobody is given up for it."""
    async with watched(cluster, cluster.lab.nodes, rate=20) as scene:
        await cluster.lab.faults.narrow(256)
        await cluster.launch(web(OTHER, checks=[], ports=[]))
        await cluster.delete(OTHER)
        await scene.traffic.flowing(100)
        await cluster.until_ready()
    assert scene.disturbed() == []


# Processes and nodes that stand still, and go on


async def test_the_leader_stands_still_for_longer_than_its_deadline(cluster: Cluster) -> None:
    """When it goes on, another leads: it does nothing any more, and says who does."""
    old = await cluster.leader()
    async with watched(cluster, cluster.lab.nodes) as scene:
        await cluster.lab.faults.freeze(old, "coordinator")
        new = await scene.until_led_by(others(cluster, old))
        await cluster.launch(web(OTHER, checks=[], ports=[]))
        await cluster.lab.faults.thaw(old, "coordinator")
        await cluster.delete(OTHER)
        await cluster.until_ready()
        assert await cluster.leader() == new
    assert scene.disturbed() == []


async def test_an_agent_stands_still(cluster: Cluster) -> None:
    """Its node's lease goes on: that is the fence's affair."""
    node = await holder(cluster)
    async with watched(cluster, cluster.lab.nodes) as scene:
        await cluster.lab.faults.freeze(node, "agent")
        await scene.until_state(node, "unreachable")
        await scene.traffic.flowing(100)
        await cluster.lab.faults.thaw(node, "agent")
        await scene.until_state(node, "ready")
    assert scene.disturbed() == []


async def test_a_fence_stands_still(cluster: Cluster) -> None:
    """The node is lost for the leader, though all else in it works; when the fence goes on, it is back, and its copy was never stopped."""
    node = await worker(cluster)
    rest = others(cluster, node)
    await move_solo(cluster, rest[0])
    async with watched(cluster, cluster.lab.nodes) as scene:
        await cluster.lab.faults.freeze(node, "fence")
        await scene.until_state(node, "lost")
        await scene.until_healthy(rest)
        assert len(scene.on(node)) == 1
        await cluster.lab.faults.thaw(node, "fence")
        await scene.until_state(node, "ready")


async def test_the_fence_of_what_is_exclusive_stands_still(cluster: Cluster) -> None:
    """The agent ends it in the fence's place, before it begins elsewhere. The others refuse the node, so nobody asks through it."""
    node = await worker(cluster)
    rest = others(cluster, node)
    await move_solo(cluster, node)
    async with watched(cluster, rest) as scene, cluster.lab.faults.without_watchdogs(node):
        await cluster.lab.faults.freeze(node, "fence")
        await scene.until_solo_left(node)
        await cluster.lab.faults.thaw(node, "fence")
        await scene.until_state(node, "ready")


async def test_a_whole_node_stands_still(cluster: Cluster) -> None:
    """It accepts connections and answers nothing, then goes on as if no time had passed; its fence at once ends what is exclusive."""
    node = await worker(cluster)
    await move_solo(cluster, node)
    rest = others(cluster, node)
    async with watched(cluster, rest, lost=1) as scene:
        await cluster.lab.faults.pause(node)
        await scene.until_healthy(rest)
        await scene.until_solo_left(node)
        scene.excuse_two_holders()
        await cluster.lab.faults.unpause(node)
        await scene.until_state(node, "ready")


# Clocks, and people at work


async def test_wall_clocks_jump_by_an_hour_both_ways(cluster: Cluster) -> None:
    """Under all daemons of all nodes: nothing that matters goes by the wall clock. New connections are made with each time, too."""
    nodes = cluster.lab.nodes
    async with own_clocks(nodes):
        await cluster.until_ready()
        await cluster.until_converged()  # a busy machine may have lost a node by restarting all of its daemons at once
        async with watched(cluster, nodes) as scene:
            for offset in (3600, -3600):
                leader = await cluster.leader()
                await asyncio.gather(*(set_clock(node, offset) for node in nodes))
                await cluster.until(f"the leader's clock to jump {offset:+d} s", partial(_leads_in, cluster, offset))
                assert await cluster.leader() == leader
                for node in dict.fromkeys((leader, await holder(cluster))):
                    await cluster.lab.faults.restart(node, "agent")
                await scene.traffic.flowing(50)
                await cluster.until_ready()
        assert scene.disturbed() == []


async def _leads_in(cluster: Cluster, offset: int) -> bool:
    """Return whether the leader's wall clock is `offset` seconds ahead."""
    await cluster.ctl("cluster", "pause", "--reason", "to have an event")
    await cluster.ctl("cluster", "resume")
    last = (await cluster.ctl("events", "--kind", "cluster.resumed", "--output", "json")).splitlines()[-1]
    ahead = datetime.fromisoformat(json.loads(last)["at"]) - wall()
    return abs(ahead.total_seconds() - offset) < 60


async def test_all_agents_are_upgraded_under_load(cluster: Cluster) -> None:
    """One node after the other gets new agents: for the cluster no node is away, and no instance is touched."""
    async with watched(cluster, cluster.lab.nodes) as scene:
        for node in cluster.lab.nodes:
            await cluster.lab.faults.restart(node, "agent")
            await scene.until_state(node, "ready")
        await asyncio.gather(*(cluster.lab.faults.restart(node, "agent") for node in cluster.lab.nodes))
        await cluster.until_ready()
    assert scene.disturbed() == []


async def test_nodes_are_drained_one_after_the_other_under_load(cluster: Cluster) -> None:
    """As for reboots: what runs there goes elsewhere first, what is exclusive too, and comes to a node again when it is asked to."""
    async with watched(cluster, cluster.lab.nodes):
        for node in cluster.lab.nodes:
            await cluster.ctl("node", "drain", node.name)
            assert (await cluster.states())[node.name] == "drained"
            assert node.name not in {item.node for item in await cluster.listed()}
            await cluster.ctl("node", "uncordon", node.name)
        first = cluster.lab.nodes[0]
        await cluster.ctl("migrate", APP, "--to", first.name)
        assert {item.node for item in await cluster.listed() if item.app == APP} == {first.name}


# Strangers


async def test_a_second_copy_of_what_is_exclusive_is_found_by_the_judge_of_all_scenarios(cluster: Cluster) -> None:
    """The checker is checked: somebody starts one by hand, as if no fence had ended it."""
    node = others(cluster, await holder(cluster))[0]
    labels = {LABEL_APP: SOLO, LABEL_INSTANCE: "by-hand", LABEL_ATTEMPT: "1"}
    options = [part for label, value in labels.items() for part in ("--label", f"{label}={value}")]
    with pytest.raises(AssertionError, match=f"{SOLO} is at work 2 times"):
        async with watched(cluster, cluster.lab.nodes):
            await node.do("docker", "run", "--detach", "--name", "by-hand", *options, WEB_IMAGE)
    await node.do("docker", "rm", "--force", "by-hand")


async def test_a_machine_with_a_copy_of_a_nodes_disk_stays_out(cluster: Cluster) -> None:
    """It has the node's identity, certificate, grants and all: the node goes on, and the copy runs nothing."""
    original = await holder(cluster)
    clone = await power.add(cluster.lab.group)
    try:
        await start_engines([clone])
        async with watched(cluster, cluster.lab.nodes) as scene:
            disk = await original.run("tar", "-c", "/etc/gestalt", "/var/lib/gestalt", "/etc/systemd/system", "-C", "/", *_PROGRAMS)
            await clone.do("tar", "-x", "-C", "/", stdin=disk.stdout)
            await clone.do("systemctl", "daemon-reload")
            await clone.do("systemctl", "start", "gestalt-fence", "gestalt-agent")
            await cluster.until(
                "the copy to be refused", partial(_says, clone, "another machine is in the cluster with the id of this node")
            )
            await scene.traffic.flowing(200)
            assert set((await cluster.states()).values()) == {"ready"}
            assert await clone.do("docker", "ps", "--all", "--quiet") == ""
        assert scene.disturbed() == []
    finally:
        await power.remove(clone)


async def _says(node: Node, words: str) -> bool:
    return (await node.run("journalctl", "--no-pager", "--unit=gestalt-fence", f"--grep={words}")).ok
