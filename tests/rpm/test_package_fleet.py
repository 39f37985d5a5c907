"""Three nodes with the packages, under an app that is used and one that must not run twice: upgrades, faults, a reboot, removal."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gestalt.config import TimingSettings
from tests.cluster.lab import nodes as power
from tests.cluster.lab.cluster import Cluster
from tests.cluster.lab.engine import start_engines
from tests.cluster.lab.install import join_node
from tests.cluster.lab.lab import temporary_lab
from tests.cluster.lab.nodes import File, Node, can_run
from tests.cluster.lab.scene import SOLO, Scene, heal, holder, move_solo, others, set_up, watched

from .conftest import Built
from .fleet import change_release, containers, incarnations, losses, raise_fleet, releases, states_watched
from .machine import NEW, OLD, PACKAGES, files, prepare, processes, rpm

pytestmark = [
    pytest.mark.rpm,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(not can_run(), reason="lab nodes need root, systemd-sysv and busybox-static"),
    pytest.mark.skipif(shutil.which("rpmbuild") is None, reason="rpmbuild is not installed: scripts/install-packages rpm"),
]

AWAY_MAX = 10.0
"""Seconds that no machine is too slow for. What is aimed at is 3, and 1.5 from START to READY."""

TIMING = TimingSettings()
SHORT = "/run/systemd/system/gestalt-agent.service.d/short.conf"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stage(built: Built) -> AsyncIterator[Cluster]:
    async with temporary_lab(3, "rpm") as lab:
        yield await raise_fleet(lab, built.first)


@pytest_asyncio.fixture(loop_scope="session")
async def cluster(stage: Cluster) -> AsyncIterator[Cluster]:
    """The cluster with the apps, whole before and after; what a test upgrades it leaves so."""
    await set_up(stage)
    yield stage
    await heal(stage)


async def settled(scene: Scene) -> None:
    """Wait until every node is ready, and requests are answered."""
    await scene.cluster.until_ready()
    await scene.traffic.flowing(20)


async def test_an_upgrade_under_load_node_after_node_and_a_step_back_are_noticed_by_nobody(cluster: Cluster, built: Built) -> None:
    nodes = cluster.lab.nodes
    ran, members = await containers(nodes), await incarnations(cluster)
    steps = [(node, built.second) for node in nodes] + [(nodes[0], built.first)]
    seen = []
    async with watched(cluster, nodes) as scene:
        for node, packages in steps:
            async with states_watched(cluster) as states:
                figures = await change_release(node, packages)
                await settled(scene)
            print(f"{node.name}: {'; '.join(map(str, figures))}; for the leader not ready for {states.not_ready(node):.1f} s")
            assert max(figure.away for figure in figures) < AWAY_MAX
            seen.append(sorted(release for found in (await releases(nodes)).values() for release in found))
    print(f"{len(scene.traffic.requests)} requests, none failed")
    assert seen == [[OLD, OLD, NEW], [OLD, NEW, NEW], [NEW, NEW, NEW], [OLD, NEW, NEW]], "two versions side by side"
    assert scene.disturbed() == []
    assert await containers(nodes) == ran
    assert await losses(cluster) == []
    assert await incarnations(cluster) == members


async def until_another_life(cluster: Cluster, node: Node, part: str, before: str) -> None:
    """Wait until systemd has started a daemon anew, and that says that it is ready."""

    async def so() -> bool:
        return await cluster.lab.faults.life(node, part) not in {"", before}

    await cluster.until(f"another life of the {part} of {node.name}", so)


async def test_daemons_that_are_restarted_killed_or_stopped_leave_alone_what_runs(cluster: Cluster) -> None:
    """A fence that is stopped has a test of its own: its node is lost."""
    faults, node = cluster.lab.faults, await holder(cluster)
    members = await incarnations(cluster)
    async with watched(cluster, cluster.lab.nodes) as scene:
        for part in ("coordinator", "fence", "agent"):
            for fault in (faults.restart, faults.crash):
                before = await faults.life(node, part)
                await fault(node, part)
                await until_another_life(cluster, node, part, before)
                await settled(scene)
        await faults.stop(node, "coordinator")
        await faults.stop(node, "agent")
        await scene.until_state(node, "agent-down")
        await scene.traffic.flowing(100)
        await faults.start(node, "agent")
        await faults.start(node, "coordinator")
        await settled(scene)
    assert scene.disturbed() == []
    assert await losses(cluster) == []
    assert await incarnations(cluster) == members


async def test_systemd_starts_an_agent_anew_that_hangs(cluster: Cluster) -> None:
    faults, node = cluster.lab.faults, await holder(cluster)
    await node.put({SHORT: File(b"[Service]\nWatchdogSec=3s\n")})
    await node.do("systemctl", "daemon-reload")
    await faults.restart(node, "agent")
    await cluster.until_ready()
    async with watched(cluster, cluster.lab.nodes) as scene:
        before = await faults.life(node, "agent")
        await faults.freeze(node, "agent")
        await until_another_life(cluster, node, "agent", before)
        await settled(scene)
    assert scene.disturbed() == []
    (died,) = [line for line in await cluster.deaths() if "Failed with result" in line]
    assert "result 'watchdog'" in died
    assert "most recent call first" in await node.do("journalctl", "--no-pager", "--output=cat", "--unit=gestalt-agent"), "where it stood"
    await node.do("rm", SHORT)
    await node.do("systemctl", "daemon-reload")
    await node.do("journalctl", "--quiet", "--rotate", "--vacuum-size=1")  # this death was asked for; any other is found after each test


async def test_a_fence_that_is_stopped_gives_its_node_up_and_brings_it_back(cluster: Cluster) -> None:
    faults, node = cluster.lab.faults, await holder(cluster)
    async with watched(cluster, cluster.lab.nodes, lost=1) as scene:
        await faults.stop(node, "fence")
        await scene.until_state(node, "lost")
        await scene.until_solo_left(node)
        await faults.start(node, "fence")
        await settled(scene)
        await cluster.until_converged()


async def node_that_takes_long_to_shut_down(node: Node) -> None:
    """What its containers run ignores the signal that ends all. They go on until after another node gets what is exclusive."""
    wait = TIMING.session + TIMING.lease + TIMING.kill + TIMING.margin + 5
    await node.put({"/etc/systemd/system.conf.d/stop.conf": File(f"[Manager]\nDefaultTimeoutStopSec={wait:g}s\n".encode())})
    await node.do("systemctl", "daemon-reexec")


async def test_a_node_that_reboots_comes_back_with_all_its_daemons_and_nothing_runs_twice(cluster: Cluster) -> None:
    victim = await holder(cluster)
    members, versions = await incarnations(cluster), await releases(cluster.lab.nodes)
    rest = others(cluster, victim)
    await node_that_takes_long_to_shut_down(victim)
    async with watched(cluster, rest, lost=1) as scene:
        await power.reboot(victim)
        await scene.until_state(victim, "ready")
        await cluster.until_converged()
        await settled(scene)
    assert await releases(cluster.lab.nodes) == versions
    assert (await incarnations(cluster))[victim.name] > members[victim.name]
    await move_solo(cluster, victim)
    async with watched(cluster, cluster.lab.nodes) as scene:
        await scene.traffic.flowing(50)  # through all three


async def test_a_node_that_is_taken_out_as_the_page_says_is_as_it_was_before_the_packages(cluster: Cluster, built: Built) -> None:
    lab = cluster.lab
    node = await power.add(lab.group)
    try:
        await start_engines([node])
        await prepare(node)
        before = await files(node)
        await rpm(node, "-i", *map(str, built.first))
        await join_node(cluster, node)
        async with watched(cluster, lab.nodes) as scene:
            await scene.until_state(node, "ready")
            await cluster.ctl("migrate", SOLO, "--to", node.name)
            await cluster.ctl("node", "drain", node.name)
            await cluster.ctl("node", "remove", node.name)
            await node.do("systemctl", "disable", "--now", "gestalt-agent", "gestalt-fence")
            await node.do("systemctl", "stop", "gestalt-haproxy")
            await rpm(node, "-e", *PACKAGES)
            await node.do("rm", "-r", "/etc/gestalt", "/var/lib/gestalt", "/run/gestalt")
        assert await files(node) - before == set()
        assert await processes(node, "gestalt") == []
        assert await containers([node]) == {node.name: set()}
        assert set(await cluster.states()) == {other.name for other in lab.nodes}
    finally:
        await power.remove(node)
