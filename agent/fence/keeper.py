"""Keeps the lease while something exclusive is at work here, and ends that when the lease does, or its grant.

A task of its own, so that nothing which membership waits for delays it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from gestalt.clock import boottime
from gestalt.zk.grants import LeaseMark
from gestalt.zk.ops import ZkError

from .account import Account
from .cgroups import pids_in
from .grants import Found, GrantLost
from .lease import (
    End,
    Held,
    Holding,
    Membership,
    Renew,
    Wanted,
    holding,
    mark_of,
    may_start,
    next_step,
    objection,
    obstacle,
    renewed,
    shortened,
)
from .settings import FenceSettings

log = logging.getLogger(__name__)

NAPS = 1.0
AGAIN = 0.2
GUARD = 0.25
"""Seconds between two looks at whether something killed comes up again."""

NO_TIME = "there is no lease that leaves enough time to end it again"


class NotEnded(Exception):
    """Something that is held could not be killed."""


class Registry(Protocol):
    """ZooKeeper, as far as grants go (`grants.Grants`). All raise ZkError when it did not do it for certain."""

    async def read(self, grant: str) -> Found: ...

    async def write(self, mark: LeaseMark, grants: Mapping[str, int], epoch: int | None) -> None:
        """Write the mark in one transaction that checks our membership, the grants' versions and the epoch's.

        Raises:
            GrantLost: a grant is not at that version any more.
        """

    def watch(self, grants: Mapping[str, int]) -> None:
        """Tell of changes of these grants, by `LeaseKeeper.grant_changed`, and of no others."""


class LeaseKeeper:
    """`membership` says how the node stands."""

    def __init__(self, settings: FenceSettings, account: Account, membership: Callable[[], Membership], registry: Registry) -> None:
        self._node = settings.node_id
        self._timing = settings.timing
        self._account = account
        account.begin(shortened(account.held, boottime(), self._timing.lease))
        self._registry = registry
        self._revoked: set[str] = set()
        self._resists: dict[str, float] = {}
        self._told: LeaseMark | None = None
        self._tried = 0.0
        self._woken = asyncio.Event()
        self._writing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self.membership = membership

    @property
    def state(self) -> dict[str, Any]:
        """What the agent is told. `until`: the end of the lease, in seconds since boot; `held`: may be at work; `closed`: was killed.

        Of what is held, `revoked`: its grant was written anew; `ending`: it is being killed, which is said before anybody can see it.
        """
        account, membership = self._account, self.membership()
        held = account.present
        return {
            "incarnation": held.incarnation,
            "until": held.until,
            "length": self._timing.lease,
            "kill": self._timing.kill,
            "settled": max(self._timing.session, membership.session) + self._timing.margin,
            "connected": membership.connected,
            "held": {name: _shown(what, name in self._revoked, account.is_ending(name)) for name, what in account.live.items()},
            "closed": sorted(account.closed),
        }

    @property
    def revoked(self) -> frozenset[str]:
        """What is held, but whose grant was written anew: it is to end now."""
        return frozenset(self._revoked)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="lease")

    async def close(self) -> None:
        """Let go; what is held goes on until the end of its lease, which the next life sees to."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    def wake(self) -> None:
        """Something changed that the lease depends on."""
        self._woken.set()

    async def clear(self) -> None:
        """End everything that is held: before a membership is given up, or another one begins.

        Raises:
            NotEnded: something resists.
        """
        if live := tuple(self._account.live):
            log.error("the membership ends: ending %s", ", ".join(live))
            if left := await self._account.end(live):
                raise NotEnded(f"{', '.join(left)} cannot be ended")

    async def tell(self) -> None:
        """Have ZooKeeper know what is held, if it can be reached now; else that follows when it can."""
        self.wake()
        if self.membership().connected and not self._is_told() and (problem := await self._renewal()):
            log.info("ZooKeeper does not know yet what is held: %s", problem)

    def entered(self, incarnation: int) -> None:
        """A new membership has begun, with the mark that nothing is held."""
        self._told = LeaseMark(incarnation)
        self.wake()

    def grant_changed(self, grant: str, modified: int | None) -> None:
        """The znode of a grant was last modified by this zxid, or is not there. What is held by an older one is over; find out."""
        for name, what in self._account.live.items():
            if what.grant == grant and what.modified != modified:
                if modified is not None and modified > what.modified:
                    self._revoked.add(name)
                self._told, self._tried = None, 0.0
                self._account.announce()
                self.wake()

    async def take(self, wanted: Wanted) -> str:
        """Take a grant, in ZooKeeper and on disk; return why not, or nothing.

        Raises:
            OSError: it cannot be written down.
        """
        async with self._writing:
            if wanted.name in self._revoked:
                return f"{wanted.name} is being ended: its grant was written anew"
            if problem := obstacle(self._account.held, wanted, self.membership(), self._account.boot):
                return problem
            try:
                async with asyncio.timeout(self._timing.lease):
                    return await self._take(wanted)
            except GrantLost as lost:
                self._revoke(lost.grant)
                return f"{lost}: it was changed at this moment"
            except ZkError as error:
                return f"ZooKeeper does not confirm it, so there is no lease: {error}"
            except TimeoutError:
                return "ZooKeeper does not answer, so there is no lease"

    async def _take(self, wanted: Wanted) -> str:
        found = await self._registry.read(wanted.grant)
        incarnation = self.membership().incarnation
        if problem := objection(wanted, found.mark, self._node, incarnation):
            return problem
        before = self._account.held.holdings.get(wanted.name)
        left = [path for path in before.cgroups if path not in wanted.cgroups and pids_in(Path(path))] if before is not None else []
        what = Holding((*wanted.cgroups, *left), wanted.grant, wanted.generation, found.version, found.modified)
        sent = await self._write({wanted.name: what}, found.epoch)

        def taken(held: Held) -> Held:
            after = renewed(held, incarnation, self._account.boot, sent, self._timing.lease)
            in_time = may_start(after, self.membership(), self._account.boot, boottime(), self._timing.kill)
            return holding(after, wanted.name, what) if in_time else after

        held = await self._account.change(taken)
        self.wake()
        if held.holdings.get(wanted.name) != what:
            return NO_TIME
        await self._account.reopen(what)
        return ""

    # The lease

    async def _run(self) -> None:
        while True:
            self._woken.clear()
            try:
                await self._step()
            except Exception:  # whatever it is, leases have to end
                log.exception("a step of the lease failed")
                await asyncio.sleep(AGAIN)

    async def _step(self) -> None:
        now, account = boottime(), self._account
        self._revoked &= account.live.keys()
        await account.keep_closed()
        self._registry.watch({what.grant: what.modified for what in account.live.values()})
        revoked = {name for name in self._revoked if now >= self._resists.get(name, 0.0)}
        length, told = self._timing.lease, self._is_told()
        action = next_step(account.held, self.membership(), account.boot, now, length=length, tried=self._tried, revoked=revoked, told=told)
        if isinstance(action, Renew):
            await self._renew_within(account.held.until - now if account.live else length)
        elif isinstance(action, End):
            await self._end(action.names)
        else:
            longest = GUARD if account.closed or self._revoked else NAPS
            await _rest(self._woken, longest if action.until is None else min(max(action.until - now, 0.0), longest))

    async def _renew_within(self, limit: float) -> None:
        """Renew, but do not wait longer for the answer: it must not delay the end."""
        try:
            async with asyncio.timeout(max(limit, 0.0)):
                problem = await self._renewal()
        except TimeoutError:
            problem = "ZooKeeper does not answer"
        if problem:
            log.log(logging.WARNING if self._account.live else logging.DEBUG, "the lease was not renewed: %s", problem)

    async def _renewal(self) -> str:
        """Renew; return why not, or nothing. A grant that is lost is noted as revoked."""
        async with self._writing:
            incarnation = self.membership().incarnation
            try:
                sent = await self._write({}, None)
            except GrantLost as lost:
                self._revoke(lost.grant)
                return str(lost)
            except ZkError as error:
                return str(error)
            await self._account.change(lambda held: renewed(held, incarnation, self._account.boot, sent, self._timing.lease))
        return ""

    async def _write(self, more: Mapping[str, Holding], epoch: int | None) -> float:
        """Write the mark of what is held and of `more`; return when that was sent. Until it is certain, ZooKeeper may know anything."""
        live = {**self._account.live, **more}
        mark = mark_of(live, self.membership().incarnation, self._timing.lease, self._timing.kill)
        checks = {what.grant: what.version for name, what in live.items() if name not in self._revoked}
        self._told = None
        self._tried = sent = boottime()
        await self._registry.write(mark, checks, epoch)
        self._told, self._tried = mark, 0.0
        return sent

    def _is_told(self) -> bool:
        return self._told == mark_of(self._account.live, self.membership().incarnation, self._timing.lease, self._timing.kill)

    def _revoke(self, grant: str) -> None:
        """A renewal for the others must not be one for this: whoever hears the state is told that it is over."""
        self._revoked |= {name for name, what in self._account.live.items() if what.grant == grant}
        self._account.announce()
        self.wake()

    async def _end(self, names: tuple[str, ...]) -> None:
        """Kill; what does not end within the time for that is tried again, and again."""
        log.error("the lease is over, or the grant: ending %s", ", ".join(names))
        resisting = await self._account.end(names)
        self._resists = dict.fromkeys(resisting, boottime() + self._timing.kill)


def _shown(what: Holding, revoked: bool, ending: bool) -> dict[str, Any]:
    return {"generation": what.generation, "cgroups": list(what.cgroups), "revoked": revoked, "ending": ending}


async def _rest(woken: asyncio.Event, pause: float) -> None:
    try:
        async with asyncio.timeout(pause):
            await woken.wait()
    except TimeoutError:
        pass
