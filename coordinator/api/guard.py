"""What every call passes first and last: whether we lead, who calls, and how errors leave."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import wraps
from typing import Any, NoReturn, TypeVar

import grpc
from pydantic import ValidationError

from gestalt.errors import GestaltError, Kind
from gestalt.identity import Identity, Role
from gestalt.rpc import encode_error, status_message
from gestalt.rpc_server import peer_identity

from ..office import Office

log = logging.getLogger(__name__)

R = TypeVar("R")
Context = grpc.aio.ServicerContext[Any, Any]


class OfficeGuard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Lets nothing in and nothing out once the office is over: no call, no answer, no message of a stream.

    Whatever queued up while this process was frozen ends here, before anybody hears of it.
    """

    def __init__(self, office: Office, services: Sequence[str]) -> None:
        self._office = office
        self._prefixes = tuple(f"/{service}/" for service in services)

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        if handler is None or not details.method.startswith(self._prefixes):
            return handler
        if handler.response_streaming:
            name = "stream_stream" if handler.request_streaming else "unary_stream"
            return handler._replace(**{name: self._streaming(getattr(handler, name))})
        name = "stream_unary" if handler.request_streaming else "unary_unary"
        return handler._replace(**{name: self._unary(getattr(handler, name))})

    def _unary(self, method: Callable[[Any, Context], Awaitable[R]]) -> Callable[[Any, Context], Awaitable[R]]:
        async def guarded(request: Any, context: Context) -> R:
            await self._require(context)
            reply = await method(request, context)
            await self._require(context)
            return reply

        return guarded

    def _streaming(self, method: Callable[[Any, Context], Any]) -> Callable[[Any, Context], AsyncIterator[Any]]:
        async def guarded(request: Any, context: Context) -> AsyncIterator[Any]:
            await self._require(context)
            async with aclosing(method(request, context)) as items:
                async for item in items:
                    await self._require(context)
                    yield item

        return guarded

    async def _require(self, context: Context) -> None:
        try:
            self._office.require()
        except GestaltError as error:
            await abort(context, error)


def caller(context: Context, cluster_id: str, role: Role) -> Identity:
    """Return who calls.

    Raises:
        GestaltError: UNAUTHENTICATED, when the certificate is of another cluster or for another purpose.
    """
    identity = peer_identity(context)
    if identity.cluster_id != cluster_id or identity.role is not role:
        raise GestaltError(
            Kind.UNAUTHENTICATED,
            f"a certificate of a {role} of this cluster is needed, not {identity.uri}",
            hint="check which certificate the client's context names",
        )
    return identity


async def abort(context: Context, error: GestaltError) -> NoReturn:
    """End the call with an error that the client can read in full."""
    code, metadata = encode_error(error)
    await context.abort(code, status_message(error), metadata)
    raise AssertionError("abort() never returns")


def unary(method: Callable[..., Awaitable[R]]) -> Callable[..., Awaitable[R]]:
    """Turn a GestaltError of a unary method into a status with details."""

    @wraps(method)
    async def guarded(self: Any, request: Any, context: Context) -> R:
        try:
            return await method(self, request, context)
        except (GestaltError, ValidationError) as error:
            await abort(context, as_error(error))

    return guarded


def streaming(method: Callable[..., AsyncIterator[R]]) -> Callable[..., AsyncIterator[R]]:
    """The same for a method that answers with a stream."""

    @wraps(method)
    async def guarded(self: Any, request: Any, context: Context) -> AsyncIterator[R]:
        try:
            async for item in method(self, request, context):
                yield item
        except (GestaltError, ValidationError) as error:
            await abort(context, as_error(error))

    return guarded


def as_error(error: GestaltError | ValidationError) -> GestaltError:
    """Return what is told of an error."""
    if isinstance(error, GestaltError):
        return error
    return GestaltError(Kind.INVALID, f"the message is not valid: {error}")
