"""What only the store in ZooKeeper has to survive: a lost connection at the worst moment, and another leader."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest

from gestalt.config import ZooKeeperSettings
from gestalt.coordinator.store import (
    Candidacy,
    Committed,
    Conflict,
    NotElected,
    OutcomeUnknown,
    Put,
    StaleEpoch,
    StoreCorrupt,
    StoreError,
    Unsettled,
    WrongFormat,
    ZookeeperStore,
)
from gestalt.coordinator.store.zookeeper_group import TRANSACTIONS
from gestalt.zk.client import Check, Create, Set, Zk, ZkRefused
from tests.real.zookeeper_lab import Ensemble, until

from .backends import CLUSTER
from .zookeeper_rig import Rig, rig_on


@pytest.fixture
async def rig(ensemble: Ensemble) -> AsyncIterator[Rig]:
    async with rig_on(ensemble) as rig:
        yield rig


async def number_of(rig: Rig) -> int:
    found = await rig.zk.get(f"{rig.paths.store}/head")
    assert found is not None
    return int(found[0])


async def settled(store: ZookeeperStore) -> int:
    """Return what a store says after a lost connection, as soon as it can say it."""
    said: list[int] = []

    async def ask() -> bool:
        try:
            said.append(await store.last_commit())
        except OutcomeUnknown:
            return False
        return True

    await until("the outcome is settled", ask)
    return said[0]


async def begin_unknown(rig: Rig, store: ZookeeperStore, epoch: int, took_place: bool) -> list[Committed | BaseException]:
    """Have as many transactions in flight as there may be when the connection breaks: none of them arrived, or all, and nobody was told."""
    rig.proxy.loses_answers, rig.proxy.loses_requests = took_place, not took_place
    commits = []
    for n in range(TRANSACTIONS):
        commits.append(asyncio.create_task(store.commit([Put("k", str(n), b"x" * 2000)], epoch)))
        await until("it is on its way", lambda n=n: len(store._in_flight) == n + 1 and store._gathering is None)
    if took_place:
        await until("all are there", lambda: _at(rig, 1 + TRANSACTIONS))
    else:
        await until("all that can be are lost", lambda: rig.proxy.lost > 2000 * TRANSACTIONS)  # bytes
    rig.proxy.cut()
    return await asyncio.gather(*commits, return_exceptions=True)


async def _at(rig: Rig, number: int) -> bool:
    return await number_of(rig) == number


@pytest.mark.parametrize("took_place", [True, False])
async def test_a_cut_between_request_and_answer_is_settled_rightly(rig: Rig, took_place: bool) -> None:
    store = await rig.store(cut=True)
    epoch = await store.take_office()
    await store.commit([Put("k", "before", b"")], epoch)
    outcomes = await begin_unknown(rig, store, epoch, took_place)
    assert [type(outcome) for outcome in outcomes] == [OutcomeUnknown] * TRANSACTIONS
    assert [outcome.number for outcome in outcomes if isinstance(outcome, OutcomeUnknown)] == list(range(2, 2 + TRANSACTIONS))
    for call in (store.commit([], epoch), store.take_office()):
        with pytest.raises(Unsettled):
            await call
    last = 1 + TRANSACTIONS if took_place else 1
    assert await settled(store) == last
    keys = {document.key for document in (await store.load()).documents}
    assert keys == {"before", *(map(str, range(TRANSACTIONS)) if took_place else ())}
    assert await store.commit([Put("k", "after", b"", 0)], epoch) == Committed(last + 1)


async def test_a_settled_transaction_cannot_take_place_any_more(rig: Rig) -> None:
    """It may still wait in some server of the ensemble when the outcome is settled."""
    store = await rig.store(cut=True)
    epoch = await store.take_office()
    await store.commit([], epoch)
    head = await rig.zk.exists(f"{rig.paths.store}/head")
    assert head is not None
    stragglers = [
        [store.fence(), Create(f"{rig.paths.store}/log/{number:012}", b""), Set(f"{rig.paths.store}/head", b"2", head.version + number - 2)]
        for number in range(2, 2 + TRANSACTIONS)
    ]
    await begin_unknown(rig, store, epoch, took_place=False)
    assert await settled(store) == 1
    for straggler in stragglers:
        with pytest.raises(ZkRefused) as refusal:
            await rig.zk.multi(straggler)
        assert (refusal.value.index, refusal.value.reason) == (2, "version")
    await store.commit([], epoch)


async def test_no_commit_takes_place_without_those_before_it(rig: Rig) -> None:
    """One of three in flight is lost, and those before and after it reach ZooKeeper."""
    store, client = await rig.store_cut_short(10)
    epoch = await store.take_office()
    await store.commit([], epoch)
    client.left, client.loses_one = 1, True
    commits = []
    for n in range(3):
        commits.append(asyncio.create_task(store.commit([Put("k", str(n), b"")], epoch)))
        await until(f"commit {n} is sent", lambda n=n: client.left == -n)
    client.is_told.set()
    first, second, third = await asyncio.gather(*commits, return_exceptions=True)
    assert first == Committed(2)
    assert isinstance(second, OutcomeUnknown)
    assert isinstance(third, StoreError)
    assert not isinstance(third, OutcomeUnknown), "ZooKeeper has refused it"
    assert await settled(store) == 2
    assert [document.key for document in (await (await rig.store()).load()).documents] == ["0"]


async def test_commits_called_together_share_a_transaction(rig: Rig) -> None:
    """They keep their order and their numbers, and none of them makes it larger than ZooKeeper takes."""
    store, client = await rig.store_cut_short(100_000)
    epoch = await store.take_office()
    await store.commit([], epoch)
    for times, transactions in ((1, 3), (30_000, 400)):
        client.left, before = 100_000, (await store.load()).commit
        commits = await asyncio.gather(*(store.commit([Put("k", str(n % 7), b"%06d" % n * times)], epoch) for n in range(300)))
        assert [each.number for each in commits] == list(range(before + 1, before + 301))
        assert 100_000 - client.left <= transactions, "those that fold the log are among them"
        values = {each.key: each.value[:6] for each in (await (await rig.store()).load()).documents}
        assert values == {str(n % 7): b"%06d" % n for n in range(293, 300)}


@contextmanager
def slow_turns(seconds: float) -> Iterator[None]:
    """Have each turn of the loop take so long: longer than ZooKeeper takes to answer."""
    loop = asyncio.get_running_loop()

    def work() -> None:
        nonlocal next_turn
        time.sleep(seconds)
        next_turn = loop.call_soon(work)

    next_turn = loop.call_soon(work)
    try:
        yield
    finally:
        next_turn.cancel()


async def test_commits_called_together_share_a_transaction_however_busy_the_loop_is(rig: Rig) -> None:
    """A transaction that was answered already is no reason for those that stand in line to go one by one."""
    store, client = await rig.store_cut_short(100_000)
    epoch = await store.take_office()
    await store.commit([], epoch)
    client.left = 100_000
    with slow_turns(0.01):
        commits = await asyncio.gather(*(store.commit([Put("k", str(n), b"")], epoch) for n in range(300)))
    assert [each.number for each in commits] == list(range(2, 302))
    assert 100_000 - client.left == 3, "of 128 commits at most"


async def test_one_of_a_line_that_conflicts_is_told_and_keeps_nobody_back(rig: Rig) -> None:
    store, client = await rig.store_cut_short(100_000)
    epoch = await store.take_office()
    await store.commit([], epoch)
    client.left = 100_000
    expected = {150: 7, 160: 7, 299: 7}
    outcomes = await asyncio.gather(
        *(store.commit([Put("k", str(n), b"", expected.get(n, 0))], epoch) for n in range(300)), return_exceptions=True
    )
    assert [n for n, each in enumerate(outcomes) if isinstance(each, Conflict)] == list(expected)
    assert [each.number for each in outcomes if isinstance(each, Committed)] == list(range(2, 299))
    assert {document.key for document in (await (await rig.store()).load()).documents} == {str(n) for n in range(300) if n not in expected}


async def test_a_group_is_refused_as_one_and_each_of_it_is_told(rig: Rig) -> None:
    store, client = await rig.store_cut_short(3)
    epoch = await store.take_office()
    await store.commit([], epoch)
    client.left = 0
    refused = await asyncio.gather(*(store.commit([Put("k", str(n), b"")], epoch) for n in range(50)), return_exceptions=True)
    assert all(type(each) is StoreError and "cut short" in str(each) for each in refused), refused
    assert len(set(map(id, refused))) == 50, "each caller has an error of its own"
    assert client.left == -1, "one transaction was tried"
    client.left = 100
    assert await store.commit([], epoch) == Committed(2)


async def test_an_outcome_stays_unknown_while_there_is_no_connection(rig: Rig) -> None:
    store = await rig.store(cut=True)
    epoch = await store.take_office()
    await store.commit([], epoch)
    rig.proxy.accepts = False
    await begin_unknown(rig, store, epoch, took_place=False)
    with pytest.raises(OutcomeUnknown, match="still unknown"):
        await store.last_commit()
    with pytest.raises(Unsettled):
        await store.commit([], epoch)
    rig.proxy.accepts = True
    assert await settled(store) == 1


async def test_a_session_that_ended_meanwhile_does_not_prevent_settling(rig: Rig) -> None:
    store = await rig.store(cut=True, session=1.0)
    epoch = await store.take_office()
    await store.commit([], epoch)
    rig.proxy.accepts = False
    await begin_unknown(rig, store, epoch, took_place=False)
    session = store._connection.present().session.id
    await until("the session has ended", lambda: _ended(rig, session))
    rig.proxy.accepts = True
    assert await settled(store) == 1
    assert await store.commit([], epoch) == Committed(2)


async def _ended(rig: Rig, session: int) -> bool:
    """Return whether the server does not know a session any more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.ensemble.ports[0])
    writer.write(b"dump")
    text = (await reader.read(100_000)).decode()
    writer.close()
    return f"{session:#x}" not in text


