"""While a coordinator keeps us waiting: whether another one leads meanwhile.

A process that is frozen refuses nothing, its kernel goes on acknowledging what it is sent, and gRPC's keepalive does not find that out in
a bearable time: with a short limit for pings it ends slow transfers as well. The other coordinators know better. They name the leader, and
while there is none they keep the question until there is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar, cast

import grpc

from gestalt.dial import Unreached, dial
from gestalt.errors import Kind
from gestalt.proto.v1 import api_pb2, api_pb2_grpc
from gestalt.rpc import AGE_METADATA, decode_error

if TYPE_CHECKING:
    from gestalt.proto.v1.api_pb2_grpc import ClusterAsyncStub

T = TypeVar("T")

SUSPICIOUS = 1.0
"""Seconds without an answer after which the others are asked."""

_PERIOD = 1.0
_CONNECT_LIMIT = 3.0
_ASK_LIMIT = 5.0
_MOMENT = 2.5
"""Seconds; coordinators that know of no leader keep the question for two."""


class LedElsewhere(Exception):
    """Another coordinator leads; what was waited for will not come."""

    def __init__(self, leader: str) -> None:
        super().__init__(leader)
        self.leader = leader


async def unless_led_elsewhere(work: Awaitable[T], other_leader: Callable[[], Awaitable[str]]) -> T:
    """Return what `work` returns, unless it lasts and `other_leader` names one first: then the work is cancelled.

    Raises:
        LedElsewhere: there is another leader.
    """
    waiting = asyncio.ensure_future(work)
    looking: asyncio.Future[str] | None = None
    try:
        await asyncio.wait((waiting,), timeout=SUSPICIOUS)
        if not waiting.done():
            looking = asyncio.ensure_future(other_leader())
            await asyncio.wait((waiting, looking), return_when=asyncio.FIRST_COMPLETED)
        if looking is not None and not waiting.done():
            raise LedElsewhere(looking.result())
        return waiting.result()
    finally:
        for each in (waiting, looking):
            if each is not None and not each.done():
                each.cancel()
                await asyncio.gather(each, return_exceptions=True)


async def other_leader(than: str, others: Sequence[str], credentials: grpc.ChannelCredentials) -> str:
    """Ask `others` in turn until one of them names a leader other than `than`, and return it. Without others it never returns."""
    while True:
        for address in others:
            if (leader := await _ask(address, than, credentials)) != than:
                return leader
        await asyncio.sleep(_PERIOD)


async def leader_elsewhere(than: str, others: Sequence[str], credentials: grpc.ChannelCredentials) -> str:
    """Ask `others` all at once for a leader other than `than`; return the first one named, empty when none tells in a moment."""
    asking = [asyncio.create_task(_ask(address, than, credentials)) for address in others]
    try:
        async with asyncio.timeout(_MOMENT):
            for answered in asyncio.as_completed(asking):
                if (leader := await answered) != than:
                    return leader
    except TimeoutError:
        pass
    finally:
        for each in asking:
            each.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    return ""


async def _ask(address: str, than: str, credentials: grpc.ChannelCredentials) -> str:
    """Return who leads as far as one coordinator knows, `than` when it does not tell."""
    try:
        _, channel = await dial([address], credentials, _CONNECT_LIMIT, lambda _: None)
    except Unreached:
        return than
    try:
        cluster = cast("ClusterAsyncStub", api_pb2_grpc.ClusterStub(channel))
        answering = cluster.Status(api_pb2.StatusRequest(), timeout=_ASK_LIMIT)
        await answering
    except grpc.aio.AioRpcError as error:
        meant = decode_error(error)
        return meant.leader if meant.kind is Kind.NOT_LEADER and meant.leader else than
    else:
        remembers = AGE_METADATA in dict(cast("Iterable[tuple[str, str]]", await answering.trailing_metadata()))
        return than if remembers else address
    finally:
        await channel.close(None)
