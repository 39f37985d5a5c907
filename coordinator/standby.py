"""What a coordinator says while it does not lead: who does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc

from gestalt.proto.v1 import agent_pb2

from .api.guard import Context, abort
from .election import LeaderSight
from .memory import Memory
from .office import not_leader
from .reception import Answerers, Handler

HOLD = 2.0
"""Seconds for which a caller is kept while nobody leads: it hears of the new leader at once, and does not ask again and again."""

HOLD_AGENTS = 6.0
"""The same for an agent, which has nothing better to do: as long as an election takes, so that a thousand of them come once. None is sent
back to a leader that does not renew its office meanwhile: that would be the one which it has lost."""

_SESSION = f"/{agent_pb2.DESCRIPTOR.services_by_name['Agents'].full_name}/Session"


class Referral:
    """Answers every method with the leader's address, or from memory."""

    def __init__(self, sight: LeaderSight) -> None:
        self._sight = sight
        self.memory: Memory | None = None

    def service(self, details: grpc.HandlerCallDetails) -> Handler | None:
        """Return what answers this method: on the wire a refusal is the same for all kinds of them."""
        if self.memory is not None and self._sight.trouble and (remembered := self.memory.handler(details)) is not None:
            known: Handler = remembered
            return known
        return grpc.stream_stream_rpc_method_handler(self._refuse_agent if details.method == _SESSION else self._refuse)

    async def _refuse(self, _: Any, context: Context) -> AsyncIterator[bytes]:
        await self._keep(context, self._sight.wait(HOLD))
        yield b""  # never: but it makes this a stream

    async def _refuse_agent(self, _: Any, context: Context) -> AsyncIterator[bytes]:
        await self._keep(context, self._sight.wait(HOLD_AGENTS, afresh=True))
        yield b""

    async def _keep(self, context: Context, leader: Awaitable[str]) -> None:
        """Refuse, once it is known who leads."""
        await abort(context, not_leader(await leader, self._sight.trouble, self._sight.handicap))


class JoinReferral(Referral):
    """Sends machines that would join on to another join address: which one leads is not for strangers to know."""

    async def _refuse(self, _: Any, context: Context) -> AsyncIterator[bytes]:
        await abort(context, not_leader())
        yield b""  # never: but it makes this a stream


class Standby:
    """Those who answer at a coordinator that does not lead."""

    def __init__(self, sight: LeaderSight) -> None:
        self._referral = Referral(sight)
        self.answerers = Answerers(self._referral, JoinReferral(sight), leading=False)

    def remember(self, memory: Memory | None) -> None:
        """Answer questions from this while ZooKeeper is away; None: from nothing."""
        self._referral.memory = memory
