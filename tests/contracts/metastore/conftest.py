"""Every test that asks for `store`, `make` or `backend` runs once for each implementation."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from gestalt.coordinator.store import MetaStore
from tests.real.zookeeper_lab import Ensemble, running

from .backends import BACKENDS, CLUSTER, ZOOKEEPER


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tests that can soak run longer than the limit of a usual test."""
    for item in items:
        if "soak_seconds" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(120 + _soak_seconds()))


def _soak_seconds() -> float:
    return float(os.environ.get("GESTALT_SOAK_SECONDS", "0"))


@pytest.fixture(scope="session")
def ensemble() -> Iterator[Ensemble]:
    """One ZooKeeper server for all tests here; each uses a root of its own."""
    with running() as server:
        os.environ[ZOOKEEPER] = server.hosts[0]
        yield server


@pytest.fixture(params=sorted(BACKENDS))
def backend(request: pytest.FixtureRequest) -> str:
    """The name of one implementation, which can be used."""
    if request.param == "zookeeper":
        request.getfixturevalue("ensemble")
    return str(request.param)


@pytest.fixture
async def make(backend: str, tmp_path: Path) -> AsyncIterator[Callable[..., MetaStore]]:
    """Makes handles on the store of this test; all are closed at its end."""
    made: list[MetaStore] = []

    def new(name: str = "store", cluster_id: str = CLUSTER) -> MetaStore:
        made.append(BACKENDS[backend](tmp_path / name, cluster_id))
        return made[-1]

    yield new
    for store in made:
        await store.close()


@pytest.fixture
async def store(make: Callable[..., MetaStore]) -> MetaStore:
    """An open, empty store in which nobody has taken office."""
    opened = make()
    await opened.open()
    return opened


@pytest.fixture
def seeded() -> random.Random:
    """Randomness that a failure can be repeated with: GESTALT_SEED, else a new seed, always printed."""
    seed = int(os.environ.get("GESTALT_SEED") or random.SystemRandom().randrange(2**32))
    print(f"GESTALT_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def soak_seconds() -> float:
    """How long the random tests go on, all together, after their least number of rounds."""
    return _soak_seconds()
