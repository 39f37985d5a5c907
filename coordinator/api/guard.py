"""What every call passes first and last: who calls, and how errors leave."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import wraps
from typing import Any, NoReturn, TypeVar

import grpc
from pydantic import ValidationError

from gestalt.errors import GestaltError, Kind
from gestalt.identity import Identity, Role
from gestalt.rpc import encode_error, status_message
from gestalt.rpc_server import peer_identity

log = logging.getLogger(__name__)

R = TypeVar("R")
Context = grpc.aio.ServicerContext[Any, Any]


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
