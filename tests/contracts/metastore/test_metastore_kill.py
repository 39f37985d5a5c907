"""Kill -9 of a writing process, again and again on the same store."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from .backends import BACKENDS, CLUSTER
from .child import Writer
from .writer import verify

_ROUNDS = 12


@pytest.mark.soak
async def test_kill_9_loses_and_halves_nothing(backend: str, tmp_path: Path, seeded: random.Random, soak_seconds: float) -> None:
    end = time.monotonic() + soak_seconds / 3
    rounds = 0
    while rounds < _ROUNDS or time.monotonic() < end:
        rounds += 1
        writer = await Writer.start(backend, tmp_path, seeded.randrange(2**32))
        try:
            await writer.hear(seeded.choice([1, seeded.randrange(20), seeded.randrange(300)]))
        finally:
            await writer.kill()
        store = BACKENDS[backend](tmp_path, CLUSTER)
        await store.open()
        try:
            _, complaints = verify(await store.load(), writer.acknowledged, writer.number)
        finally:
            await store.close()
        assert not complaints, f"round {rounds}: {complaints}"