async def test_a_taking_of_office_that_is_unknown_is_repeated(rig: Rig) -> None:
    armed = False

    def no_candidacy() -> None:
        rig.proxy.loses_answers = armed  # asked for right before the transaction

    store = await rig.store(cut=True, candidate=no_candidacy)
    first = await store.take_office()
    armed = True
    office = asyncio.create_task(store.take_office())
    await until("the epoch is raised", lambda: _epoch_is(rig, first + 1))
    armed = False
    rig.proxy.cut()
    with pytest.raises(OutcomeUnknown):
        await office
    with pytest.raises(Unsettled):
        await store.take_office()
    assert await settled(store) == 0
    with pytest.raises(StaleEpoch):
        await store.commit([], first)
    assert await store.take_office() == first + 2


async def _epoch_is(rig: Rig, epoch: int) -> bool:
    found = await rig.zk.get(rig.paths.epoch)
    return found is not None and int(found[0]) == epoch


async def test_nothing_is_queued_without_a_connection(rig: Rig) -> None:
    store = await rig.store(cut=True)
    epoch = await store.take_office()
    rig.proxy.accepts = False
    rig.proxy.cut()

    async def refused() -> bool:
        try:
            await store.commit([Put("k", "queued", b"")], epoch)
        except (OutcomeUnknown, Unsettled):
            raise
        except StoreError:
            return True
        return False

    await until("it is refused", refused)
    rig.proxy.accepts = True

    async def works() -> bool:
        try:
            return bool(await store.commit([Put("k", "direct", b"")], epoch))
        except StoreError:
            return False

    await until("it works again", works)
    assert [document.key for document in (await store.load()).documents] == ["direct"]


