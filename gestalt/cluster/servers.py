"""Changing which servers ZooKeeper has, one at a time, while everything goes on: rules first, then ZooKeeper's own reconfiguration."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from gestalt.clock import monotonic
from gestalt.config import CoordinatorSettings, ZooKeeperSettings
from gestalt.errors import Detail, GestaltError, Kind
from gestalt.zk.client import Zk, ZkError, ZkRefused, ZkUnavailable, reconfigure
from gestalt.zk.ensemble import CONFIG, Ensemble, Server, parse_ensemble
from gestalt.zk.known import KnownServers, kept_in

SUPER = "super"
"""The identity that may do everything, also change which servers there are, where the servers were started with its digest."""

CONNECT_LIMIT = 10.0
REACH_LIMIT = 3.0
PATIENCE = 10.0
_PAUSE = 0.2

T = TypeVar("T")

_HINTS = {
    "denied": "ZooKeeper lets only its administrator do that: `gestaltctl cluster zookeeper digest` tells how to make one, "
    "then --super-secret-file",
    "disabled": "its servers must run with reconfigEnabled=true in zoo.cfg; put it there, and restart one after the other",
    "no_quorum": "more than half of the servers that there would be must run and be in step: start them first; try again in a moment",
    "busy": "another change is under way; try again in a moment",
    "version": "somebody else has changed it just now; look again, and try again",
}


def check_new(ensemble: Ensemble, server: Server) -> bool:
    """Return whether a server is to be taken in; it is not when it is there already, exactly so.

    Raises:
        GestaltError: its number or its address is another one's.
    """
    if not 0 <= server.id <= 255:
        detail = Detail("id", f"{server.id} is none", "0 to 255, the number in the server's myid")
        raise GestaltError(Kind.INVALID, f"{server.id} is no number of a server", details=[detail])
    known = ensemble.find(server.id)
    if known is not None:
        if (known.host, known.peer_port, known.votes) == (server.host, server.peer_port, server.votes):
            return False
        raise GestaltError(
            Kind.EXISTS,
            f"server {server.id} is {known.host}:{known.peer_port} already",
            hint=f"give the new one another number, or first: gestaltctl cluster zookeeper remove {server.id}",
        )
    same = next((item for item in ensemble.servers if (item.host, item.peer_port) == (server.host, server.peer_port)), None)
    if same is not None:
        raise GestaltError(Kind.EXISTS, f"{server.host}:{server.peer_port} is server {same.id} already", hint="check the address")
    return True


def check_old(ensemble: Ensemble, number: int) -> bool:
    """Return whether a server is to be taken out; it is not when it is not there.

    Raises:
        GestaltError: REFUSED for the last one with a vote.
    """
    known = ensemble.find(number)
    if known is None:
        return False
    if known.votes and len(ensemble.voters) < 2:
        raise GestaltError(Kind.REFUSED, f"server {number} is the last one", hint="add another one first")
    return True


def note_on(ensemble: Ensemble) -> str:
    """Return what there is to say about so many servers; empty if nothing."""
    count = len(ensemble.voters)
    bears = (count - 1) // 2
    if count < 3:
        return f"{count} with a vote: the loss of any one stops the cluster; three or five are better"
    if count % 2 == 0:
        return f"{count} with a vote bear the loss of {bears}, as {count - 1} do: make them {count - 1} or {count + 1}"
    return ""


class Reconfiguration:
    """A conversation with ZooKeeper about its servers."""

    def __init__(self, zk: Zk) -> None:
        self._zk = zk

    async def ensemble(self) -> Ensemble:
        """Return the servers that there are.

        Raises:
            GestaltError: UNAVAILABLE; REFUSED by a single server, which has no list of them.
        """
        value = await self._patiently(self._read)
        ensemble = parse_ensemble(value)
        if not ensemble.servers:
            hint = "a single server with standaloneEnabled=false, reconfigEnabled=true and a server.1 line can take others in"
            raise GestaltError(Kind.REFUSED, "this ZooKeeper is one server alone, which keeps no list of servers", hint=hint)
        return ensemble

    async def add(self, server: Server, *, blindly: bool = False) -> bool:
        """Take a server in, which runs already; return whether it was not there before. `blindly`: without a look whether it does.

        Raises:
            GestaltError: it is not to be, or ZooKeeper does not do it.
        """
        if not check_new(await self.ensemble(), server):
            return False
        if not blindly:
            await _reach(server)

        async def change() -> None:
            if check_new(parse_ensemble(await self._read()), server):
                await reconfigure(self._zk, joining=[server.line()])

        await self._patiently(change)
        return True

    async def remove(self, number: int) -> bool:
        """Take a server out; return whether it was there.

        Raises:
            GestaltError: it is not to be, or ZooKeeper does not do it.
        """
        if not check_old(await self.ensemble(), number):
            return False

        async def change() -> None:
            if check_old(parse_ensemble(await self._read()), number):
                await reconfigure(self._zk, leaving=[str(number)])

        await self._patiently(change)
        return True

    async def _read(self) -> bytes:
        await self._zk.sync(CONFIG)
        found = await self._zk.get(CONFIG)
        return found[0] if found is not None else b""

    async def _patiently(self, step: Callable[[], Awaitable[T]]) -> T:
        """Take a step that may be repeated: the server that we speak to may go, or the leader, whose end is an election."""
        give_up = monotonic() + PATIENCE
        while True:
            try:
                return await step()
            except ZkError as error:
                passing = not isinstance(error, ZkRefused) or error.reason in ("busy", "no_quorum")
                if not passing or monotonic() > give_up:
                    raise _explained(error) from error
            await asyncio.sleep(_PAUSE)


async def _reach(server: Server) -> None:
    """A server that does not run would count as lost from the beginning."""
    host, _, port = (server.client or f"{server.host}:{server.peer_port}").rpartition(":")
    try:
        async with asyncio.timeout(REACH_LIMIT):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            writer.close()
    except (OSError, TimeoutError) as error:
        raise GestaltError(
            Kind.REFUSED,
            f"server {server.id} does not answer at {host}:{port}: {error or 'no answer'}",
            hint="start it first, with all present servers and itself in its zoo.cfg; --force takes it in as it is",
        ) from error


def _explained(error: ZkError) -> GestaltError:
    if isinstance(error, ZkRefused):
        return GestaltError(Kind.REFUSED, f"ZooKeeper refused: {error.reason.replace('_', ' ')}", hint=_HINTS.get(error.reason, ""))
    hint = "look with gestaltctl cluster zookeeper list; the same command, repeated, goes on"
    return GestaltError(Kind.UNAVAILABLE, f"ZooKeeper did not answer: {error}", hint=hint)


@asynccontextmanager
async def reconfiguration(settings: CoordinatorSettings, super_secret: Path | None = None) -> AsyncIterator[Reconfiguration]:
    """Hand out a conversation with a coordinator's ZooKeeper, as that coordinator or as ZooKeeper's administrator.

    Raises:
        GestaltError: an appliance has none; UNAVAILABLE, when it does not answer.
    """
    if settings.zookeeper is None:
        raise GestaltError(Kind.REFUSED, "an appliance has no ZooKeeper")
    known = KnownServers(settings.zookeeper.hosts, kept_in(settings.data_dir))
    identity = {"identity": SUPER, "secret_file": super_secret} if super_secret is not None else {}
    access = ZooKeeperSettings(**settings.zookeeper.model_dump() | {"hosts": known.hosts} | identity)
    try:
        zk = await Zk.connect(access, session=CONNECT_LIMIT, name="gestaltctl", limit=CONNECT_LIMIT)
    except ZkUnavailable as error:
        hint = "a majority of its servers must run; if they moved, correct zookeeper.hosts in coordinator.yaml"
        raise GestaltError(Kind.UNAVAILABLE, f"ZooKeeper cannot be reached: {error}", hint=hint) from error
    known.follow(zk)
    try:
        yield Reconfiguration(zk)
    finally:
        await zk.close()
