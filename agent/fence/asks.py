"""What the agent may ask of the fence, at its socket.

Before it starts something exclusive:

    {"id": 1, "hold": {"name": "...", "cgroups": ["/sys/fs/cgroup/..."], "grant": {"name": "...", "generation": 7}}}

`name` is the instance, `cgroups` those that all of its processes will be in. It hands it back when nothing of it is left and nothing more
is started: {"id": 2, "release": "..."}. While ZooKeeper has no quorum, and the coordinators promise to leave things as they are:
{"id": 3, "extend": {"incarnation": 4, "sent": 1234.5}}, where `sent` is when they were asked, in seconds since boot.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from gestalt.clock import boottime

from .account import Account, has_processes
from .cgroups import NotOurs, check_path
from .keeper import LeaseKeeper
from .lease import Wanted, extended
from .settings import FenceSettings

log = logging.getLogger(__name__)

RELEASE_LIMIT = 1.0


class Asks:
    """Answers one message at a time, or several."""

    def __init__(self, settings: FenceSettings, account: Account, lease: LeaseKeeper) -> None:
        self._settings = settings
        self._account = account
        self._lease = lease

    async def ask(self, message: dict[str, Any]) -> str:
        """Do what the agent asks for; return why not, or nothing."""
        try:
            if "hold" in message:
                return await self._lease.take(_wanted(message["hold"]))
            if "release" in message:
                return await self._release(str(message["release"]))
            if "extend" in message:
                return await self._extend(int(message["extend"]["incarnation"]), float(message["extend"]["sent"]))
        except NotOurs as error:
            return str(error)
        except (KeyError, TypeError, ValueError) as error:
            return f"the request cannot be understood: {error!r}"
        except OSError as error:
            return f"it cannot be written down: {error}"
        return "the fence does not do that"

    async def _release(self, name: str) -> str:
        what = self._account.held.holdings.get(name)
        if what is not None and has_processes(what):
            return f"processes of {name} are left"
        await self._account.release(name)
        try:
            async with asyncio.timeout(RELEASE_LIMIT):
                await self._lease.tell()
        except TimeoutError:
            log.info("ZooKeeper does not know yet that %s was handed back", name, extra={"instance": name})
        return ""

    async def _extend(self, incarnation: int, sent: float) -> str:
        if not self._settings.failsafe:
            return "the setting failsafe is off in fence.yaml: without ZooKeeper leases end"
        length, before = self._settings.timing.lease, self._account.held.until
        membership, boot = self._lease.membership(), self._account.boot
        held = await self._account.change(
            lambda held: extended(held, membership, boot, boottime(), incarnation=incarnation, sent=sent, length=length)
        )
        self._lease.wake()
        return "" if held.until > before else "it is not the time to: ZooKeeper answers, the lease is over, or it is another membership's"


def _wanted(message: dict[str, Any]) -> Wanted:
    """Read a request.

    Raises:
        NotOurs: it names no cgroup that could be killed.
        KeyError, TypeError, ValueError: it is none.
    """
    grant = message["grant"]
    wanted = Wanted(str(message["name"]), tuple(map(str, message["cgroups"])), str(grant["name"]), int(grant["generation"]))
    for item in wanted.cgroups:
        check_path(item)
    if not wanted.name or not wanted.cgroups or not wanted.grant or "/" in wanted.grant:
        raise ValueError("something exclusive has a name, cgroups and a grant")
    return wanted
