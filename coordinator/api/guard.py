"""What every call passes first and last: whether we lead, who calls, and how errors leave."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from functools import wraps
from typing import Any, NoReturn, TypeVar, cast

import grpc
from pydantic import ValidationError

from gestalt import __version__, clock
from gestalt.errors import GestaltError, Kind
from gestalt.identity import Identity, Role
from gestalt.rpc import EXPIRY_METADATA, VERSION_METADATA, encode_error, status_message
from gestalt.rpc_server import peer_identity

from ..office import Office, not_leader
from ..renewal import ends_soon

log = logging.getLogger(__name__)

R = TypeVar("R")
Context = grpc.aio.ServicerContext[Any, Any]

_END: Any = object()


class OfficeGuard:
    """Lets nothing in and nothing out once the office is over: no call, no answer, no message of a stream.

    Whatever queued up while this process was frozen ends here, before anybody hears of it. What is under way when the office ends is cut
    off in the same moment, and its callers are told.
    """

    def __init__(self, office: Office) -> None:
        self._office = office
        self._calls: set[asyncio.Task[Any]] = set()
        self._at_work: set[asyncio.Task[Any]] = set()
        """Those calls whose method runs. In the others gRPC sends what came of it, and must not be cancelled: it would send no status."""
        self._closed = False
        office.on_end(self.cut)

    def guarded(self, handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
        """Return the same handler behind this guard."""
        if handler.response_streaming:
            name = "stream_stream" if handler.request_streaming else "unary_stream"
            return cast("grpc.RpcMethodHandler[Any, Any]", cast(Any, handler)._replace(**{name: self._streaming(getattr(handler, name))}))
        name = "stream_unary" if handler.request_streaming else "unary_unary"
        return cast("grpc.RpcMethodHandler[Any, Any]", cast(Any, handler)._replace(**{name: self._unary(getattr(handler, name))}))

    def cut(self) -> None:
        """End everything that is under way, and let nothing more in. Idempotent; it does not wait."""
        self._closed = True
        for call in tuple(self._at_work):
            call.cancel()

    async def ended(self, limit: float) -> None:
        """Wait until all calls have ended, for `limit` seconds at most: one whose caller does not read ends with its connection."""
        if self._calls:
            await asyncio.wait(tuple(self._calls), timeout=limit)

    def _unary(self, method: Callable[[Any, Context], Awaitable[R]]) -> Callable[[Any, Context], Awaitable[R]]:
        async def guarded(request: Any, context: Context) -> R:
            async with self._under_way(context) as call:
                with self._working(call):
                    reply = await method(request, context)
                await self._require(context)
            context.set_trailing_metadata(_marks(context))
            return reply

        return guarded

    def _streaming(self, method: Callable[[Any, Context], Any]) -> Callable[[Any, Context], AsyncIterator[Any]]:
        async def guarded(request: Any, context: Context) -> AsyncIterator[Any]:
            async with self._under_way(context) as call, aclosing(method(request, context)) as items:
                while True:
                    with self._working(call):
                        item = await anext(items, _END)
                    await self._require(context)
                    if item is _END:
                        return
                    yield item

        return guarded

    @asynccontextmanager
    async def _under_way(self, context: Context) -> AsyncIterator[asyncio.Task[Any]]:
        """Admit a call, and tell its caller when it is cut off."""
        call = asyncio.current_task()
        assert call is not None, "gRPC runs each call in a task"
        await self._require(context)
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        try:
            yield call
        except asyncio.CancelledError:
            if not self._closed:
                raise
            call.uncancel()
            await self._require(context)

    @contextmanager
    def _working(self, call: asyncio.Task[Any]) -> Iterator[None]:
        self._at_work.add(call)
        try:
            yield
        finally:
            self._at_work.discard(call)

    async def _require(self, context: Context) -> None:
        if self._closed or not self._office.holds():
            await abort(context, not_leader())


def _marks(context: Context) -> tuple[tuple[str, str], ...]:
    """Return what comes with each answer."""
    certificates = tuple(context.auth_context().get("x509_pem_cert", ()))
    ends = ends_soon(certificates[0], clock.wall()) if certificates else ""
    return ((VERSION_METADATA, __version__), *(((EXPIRY_METADATA, ends),) if ends else ()))


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
