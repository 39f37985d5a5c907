"""A restore in ZooKeeper that is cut short before each of its transactions, or whose last one is lost on the way."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gestalt.coordinator.store import Document, OutcomeUnknown, Put, StoreError, Superseded, Unsettled
from gestalt.coordinator.store.zookeeper_format import SEGMENT
from tests.real.zookeeper_lab import Ensemble

from .zookeeper_rig import Rig, rig_on

SEGMENTS = 3
LARGE = tuple(Document("app", f"{number}", b"n" * (SEGMENT - 100), 1) for number in range(SEGMENTS))


@pytest.fixture
async def rig(ensemble: Ensemble) -> AsyncIterator[Rig]:
    async with rig_on(ensemble) as rig:
        yield rig


async def test_a_restore_cut_short_anywhere_changes_nothing_until_its_last_write(rig: Rig) -> None:
    first = await rig.store()
    epoch = await first.take_office()
    await first.commit([Put("app", "old", b"o" * SEGMENT)], epoch)
    before = await first.load()
    for writes in range(SEGMENTS + 1):
        store, _ = await rig.store_cut_short(writes)
        with pytest.raises(StoreError):
            await store.restore(LARGE, commit=1, epoch=1, expected=before.commit)
        assert await first.load() == before, f"after {writes} writes"
    store, _ = await rig.store_cut_short(SEGMENTS + 1)
    restored = await store.restore(LARGE, commit=1, epoch=1, expected=before.commit)
    assert (await first.load()).documents == LARGE
    segments = await rig.zk.children(f"{rig.paths.store}/segments")
    assert len(segments) > SEGMENTS, "cut short before it swept"
    whole = await rig.store()
    again = await whole.restore(LARGE, commit=1, epoch=1, expected=restored.commit)
    assert again.epoch > restored.epoch
    assert len(await rig.zk.children(f"{rig.paths.store}/segments")) == SEGMENTS
    assert await rig.zk.children(f"{rig.paths.store}/log") == []


async def test_a_restore_that_may_have_taken_place_is_settled_before_anything_else(rig: Rig) -> None:
    store, short = await rig.store_cut_short(SEGMENTS)
    short.loses_one = True
    short.is_told.set()
    with pytest.raises(OutcomeUnknown) as doubt:
        await store.restore(LARGE, commit=1, epoch=1, expected=0)
    with pytest.raises(Unsettled):
        await store.restore(LARGE, commit=1, epoch=1, expected=0)
    head = (await rig.zk.get(f"{rig.paths.store}/head")) or pytest.fail("there is a head")
    assert await store.last_commit() < doubt.value.number
    barred = (await rig.zk.get(f"{rig.paths.store}/head")) or pytest.fail("there is a head")
    assert barred[1].version > head[1].version, "the lost transaction can never take place any more"
    assert (await store.restore(LARGE, commit=1, epoch=1, expected=0)).commit == doubt.value.number


async def test_whoever_takes_office_meanwhile_wins(rig: Rig) -> None:
    store, leader = await rig.store(), await rig.store()
    replaced = await store.restore(LARGE, commit=1, epoch=1, expected=0)
    epoch = await leader.take_office()
    await leader.commit([Put("app", "new", b"")], epoch)
    with pytest.raises(Superseded):
        await store.restore((), commit=1, epoch=1, expected=replaced.commit)
    assert len((await leader.load()).documents) == SEGMENTS + 1