async def test_a_deposed_leader_is_refused_by_zookeeper_itself(rig: Rig) -> None:
    """As after a freeze: the old leader has heard of nothing, and believes that it leads."""
    old, new = await rig.store(), await rig.store()
    first = await old.take_office()
    await old.commit([Put("k", "a", b"old")], first)
    fence = old.fence()
    second = await new.take_office()
    racing = [old.commit([Put("k", str(n), b"deposed")], first) for n in range(20)]
    outcomes = await asyncio.gather(*racing, new.commit([Put("k", "a", b"new")], second), return_exceptions=True)
    assert all(isinstance(outcome, StaleEpoch) for outcome in outcomes[:-1]), outcomes
    assert {(outcome.given, outcome.current) for outcome in outcomes[:-1] if isinstance(outcome, StaleEpoch)} == {(first, second)}
    assert outcomes[-1] == Committed(2)
    with pytest.raises(StaleEpoch):
        await old.commit([Put("k", "large", bytes(500_000))], first)
    with pytest.raises(ZkRefused) as refusal:
        await rig.zk.multi([fence, Create(f"{rig.root}/grant", b"")])
    assert (refusal.value.index, refusal.value.reason) == (0, "version")
    await rig.zk.multi([new.fence(), Create(f"{rig.root}/grant", b"")])
    assert [(each.key, each.value) for each in (await old.load()).documents] == [("a", b"new")]
    third = await old.take_office()
    assert await old.commit([Put("k", "a", b"again", 2)], third) == Committed(3)


