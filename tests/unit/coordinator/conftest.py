"""Fixtures of several modules."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.unit.coordinator.crowd import Begin, Crowd


@pytest.fixture
async def begin() -> AsyncIterator[Begin]:
    """Makes crowds of nodes with so many cores each, and ends them."""
    begun: list[Crowd] = []

    async def one(*cores: float) -> Crowd:
        begun.append(Crowd(*cores))
        await begun[-1].begin()
        return begun[-1]

    yield one
    for crowd in begun:
        await crowd.end()
