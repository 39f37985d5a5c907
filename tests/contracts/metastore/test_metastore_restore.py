"""What every store must do when everything in it is replaced: all of it or nothing, and whoever led does not any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from gestalt.coordinator.store import (
    DOCUMENT_LIMIT,
    Committed,
    Document,
    MetaStore,
    Put,
    StaleEpoch,
    Superseded,
    TooLarge,
)
from gestalt.shell import child_environment

from .backends import BACKENDS, CLUSTER
from .restorer import ROUNDS, documents_of, program

Make = Callable[..., MetaStore]
OTHERS = {"sqlite": "zookeeper", "zookeeper": "sqlite"}
MANY = tuple(Document("app", f"/shop/{number:05}", bytes([number % 256]) * 2000, number % 40 + 1) for number in range(1000))


async def filled(store: MetaStore, count: int = 3) -> int:
    """Take office and commit a few times; returns the epoch."""
    epoch = await store.take_office()
    for number in range(count):
        await store.commit([Put("app", f"/old/{number}", b"old")], epoch)
    return epoch


async def test_everything_is_replaced_and_a_new_history_begins(store: MetaStore, make: Make) -> None:
    epoch = await filled(store)
    before = await store.load()
    restored = await store.restore(MANY, commit=40, epoch=7, expected=3)
    assert (restored.commit, restored.epoch) == (41, 8)
    after = await store.load()
    assert after.documents == tuple(sorted(MANY, key=lambda each: (each.kind, each.key)))
    assert (after.commit, after.epoch, after.history_id, after.cluster_id) == (41, 8, restored.history_id, before.cluster_id)
    assert after.history_id != before.history_id
    with pytest.raises(StaleEpoch):
        await store.commit([], epoch)
    await store.close()
    again = make()
    await again.open()
    assert await again.load() == after
    assert await again.last_commit() == 41
    assert await again.take_office() == 9
    assert await again.commit([Put("app", "/new", b"")], 9) == Committed(42)
    assert len((await again.load()).documents) == len(MANY) + 1


async def test_numbers_are_above_those_of_both_states(store: MetaStore) -> None:
    for _ in range(5):
        await filled(store)
    restored = await store.restore([], commit=2, epoch=3, expected=15)
    assert (restored.commit, restored.epoch) == (16, 6)
    assert (await store.load()).documents == ()


async def test_nothing_is_restored_over_what_the_caller_has_not_seen(store: MetaStore) -> None:
    await filled(store)
    before = await store.load()
    with pytest.raises(Superseded) as refusal:
        await store.restore(MANY, commit=40, epoch=7, expected=2)
    assert (refusal.value.expected, refusal.value.found) == (2, 3)
    assert await store.load() == before


@pytest.mark.parametrize(("documents", "problem"), [
    ([Document("app", "a", b"", 1), Document("app", "a", b"x", 2)], "twice"),
    ([Document("app", "a", b"", 0)], "revision"),
    ([Document("app", "a", b"", 10)], "revision"),
    ([Document("", "a", b"", 1)], "1 to"),
])  # fmt: skip
async def test_what_is_no_state_is_refused_whole(store: MetaStore, documents: list[Document], problem: str) -> None:
    await filled(store)
    before = await store.load()
    with pytest.raises(ValueError, match=problem):
        await store.restore(documents, commit=9, epoch=1, expected=3)
    with pytest.raises(TooLarge):
        await store.restore([Document("app", "a", b"x" * (DOCUMENT_LIMIT + 1), 1)], commit=9, epoch=1, expected=3)
    assert await store.load() == before


async def test_what_one_store_holds_is_restored_into_another_kind_alike(
    backend: str, store: MetaStore, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue("ensemble")
    await filled(store)
    held = await store.load()
    other = BACKENDS[OTHERS[backend]](tmp_path / "other", CLUSTER)
    await other.open()
    try:
        await other.restore(held.documents, commit=held.commit, epoch=held.epoch, expected=0)
        there = await other.load()
        assert (there.documents, there.cluster_id) == (held.documents, held.cluster_id)
        assert there.epoch > held.epoch
        assert there.history_id != held.history_id
    finally:
        await other.close()


async def test_kill_9_leaves_the_old_state_or_the_new_one(backend: str, tmp_path: Path) -> None:
    """A process that restores one large state after the other is killed at moments spread over the length of a restore."""
    moments, seen = 8, set()
    for moment in range(moments):
        process = await asyncio.create_subprocess_exec(
            *program(backend, tmp_path, moment), stdout=asyncio.subprocess.PIPE, env=child_environment()
        )
        assert process.stdout is not None
        try:
            begun = await asyncio.wait_for(process.stdout.readline(), 30)
            await asyncio.wait([asyncio.create_task(process.wait())], timeout=float(begun) * (moment + 0.5) / moments)
        finally:
            if process.returncode is None:
                process.kill()
            told = len((await process.stdout.read()).splitlines())
            await process.wait()
        store = BACKENDS[backend](tmp_path, CLUSTER)
        await store.open()
        try:
            found = (await store.load()).documents
        finally:
            await store.close()
        whole = [number for number in range(ROUNDS) if found == documents_of(moment * ROUNDS + number)]
        assert len(whole) == 1, f"killed at {moment}: {len(found)} documents of no one state"
        assert whole[0] >= told, "an acknowledged restore is lost"
        seen.add(whole[0])
    assert seen
