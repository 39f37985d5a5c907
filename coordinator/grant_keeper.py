"""Has ZooKeeper say of grants what is decided, and reads from leases what became of those that were taken back.

Every write checks the epoch and the version of what it replaces, so that neither a deposed leader nor a write of ours whose outcome was
unknown changes anything later. What is right already is left alone: each write ends the holder's right.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Self

from gestalt.cluster.secrets import read_secret
from gestalt.cluster.tree import Rights
from gestalt.config import ZooKeeperSettings
from gestalt.errors import GestaltError, Kind
from gestalt.zk.client import Acl, Check, Create, Delete, Op, Set, Zk, ZkError, ZkRefused
from gestalt.zk.grants import GrantMark, parse_grant, parse_lease
from gestalt.zk.paths import Paths

from .grant_book import GrantBook
from .grants import caught_up, mark_of
from .ledger import Ledger
from .records import Grant
from .state import Draft
from .store.base import MetaStore
from .store.zookeeper import ZookeeperStore

log = logging.getLogger(__name__)

AGAIN = 0.2
"""Seconds until what failed is tried again, and a lease that still lists something is read again."""
AT_ONCE = 100


class GrantKeeper:
    """Keeps the grants of one leader. `start` before anything is sent to agents, then `run` for as long as the office lasts.

    Args:
        ledger: what is decided.
        book: is told what ZooKeeper says.
        zk: the leader's session.
        paths: of the cluster.
        fence: returns the operation that refuses a write unless the office is still ours.
        acl: of the znodes: nodes have to read them. None: the session's own.
    """

    def __init__(
        self, ledger: Ledger, book: GrantBook, zk: Zk, *, paths: Paths, fence: Callable[[], Check], acl: Acl | None = None
    ) -> None:
        self._ledger, self._book = ledger, book
        self._zk, self._paths, self._fence, self._acl = zk, paths, fence, acl
        self._there: set[str] = set()
        self._wake = asyncio.Event()
        self._complaint = ""
        self._changed: Callable[[Iterable[str]], None] = lambda paths: None

    @classmethod
    def create(cls, ledger: Ledger, book: GrantBook, zk: Zk, store: MetaStore, settings: ZooKeeperSettings) -> Self:
        """Return the one of a leader.

        Raises:
            GestaltError: the secret for ZooKeeper cannot be used.
        """
        assert isinstance(store, ZookeeperStore), "who has a session keeps everything in ZooKeeper"
        acl = Rights(read_secret(settings.secret_file)).shown if settings.secret_file is not None else None
        return cls(ledger, book, zk, paths=Paths(settings.root), fence=store.fence, acl=acl)

    def on_change(self, changed: Callable[[Iterable[str]], None]) -> None:
        """Have `changed` called with the apps of which more is known."""
        self._changed = changed

    async def start(self) -> None:
        """Make everything right that an earlier leader left half done. Idempotent.

        Raises:
            GestaltError: UNAVAILABLE, when ZooKeeper does not do it.
        """
        try:
            await self._zk.sync(self._paths.grants)
            await self._zk.ensure(self._paths.grants)
            self._there = set(await self._zk.children(self._paths.grants))
            await self._catch_up()
            await self._make_right()
        except ZkError as error:
            hint = "is a majority of ZooKeeper's servers up?"
            raise GestaltError(Kind.UNAVAILABLE, f"ZooKeeper does not say who may hold what: {error}", hint=hint) from error
        self._ledger.on_commit(self._committed)

    async def _catch_up(self) -> None:
        """Take over what ZooKeeper knows better than a state that was put back to an earlier one."""
        found: dict[str, GrantMark] = {}

        async def read(name: str) -> None:
            seen = await self._zk.get(self._paths.grant(name))
            if seen is not None and (mark := parse_grant(seen[0])) is not None:
                found[name] = mark

        grants = self._ledger.state.grants
        await _all(map(read, self._there))
        for name in found.keys() - grants.keys():
            self._book.strange.note(name, found[name])
        ahead = [after for name in found.keys() & grants.keys() if (after := caught_up(grants[name], found[name])) != grants[name]]
        if not ahead:
            return
        async with self._ledger.draft("leader", "grants") as draft:
            for grant in ahead:
                draft.put(grant)
                why = f"{grant.app}: the state was put back, somebody may hold it since: the right to run it is taken back"
                draft.tell("app.revoked", grant.app, why, grant.app)

    async def run(self) -> None:
        """Follow what is decided, for ever."""
        while True:
            self._wake.clear()
            is_done = await self._step()
            try:
                async with asyncio.timeout(None if is_done else AGAIN):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _step(self) -> bool:
        """Do what is to do; return whether nothing is left for later."""
        try:
            self._ledger.office.require()
            await self._make_right()
            await self._read_leases()
            await self._end_strange()
        except (ZkError, GestaltError) as error:
            level = logging.DEBUG if str(error) == self._complaint else logging.WARNING
            log.log(level, "grants in ZooKeeper are not as decided yet: %s", error)
            self._complaint = str(error)
            return False
        self._complaint = ""
        is_waiting = bool(self._book.strange) and not self._ledger.state.switches.recovering
        return not is_waiting and not any(True for _ in self._book.undecided())

    def _committed(self, draft: Draft) -> None:
        if any(kind in ("grant", "switches") for kind, _ in draft.records):
            self._wake.set()

    async def _make_right(self) -> None:
        grants, strange = self._ledger.state.grants, self._book.strange
        for name in strange.names() & grants.keys():
            strange.forget(name)  # it was given anew, which nobody could before it was over
        wrong = [grant for grant in grants.values() if not self._book.is_shown(grant)]
        await _all(map(self._show, wrong))
        if self._ledger.state.switches.recovering:
            return  # who holds what we do not know keeps it
        for name, mark in strange.to_revoke():
            await self._put(name, mark)
            strange.revoked(name)
            self._changed((mark.app,))
        for name in self._there - grants.keys() - strange.names():
            await self._remove(name)

    async def _show(self, grant: Grant) -> None:
        """Have ZooKeeper say what a record says, and tell of it."""
        await self._put(grant.name, mark_of(grant))
        self._book.shown(grant)
        self._changed((grant.app,))

    async def _put(self, name: str, mark: GrantMark) -> None:
        path, value = self._paths.grant(name), mark.encode()
        found = await self._zk.get(path)
        if found is None:
            await self._write(Create(path, value, acl=self._acl))
        elif found[0] != value:
            await self._write(Set(path, value, found[1].version))
        self._there.add(name)

    async def _end_strange(self) -> None:
        """Remove those grants of which no record is, and under which nobody is at work any more."""
        strange = self._book.strange
        for name in () if self._ledger.state.switches.recovering else strange.over():
            if name not in self._ledger.state.grants:
                await self._remove(name)
            self._changed((strange.forget(name),))

    async def _remove(self, name: str) -> None:
        try:
            await self._write(Delete(self._paths.grant(name)))
        except ZkRefused as refusal:
            if refusal.reason != "missing":
                raise
        self._there.discard(name)
        self._book.removed(name)

    async def _write(self, op: Op) -> None:
        """Carry out one operation, if the office is still ours."""
        self._ledger.office.require()
        try:
            await self._zk.multi([self._fence(), op])
        except ZkRefused as refusal:
            if refusal.path == self._paths.epoch:
                self._ledger.office.end("another coordinator has taken office")
            raise

    async def _read_leases(self) -> None:
        """Learn what the holders of grants that were taken back hold now."""
        wanted = {grant.node for grant in self._book.undecided()} | self._book.strange.to_read()
        await _all(map(self._read_lease, sorted(wanted)))

    async def _read_lease(self, node: str) -> None:
        path, asked = self._paths.lease(node), self._book.now()
        before = {grant.name: grant.app for grant in self._book.undecided() if grant.node == node}
        await self._zk.sync(path)
        found = await self._zk.get(path)
        self._book.leased(node, parse_lease(found[0]) if found is not None else None, asked)
        left = {grant.name for grant in self._book.undecided()}
        self._changed({app for name, app in before.items() if name not in left})


async def _all(work: Iterable[Awaitable[None]]) -> None:
    """Do everything, some of it at a time; raise the first error when all of it has ended."""
    few = asyncio.Semaphore(AT_ONCE)

    async def one(each: Awaitable[None]) -> None:
        async with few:
            await each

    for outcome in await asyncio.gather(*map(one, work), return_exceptions=True):
        if outcome is not None:
            raise outcome
