"""The store in ZooKeeper: one log of commits that is folded into a base now and then. `zookeeper_format` says how it lies there.

Every write checks the epoch's znode, so a deposed leader writes nothing, and every transaction of commits raises the version of the head
from the one that the transaction before it left: several may be in flight, but none can take place without those before it, or later than
the barrier that settles an unknown outcome.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from gestalt.zk.client import Check, Op, Set, Zk, ZkError, ZkRefused, ZkUnavailable, ZkUnknown
from gestalt.zk.paths import Paths

from .base import (
    Change,
    Committed,
    Conflict,
    Document,
    MetaStore,
    OutcomeUnknown,
    Restored,
    Snapshot,
    StaleEpoch,
    StoreCorrupt,
    StoreError,
    Unsettled,
    check_changes,
    check_documents,
)
from .zookeeper_candidacy import Barred, Candidacy, NotElected, leader_op, proofs
from .zookeeper_connection import Connection
from .zookeeper_contents import Contents
from .zookeeper_fold import Folder
from .zookeeper_format import SEGMENT, Entry, pack
from .zookeeper_group import TRANSACTIONS, Call, Failure, Group
from .zookeeper_restore import Replacement
from .zookeeper_znodes import Epoch, Layout, Znodes, ensure_store, raise_format, translated, translation

log = logging.getLogger(__name__)

_TRIES = 10
_TOO_LATE = "another writer of the same epoch was faster, or a commit before this one failed"


class _Log:
    """The log of commits and our place in it: what was sent, what is known to be there, and what is not known."""

    def __init__(
        self,
        connection: Zk | Callable[[], Awaitable[Zk]],
        paths: Paths,
        cluster_id: str,
        *,
        candidate: Callable[[], Candidacy | None] = lambda: None,
        must_exist: bool = False,
    ) -> None:
        self._connection = Connection(connection)
        self._paths = paths
        self._layout = Layout(paths)
        self._cluster_id = cluster_id
        self._candidate = candidate
        self._must_exist = must_exist
        self._is_open = False
        self._history_id = ""
        self._format = 0
        self._office: Epoch | None = None
        self._contents: Contents | None = None
        self._is_doubtful = False
        self._is_restore_doubtful = False
        self._order = asyncio.Lock()  # commits are sent in the order of their calls
        self._line: deque[Call] = deque()
        self._gathering: tuple[Group, asyncio.Task[Failure | None]] | None = None
        self._slots = asyncio.Semaphore(TRANSACTIONS)
        self._in_flight: set[asyncio.Task[Failure | None]] = set()
        self._waiting: set[asyncio.Task[Committed]] = set()
        self._fold: asyncio.Task[None] | None = None

    def fence(self) -> Check:
        """Return the operation that any other write of this leadership puts first.

        Raises:
            StoreError: nobody took office here.
        """
        if self._office is None:
            raise StoreError(f"no office is held in {self._paths.root}")
        return Check(self._paths.epoch, self._office.version)

    def _require_open(self) -> None:
        if not self._is_open:
            raise StoreError(f"{self._paths.root} in ZooKeeper is not open")

    def _znodes(self) -> Znodes:
        return Znodes(self._connection.present(), self._paths)

    # Office

    async def _elected(self) -> Epoch:
        """Raise the epoch in one transaction that proves our candidacy."""
        zk = await self._connection.live()
        for _ in range(_TRIES):
            await zk.sync(self._paths.epoch)
            epoch = await self._znodes().epoch()
            candidacy = self._candidate()
            ops: list[Op] = [Set(self._paths.epoch, str(epoch.number + 1).encode(), epoch.version)]
            if candidacy is not None:
                ops = [*proofs(candidacy), *ops, await leader_op(zk, self._paths.leader, candidacy.leader)]
            try:
                await zk.multi(ops)
            except ZkUnknown as error:
                self._doubt()
                self._office = None
                raise OutcomeUnknown(f"taking office: {error}", self._contents.number if self._contents else 0) from error
            except ZkRefused as refusal:
                if candidacy is not None and refusal.path == candidacy.path:
                    raise NotElected(candidacy.path) from refusal
                if candidacy is not None and refusal.path == candidacy.barred:
                    raise Barred(candidacy.barred) from refusal
                if refusal.reason not in ("version", "exists", "missing"):
                    raise
                continue
            return Epoch(epoch.number + 1, epoch.version + 1)
        raise StoreError(f"{self._paths.epoch} in ZooKeeper is raised by others again and again")

    # Commits

    def _send_at_once(self, changes: Sequence[Change], epoch: int) -> Awaitable[Committed] | None:
        """Send a commit, if nothing has to be read, written or waited for first."""
        contents = self._contents if self._office and self._office.number == epoch and not self._is_doubtful else None
        entry = _entry_of(contents, changes, epoch) if contents is not None else None
        if contents is None or entry is None or not (self._gathering is None or self._gathering[0].has_room(entry)):
            return None
        return self._send(contents, changes, entry)

    def _send_line(self) -> None:
        """Send those that stand in line as well, until one is kept: what is called together goes together."""
        while self._line:
            try:
                sent = self._send_at_once(self._line[0].changes, self._line[0].epoch)
            except Conflict:
                return  # which it is told in its turn
            if sent is None:
                return
            self._line.popleft().sent = sent

    async def _commit(self, call: Call) -> Committed:
        """Send a commit in its turn, after having read and written what it needs first, if one before it did not send it along."""
        async with self._order:
            if call.sent is None:
                try:
                    call.sent = await self._sent(call.changes, call.epoch)
                finally:
                    self._line.popleft()  # commits get the order as they stand in line
            self._send_line()
        return await call.sent

    async def _sent(self, changes: Sequence[Change], epoch: int) -> Awaitable[Committed]:
        with translated():
            while True:
                self._refuse_doubt()
                contents = await self._contents_for(epoch)
                if (entry := _entry_of(contents, changes, epoch)) is None:
                    folder = _folder(self._connection, self._layout, self.fence(), self._office)
                    entry = await _staged(folder, contents, changes, epoch)
                while self._gathering is not None and not self._gathering[0].has_room(entry):
                    await self._gathering[0].is_sent.wait()
                if self._contents is contents:  # none before it has failed meanwhile
                    return self._send(contents, changes, entry)

    def _send(self, contents: Contents, changes: Sequence[Change], entry: Entry) -> Awaitable[Committed]:
        """Send a commit, with those that go together with it. The answer need not be awaited."""
        number = contents.advance(changes, entry)
        if self._gathering is None:
            group = Group(self.fence(), entry.epoch)
            nobodys = contextvars.Context()  # neither a group nor a fold, which begins in it, is about its first commit
            self._gathering = group, asyncio.create_task(self._carry_out(group, contents), context=nobodys)
            _keep(self._gathering[1], self._in_flight)
        group, sent = self._gathering
        group.add(number, entry)
        return _answer(sent, number)

    async def _carry_out(self, group: Group, contents: Contents) -> Failure | None:
        async with self._slots:
            self._gathering = None  # nothing joins from here on
            group.is_sent.set()
            ops = group.ops(self._layout, contents.sent())
            try:
                await self._connection.present().multi(ops)
            except ZkUnknown as error:
                self._doubt()
                return Failure(partial(_unknown, str(error)), error)
            except (ZkUnavailable, ZkRefused) as error:
                if self._contents is contents:
                    self._contents = None
                return await _refused(self._znodes, error, group.epoch)
        if self._contents and self._contents.is_fold_due and (self._fold is None or self._fold.done()):
            self._fold = asyncio.create_task(self._run_fold(), name="store-fold")
        return None

    async def _contents_for(self, epoch: int) -> Contents:
        """Return what we know to be there under this epoch, by reading it if need be."""
        if self._office and self._office.number == epoch and self._contents:
            return self._contents
        await self._drained()
        self._refuse_doubt()
        await self._connection.live()
        present = await self._znodes().epoch()
        if present.number != epoch or epoch == 0:
            raise StaleEpoch(epoch, present.number)
        self._contents = await self._znodes().contents()
        self._office = present
        return self._contents

    async def _drained(self) -> None:
        """Wait until every commit that was sent is answered."""
        while self._in_flight:
            await asyncio.wait(self._in_flight)

    async def _fresh(self) -> Contents:
        """Return what is there now: what we remember, if nobody else has written."""
        known = self._contents  # a fold that fails meanwhile forgets it
        if known and not self._is_doubtful and (await self._znodes().latest()).version == known.head_version:
            return known
        return await self._znodes().contents()

    # Doubt

    def _doubt(self) -> None:
        self._is_doubtful = True
        self._contents = None

    def _refuse_doubt(self) -> None:
        if self._is_doubtful:
            raise Unsettled("the outcome of an earlier commit is not known yet")

    async def _settled(self) -> int:
        """Write the head anew, so that no transaction that is still under way anywhere can take place; then its number is final.

        After an unknown taking of office there is nothing to bar: the next one checks the epoch's version.
        """
        try:
            with translated():
                await self._connection.live()
                for _ in range(_TRIES):
                    head = await self._znodes().latest()
                    nothing_to_bar = self._office is None and not self._is_restore_doubtful
                    if nothing_to_bar or await self._bar(head.number, head.version):
                        self._is_doubtful = self._is_restore_doubtful = False
                        return head.number
        except StaleEpoch:
            raise
        except StoreError as error:
            raise OutcomeUnknown(f"still unknown: {error.message}", 0) from error
        raise OutcomeUnknown("still unknown: others write", 0)

    async def _bar(self, number: int, version: int) -> bool:
        try:
            fence = [self.fence()] if self._office is not None else []  # nobody is in office while something is restored
            head = str(number).encode()
            beyond = [Set(self._layout.head, head)] * TRANSACTIONS  # of several unknown ones, none finds the version that it expects
            await self._connection.present().multi([*fence, Set(self._layout.head, head, version), *beyond])
        except ZkRefused as refusal:
            if refusal.reason != "version":
                raise
            if refusal.index == 0 and self._office is not None:
                raise StaleEpoch(self._office.number, (await self._znodes().epoch()).number) from refusal
            return False
        return True

    # Folding

    async def _run_fold(self) -> None:
        """Fold until the log is short: what was committed during a fold may be too long again, and perhaps no commit follows it."""
        try:
            while self._contents and self._contents.is_fold_due:
                await self._fold_once()
        except (ZkUnavailable, ZkUnknown, ZkRefused, StoreError) as error:
            self._contents = None  # it is not known what the base is now
            log.warning("the log of the store was not folded: %s", error)

    async def _fold_once(self) -> None:
        async with self._order:
            await self._drained()
            contents = self._contents
            if contents is None:
                return
            folder = _folder(self._connection, self._layout, self.fence(), self._office)
            fold, version = contents.plan_fold(), contents.base_version
        base = await folder.fold(fold, version)
        contents.folded(base, len(fold.entries))
        await folder.sweep(base, fold)


class ZookeeperStore(_Log, MetaStore):
    """Durable state in ZooKeeper.

    `connection`: an open client, which stays its owner's; or how to get one, which is then the store's own and begins a new session
    when the old one is over. `candidate`: our candidacy, to be proved when taking office. `must_exist`: refuse a ZooKeeper without the
    root instead of making one.

    Besides the contract: `last_commit` raises `StaleEpoch` when somebody else has taken office while an outcome was unknown.
    """

    async def open(self) -> None:
        if self._is_open:
            raise StoreError(f"{self._paths.root} in ZooKeeper is open already")
        with translated():
            try:
                identity = await ensure_store(await self._connection.live(), self._paths, self._cluster_id, must_exist=self._must_exist)
            except BaseException:  # who is cancelled, too, leaves no session behind
                await self._connection.let_go()
                raise
        self._history_id, self._format = identity.history_id, identity.format
        self._is_open = True

    async def close(self) -> None:
        self._is_open = False
        while self._waiting or self._in_flight:
            await asyncio.wait(self._waiting | self._in_flight)
        if self._fold is not None:
            self._fold.cancel()
            await asyncio.wait([self._fold])
        self._office = self._contents = self._fold = None
        self._is_doubtful = self._is_restore_doubtful = False
        await self._connection.let_go()

    async def take_office(self) -> int:
        self._require_open()
        async with self._order:
            await self._drained()
            self._refuse_doubt()
            with translated():
                self._office = await self._elected()
                # Nobody else writes from now on. What we remember is right if nobody did before.
                known = self._contents
                if known and (await self._znodes().head()).version != known.head_version:
                    self._contents = None
            return self._office.number

    async def load(self) -> Snapshot:
        self._require_open()
        async with self._order:
            await self._drained()
            with translated():
                await self._connection.live()
                contents = await self._fresh()
                epoch = await self._znodes().epoch()
            if epoch == self._office and not self._is_doubtful:
                self._contents = contents
            documents = tuple(document for _, document in sorted(contents.documents.items()))
            return Snapshot(documents, contents.number, epoch.number, self._cluster_id, self._history_id, self._format)

    async def commit(self, changes: Sequence[Change], epoch: int) -> Committed:
        check_changes(changes)
        self._require_open()
        if not (self._line or self._order.locked()) and (sent := self._send_at_once(changes, epoch)) is not None:
            return await sent
        self._line.append(Call(tuple(changes), epoch))
        waiting = asyncio.create_task(self._commit(self._line[-1]))
        _keep(waiting, self._waiting)
        return await asyncio.shield(waiting)

    async def last_commit(self) -> int:
        self._require_open()
        async with self._order:
            await self._drained()
            if self._is_doubtful:
                return await self._settled()
            with translated():
                await self._connection.live()
                return (await self._znodes().latest()).number

    async def raise_format(self, number: int, epoch: int) -> bool:
        self._require_open()
        async with self._order:
            with translated():
                await self._contents_for(epoch)
                try:
                    is_new = await raise_format(self._connection.present(), self._paths, number, self.fence())
                except ZkRefused as refusal:
                    if refusal.path != self._paths.epoch:
                        raise
                    raise StaleEpoch(epoch, (await self._znodes().epoch()).number) from refusal
        self._format = max(self._format, number)
        return is_new

    async def restore(self, documents: Sequence[Document], *, commit: int, epoch: int, expected: int) -> Restored:
        check_documents(documents, commit)
        self._require_open()
        async with self._order:
            await self._drained()
            self._refuse_doubt()
            with translated():
                replacement = Replacement(await self._connection.live(), self._paths)
                there = await replacement.look(expected)
                self._office = self._contents = None  # it does not count any more, however this ends
                try:
                    restored = await replacement.carry_out(documents, there, commit=commit, epoch=epoch)
                except ZkUnknown as error:
                    self._doubt()
                    self._is_restore_doubtful = True
                    raise OutcomeUnknown(f"restoring: {error}", max(commit, there.head.number) + 1) from error
            self._history_id = restored.history_id
            try:
                await replacement.sweep(restored, there)
            except (ZkUnavailable, ZkUnknown, ZkRefused, StoreError) as error:
                log.warning("what the old state has left in ZooKeeper is still there: %s", error)
            return restored


def _folder(connection: Connection, layout: Layout, fence: Check, office: Epoch | None) -> Folder:
    assert office is not None
    return Folder(connection.present(), layout, fence, office.number)


def _entry_of(contents: Contents, changes: Sequence[Change], epoch: int) -> Entry | None:
    """Return the entry of the next commit, or None when it is too large for one.

    Raises:
        Conflict: a document is not at its expected revision.
    """
    if conflict := contents.find_conflict(changes):
        raise conflict
    records = b"".join(contents.records(changes))
    return Entry(epoch, records=records) if len(records) <= SEGMENT else None


async def _answer(sent: asyncio.Task[Failure | None], number: int) -> Committed:
    """Wait for the group that a commit went with."""
    failure = await asyncio.shield(sent)
    if failure is not None:
        raise failure.error(number) from failure.cause
    return Committed(number)


async def _staged(folder: Folder, contents: Contents, changes: Sequence[Change], epoch: int) -> Entry:
    """Write what is too much for one entry as segments, which count when the entry that names them is there."""
    return Entry(epoch, segments=tuple([await folder.write(piece) for piece in pack(contents.records(changes))]))


async def _refused(znodes: Callable[[], Znodes], error: ZkUnavailable | ZkRefused, epoch: int) -> Failure:
    """Find out why a group was refused."""
    if not isinstance(error, ZkRefused) or error.reason not in ("version", "exists", "missing"):
        return Failure(partial(_said_of, error), error)
    try:
        now = await znodes().epoch()
    except ZkError as unreadable:
        return Failure(partial(_said_of, unreadable), error)
    except StoreCorrupt as damage:
        return Failure(partial(_damaged, damage.message), error)
    if now.number != epoch:
        return Failure(lambda _: StaleEpoch(epoch, now.number), error)
    return Failure(lambda _: StoreError(_TOO_LATE, hint="try again"), error)


def _said_of(error: ZkError, _: int) -> StoreError:
    return translation(error)


def _damaged(message: str, _: int) -> StoreError:
    return StoreCorrupt(message)


def _unknown(reason: str, number: int) -> StoreError:
    return OutcomeUnknown(f"commit {number}: {reason}", number)


def _keep(task: asyncio.Task[Any], among: set[asyncio.Task[Any]]) -> None:
    """Keep a task until it is done. Nobody may ask for its outcome: its caller may have been cancelled."""

    def end(done: asyncio.Task[Any]) -> None:
        among.discard(done)
        if not done.cancelled():
            done.exception()

    among.add(task)
    task.add_done_callback(end)
