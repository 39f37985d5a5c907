"""One lab and one cluster for all tests here, as booting them takes seconds; each test gets them whole, and what it broke is healed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio

from .lab.cluster import Cluster
from .lab.install import install
from .lab.lab import Lab, temporary_lab


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_lab() -> AsyncIterator[Lab]:
    async with temporary_lab(3) as lab:
        yield lab


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_cluster(shared_lab: Lab) -> Cluster:
    names = ("--hosts-file", "/etc/hosts")
    return await install(shared_lab, init=("--storage-fence", "netfilter", *names), join=names)


@pytest_asyncio.fixture(loop_scope="session")
async def lab(shared_lab: Lab) -> AsyncIterator[Lab]:
    yield shared_lab
    await shared_lab.faults.heal_all()
    for server in shared_lab.ensemble.servers:
        await shared_lab.ensemble.until_serving(server)


@pytest_asyncio.fixture(loop_scope="session")
async def cluster(lab: Lab, shared_cluster: Cluster) -> AsyncIterator[Cluster]:
    """The cluster, all nodes ready and without an app."""
    await shared_cluster.until_ready()
    yield shared_cluster
    assert await shared_cluster.deaths() == []
    await lab.faults.heal_all()
    await shared_cluster.until_ready()
    apps, _ = await shared_cluster.view()
    await asyncio.gather(*map(shared_cluster.delete, apps))
