"""The log of the store in ZooKeeper is folded into the base: nothing may change by it, wherever it stops."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from gestalt.coordinator.store import DOCUMENT_LIMIT, Change, Delete, Put, StoreError, ZookeeperStore
from gestalt.coordinator.store.zookeeper_contents import FOLD_BYTES, FOLD_ENTRIES
from gestalt.coordinator.store.zookeeper_format import SEGMENT
from tests.real.zookeeper_lab import Ensemble, until

from .zookeeper_rig import Rig, rig_on

Contents = dict[str, bytes]


@pytest.fixture
async def rig(ensemble: Ensemble) -> AsyncIterator[Rig]:
    async with rig_on(ensemble) as rig:
        yield rig


async def contents(store: ZookeeperStore) -> Contents:
    return {document.key: document.value for document in (await store.load()).documents}


async def log_of(rig: Rig) -> list[str]:
    return await rig.zk.children(f"{rig.paths.store}/log")


async def segments_of(rig: Rig) -> list[str]:
    return await rig.zk.children(f"{rig.paths.store}/segments")


async def write(store: ZookeeperStore, epoch: int, wanted: Contents, changes: list[Change]) -> None:
    """Commit, and note what must be there from then on."""
    await store.commit(changes, epoch)
    for change in changes:
        if isinstance(change, Put):
            wanted[change.key] = change.value
        else:
            wanted.pop(change.key, None)


async def test_the_log_stays_short_and_a_small_change_a_small_write(rig: Rig) -> None:
    store = await rig.store()
    epoch = await store.take_office()
    await store.commit([Put("k", f"{n:05}", bytes(1000)) for n in range(3000)], epoch)
    await asyncio.gather(*(store.commit([Put("k", f"{n % 50}", b"%d" % n)], epoch) for n in range(3 * FOLD_ENTRIES)))
    await until("the log is short", lambda: _log_is_short(rig))
    entry = await rig.zk.get(f"{rig.paths.store}/log/{(await store.commit([Put('k', '1', b'small')], epoch)).number:012}")
    assert entry is not None
    assert len(entry[0]) < 100
    other = await rig.store()
    assert await contents(other) == {f"{n:05}": bytes(1000) for n in range(3000)} | {
        f"{n % 50}": b"%d" % n for n in range(3 * FOLD_ENTRIES)
    } | {"1": b"small"}


async def _log_is_short(rig: Rig) -> bool:
    return len(await log_of(rig)) < FOLD_ENTRIES


async def test_no_znode_comes_near_the_limit_and_what_is_outdated_is_removed(rig: Rig) -> None:
    store = await rig.store()
    epoch = await store.take_office()
    largest = random.Random(1).randbytes(DOCUMENT_LIMIT)
    for round_ in range(8):
        await store.commit([Put("k", str(n), largest) for n in range(4)], epoch)
        await store.commit([Put("k", f"small-{round_}", b"x" * (SEGMENT - 200))], epoch)
    await store.commit([Delete("k", str(n)) for n in range(4)], epoch)
    await until("only what counts is left", lambda: _stored_at_most(rig, 8 * SEGMENT + 8 * FOLD_BYTES))
    sizes = [len(found[0]) for name in await segments_of(rig) if (found := await rig.zk.get(f"{rig.paths.store}/segments/{name}"))]
    assert max(sizes) <= DOCUMENT_LIMIT + 4096
    assert set(await contents(await rig.store())) == {f"small-{round_}" for round_ in range(8)}


async def _stored_at_most(rig: Rig, limit: int) -> bool:
    names = [f"{rig.paths.store}/segments/{name}" for name in await segments_of(rig)]
    found = await asyncio.gather(*(rig.zk.get(name) for name in names))
    return sum(len(each[0]) for each in found if each) <= limit


async def test_a_fold_may_stop_after_any_write(rig: Rig) -> None:
    """Whatever its last write was: nothing is lost, halved or doubled, and the next leader clears up."""
    wanted: Contents = {}
    for writes in range(1, 16):
        store, short = await rig.store_cut_short(10_000)
        epoch = await store.take_office()
        for n in range(3):
            await write(store, epoch, wanted, [Put("k", str(n), b"%d" % writes * 100_000), Put("k", "large", bytes([writes]) * 500_000)])
        await write(store, epoch, wanted, [Delete("k", "0"), Put("k", f"round-{writes}", b"")])
        short.left = writes
        try:
            for _ in range(3):
                await write(store, epoch, wanted, [Put("k", "last", b"%d" % writes * 100_000)])
        except StoreError:
            pass
        await until("it has stopped", lambda store=store: store._fold is None or store._fold.done())
        await store.close()
        fresh = await rig.store()
        assert await contents(fresh) == wanted, f"after {writes} writes"
        await fresh.close()
    survivor = await rig.store()
    epoch = await survivor.take_office()
    for n in range(FOLD_ENTRIES + 1):
        await write(survivor, epoch, wanted, [Put("k", "1", b"%d" % n)])
    await until("what earlier leaders left is removed", lambda: _stored_at_most(rig, 3 * FOLD_BYTES + 2 * 700_000))
    assert await contents(survivor) == await contents(await rig.store()) == wanted


async def test_reading_goes_on_while_the_log_is_folded(rig: Rig) -> None:
    """Every snapshot is that of one commit: all counters are equal in it."""
    writer, reader = await rig.store(), await rig.store()
    epoch = await writer.take_office()
    await writer.commit([Put("k", str(n), b"0") for n in range(5)], epoch)

    async def count() -> None:
        for value in range(1, 250):
            await writer.commit([Put("k", str(n), b"%05d" % value * 1000) for n in range(5)], epoch)

    counting = asyncio.create_task(count())
    before = last = 0
    while not counting.done():
        acknowledged = await writer.last_commit()
        snapshot = await reader.load()
        assert len({document.value for document in snapshot.documents}) == 1, snapshot.commit
        assert snapshot.commit >= max(acknowledged, last)
        last = snapshot.commit
        before += 1
    await counting
    assert before > 3
    assert len(await log_of(rig)) < 100, "it was folded several times"
