"""The store in ZooKeeper: one log of commits that is folded into a base now and then. `zookeeper_format` says how it lies there.

Every write checks the epoch's znode, so a deposed leader writes nothing, and every commit raises the version of the head from the one
that the commit before it left: commits may be in flight together, but none can take place without those before it, or later than the
barrier that settles an unknown outcome.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from gestalt.errors import Kind
from gestalt.zk.client import Check, Create, Op, Set, Zk, ZkRefused, ZkState, ZkUnavailable, ZkUnknown
from gestalt.zk.paths import Paths

from .base import Change, Committed, MetaStore, OutcomeUnknown, Snapshot, StaleEpoch, StoreError, Unsettled, check_changes
from .zookeeper_contents import Contents
from .zookeeper_fold import Folder
from .zookeeper_format import FORMAT, SEGMENT, Entry, encode_entry, pack
from .zookeeper_znodes import Epoch, Layout, Znodes, ensure_store, translated

log = logging.getLogger(__name__)

_IN_FLIGHT = 128
_TRIES = 10


@dataclass(frozen=True, slots=True)
class Candidacy:
    """What an office rests on: the election znode at `path`, which must exist. `leader`: what the leader's znode is to say."""

    path: str
    leader: bytes


class NotElected(StoreError):
    """Our candidacy is gone, so the office was not taken."""

    def __init__(self, path: str) -> None:
        super().__init__(f"the candidacy {path} is gone from ZooKeeper", kind=Kind.REFUSED, hint="stand for election again")


