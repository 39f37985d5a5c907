"""A client of the public API: mutual TLS, several coordinators in turn, retries that cannot do a thing twice.

    async with Client(target) as client:
        reply = await client.call(lambda api: api.apps.List, api_pb2.ListRequest())

Every call that changes something carries a request id, made here when the caller gave none, so that each call may be
repeated after a lost connection: the coordinator answers the second one like the first. A coordinator that does not lead
names the leader, and the call is made there; while none leads it is made again and again.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import Any, TypeVar, cast

import grpc
from google.protobuf.message import Message

from gestalt import __version__
from gestalt.clock import monotonic
from gestalt.errors import GestaltError, Kind
from gestalt.lookout import LedElsewhere, unless_led_elsewhere
from gestalt.proto.v1 import api_pb2, model_pb2
from gestalt.reach import Api, Reach, Target
from gestalt.rpc import AGE_METADATA, ERROR_METADATA, EXPIRY_METADATA, VERSION_METADATA, decode_error
from gestalt.versions import are_compatible

__all__ = ["Api", "Client", "Target"]

Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)

_LOST = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED}
"""How a call ends of which nobody knows what became of it: it is made again, with the same request id."""
_BROKEN = "Internal error from Core"
"""What grpc.aio says of a stream whose connection went away in the moment of its opening."""
_ELECTION_PAUSE = 0.1  # seconds; a coordinator that knows of no leader keeps us waiting by itself
_ACCEPTANCE = 0.3  # seconds
_CHANGE_PATIENCE = 15.0
"""Seconds for which a call looks for a leader at most: one is elected within a few, and what keeps it from that people want to know."""
_LAST_ATTEMPT = 3.0
"""Seconds that an attempt has at least, also when the time for trying is almost over."""


class Client:
    """One conversation with the coordinators. Used from one event loop, as an asynchronous context manager.

    The first contact fails fast when no coordinator answers at all. Once one was reached, a leader is looked for for `patience`
    seconds, a quarter of a minute for a single call, when the connection is lost and when none leads. `on_notice` hears a sentence when the
    search begins and when it ends.
    """

    def __init__(
        self, target: Target, *, patience: float = 10.0, connect_limit: float = 3.0, on_notice: Callable[[str], None] | None = None
    ) -> None:
        self._reach = Reach(target, connect_limit)
        self._patience = patience
        self._notice = on_notice or (lambda _: None)
        self._api: Api | None = None
        self._contact = False
        self._is_leader = False
        self._remarked: set[str] = set()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._drop()

    async def call(self, pick: Callable[[Api], grpc.aio.UnaryUnaryMultiCallable[Q, A]], request: Q, *, limit: float = 30.0) -> A:
        """Make a call and return its answer, repeating it with the same request id while the connection is lost or nothing is answered.

        Args:
            pick: which call, `lambda api: api.apps.Get`.
            request: its message; a missing request id is filled in.
            limit: seconds for each attempt. What a repetition would get beyond the client's patience it does not get.

        Raises:
            GestaltError: what the coordinator answered, or UNAVAILABLE, TIMED_OUT, UNAUTHENTICATED.
        """
        _fill_request_id(request)
        search = _Search(min(self._patience, _CHANGE_PATIENCE))
        while True:
            api = await self._connected(search)
            try:
                answering = pick(api)(request, timeout=search.bounded(limit))
                reply = await unless_led_elsewhere(answering, partial(self._reach.other_leader, api.address))
                marks = dict(cast("Iterable[tuple[str, str]]", await answering.trailing_metadata() or ()))
                if AGE_METADATA in marks and await self._found_elsewhere(api, search):
                    continue
                self._note_source(marks)
            except LedElsewhere as other:
                await self._go_on_at(other.leader, api, search)
            except grpc.aio.AioRpcError as error:
                await self._lost_or_raise(error, search)
            else:
                return reply

    async def stream(self, pick: Callable[[Api], grpc.aio.UnaryStreamMultiCallable[Q, A]], request: Q) -> AsyncIterator[A]:
        """Yield what the leader streams, once: nothing is repeated after a lost connection.

        Raises:
            GestaltError: what the coordinator answered, or UNAVAILABLE, UNAUTHENTICATED.
        """
        api = await self._reach.lasting((await self._leading()).address)
        try:
            async for item in pick(api)(request):
                yield item
        except grpc.aio.AioRpcError as error:
            self._explain(error)
            raise decode_error(error) from error

    async def follow_task(self, task_id: str) -> AsyncIterator[model_pb2.Task]:
        """Yield a task at each of its changes; the last one is its outcome. Goes on across lost connections."""
        request = api_pb2.GetTaskRequest(id=task_id)
        async for task in self._follow(lambda api: api.tasks.Watch, request, lambda _: None):
            request.id = task.id
            yield task
            if task.state != "running":
                return

    async def follow_events(self, request: api_pb2.WatchEventsRequest) -> AsyncIterator[api_pb2.EventBatch]:
        """Yield batches of events; after a lost connection goes on after the last one that was seen."""

        def resume_after(batch: api_pb2.EventBatch) -> None:
            if batch.events:
                request.after = batch.events[-1].token

        async for batch in self._follow(lambda api: api.events.Watch, request, resume_after):
            yield batch

    async def exec(self, inputs: AsyncIterator[api_pb2.ExecInput]) -> AsyncIterator[api_pb2.ExecOutput]:
        """Run a command in an instance: the first input is `open`, the last output `exit_code`. Nothing is repeated.

        Inputs after the first wait for the first output, for initial metadata that the coordinator may send as soon as
        it accepts, or for a moment: gRPC replaces the answer of a call that ends while it is written to.

        Raises:
            GestaltError: what the coordinator answered, or UNAVAILABLE, UNAUTHENTICATED.
        """
        api = await self._reach.lasting((await self._leading()).address)
        accepted = asyncio.Event()
        call = api.apps.Exec(_once_accepted(inputs, accepted))
        greeting = asyncio.create_task(_await_greeting(call, accepted))
        try:
            async for output in call:
                accepted.set()
                yield output
                if output.HasField("exit_code"):
                    return
        except grpc.aio.AioRpcError as error:
            self._explain(error)
            raise decode_error(error) from error
        finally:
            greeting.cancel()
            call.cancel()

    async def _follow(
        self, pick: Callable[[Api], grpc.aio.UnaryStreamMultiCallable[Q, A]], request: Q, seen: Callable[[A], None]
    ) -> AsyncIterator[A]:
        search = _Search(self._patience)
        while True:
            api = await self._connected(search)
            try:
                items = aiter(pick(api)(request))
                while (item := await self._next(items, api)) is not None:
                    self._is_leader = True
                    if search.running:
                        self._notice("the coordinator answers again")
                        search = _Search(self._patience)
                    seen(item)
                    yield item
                return
            except LedElsewhere as other:
                await self._go_on_at(other.leader, api, search)
            except grpc.aio.AioRpcError as error:
                await self._lost_or_raise(error, search)

    async def _next(self, items: AsyncIterator[A], api: Api) -> A | None:
        async def read() -> A | None:
            return await anext(items, None)

        return await unless_led_elsewhere(read(), partial(self._reach.other_leader, api.address))

    async def _found_elsewhere(self, api: Api, search: _Search) -> bool:
        """Leave a coordinator that merely remembers, if the others know of a leader; false: what it remembers is the best there is."""
        leader = await self._reach.leader_elsewhere(api.address)
        if not leader or not search.follow(leader):
            return False
        await self._drop()
        self._reach.prefer(leader)
        return True

    async def _go_on_at(self, leader: str, api: Api, search: _Search) -> None:
        """Leave a coordinator that keeps silent for the one that leads now."""
        self._notice(f"the coordinator {api.address} does not answer, {leader} leads")
        await self._go_to(GestaltError(Kind.NOT_LEADER, f"{api.address} does not answer, {leader} does not lead", leader=leader), search)

    def _note_source(self, marks: Mapping[str, str]) -> None:
        """Say so when an answer is what a coordinator remembers, and not the leader's; and what the leader remarks on us, once."""
        age = marks.get(AGE_METADATA)
        self._is_leader = age is None
        for remark in _remarks(marks):
            if remark not in self._remarked:
                self._remarked.add(remark)
                self._notice(remark)
        if age is not None:
            self._notice(f"no coordinator leads, because ZooKeeper does not answer: this is what was known {age} s ago")

    async def _leading(self) -> Api:
        """Return the stubs of the leader: for what cannot be repeated, so that it is not sent to one that does not lead."""
        if self._api is None or not self._is_leader:
            await self.call(lambda api: api.cluster.Status, api_pb2.StatusRequest())
        return await self._connected(_Search(self._patience))

    async def _connected(self, search: _Search) -> Api:
        """Return the stubs of a coordinator that answers, looking for one as long as `search` lasts."""
        while self._api is None:
            try:
                self._api = await self._reach.connect()
            except GestaltError as error:
                if not self._contact or error.kind is not Kind.UNAVAILABLE or not await search.again():
                    raise
        self._contact = True
        return self._api

    async def _lost_or_raise(self, error: grpc.aio.AioRpcError, search: _Search) -> None:
        """Return to try again after a pause; raise what is an answer, or when the time for trying is over."""
        meant = decode_error(error)
        if meant.kind is Kind.NOT_LEADER:
            await self._go_to(meant, search)
            return
        if _is_ours(error) or not (error.code() in _LOST or error.details() == _BROKEN):
            raise meant from error
        self._explain(error)
        if not search.running:
            self._notice("the connection to the coordinator is lost, looking for it again")
        await self._drop()
        if not await search.again():
            raise self._given_up(error) from error

    async def _go_to(self, refusal: GestaltError, search: _Search) -> None:
        """Leave a coordinator that does not lead for the one that it names, at once the first time; raise when the time is over."""
        await self._drop()
        if refusal.leader:
            self._reach.prefer(refusal.leader)
            if search.follow(refusal.leader):
                return
        if not search.running:
            self._notice("no coordinator leads at this moment, waiting for one")
        if not await search.again(_ELECTION_PAUSE):
            raise refusal

    def _explain(self, error: grpc.aio.AioRpcError) -> None:
        """Raise when our own certificate explains why the coordinator hung up: TLS 1.3 tells only after the handshake."""
        if error.code() is grpc.StatusCode.UNAVAILABLE and not _is_ours(error):
            self._reach.check_certificate()

    def _given_up(self, error: grpc.aio.AioRpcError) -> GestaltError:
        if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
            return self._reach.unreachable([error.details() or error.code().name])
        return GestaltError(
            Kind.TIMED_OUT,
            "the coordinator can be reached, but did not answer in time: what was asked for may have been done or not",
            hint="look with gestaltctl ps and gestaltctl tasks; the same --request-id does a thing once, however often it is sent",
        )

    async def _drop(self) -> None:
        api, self._api = self._api, None
        self._is_leader = False
        await self._reach.close()
        if api is not None:
            await api.channel.close(None)


