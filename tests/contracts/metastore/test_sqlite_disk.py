"""The SQLite store on disks that are full or broken: real small file systems."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gestalt.coordinator.store import Committed, MetaStore, OutcomeUnknown, Put, StoreError, StoreFull, Unsettled
from gestalt.coordinator.store.sqlite import SqliteStore

from .backends import CLUSTER
from .loopdisk import LoopDisks

_MIB = 1024**2

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@pytest.fixture
async def disks() -> AsyncIterator[LoopDisks]:
    async with LoopDisks() as disks:
        yield disks


@pytest.fixture
async def small(disks: LoopDisks) -> Path:
    """An ext4 of 24 MiB, half of it taken by a file `ballast`."""
    await disks.make(disks.folder / "device", "ext4", 24 * _MIB)
    point = await disks.mount(disks.folder / "device", "small")
    (point / "ballast").write_bytes(bytes(12 * _MIB))
    return point


def take_all_space(path: Path) -> None:
    """Write a file until the file system has no block left."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017


async def contents(store: MetaStore) -> dict[str, bytes]:
    return {document.key: document.value for document in (await store.load()).documents}


async def fill(store: MetaStore, epoch: int, size: int) -> dict[str, bytes]:
    """Commit documents until there is no space; return those that were acknowledged."""
    accepted: dict[str, bytes] = {}
    for n in range(10_000):
        value = os.urandom(size)
        try:
            await store.commit([Put("k", f"{size}-{n}-a", value), Put("k", f"{size}-{n}-b", value)], epoch)
        except StoreFull:
            return accepted
        accepted |= {f"{size}-{n}-a": value, f"{size}-{n}-b": value}
    raise AssertionError("the disk never got full")


async def test_full_disk_refuses_and_recovers_without_restart(small: Path) -> None:
    store = SqliteStore(small / "state.db", CLUSTER)
    await store.open()
    epoch = await store.take_office()
    accepted: dict[str, bytes] = {}
    for size in (200_000, 20_000, 2000):  # ever smaller, until nothing at all fits
        accepted |= await fill(store, epoch, size)
    number = await store.last_commit()
    assert await contents(store) == accepted, "what was refused left nothing behind"
    with pytest.raises(StoreFull, match="no space left"):
        await store.commit([Put("k", "one more", bytes(20_000))], epoch)
    assert await store.last_commit() == number
    (small / "ballast").unlink()
    assert await store.commit([Put("k", "one more", b"x" * 200_000)], epoch) == Committed(number + 1)
    accepted["one more"] = b"x" * 200_000
    await store.close()
    await store.open()
    assert await contents(store) == accepted
    await store.close()


async def test_full_disk_is_opened_and_read(small: Path) -> None:
    store = SqliteStore(small / "state.db", CLUSTER)
    await store.open()
    epoch = await store.take_office()
    accepted = await fill(store, epoch, 100_000) | await fill(store, epoch, 2000)
    await store.close()
    take_all_space(small / "more ballast")
    await store.open()
    assert await contents(store) == accepted
    await store.close()


async def test_large_commit_without_space_refuses_no_small_neighbour(small: Path) -> None:
    store = SqliteStore(small / "state.db", CLUSTER)
    await store.open()
    epoch = await store.take_office()
    await store.commit([], epoch)
    commits = [[Put("k", f"small-{n}", b"x")] for n in range(10)]
    commits.insert(5, [Put("k", f"large-{n}", os.urandom(500_000)) for n in range(40)])
    outcomes = await asyncio.gather(*(store.commit(changes, epoch) for changes in commits), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Committed] * 5 + [StoreFull] + [Committed] * 5
    assert set(await contents(store)) == {f"small-{n}" for n in range(10)}
    await store.close()


async def test_no_space_to_create_a_store(small: Path) -> None:
    (small / "ballast").unlink()
    take_all_space(small / "ballast")
    store = SqliteStore(small / "state.db", CLUSTER)
    with pytest.raises(StoreFull):
        await store.open()
    (small / "ballast").unlink()
    await store.open()
    assert await store.take_office() == 1
    await store.close()


async def test_failing_device_leaves_a_doubt_that_is_settled(disks: LoopDisks, tmp_path: Path) -> None:
    """The device's file lies on a full tmpfs: blocks that it never had cannot be written, which the inner file system learns at fsync."""
    memory = await disks.mount_memory("memory", 16 * _MIB)
    await disks.make(memory / "device", "ext2", 64 * _MIB)
    broken = await disks.mount(memory / "device", "broken")
    store = SqliteStore(broken / "state.db", CLUSTER)
    await store.open()
    epoch = await store.take_office()
    await store.commit([Put("k", "before", b"x")], epoch)
    take_all_space(memory / "ballast")
    large = [Put("k", f"doubtful-{n}", os.urandom(500_000)) for n in range(4)]
    with pytest.raises(OutcomeUnknown) as unknown:
        await store.commit(large, epoch)
    assert unknown.value.number == 2
    for write in (store.commit([], epoch), store.take_office()):
        with pytest.raises(Unsettled):
            await write
    (memory / "ballast").unlink()
    settled = await store.last_commit()
    assert settled == 1, "it is told as not having taken place"
    assert set(await contents(store)) == {"before"}
    as_after_a_kill = SqliteStore(Path(shutil.copytree(broken, tmp_path / "copy")) / "state.db", CLUSTER)
    await as_after_a_kill.open()
    assert set(await contents(as_after_a_kill)) == {"before"}, "and it never comes back"
    await as_after_a_kill.close()
    assert await store.commit([Put("k", "after", b"x")], epoch) == Committed(2)
    await store.close()
    await store.open()
    assert set(await contents(store)) == {"before", "after"}
    await store.close()


async def test_vanished_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError):
        await SqliteStore(tmp_path / "file" / "state.db", CLUSTER).open()
