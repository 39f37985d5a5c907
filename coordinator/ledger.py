"""The ledger: desired state in memory and in the store, changed only by commits, each with its audit record.

Nobody hears of a change before it is durable. Changes are made one after the other: whoever holds a draft sees the latest state.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from gestalt import clock
from gestalt.errors import GestaltError, Kind

from .events import EventRing, log_events
from .office import Office, not_leader
from .records import Audit, Event, TaskState
from .slices import in_slices
from .state import Draft, State, audit_key, unreserve
from .store.base import MetaStore, OutcomeUnknown, Snapshot, StaleEpoch, StoreError

log = logging.getLogger(__name__)

SETTLE_LIMIT = 1.5
"""Seconds for which a store is asked what became of a commit; as long at most as the office lasts."""
SETTLE_PAUSE = 0.1

KEPT_EVENTS = 500
"""So many events of one commit are kept in its audit record, which has to stay small enough to be stored. Who watches is told of all."""

TRIM = 3
"""How many old documents of a kind one commit removes at most: more than it adds, so that the number shrinks, but never a burst."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How many ended tasks and audit records, and for how many seconds answers are kept."""

    tasks: int
    audits: int
    answers: float


class Ledger:
    """Owns the state and the store. `on_commit` is called in the loop after each commit, with the draft that became true."""

    def __init__(self, store: MetaStore, events: EventRing, retention: Retention, office: Office | None = None) -> None:
        self.state = State()
        self.events = events
        self.epoch = 0
        self.format = 0
        self.office = office or Office.for_life()
        self._store = store
        self.retention = retention
        self._lock = asyncio.Lock()
        self._sequence = 0
        self._committing = False
        self._waiting: list[Callable[[int, int], Event]] = []
        self._listeners: list[Callable[[Draft], None]] = []

    def on_commit(self, listener: Callable[[Draft], None]) -> None:
        self._listeners.append(listener)

    async def take_office(self) -> None:
        """Open the store, raise the epoch and read everything.

        Raises:
            StoreError: it cannot be used; the sentence says why.
        """
        await self.begin()
        await self.read()

    async def begin(self) -> None:
        """Open the store and raise the epoch: from here on we lead.

        Raises:
            StoreError: it cannot be used, or somebody else is to lead; the sentence says why.
        """
        await self._store.open()
        sent = self.office.now()
        self.epoch = await self._store.take_office()
        self.office.answered(sent)

    async def read(self) -> None:
        """Read everything, a slice at a time: the office is renewed meanwhile. Until all is read the state is as before.

        Raises:
            StoreError: it cannot be used; the sentence says why.
        """
        snapshot = await self._store.load()
        await in_slices(self._reading(snapshot))
        log.info("took office: epoch %d, commit %d, %d documents", self.epoch, snapshot.commit, len(snapshot.documents))

    def _reading(self, snapshot: Snapshot) -> Iterator[None]:
        yield from self.state.loading(snapshot.documents)
        self.format = snapshot.format
        for audit in self.state.audits.values():
            self.events.append(audit.events)
            yield

    async def snapshot(self) -> Snapshot:
        """Return what the store holds, as of one commit.

        Raises:
            StoreError: it cannot be read now.
        """
        return await self._store.load()

    async def raise_format(self, number: int) -> bool:
        """Write in this format from now on; return whether it was a lower one before. To be called while a draft is held.

        Raises:
            StoreError: the store does not do it, or we do not lead any more.
        """
        self.office.require()
        is_new = await self._store.raise_format(number, self.epoch)
        self.format = max(self.format, number)
        return is_new

    @property
    def is_committing(self) -> bool:
        return self._committing

    async def close(self) -> None:
        await self._store.close()

    @asynccontextmanager
    async def draft(self, actor: str, action: str, request: str = "") -> AsyncIterator[Draft]:
        """Hand out a draft and commit it at the end of the block, unless that raised or changed nothing.

        Raises:
            GestaltError: the store refused; the state is as before. NOT_LEADER: we do not lead any more.
        """
        async with self._lock:
            self.office.require()
            draft = Draft(self.state)
            try:
                yield draft
                if draft:
                    await self._finish(asyncio.ensure_future(self._commit(draft, actor, action, request)))
            finally:
                unreserve(draft)

    def tell(self, kind: str, subject: str, message: str, app: str = "") -> None:
        """Put an observed event into the ring; it is not durable. During a commit it waits, so that tokens stay in order."""
        self._waiting.append(partial(Event, kind=kind, subject=subject, message=message, at=clock.wall().isoformat(), app=app))
        if not self._committing:
            self._tell_waiting()

    def _tell_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        self.events.append([make(self.epoch, self._next()) for make in waiting])

    @staticmethod
    async def _finish(commit: asyncio.Future[None]) -> None:
        """Wait for the commit even when the caller is cancelled, however often: memory and store must not part."""
        cancelled = False
        while not commit.done():
            try:
                await asyncio.wait([commit])
            except asyncio.CancelledError:
                cancelled = True
        error = commit.exception()
        if cancelled:
            raise asyncio.CancelledError
        if error is not None:
            raise error

    async def _commit(self, draft: Draft, actor: str, action: str, request: str) -> None:
        self._committing = True
        try:
            await self._commit_in_order(draft, actor, action, request)
        finally:
            self._committing = False
            self._tell_waiting()

    async def _commit_in_order(self, draft: Draft, actor: str, action: str, request: str) -> None:
        now = clock.wall()
        at = now.isoformat()
        events = tuple(make(self.epoch, self._next(), at) for make in draft.events)
        draft.put_audit(audit_key(self.epoch, self._next()), Audit(actor, action, request, at, _kept(events)))
        self._trim(draft, now)
        await self._write(draft)
        self.state.apply(draft)
        self.events.append(events)
        log_events(actor, events)
        for listener in self._listeners:
            listener(draft)

    async def _write(self, draft: Draft) -> None:
        self.office.require()
        sent = self.office.now()
        try:
            await self._store.commit(draft.changes(self.format), self.epoch)
        except StaleEpoch as stale:
            self.office.end("another coordinator has taken office")
            raise not_leader() from stale
        except OutcomeUnknown as unknown:
            await self._settle(unknown)
        else:
            self.office.answered(sent)

    async def _settle(self, unknown: OutcomeUnknown) -> None:
        """Read back whether a commit took place. If that cannot be known either, memory may be wrong: step down."""
        give_up = clock.monotonic() + min(self.office.remaining(), SETTLE_LIMIT)
        while True:
            try:
                last = await self._store.last_commit()
                break
            except StoreError as error:
                if isinstance(error, StaleEpoch) or clock.monotonic() + SETTLE_PAUSE > give_up:
                    self.office.end("the store does not say what it holds")
                    raise not_leader() from error
            await asyncio.sleep(SETTLE_PAUSE)
        if last < unknown.number:
            raise GestaltError(Kind.UNAVAILABLE, "the change was not made: the store failed", hint="try again") from unknown

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence

    def _trim(self, draft: Draft, now: datetime) -> None:
        """Remove what is beyond its retention, oldest first; the tables are in order of time."""
        state, keep = self.state, self.retention
        for key in list(state.audits)[: min(TRIM, max(0, len(state.audits) - keep.audits))]:
            draft.delete("audit", key)
        if len(state.tasks) > keep.tasks:
            ended = (task for task in state.tasks.values() if task.state is not TaskState.RUNNING)
            for task in sorted(ended, key=lambda item: item.created_at)[:TRIM]:
                draft.delete("task", task.id)
        horizon = (now - timedelta(seconds=keep.answers)).isoformat()
        for key, answer in list(state.answers.items())[:TRIM]:
            if answer.at < horizon:
                draft.delete("answer", key)


def _kept(events: tuple[Event, ...]) -> tuple[Event, ...]:
    """Return what an audit record keeps of the events of a commit; of more than that it says how many there were."""
    if len(events) <= KEPT_EVENTS:
        return events
    more = len(events) - KEPT_EVENTS + 1
    rest = replace(
        events[KEPT_EVENTS - 1], kind="audit.shortened", message=f"{more} more events of this commit were told, and are not kept"
    )
    return (*events[: KEPT_EVENTS - 1], rest)