async def test_a_leader_that_was_deposed_in_doubt_learns_that_it_leads_no_more(rig: Rig) -> None:
    """Another leader has used the same numbers, so the last one says nothing about ours."""
    old, new = await rig.store(cut=True), await rig.store()
    first = await old.take_office()
    await old.commit([], first)
    await begin_unknown(rig, old, first, took_place=False)
    second = await new.take_office()
    for _ in range(10):
        await new.commit([], second)

    async def told() -> bool:
        try:
            await old.last_commit()
        except StaleEpoch as stale:
            return (stale.given, stale.current) == (first, second)
        except OutcomeUnknown:
            return False
        return False

    await until("it is told", told)
    with pytest.raises(Unsettled):
        await old.commit([], first)


async def test_taking_office_proves_the_candidacy_and_says_who_leads(rig: Rig) -> None:
    candidacy = Candidacy(f"{rig.root}/c-1", b"it is me")
    store = await rig.store(candidate=lambda: candidacy)
    with pytest.raises(NotElected, match="c-1"):
        await store.take_office()
    assert await _epoch_is(rig, 0)
    assert await rig.zk.get(rig.paths.leader) is None
    await rig.zk.create(candidacy.path)
    for epoch in (1, 2):
        assert await store.take_office() == epoch
        leader = await rig.zk.get(rig.paths.leader)
        assert leader is not None
        assert leader[0] == b"it is me"
    await rig.zk.delete(candidacy.path)
    with pytest.raises(NotElected):
        await store.take_office()
    assert await _epoch_is(rig, 2)
    await store.commit([], 2)


async def test_two_that_make_the_store_at_once_make_one(rig: Rig) -> None:
    stores = await asyncio.gather(*(rig.store() for _ in range(4)))
    assert len({(await store.load()).history_id for store in stores}) == 1


async def test_a_wiped_zookeeper_is_refused(rig: Rig) -> None:
    with pytest.raises(StoreCorrupt, match="wiped"):
        await rig.store(must_exist=True)
    assert await rig.zk.exists(rig.root) is None
    await (await rig.store()).close()
    store = await rig.store(must_exist=True)
    epoch = await store.take_office()
    await rig.zk.delete(f"{rig.paths.store}/head")
    with pytest.raises(StoreError, match="head"):
        await store.load()
    with pytest.raises(StoreError):
        await store.commit([], epoch)


@pytest.mark.parametrize(("written", "error"), [
    (json.dumps({"cluster_id": CLUSTER, "history_id": "h", "format": 99}).encode(), WrongFormat),
    (b"{", StoreCorrupt), (b"{}", StoreCorrupt),
])  # fmt: skip
async def test_a_store_that_is_not_understood_is_left_alone(rig: Rig, written: bytes, error: type[Exception]) -> None:
    await rig.zk.ensure(rig.root)
    await rig.zk.create(rig.paths.cluster, written)
    with pytest.raises(error):
        await rig.store()
    assert await rig.zk.children(rig.root) == ["cluster"]


async def test_strangers_can_read_nothing_but_the_epoch(rig: Rig) -> None:
    settings = rig.ensemble.settings(rig.root, identity="coordinator", secret="s")
    await _with_identity(settings, rig)
    for path in (rig.paths.cluster, f"{rig.paths.store}/head", f"{rig.paths.store}/base", f"{rig.paths.store}/log/{1:012}"):
        with pytest.raises(ZkRefused) as refusal:
            await rig.zk.get(path)
        assert refusal.value.reason == "denied", path
    await rig.zk.multi([Check(rig.paths.epoch, 1)])
    with pytest.raises(ZkRefused):
        await rig.zk.set(rig.paths.epoch, b"9")
    with pytest.raises(StoreError, match="denied"):
        await rig.store()


async def _with_identity(settings: ZooKeeperSettings, rig: Rig) -> None:
    zk = await Zk.connect(settings, session=5, name="owner")
    store = ZookeeperStore(zk, rig.paths, CLUSTER)
    await store.open()
    await store.commit([Put("k", "secret", b"")], await store.take_office())
    await store.close()
    assert await zk.exists(rig.root), "a client that was given stays open"
    await zk.close()
