"""Three nodes with the packages, upgraded one after the other under an app that is used, and one that must not run twice."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gestalt import __version__
from tests.cluster.lab.cluster import Cluster
from tests.cluster.lab.lab import temporary_lab
from tests.cluster.lab.nodes import can_run
from tests.cluster.lab.scene import Scene, heal, set_up, watched

from .conftest import Built
from .fleet import change_release, containers, incarnations, losses, raise_fleet, releases, states_watched

pytestmark = [
    pytest.mark.rpm,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(not can_run(), reason="lab nodes need root, systemd-sysv and busybox-static"),
    pytest.mark.skipif(shutil.which("rpmbuild") is None, reason="rpmbuild is not installed: scripts/install-packages rpm"),
]

AWAY_MAX = 10.0
"""Seconds that no machine is too slow for. What is aimed at is 3, and 1.5 from START to READY."""


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
    old, new = f"{__version__}-1", f"{__version__}-2"
    assert seen == [[old, old, new], [old, new, new], [new, new, new], [old, new, new]], "two versions side by side"
    assert scene.disturbed() == []
    assert await containers(nodes) == ran
    assert await losses(cluster) == []
    assert await incarnations(cluster) == members
