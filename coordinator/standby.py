"""What a coordinator says while it does not lead: who does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc

from gestalt.clock import monotonic
from gestalt.config import TlsSettings
from gestalt.errors import GestaltError, Kind
from gestalt.rpc_server import RpcServer

from .api.guard import Context, abort
from .election import LeaderSight
from .memory import Memory
from .office import not_leader

log = logging.getLogger(__name__)

T = TypeVar("T")

HOLD = 2.0
"""Seconds for which a caller is kept while nobody leads: it hears of the new leader at once, and does not ask again and again."""

LISTEN_LIMIT = 5.0
_LISTEN_PAUSE = 0.02


class Referral(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs only
    """Answers every method of some services with the leader's address."""

    def __init__(self, services: Sequence[str], sight: LeaderSight) -> None:
        self._prefixes = tuple(f"/{service}/" for service in services)
        self._sight = sight
        self.memory: Memory | None = None

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return what answers this method: on the wire a refusal is the same for all kinds of them."""
        if not details.method.startswith(self._prefixes):
            return None
        if self.memory is not None and self._sight.trouble and (remembered := self.memory.handler(details)) is not None:
            known: grpc.RpcMethodHandler[Any, Any] = remembered
            return known
        return grpc.stream_stream_rpc_method_handler(self._refuse)

    async def _refuse(self, _: Any, context: Context) -> AsyncIterator[bytes]:
        await abort(context, not_leader(await self._sight.wait(HOLD), self._sight.trouble))
        yield b""  # never: but it makes this a stream


class Standby:
    """The server of a coordinator that does not lead. Its health: up, but none of the services."""

    def __init__(self, tls: TlsSettings, services: Sequence[str], sight: LeaderSight) -> None:
        self._tls = tls
        self._services = services
        self._referral = Referral(services, sight)
        self._server: RpcServer | None = None

    def remember(self, memory: Memory | None) -> None:
        """Answer questions from this while ZooKeeper is away; None: from nothing."""
        self._referral.memory = memory

    async def start(self, address: str) -> int:
        """Listen, and return the port. Idempotent.

        Raises:
            GestaltError: the address cannot be used.
        """
        if self._server is None:
            self._server = await listening(address, self._begin)
        return self._server.port

    async def _begin(self, address: str) -> RpcServer:
        def register(server: grpc.aio.Server) -> Sequence[str]:
            server.add_generic_rpc_handlers((self._referral,))
            return self._services

        return await RpcServer.start(address, self._tls, register, serving=False)

    async def stop(self) -> None:
        """Listen no more; whoever waits is sent on. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(0.05)


async def listening(address: str, begin: Callable[[str], Awaitable[T]]) -> T:
    """Return what `begin(address)` returns, tried again while the last server on that address of ours is still letting go of it.

    Raises:
        GestaltError: it cannot be listened on.
    """
    give_up = monotonic() + LISTEN_LIMIT
    while True:
        try:
            return await begin(address)
        except GestaltError as error:
            if error.kind is not Kind.UNAVAILABLE or monotonic() > give_up:
                raise
        await asyncio.sleep(_LISTEN_PAUSE)
