"""Where a coordinator is called: one server for the life of its process, whoever answers there.

A server of grpc.aio that is stopped while another is started on its port, with callers connecting, crashes the process once in a while. So
nothing is bound anew when an office begins or ends. What changes is who answers: a `Desk` of the leader that we are, or what refers to
another one. A call belongs to who answered when it came in, to its end: a servicer never acts for an office other than its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import grpc

from gestalt.config import CoordinatorSettings
from gestalt.proto.v1 import agent_pb2_grpc
from gestalt.rpc_server import RpcServer

from .api.guard import OfficeGuard
from .api.promises import PromisesServicer

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

JOINS = ("gestalt.v1.Joins",)


class Answering(Protocol):
    """Finds what answers a call. None: no such method."""

    def service(self, details: grpc.HandlerCallDetails) -> Handler | None: ...


class Desk:
    """The services of one office, each behind its guard. It stands in for a server while they are registered."""

    def __init__(self, guard: OfficeGuard) -> None:
        self._guard = guard
        self._handlers: list[grpc.GenericRpcHandler[Any, Any]] = []

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler[Any, Any]]) -> None:
        self._handlers += handlers

    def service(self, details: grpc.HandlerCallDetails) -> Handler | None:
        found: Handler | None = next(
            (known for known in (handler.service(details) for handler in self._handlers) if known is not None), None
        )
        return self._guard.guarded(found) if found is not None else None


@dataclass(frozen=True, slots=True)
class Answerers:
    """Who answers at the address for callers and agents, and who at the address for machines that join. `leading`: for its health."""

    main: Answering
    joins: Answering
    leading: bool


class _Switch(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs only
    """Hands each call of some services to whoever answers in the moment in which it comes in."""

    def __init__(self, services: Sequence[str], answering: Callable[[], Answering]) -> None:
        self._prefixes = tuple(f"/{service}/" for service in services)
        self._answering = answering

    def service(self, details: grpc.HandlerCallDetails) -> Handler | None:
        return self._answering().service(details) if details.method.startswith(self._prefixes) else None


class Reception:
    """The addresses of a coordinator. `services`: those that only a leader gives, by full name. `promises`: given by whoever answers."""

    def __init__(
        self, settings: CoordinatorSettings, services: Sequence[str], present: Answerers, promises: PromisesServicer | None = None
    ) -> None:
        self._settings = settings
        self._services = tuple(services)
        self._present = present
        self._promises = promises
        self._server: RpcServer | None = None
        self._join_server: RpcServer | None = None

    async def open(self) -> int:
        """Listen, and return the port for callers and agents. Once.

        Raises:
            GestaltError: an address cannot be used.
        """
        tls, join_listen = self._settings.tls, self._settings.join_listen
        if join_listen:
            self._join_server = await RpcServer.start_open(join_listen, tls, self._register_joins)
        try:
            self._server = await RpcServer.start(self._settings.listen, tls, self._register, serving=self._present.leading)
        except BaseException:  # cancelled or refused: what listens already is not left behind
            await self.close()
            raise
        return self._server.port

    def hand_over(self, answerers: Answerers) -> None:
        """Have others answer from this moment on. Calls under way stay with those who have them."""
        self._present = answerers

    async def tell_health(self) -> None:
        """Have the health service say whether the leader's services are given here."""
        if self._server is not None:
            await self._server.set_serving(serving=self._present.leading)

    async def close(self, grace: float = 0.05) -> None:
        """Listen no more; calls under way have `grace` seconds. Idempotent."""
        for server in (self._join_server, self._server):
            if server is not None:
                await server.stop(grace)

    def _register(self, server: grpc.aio.Server) -> Sequence[str]:
        if self._promises is not None:
            agent_pb2_grpc.add_PromisesServicer_to_server(self._promises, server)
        server.add_generic_rpc_handlers((_Switch(self._services, lambda: self._present.main),))
        return self._services

    def _register_joins(self, server: grpc.aio.Server) -> Sequence[str]:
        server.add_generic_rpc_handlers((_Switch(JOINS, lambda: self._present.joins),))
        return JOINS