def _remarks(marks: Mapping[str, str]) -> Iterator[str]:
    """Yield what there is to say of the two of us, by the marks of an answer."""
    version = marks.get(VERSION_METADATA, __version__)
    if not are_compatible(version, __version__):
        work = "only neighbouring minor versions work together"
        yield f"this is version {__version__}, the coordinator has {version}: {work}, install version {version} here"
    if (ends := marks.get(EXPIRY_METADATA)) is not None:
        yield f"the certificate of this context ends on {ends[:10]}: gestaltctl context renew"


class _Search:
    """The time that is spent on finding a lost coordinator again, counted from the first failure."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._end = 0.0
        self._pause = 0.1
        self._named: set[str] = set()

    @property
    def running(self) -> bool:
        return self._end > 0

    def bounded(self, limit: float) -> float:
        """Return the seconds for the next attempt: what is left of the time, once it runs."""
        return min(limit, max(self._end - monotonic(), _LAST_ATTEMPT)) if self.running else limit

    def follow(self, leader: str) -> bool:
        """Return whether to go to a named leader at once: once each, until the next pause, so that two that name each other are no loop."""
        if leader in self._named:
            return False
        self._named.add(leader)
        return True

    async def again(self, longest: float = 1.0) -> bool:
        """Wait a little, `longest` seconds at most; return false when the time is over."""
        if not self.running:
            self._end = monotonic() + self._patience
        if monotonic() >= self._end:
            return False
        await asyncio.sleep(min(self._pause, longest, max(self._end - monotonic(), 0)))
        self._pause = min(self._pause * 2, 1.0)
        self._named.clear()
        return True


async def _once_accepted(inputs: AsyncIterator[api_pb2.ExecInput], accepted: asyncio.Event) -> AsyncIterator[api_pb2.ExecInput]:
    opened = False
    async for item in inputs:
        if opened and not accepted.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ACCEPTANCE):
                    await accepted.wait()
            accepted.set()
        opened = True
        yield item


async def _await_greeting(call: grpc.aio.StreamStreamCall[api_pb2.ExecInput, api_pb2.ExecOutput], accepted: asyncio.Event) -> None:
    if await call.initial_metadata():  # a refusal has none
        accepted.set()


def _fill_request_id(request: Message) -> None:
    if "request" in request.DESCRIPTOR.fields_by_name:
        head = cast(Any, request).request
        head.id = head.id or str(uuid.uuid4())


def _is_ours(error: grpc.aio.AioRpcError) -> bool:
    """Whether a coordinator answered this, rather than the network."""
    return ERROR_METADATA in dict(cast("Iterable[tuple[str, bytes]]", error.trailing_metadata() or ()))
