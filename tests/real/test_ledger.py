"""The ledger on a real store: what is acknowledged is durable, what is not changed nothing, requests count once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from gestalt.coordinator import changes
from gestalt.coordinator.events import EventRing
from gestalt.coordinator.ledger import Ledger, Retention
from gestalt.coordinator.records import Task
from gestalt.coordinator.requests import Call, Outcome, Requests
from gestalt.coordinator.state import Draft
from gestalt.coordinator.store.base import Change, Committed, MetaStore, OutcomeUnknown, StoreError, StoreFull
from gestalt.coordinator.store.sqlite import SqliteStore
from gestalt.errors import GestaltError, Kind
from gestalt.proto.v1 import api_pb2, model_pb2
from tests.unit.coordinator.world import PATH, spec

CLUSTER = "6e8f3f5e-0000-4000-8000-000000000001"


def new_ledger(store: MetaStore, **retention: float) -> Ledger:
    keep = {"tasks": 100, "audits": 100, "answers": 3600.0} | retention
    return Ledger(store, EventRing(100), Retention(int(keep["tasks"]), int(keep["audits"]), keep["answers"]))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "state.db", CLUSTER)
    yield store
    await store.close()


@pytest.fixture
async def ledger(store: SqliteStore) -> Ledger:
    ledger = new_ledger(store)
    await ledger.take_office()
    return ledger


def work(draft: Draft, asked: changes.Asked) -> Task | None:
    return changes.describe(draft, None, spec(), (), asked)


def call(identity: str = "r1", count: int = 3) -> Call:
    message = api_pb2.ScaleRequest(request=api_pb2.Request(id=identity), app=PATH, count=count)
    return Call("alice", "scale", message, message.request)


def requests(ledger: Ledger) -> Requests:
    def reply(outcome: Outcome) -> api_pb2.ChangeReply:
        return api_pb2.ChangeReply(tasks=[model_pb2.Task(id=task.id) for task in outcome.tasks], unchanged=outcome.unchanged)

    return Requests(ledger, reply)


async def test_everything_is_found_again_by_the_next_leader(store: SqliteStore, ledger: Ledger) -> None:
    await requests(ledger).change(call(), {PATH: work})
    await store.close()
    successor = new_ledger(store)
    await successor.take_office()
    assert successor.epoch == ledger.epoch + 1
    assert successor.state == ledger.state
    assert successor.events.after("0")[0] == ledger.events.after("0")[0]
    (audit,) = successor.state.audits.values()
    assert (audit.actor, audit.request, audit.action) == ("alice", "r1", f"scale {PATH}")


async def test_a_repeated_request_is_answered_alike_and_done_once(ledger: Ledger) -> None:
    first = await requests(ledger).change(call(), {PATH: work})
    again = await requests(ledger).change(call(), {PATH: work})
    assert again == first
    assert len(ledger.state.tasks) == 1


async def test_many_retries_at_once_do_it_once(ledger: Ledger) -> None:
    replies = await asyncio.gather(*(requests(ledger).change(call(), {PATH: work}) for _ in range(10)))
    assert len({reply.SerializeToString() for reply in replies}) == 1
    assert len(ledger.state.tasks) == 1


async def test_a_request_id_used_for_something_else_is_refused(ledger: Ledger) -> None:
    await requests(ledger).change(call(), {PATH: work})
    with pytest.raises(GestaltError) as caught:
        await requests(ledger).change(call(count=4), {PATH: work})
    assert caught.value.kind is Kind.EXISTS


async def test_a_draft_that_raises_leaves_nothing(ledger: Ledger) -> None:
    def broken(draft: Draft, asked: changes.Asked) -> Task | None:
        work(draft, asked)
        raise GestaltError(Kind.REFUSED, "no")

    with pytest.raises(GestaltError, match="no"):
        await requests(ledger).change(call(), {PATH: broken})
    assert not ledger.state.apps
    assert ledger.events.last == "0"


async def test_events_that_are_seen_during_a_commit_come_after_it_with_higher_tokens(ledger: Ledger) -> None:
    change = asyncio.create_task(requests(ledger).change(call(), {PATH: work}))
    for _ in range(20):
        ledger.tell("node.ready", "n1", "seen meanwhile")
        await asyncio.sleep(0)
    await change
    events, _ = ledger.events.after("0")
    assert {"app.launched", "node.ready"} <= {event.kind for event in events}
    assert [event.sequence for event in events] == sorted(event.sequence for event in events)


class FullOnce(SqliteStore):
    """A real store whose disk is full for the first commit."""

    full = True

    async def commit(self, changes: Sequence[Change], epoch: int) -> Committed:
        if self.full:
            self.full = False
            raise StoreFull("no space left on the disk")
        return await super().commit(changes, epoch)


async def test_a_full_disk_refuses_the_change_and_the_next_one_succeeds(tmp_path: Path) -> None:
    store = FullOnce(tmp_path / "state.db", CLUSTER)
    ledger = new_ledger(store)
    await ledger.take_office()
    with pytest.raises(GestaltError, match="no space"):
        await requests(ledger).change(call(), {PATH: work})
    assert not ledger.state.apps
    assert not ledger.state.answers
    await requests(ledger).change(call(), {PATH: work})
    assert PATH in ledger.state.apps
    await ledger.close()


class AnswerLost(SqliteStore):
    """A real store that commits, or does not, and then loses the answer."""

    arrives = True
    readable = True

    async def commit(self, changes: Sequence[Change], epoch: int) -> Committed:
        number = await super().last_commit() + 1
        if self.arrives:
            await super().commit(changes, epoch)
        raise OutcomeUnknown("the connection broke", number)

    async def last_commit(self) -> int:
        if not self.readable:
            raise StoreError("still no connection")
        return await super().last_commit()


@pytest.mark.parametrize("arrives", [True, False])
async def test_a_lost_answer_is_read_back(tmp_path: Path, arrives: bool) -> None:
    store = AnswerLost(tmp_path / "state.db", CLUSTER)
    store.arrives = arrives
    ledger = new_ledger(store)
    await ledger.take_office()
    if arrives:
        await requests(ledger).change(call(), {PATH: work})
    else:
        with pytest.raises(GestaltError, match="the change was not made"):
            await requests(ledger).change(call(), {PATH: work})
    assert (PATH in ledger.state.apps) == arrives
    assert ledger.office.holds()
    await ledger.close()


async def test_an_answer_that_cannot_be_read_back_ends_the_leadership(tmp_path: Path) -> None:
    store = AnswerLost(tmp_path / "state.db", CLUSTER)
    store.readable = False
    ledger = new_ledger(store)
    await ledger.take_office()
    with pytest.raises(GestaltError, match="does not lead"):
        async with ledger.draft("tester", "anything") as draft:
            work(draft, changes.Asked("tester", "2026-01-01T00:00:00+00:00", 0, "t", "uid123"))
    assert not ledger.office.holds()
    await ledger.close()


async def test_a_deposed_leader_knows_it(store: SqliteStore, ledger: Ledger) -> None:
    await store.take_office()
    with pytest.raises(GestaltError) as refused:
        await requests(ledger).change(call(), {PATH: work})
    assert refused.value.kind is Kind.NOT_LEADER
    assert not ledger.office.holds()
    assert not ledger.state.apps


async def test_a_caller_that_goes_away_leaves_memory_and_store_alike(store: SqliteStore, ledger: Ledger) -> None:
    for number in range(20):
        task = asyncio.create_task(requests(ledger).change(call(f"r{number}"), {f"{PATH}{number}": _launch(f"{PATH}{number}")}))
        for _ in range(number % 7):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not ledger.is_committing, "the next draft would not see this commit"
    await store.close()
    successor = new_ledger(store)
    await successor.take_office()
    assert successor.state == ledger.state


def _launch(path: str) -> object:
    def launch(draft: Draft, asked: changes.Asked) -> Task | None:
        return changes.describe(draft, None, spec().model_copy(update={"path": path}), (), asked)

    return launch


async def test_old_records_are_trimmed_a_few_at_a_time(store: SqliteStore) -> None:
    ledger = new_ledger(store, audits=5, answers=0.0)
    await ledger.take_office()
    await requests(ledger).change(call("first"), {PATH: work})
    for number in range(30):
        await requests(ledger).change(call(f"r{number}"), {PATH: lambda draft, asked, n=number: changes.scale(draft, PATH, n + 10, asked)})
    assert len(ledger.state.audits) <= 6
    assert len(ledger.state.answers) <= 3


async def test_a_new_leader_knows_which_answers_are_the_oldest(store: SqliteStore, ledger: Ledger) -> None:
    names = ["d", "c", "b", "a"]
    for number, name in enumerate(names):
        await requests(ledger).change(
            call(name), {PATH: lambda draft, asked, n=number: changes.describe(draft, None, spec(instances=n + 1), (), asked)}
        )
    await store.close()
    successor = new_ledger(store)
    await successor.take_office()
    assert list(successor.state.answers) == names
