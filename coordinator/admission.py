"""Who may stand for leadership: a coordinator that was not removed, works together with the others, and understands the store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

from gestalt.errors import GestaltError, Kind
from gestalt.versions import check_compatible
from gestalt.zk.client import Create, Delete, Zk, ZkError, ZkRefused, ZkUnavailable
from gestalt.zk.paths import Paths

from .election import Candidate
from .store.formats import check_format
from .witness import Witness

LOOK_AGAIN = 1.0
"""Seconds between two looks of one that is not admitted."""

_ASK_AGAIN = 0.1


def check_admission(me: Candidate, *, barred: bool, leader: Candidate | None, written: int | None) -> None:
    """Refuse a candidate that must not lead.

    Args:
        me: the candidate.
        barred: it was removed from the cluster.
        leader: what the last leader said of itself; None = there was none yet.
        written: the format of the store; None = there is none yet.

    Raises:
        GestaltError: REFUSED, with what to do.
    """
    if barred:
        raise GestaltError(
            Kind.REFUSED,
            f"coordinator {me.name} was removed from the cluster",
            hint="to have it back: `gestaltctl node token --coordinator`, then `gestalt-coordinator join --again`; else disable its unit",
        )
    if leader is not None and leader.version and leader.name != me.name:
        check_compatible(f"coordinator {me.name}", me.version, f"coordinator {leader.name}, the last leader,", leader.version)
    if written is not None:
        check_format(written, "the store")


class Admission:
    """Looks whether a coordinator may stand, in one session. `tell` hears why not, and "" once it may."""

    def __init__(self, zk: Zk, paths: Paths, me: Candidate, tell: Callable[[str], None], witness: Witness | None = None) -> None:
        self._zk = zk
        self._witness = witness or Witness(None)
        self._paths = paths
        self._me = me
        self._tell = tell

    async def wait(self) -> None:
        """Return when it may stand.

        Raises:
            ZkRefused: ZooKeeper does not let us look.
        """
        while True:
            try:
                await self.confirm()
            except GestaltError as refusal:
                self._tell(f"{refusal.message} ({refusal.hint})" if refusal.hint else refusal.message)
            else:
                return self._tell("")
            await asyncio.sleep(LOOK_AGAIN)

    async def confirm(self) -> None:
        """Look once, as soon as ZooKeeper answers.

        Raises:
            GestaltError: it may not stand.
            ZkRefused: ZooKeeper does not let us look.
        """
        while True:
            try:
                return await self._check()
            except ZkUnavailable:
                await asyncio.sleep(_ASK_AGAIN)

    async def _check(self) -> None:
        barred = await self._zk.exists(self._paths.barred(self._me.name)) is not None
        leader, store = await self._zk.get(self._paths.leader), await self._zk.get(self._paths.cluster)
        written = _format_of(store[0]) if store is not None else None
        await self._witness.examine(self._zk, self._paths)
        check_admission(self._me, barred=barred, leader=Candidate.decode(leader[0]) if leader is not None else None, written=written)


def _format_of(value: bytes) -> int | None:
    """Return the format that a store's document names; what cannot be read is told by the store itself when it is opened."""
    try:
        return int(json.loads(value)["format"])
    except (ValueError, TypeError, KeyError):
        return None


class Bars:
    """Keeps removed coordinators from standing for leadership. Idempotent, and as ZooKeeper sees it: whoever takes office proves that it
    is not barred, in the same transaction."""

    def __init__(self, zk: Zk, paths: Paths) -> None:
        self._zk = zk
        self._paths = paths

    async def bar(self, coordinator: str) -> None:
        """Admit a coordinator no more, and end its candidacies.

        Raises:
            GestaltError: UNAVAILABLE, when ZooKeeper does not do it; it may be barred all the same.
        """
        try:
            await _unless(self._zk.multi([Create(self._paths.barred(coordinator))]), "exists")
            for name in await self._zk.children(self._paths.election):
                path = f"{self._paths.election}/{name}"
                found = await self._zk.get(path)
                if found is not None and Candidate.decode(found[0]).name == coordinator:
                    await _unless(self._zk.multi([Delete(path)]), "missing")
        except ZkError as error:
            raise _unavailable(error) from error

    async def lift(self, coordinator: str) -> None:
        """Admit a coordinator again.

        Raises:
            GestaltError: UNAVAILABLE, when ZooKeeper does not do it.
        """
        try:
            await _unless(self._zk.multi([Delete(self._paths.barred(coordinator))]), "missing")
        except ZkError as error:
            raise _unavailable(error) from error


async def _unless(work: Awaitable[object], reason: str) -> None:
    """Carry out a write; that it is refused for this reason is fine."""
    try:
        await work
    except ZkRefused as refusal:
        if refusal.reason != reason:
            raise


def _unavailable(error: ZkError) -> GestaltError:
    return GestaltError(Kind.UNAVAILABLE, f"ZooKeeper did not do it: {error}", hint="repeat the same request: it goes on where it stopped")
