"""What every store must do while nothing breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from gestalt.coordinator.store import (
    DOCUMENT_LIMIT,
    Committed,
    Conflict,
    Delete,
    Document,
    MetaStore,
    Put,
    StaleEpoch,
    StoreError,
    TooLarge,
    WrongCluster,
)
from gestalt.coordinator.store.base import NAME_LIMIT

from .backends import CLUSTER

Make = Callable[..., MetaStore]

ODD_NAMES = [
    "/org/workspace/env/app", "..", ".", "../../etc/passwd", "a b", " a", "a ", "A", "a", "a\0b", "a\nb", "'; DROP TABLE document; --", '"',
    "%", "_", "*", "\\", "%2F", "zookeeper", "\ufeff", "e\u0301", "\u00e9", "日本語", "🦊", "\U0010ffff", "x" * NAME_LIMIT,
    "é" * (NAME_LIMIT // 2),
]  # fmt: skip


async def documents(store: MetaStore) -> dict[tuple[str, str], tuple[bytes, int]]:
    return {(document.kind, document.key): (document.value, document.revision) for document in (await store.load()).documents}


async def reopened(store: MetaStore, make: Make, name: str = "store") -> MetaStore:
    await store.close()
    again = make(name)
    await again.open()
    return again


async def test_new_store_is_empty(store: MetaStore) -> None:
    snapshot = await store.load()
    assert (snapshot.documents, snapshot.commit, snapshot.epoch, snapshot.cluster_id) == ((), 0, 0, CLUSTER)
    assert snapshot.history_id
    assert snapshot.format >= 1
    assert await store.last_commit() == 0


async def test_what_was_committed_is_loaded_now_and_later(store: MetaStore, make: Make) -> None:
    epoch = await store.take_office()
    first = await store.commit([Put("app", "/b", b"1"), Put("app", "/a", b"\0\xff"), Put("task", "/a", b"")], epoch)
    second = await store.commit([Put("app", "/b", b"2"), Delete("task", "/a")], epoch)
    assert (first, second) == (Committed(1), Committed(2))
    before = await store.load()
    assert before.documents == (Document("app", "/a", b"\0\xff", 1), Document("app", "/b", b"2", 2))
    assert (before.commit, before.epoch) == (2, epoch)
    again = await reopened(store, make)
    assert await again.load() == before
    assert await again.last_commit() == 2


async def test_histories_differ(make: Make) -> None:
    one, other = make("one"), make("other")
    await one.open()
    await other.open()
    assert (await one.load()).history_id != (await other.load()).history_id


async def test_store_of_another_cluster_is_refused(store: MetaStore, make: Make) -> None:
    await store.close()
    with pytest.raises(WrongCluster, match="another-cluster"):
        await make(cluster_id="another-cluster").open()
    await reopened(store, make)


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_one_refused_change_refuses_all(store: MetaStore, place: int) -> None:
    epoch = await store.take_office()
    await store.commit([Put("app", "there", b"old")], epoch)
    before = await store.load()
    changes: list[Put | Delete] = [Put("app", "new", b"x"), Delete("app", "there")]
    changes.insert(place, Put("app", "there", b"y", expected=0))
    with pytest.raises(Conflict) as refusal:
        await store.commit(changes, epoch)
    assert (refusal.value.document_kind, refusal.value.key, refusal.value.expected, refusal.value.found) == ("app", "there", 0, 1)
    assert await store.load() == before
    assert await store.commit([], epoch) == Committed(2), "a refusal uses up no number"


@pytest.mark.parametrize("change", [Put("app", "a", b"new"), Delete("app", "a")], ids=["put", "delete"])
@pytest.mark.parametrize(("there", "expected", "accepted"), [
    (False, None, True), (False, 0, True), (False, 1, False),
    (True, None, True), (True, 0, False), (True, 1, False), (True, 2, True), (True, 3, False),
])  # fmt: skip
async def test_expected_revision(store: MetaStore, change: Put | Delete, there: bool, expected: int | None, accepted: bool) -> None:
    epoch = await store.take_office()
    await store.commit([Put("app", "a", b"1")] if there else [], epoch)
    await store.commit([Put("app", "a", b"2")] if there else [], epoch)
    before = await documents(store)
    guarded = Put("app", "a", b"new", expected) if isinstance(change, Put) else Delete("app", "a", expected)
    if accepted:
        assert await store.commit([guarded], epoch) == Committed(3)
        assert await documents(store) == ({("app", "a"): (b"new", 3)} if isinstance(change, Put) else {})
    else:
        with pytest.raises(Conflict) as refusal:
            await store.commit([guarded], epoch)
        assert refusal.value.found == (2 if there else 0)
        assert await documents(store) == before


async def test_same_key_of_another_kind_is_another_document(store: MetaStore) -> None:
    epoch = await store.take_office()
    await store.commit([Put("app", "a", b"1", 0), Put("task", "a", b"2", 0)], epoch)
    await store.commit([Delete("app", "a", 1)], epoch)
    assert await documents(store) == {("task", "a"): (b"2", 1)}


@pytest.mark.parametrize(("changes", "left"), [
    ([Put("k", "a", b"1"), Delete("k", "a"), Put("k", "a", b"2")], b"2"),
    ([Put("k", "a", b"1"), Delete("k", "a")], None),
    ([Delete("k", "a"), Put("k", "a", b"1")], b"1"),
    ([Put("k", "a", b"1"), Put("k", "a", b"2")], b"2"),
    ([Put("k", "a", b"1", 1), Delete("k", "a", 1), Put("k", "a", b"3", 1)], b"3"),
])  # fmt: skip
async def test_changes_apply_in_order_and_expect_the_state_before(
    store: MetaStore, changes: list[Put | Delete], left: bytes | None
) -> None:
    epoch = await store.take_office()
    await store.commit([Put("k", "a", b"0")], epoch)
    await store.commit(changes, epoch)
    assert await documents(store) == ({} if left is None else {("k", "a"): (left, 2)})


async def test_revision_grows_over_delete_and_recreation(store: MetaStore, make: Make) -> None:
    epoch = await store.take_office()
    for change in (Put("k", "a", b"1"), Put("k", "a", b"2"), Delete("k", "a")):
        await store.commit([change], epoch)
    again = await reopened(store, make)
    await again.commit([Put("k", "a", b"3", 0)], epoch)
    assert await documents(again) == {("k", "a"): (b"3", 4)}


async def test_only_the_present_epoch_writes(store: MetaStore, make: Make) -> None:
    with pytest.raises(StaleEpoch):
        await store.commit([Put("k", "a", b"nobody leads")], 0)
    old = await store.take_office()
    await store.commit([Put("k", "a", b"old leader")], old)
    new = await store.take_office()
    assert new > old > 0
    for wrong in (old, new + 1, 0, -1):
        with pytest.raises(StaleEpoch) as refusal:
            await store.commit([Put("k", "a", b"deposed")], wrong)
        assert (refusal.value.given, refusal.value.current) == (wrong, new)
    await store.commit([Put("k", "b", b"new leader")], new)
    again = await reopened(store, make)
    assert (await again.load()).epoch == new, "opening takes no office"
    assert await again.take_office() > new
    with pytest.raises(StaleEpoch):
        await again.commit([], new)
    assert await documents(again) == {("k", "a"): (b"old leader", 1), ("k", "b"): (b"new leader", 2)}


async def test_taking_office_fences_commits_under_way(store: MetaStore) -> None:
    old = await store.take_office()
    before = [asyncio.create_task(store.commit([Put("k", f"before-{n}", b"")], old)) for n in range(50)]
    office = asyncio.create_task(store.take_office())
    after = [asyncio.create_task(store.commit([Put("k", f"after-{n}", b"")], old)) for n in range(50)]
    outcomes = await asyncio.gather(*before, *after, return_exceptions=True)
    new = await office
    assert all(isinstance(outcome, Committed | StaleEpoch) for outcome in outcomes), outcomes
    accepted = {outcome.number for outcome in outcomes if isinstance(outcome, Committed)}
    assert {revision for _, revision in (await documents(store)).values()} == accepted
    with pytest.raises(StaleEpoch):
        await store.commit([], old)
    await store.commit([], new)


async def test_size_limit(store: MetaStore) -> None:
    epoch = await store.take_office()
    largest = bytes(range(256)) * (DOCUMENT_LIMIT // 256)
    await store.commit([Put("k", f"large-{n}", largest) for n in range(4)], epoch)
    before = await store.load()
    with pytest.raises(TooLarge) as refusal:
        await store.commit([Put("k", "small", b""), Delete("k", "large-0"), Put("k", "huge", largest + b"x")], epoch)
    assert (refusal.value.size, refusal.value.limit) == (DOCUMENT_LIMIT + 1, DOCUMENT_LIMIT)
    assert "huge" in refusal.value.document
    assert await store.load() == before
    assert [document.value == largest for document in before.documents] == [True] * 4


async def test_odd_names_are_kept_apart(store: MetaStore, make: Make) -> None:
    epoch = await store.take_office()
    wanted = {(kind, key): f"{kind}|{key}".encode() for kind in ("k", *ODD_NAMES) for key in ODD_NAMES}
    await store.commit([Put(kind, key, value, 0) for (kind, key), value in wanted.items()], epoch)
    again = await reopened(store, make)
    snapshot = await again.load()
    assert {(document.kind, document.key): document.value for document in snapshot.documents} == wanted
    names = [(document.kind, document.key) for document in snapshot.documents]
    assert names == sorted(names)
    await again.commit([Delete(kind, key, 1) for kind, key in wanted], epoch)
    assert await documents(again) == {}


@pytest.mark.parametrize(
    "name", ["", "x" * (NAME_LIMIT + 1), "é" * NAME_LIMIT, "\ud800"], ids=["empty", "long", "long in bytes", "surrogate"]
)
async def test_impossible_names_are_refused(store: MetaStore, name: str) -> None:
    epoch = await store.take_office()
    for change in (Put("k", name, b""), Put(name, "k", b""), Delete("k", name), Delete(name, "k")):
        with pytest.raises(ValueError):
            await store.commit([Put("k", "good", b""), change], epoch)
    assert await documents(store) == {}


async def test_ten_thousand_documents(store: MetaStore, make: Make) -> None:
    epoch = await store.take_office()
    wanted = {f"{n:05}": (b"%d " % n) * 60 for n in range(10_000)}
    keys = sorted(wanted)
    batches = [keys[start : start + 500] for start in range(0, len(keys), 500)]
    await asyncio.gather(*(store.commit([Put("instance", key, wanted[key]) for key in batch], epoch) for batch in batches))
    again = await reopened(store, make)
    assert {document.key: document.value for document in (await again.load()).documents} == wanted


async def test_concurrent_commits_are_numbered_in_order_without_gaps(store: MetaStore) -> None:
    epoch = await store.take_office()
    outcomes = await asyncio.gather(*(store.commit([Put("k", "same", b"%d" % n), Put("k", str(n), b"")], epoch) for n in range(300)))
    assert [outcome.number for outcome in outcomes] == list(range(1, 301))
    assert (await documents(store))["k", "same"] == (b"299", 300)
    assert await store.last_commit() == 300


async def test_of_concurrent_creations_one_wins_and_each_refusal_is_its_own(store: MetaStore) -> None:
    epoch = await store.take_office()
    racing = [store.commit([Put("k", f"witness-{n}", b""), Put("k", "prize", b"%d" % n, expected=0)], epoch) for n in range(50)]
    outcomes = await asyncio.gather(*racing, return_exceptions=True)
    winners = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Committed)]
    assert len(winners) == 1
    assert all(isinstance(outcome, Committed | Conflict) for outcome in outcomes)
    assert set(await documents(store)) == {("k", "prize"), ("k", f"witness-{winners[0]}")}


async def test_cancelled_commit_is_whole_or_absent_and_harms_nobody(store: MetaStore) -> None:
    epoch = await store.take_office()
    commits = [asyncio.create_task(store.commit([Put("k", f"{n}-a", b""), Put("k", f"{n}-b", b"")], epoch)) for n in range(100)]
    await asyncio.sleep(0)
    for cancelled in commits[::3]:
        cancelled.cancel()
    outcomes = await asyncio.gather(*commits, return_exceptions=True)
    assert all(isinstance(outcome, Committed) for n, outcome in enumerate(outcomes) if n % 3)
    await store.commit([], epoch)
    keys = {key for _, key in await documents(store)}
    for n in range(100):
        assert (f"{n}-a" in keys) == (f"{n}-b" in keys)
        assert f"{n}-a" in keys or n % 3 == 0


async def test_closing_waits_for_commits_under_way(store: MetaStore, make: Make) -> None:
    epoch = await store.take_office()
    commits = [asyncio.create_task(store.commit([Put("k", str(n), b"")], epoch)) for n in range(200)]
    await asyncio.sleep(0)
    await store.close()
    await store.close()
    outcomes = await asyncio.gather(*commits)
    again = await reopened(store, make)
    assert len((await again.load()).documents) == len(outcomes) == 200


async def test_closed_store_refuses_and_can_be_opened_again(store: MetaStore) -> None:
    epoch = await store.take_office()
    await store.close()
    for call in (store.load, store.take_office, store.last_commit, lambda: store.commit([], epoch)):
        with pytest.raises(StoreError, match="not open"):
            await call()
    await store.open()
    assert await store.commit([], epoch) == Committed(1)
    with pytest.raises(StoreError, match="open already"):
        await store.open()