class ZookeeperStore(MetaStore):
    """Durable state in ZooKeeper.

    `connection`: an open client, which stays its owner's; or how to get one, which is then the store's own and begins a new session
    when the old one is over. `candidate`: our candidacy, to be proved when taking office. `must_exist`: refuse a ZooKeeper without the
    root instead of making one.

    Besides the contract: `last_commit` raises `StaleEpoch` when somebody else has taken office while an outcome was unknown.
    """

    def __init__(
        self,
        connection: Zk | Callable[[], Awaitable[Zk]],
        paths: Paths,
        cluster_id: str,
        *,
        candidate: Callable[[], Candidacy | None] = lambda: None,
        must_exist: bool = False,
    ) -> None:
        self._connection = connection
        self._paths = paths
        self._layout = Layout(paths)
        self._cluster_id = cluster_id
        self._candidate = candidate
        self._must_exist = must_exist
        self._zk: Zk | None = None
        self._is_open = False
        self._history_id = ""
        self._office: Epoch | None = None
        self._contents: Contents | None = None
        self._is_doubtful = False
        self._order = asyncio.Lock()  # commits are sent in the order of their calls
        self._slots = asyncio.Semaphore(_IN_FLIGHT)
        self._in_flight: set[asyncio.Task[Committed]] = set()
        self._calls: set[asyncio.Task[Committed]] = set()
        self._fold: asyncio.Task[None] | None = None

    async def open(self) -> None:
        if self._is_open:
            raise StoreError(f"{self._paths.root} in ZooKeeper is open already")
        with translated():
            try:
                self._history_id = await ensure_store(await self._live(), self._paths, self._cluster_id, must_exist=self._must_exist)
            except BaseException:
                await self._let_go()
                raise
        self._is_open = True

    async def close(self) -> None:
        self._is_open = False
        while self._calls:
            await asyncio.wait(self._calls)
        if self._fold is not None:
            self._fold.cancel()
            await asyncio.wait([self._fold])
        self._office = self._contents = self._fold = None
        self._is_doubtful = False
        await self._let_go()

    def fence(self) -> Check:
        """Return the operation that any other write of this leadership puts first.

        Raises:
            StoreError: nobody took office here.
        """
        if self._office is None:
            raise StoreError(f"no office is held in {self._paths.root}")
        return Check(self._paths.epoch, self._office.version)

    async def take_office(self) -> int:
        self._require_open()
        async with self._order:
            await self._drained()
            self._refuse_doubt()
            with translated():
                self._office = await self._elected()
                # Nobody else writes from now on. What we remember is right if nobody did before.
                if self._contents and (await self._znodes().head()).version != self._contents.head_version:
                    self._contents = None
            return self._office.number

    async def load(self) -> Snapshot:
        self._require_open()
        async with self._order:
            await self._drained()
            with translated():
                await self._live()
                contents = await self._fresh()
                epoch = await self._znodes().epoch()
            if epoch == self._office and not self._is_doubtful:
                self._contents = contents
            documents = tuple(document for _, document in sorted(contents.documents.items()))
            return Snapshot(documents, contents.number, epoch.number, self._cluster_id, self._history_id, FORMAT)

    async def commit(self, changes: Sequence[Change], epoch: int) -> Committed:
        check_changes(changes)
        self._require_open()
        call = asyncio.create_task(self._commit(tuple(changes), epoch))
        self._calls.add(call)
        call.add_done_callback(self._end_call)
        return await asyncio.shield(call)

    async def last_commit(self) -> int:
        self._require_open()
        async with self._order:
            await self._drained()
            if self._is_doubtful:
                return await self._settled()
            with translated():
                await self._live()
                return (await self._znodes().latest()).number

    # The connection

    async def _live(self) -> Zk:
        """Return a client whose session is not over, as far as that is in our hands."""
        if isinstance(self._connection, Zk):
            self._zk = self._connection
        elif self._zk is None or self._zk.state is ZkState.LOST:
            await self._let_go()
            self._zk = await self._connection()
        return self._zk

    async def _let_go(self) -> None:
        zk, self._zk = self._zk, None
        if zk is not None and zk is not self._connection:
            await zk.close()

    def _require_open(self) -> None:
        if not self._is_open:
            raise StoreError(f"{self._paths.root} in ZooKeeper is not open")

    def _require_zk(self) -> Zk:
        if self._zk is None:
            raise ZkUnavailable("there is no connection to ZooKeeper")
        return self._zk

    def _znodes(self) -> Znodes:
        return Znodes(self._require_zk(), self._paths)

    # Office

    async def _elected(self) -> Epoch:
        """Raise the epoch in one transaction that proves our candidacy."""
        zk = await self._live()
        for _ in range(_TRIES):
            await zk.sync(self._paths.epoch)
            epoch = await self._znodes().epoch()
            candidacy = self._candidate()
            ops: list[Op] = [Set(self._paths.epoch, str(epoch.number + 1).encode(), epoch.version)]
            if candidacy is not None:
                ops = [Check(candidacy.path, -1), *ops, await self._leader_op(zk, candidacy.leader)]
            try:
                await zk.multi(ops)
            except ZkUnknown as error:
                self._doubt()
                self._office = None
                raise OutcomeUnknown(f"taking office: {error}", self._contents.number if self._contents else 0) from error
            except ZkRefused as refusal:
                if candidacy is not None and refusal.path == candidacy.path:
                    raise NotElected(candidacy.path) from refusal
                if refusal.reason not in ("version", "exists", "missing"):
                    raise
                continue
            return Epoch(epoch.number + 1, epoch.version + 1)
        raise StoreError(f"{self._paths.epoch} in ZooKeeper is raised by others again and again")

    async def _leader_op(self, zk: Zk, leader: bytes) -> Op:
        there = await zk.exists(self._paths.leader)
        return Set(self._paths.leader, leader) if there else Create(self._paths.leader, leader)

    # Commits

    async def _commit(self, changes: Sequence[Change], epoch: int) -> Committed:
        async with self._order:
            with translated():
                sent = await self._send(changes, epoch)
        return await sent

    def _end_call(self, call: asyncio.Task[Committed]) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            call.exception()  # its caller may have been cancelled: then nobody else asks for it

    async def _send(self, changes: Sequence[Change], epoch: int) -> asyncio.Task[Committed]:
        """Check a commit, write what does not fit into one entry, send it, and return without waiting for the answer."""
        while True:
            self._refuse_doubt()
            contents = await self._contents_for(epoch)
            if conflict := contents.find_conflict(changes):
                raise conflict
            entry = await self._entry(contents.records(changes), epoch)
            await self._slots.acquire()
            if self._contents is contents:
                break
            self._slots.release()  # a commit before this one failed meanwhile
        before = contents.head_version
        number = contents.advance(changes, entry)
        ops: list[Op] = [
            self.fence(),
            Create(self._layout.entry(number), encode_entry(entry)),
            Set(self._layout.head, str(number).encode(), before),
        ]
        sent = asyncio.create_task(self._carry_out(ops, contents, number, epoch))
        self._in_flight.add(sent)
        sent.add_done_callback(self._answered)
        return sent

    async def _carry_out(self, ops: Sequence[Op], contents: Contents, number: int, epoch: int) -> Committed:
        try:
            await self._require_zk().multi(ops)
        except ZkUnknown as error:
            self._doubt()
            raise OutcomeUnknown(f"commit {number}: {error}", number) from error
        except (ZkUnavailable, ZkRefused) as error:
            self._forget(contents)
            with translated():
                if not isinstance(error, ZkRefused) or error.reason not in ("version", "exists", "missing"):
                    raise
                now = await self._znodes().epoch()
            if now.number != epoch:
                raise StaleEpoch(epoch, now.number) from error
            raise StoreError("another writer of the same epoch was faster, or a commit before this one failed", hint="try again") from error
        self._fold_if_due()
        return Committed(number)

    def _answered(self, sent: asyncio.Task[Committed]) -> None:
        self._in_flight.discard(sent)
        self._slots.release()
        if not sent.cancelled():
            sent.exception()

    async def _contents_for(self, epoch: int) -> Contents:
        """Return what we know to be there under this epoch, by reading it if need be."""
        if self._office and self._office.number == epoch and self._contents:
            return self._contents
        await self._drained()
        self._refuse_doubt()
        await self._live()
        present = await self._znodes().epoch()
        if present.number != epoch or epoch == 0:
            raise StaleEpoch(epoch, present.number)
        self._contents = await self._znodes().contents()
        self._office = present
        return self._contents

    async def _entry(self, records: Sequence[bytes], epoch: int) -> Entry:
        """Return the entry of a commit; what is too much for one is written as segments, which count when the entry names them."""
        if sum(map(len, records)) <= SEGMENT:
            return Entry(epoch, records=b"".join(records))
        folder = self._folder()
        return Entry(epoch, segments=tuple([await folder.write(piece) for piece in pack(records)]))

    async def _drained(self) -> None:
        """Wait until every commit that was sent is answered."""
        while self._in_flight:
            await asyncio.wait(self._in_flight)

    async def _fresh(self) -> Contents:
        """Return what is there now: what we remember, if nobody else has written."""
        if self._contents and not self._is_doubtful and (await self._znodes().latest()).version == self._contents.head_version:
            return self._contents
        return await self._znodes().contents()

    # Doubt

    def _doubt(self) -> None:
        self._is_doubtful = True
        self._contents = None

    def _refuse_doubt(self) -> None:
        if self._is_doubtful:
            raise Unsettled("the outcome of an earlier commit is not known yet")

    def _forget(self, contents: Contents) -> None:
        if self._contents is contents:
            self._contents = None

    async def _settled(self) -> int:
        """Write the head anew, so that no transaction that is still under way anywhere can take place; then its number is final.

        After an unknown taking of office there is nothing to bar: the next one checks the epoch's version.
        """
        try:
            with translated():
                await self._live()
                for _ in range(_TRIES):
                    head = await self._znodes().latest()
                    if self._office is None or await self._bar(head.number, head.version):
                        self._is_doubtful = False
                        return head.number
        except StaleEpoch:
            raise
        except StoreError as error:
            raise OutcomeUnknown(f"still unknown: {error.message}", 0) from error
        raise OutcomeUnknown("still unknown: others write", 0)

    async def _bar(self, number: int, version: int) -> bool:
        try:
            await self._require_zk().multi([self.fence(), Set(self._layout.head, str(number).encode(), version)])
        except ZkRefused as refusal:
            if refusal.reason != "version":
                raise
            if refusal.index == 0 and self._office is not None:
                raise StaleEpoch(self._office.number, (await self._znodes().epoch()).number) from refusal
            return False
        return True

    # Folding

    def _folder(self) -> Folder:
        assert self._office is not None
        return Folder(self._require_zk(), self._layout, self.fence(), self._office.number)

    def _fold_if_due(self) -> None:
        if self._contents and self._contents.is_fold_due and (self._fold is None or self._fold.done()):
            self._fold = asyncio.create_task(self._run_fold(), name="store-fold")

    async def _run_fold(self) -> None:
        try:
            async with self._order:
                await self._drained()
                contents = self._contents
                if contents is None:
                    return
                fold, folder, version = contents.plan_fold(), self._folder(), contents.base_version
            base = await folder.fold(fold, version)
            contents.folded(base, len(fold.entries))
            await folder.sweep(base, contents.tail, fold)
        except (ZkUnavailable, ZkUnknown, ZkRefused, StoreError) as error:
            self._contents = None  # it is not known what the base is now
            log.warning("the log of the store was not folded: %s", error)
