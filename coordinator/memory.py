"""What the last leader knew, for as long as ZooKeeper is away: questions are answered from it, each answer marked with its age."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import grpc

from gestalt.clock import monotonic
from gestalt.proto.v1 import api_pb2
from gestalt.rpc import AGE_METADATA

from .api.guard import Context
from .election import LeaderSight

READS = frozenset(
    f"/gestalt.v1.{method}"
    for method in ("Apps/Get", "Apps/List", "Apps/History", "Jobs/Runs", "Nodes/List", "Tasks/Get", "Tasks/List", "Cluster/Status")
)
"""The methods that only look."""


class Memory:
    """The methods that only look, of a leader whose office has ended. It stands in for a server while they are registered."""

    def __init__(self, register: Callable[[Any], object], sight: LeaderSight) -> None:
        self._handlers: list[grpc.GenericRpcHandler[Any, Any]] = []
        self._sight = sight
        self._since = monotonic()
        register(self)

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler[Any, Any]]) -> None:
        self._handlers += handlers

    def handler(self, details: grpc.HandlerCallDetails) -> Any:
        """Return what answers a method that only looks; None for all others."""
        if details.method not in READS:
            return None
        found: Any = next((known for known in (handler.service(details) for handler in self._handlers) if known is not None), None)
        return found and found._replace(unary_unary=self._marked(found.unary_unary))

    def _marked(self, method: Callable[[Any, Context], Awaitable[Any]]) -> Callable[[Any, Context], Awaitable[Any]]:
        async def answer(request: Any, context: Context) -> Any:
            age = monotonic() - self._since
            context.set_trailing_metadata(((AGE_METADATA, f"{age:.0f}"),))
            reply = await method(request, context)
            if isinstance(reply, api_pb2.StatusReply):
                reply.problems.insert(0, f"{self._sight.trouble}: this is what was known {age:.0f} s ago, and nothing can be changed")
                reply.state = "failed"
            return reply

        return answer
