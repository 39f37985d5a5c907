"""Power cuts: the block device under a writing store, copied at one moment, is all that is left of it.

The page cache survives a kill -9, so that proves nothing about durability. Here the store lies on an ext4 in a file that is a loop device,
and that file lies on an xfs, where a reflink copies it atomically while the store is being written. What the inner file system keeps in
its page cache has not reached the file, so it is not in the copy: exactly what a power cut loses. Each copy is mounted (its journal is
replayed) and opened by a store.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gestalt.coordinator.store import StoreError

from .backends import BACKENDS, CLUSTER, LIARS, ON_DISK
from .child import Writer
from .loopdisk import LoopDisks, clone
from .writer import Counts, verify

_CUTS = 30
_OUTER = 1024**3  # sparse
_INNER = 128 * 1024**2

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@dataclass(frozen=True, slots=True)
class Cut:
    """A copy of the device, and what had been acknowledged before it was made."""

    image: Path
    acknowledged: Counts
    number: int


@pytest.fixture
async def disks() -> AsyncIterator[LoopDisks]:
    async with LoopDisks() as disks:
        yield disks


async def cut_power(disks: LoopDisks, backend: str, seeded: random.Random, rounds: int) -> list[str]:
    """Let a writer run, copy its device `rounds` times, and return what is wrong with the copies."""
    complaints: list[str] = []
    await disks.make(disks.folder / "outer", "xfs", _OUTER)
    outer = await disks.mount(disks.folder / "outer", "xfs")
    await disks.make(outer / "device", "ext4", _INNER)
    inner = await disks.mount(outer / "device", "inner")
    writer = await Writer.start(backend, inner / "store", seeded.randrange(2**32))
    try:
        for number in range(rounds):
            cut = await _cut(writer, outer, number, seeded)
            complaints += [f"cut {number}: {complaint}" for complaint in await _examine(disks, backend, cut)]
    finally:
        await writer.kill()
    await disks.unmount(inner)
    await disks.unmount(outer)
    return complaints


async def _cut(writer: Writer, outer: Path, number: int, seeded: random.Random) -> Cut:
    await writer.hear(1 if number == 0 else seeded.randrange(1, 120))
    acknowledged, last_number = dict(writer.acknowledged), writer.number
    image = outer / f"cut-{number}"
    clone(outer / "device", image)
    return Cut(image, acknowledged, last_number)


async def _examine(disks: LoopDisks, backend: str, cut: Cut) -> list[str]:
    point = await disks.mount(cut.image, "examined")
    store = (BACKENDS | LIARS)[backend](point / "store", CLUSTER)
    try:
        await store.open()
        _, complaints = verify(await store.load(), cut.acknowledged, cut.number)
    except StoreError as error:
        complaints = [f"lost: {error}"]
    finally:
        await store.close()
        await disks.unmount(point)
        cut.image.unlink()
    return complaints


@pytest.mark.soak
@pytest.mark.parametrize("backend", sorted(ON_DISK))
async def test_power_cut_loses_and_halves_nothing(disks: LoopDisks, backend: str, seeded: random.Random, soak_seconds: float) -> None:
    end = time.monotonic() + soak_seconds / 3
    assert await cut_power(disks, backend, seeded, _CUTS) == []
    while time.monotonic() < end:
        assert await cut_power(disks, backend, seeded, 10 * _CUTS) == []


@pytest.mark.parametrize("liar", sorted(LIARS))
async def test_the_power_cut_finds_a_store_that_does_not_sync(disks: LoopDisks, liar: str, seeded: random.Random) -> None:
    complaints = await cut_power(disks, liar, seeded, 8)
    print(complaints)
    assert any("lost" in complaint for complaint in complaints), f"no loss found: {complaints}"
