"""One lab for all tests here, as booting it takes seconds; every test gets it whole, and what it broke is healed after it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from .lab.lab import Lab, temporary_lab


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_lab() -> AsyncIterator[Lab]:
    async with temporary_lab(3) as lab:
        yield lab


@pytest_asyncio.fixture(loop_scope="session")
async def lab(shared_lab: Lab) -> AsyncIterator[Lab]:
    yield shared_lab
    await shared_lab.faults.heal_all()
    for server in shared_lab.ensemble.servers:
        await shared_lab.ensemble.until_serving(server)
