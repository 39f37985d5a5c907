"""The stream to the leading coordinator. Any doubt about a session ends the whole session; the next one tells everything anew.

Without a coordinator the agent goes on with what it was told last; nothing here stops anything.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import grpc

from gestalt import __version__
from gestalt.clock import monotonic
from gestalt.config import AgentSettings, TlsSettings
from gestalt.errors import GestaltError, Kind
from gestalt.proto.v1 import agent_pb2, agent_pb2_grpc
from gestalt.rpc import decode_error
from gestalt.rpc_server import channel_credentials

from .board import Board
from .bulk import Bulk
from .coordinators import KnownCoordinators
from .desired import Desired, DesiredStore, SessionDoubt
from .ongoing import Ongoing
from .search import Ending, Search
from .stream import END, Call, Calls

log = logging.getLogger(__name__)

PROTOCOL = 1
COALESCE = 0.02
WELCOME_LIMIT = 10.0
CONNECT_LIMIT = 3.0
_OPTIONS = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 64 * 1024**2),
    ("grpc.max_send_message_length", 64 * 1024**2),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a new session connects at once, whatever the last one met
    ("grpc.min_reconnect_backoff_ms", int(CONNECT_LIMIT * 1000)),  # which is how long gRPC tries to connect
)

Apply = Callable[[Desired], Awaitable[None]]
"""Hands a desired state to those who act on it; returns when they took it over."""


class Session:
    """Keeps a session with whichever coordinator leads."""

    name = "session"

    def __init__(
        self, settings: AgentSettings, desired: DesiredStore, board: Board, apply: Apply, bulk: Bulk, *, known: KnownCoordinators
    ) -> None:
        self._settings = settings
        self._desired = desired
        self._board = board
        self._apply = apply
        self._bulk = bulk
        self._known = known
        self._task = Ongoing("session", self._run)
        self._complaint = ""
        self._search = Search(known.addresses)
        self._line = Line(settings.tls)
        self.connected = False

    async def ensure(self) -> None:
        """Have the session going, or trying. Idempotent."""
        self._task.begin()

    async def close(self) -> None:
        """End it."""
        await self._task.end(again=0.1)
        await self._line.close()

    def summary(self) -> str:
        return "connected" if self.connected else "no coordinator"

    async def _run(self) -> None:
        while True:
            pause = self._search.ended(await self._attempt(self._search.next))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 (spreads load, guards nothing)

    async def _attempt(self, address: str) -> Ending:
        """Hold one session to its end."""
        conversation = Conversation(self._settings, self._desired, self._board, self._apply, self._bulk)
        refusal: GestaltError | None = None
        try:
            await conversation.hold(await self._line.to(address), address, self._welcomed, self._learn)
            self._complain(f"the coordinator {address} ended the session")
        except grpc.aio.AioRpcError as error:
            meant = decode_error(error)
            refusal = meant if meant.kind is Kind.NOT_LEADER else None
            self._complain(f"coordinator {address}: {meant.message}")
        except (SessionDoubt, GestaltError) as error:
            self._complain(f"coordinator {address}: {error}")
        except TimeoutError:
            self._complain(f"the coordinator {address} does not answer")
        except OSError as error:
            self._complain(f"what the coordinator wants cannot be written to {self._settings.data_dir}: {error}")
        except Exception:  # whatever it is, it ends this session only
            log.exception("the session with %s failed", address)
        finally:
            self.connected = False
            if refusal is None:
                await self._line.close()
        return Ending(conversation.welcomed, refusal is not None, refusal.leader if refusal else "")

    def _welcomed(self, address: str, welcome: agent_pb2.Welcome) -> None:
        self._learn(welcome.coordinators)
        self.connected, self._complaint = True, ""
        log.info("in session with the coordinator %s", address, extra={"epoch": self._desired.epoch})

    def _learn(self, coordinators: Sequence[str]) -> None:
        self._search.learn(coordinators)
        self._known.learn(coordinators)

    def _complain(self, complaint: str) -> None:
        """Say why there is no session, once for as long as it stays the same."""
        level = logging.DEBUG if complaint == self._complaint else logging.WARNING
        log.log(level, "%s; what was told last goes on", complaint)
        self._complaint = complaint


class Line:
    """The connection to a coordinator. One that only stands by may be the next to lead: to come back to it costs no handshake then."""

    def __init__(self, tls: TlsSettings) -> None:
        self._tls = tls
        self._address = ""
        self._channel: grpc.aio.Channel | None = None

    async def to(self, address: str) -> grpc.aio.Channel:
        """Return the connection to this coordinator, and close the one to another."""
        if address != self._address:
            await self.close()
        if self._channel is None:
            self._address, self._channel = address, grpc.aio.secure_channel(address, channel_credentials(self._tls), _OPTIONS)
        return self._channel

    async def close(self) -> None:
        """Close it: what comes next connects anew. Idempotent."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close(None)


class Conversation:
    """One session: two tasks, one that reads and one that writes; the end of either ends both."""

    def __init__(self, settings: AgentSettings, desired: DesiredStore, board: Board, apply: Apply, bulk: Bulk) -> None:
        self._settings = settings
        self._desired = desired
        self._board = board
        self._apply = apply
        self._bulk = bulk
        self._wake = asyncio.Event()
        self._ack: agent_pb2.Ack | None = None
        self._incarnation = board.incarnation
        self._learn: Callable[[Sequence[str]], None] = lambda _: None
        self.welcomed = False

    async def hold(
        self,
        channel: grpc.aio.Channel,
        address: str,
        welcomed: Callable[[str, agent_pb2.Welcome], None],
        learn: Callable[[Sequence[str]], None],
    ) -> None:
        """Talk to a coordinator until one of us ends it. `learn` hears where coordinators are whenever that changes.

        Raises:
            SessionDoubt: what it says cannot be.
            grpc.aio.AioRpcError: it cannot be reached, or refuses us.
            OSError: what it wants cannot be made durable.
            TimeoutError: it does not greet us, or has fallen silent.
        """
        self._learn = learn
        stub = cast(Calls, agent_pb2_grpc.AgentsStub(channel))
        call = stub.Session()
        try:
            async with asyncio.timeout(WELCOME_LIMIT):
                await self._send(call, agent_pb2.AgentMessage(hello=self._hello()))
                greeting = await call.read()
            await self._greeted(greeting)
            welcomed(address, greeting.welcome)
            try:
                async with asyncio.TaskGroup() as group:
                    writer = group.create_task(self._write(call, greeting.welcome.heartbeat), name="session writer")
                    group.create_task(self._read(call, stub, writer, greeting.welcome.silence or None), name="session reader")
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None  # the other task's failure, if any, only follows from the first
        finally:
            self._board.detach()
            await self._bulk.hang_up()
            call.cancel()

    def _hello(self) -> agent_pb2.Hello:
        return agent_pb2.Hello(
            node_id=self._settings.node_id,
            node_name=self._settings.node_name,
            agent_version=__version__,
            protocol=PROTOCOL,
            highest_epoch=self._desired.epoch,
            address=self._settings.address,
            facts=self._board.facts,
            cluster_id=self._settings.cluster_id,
            incarnation=self._incarnation,
            wants_peers=self._settings.hosts_file is not None,
            prepares=True,
        )

    async def _greeted(self, greeting: Any) -> None:
        if greeting is END:
            raise SessionDoubt("it ended the session without a greeting")
        if greeting.WhichOneof("kind") != "welcome":
            raise SessionDoubt("it did not greet us first")
        if greeting.welcome.cluster_id != self._settings.cluster_id:
            raise SessionDoubt(f"it belongs to the cluster {greeting.welcome.cluster_id!r}")
        await self._desired.welcome(greeting.welcome.epoch)
        self.welcomed = True

    async def _write(self, call: Call, heartbeat: float) -> None:
        """Tell everything, then what changes: at once when it is quiet, at most every COALESCE seconds when it is not."""
        period = heartbeat if heartbeat > 0 else 1.0
        self._board.attach(self._wake.set)
        await self._send(call, agent_pb2.AgentMessage(inventory=self._board.inventory()))
        await self._send(call, agent_pb2.AgentMessage(refusing=self._board.take_refusing(always=True)))
        await self._send(call, agent_pb2.AgentMessage(prepared=self._board.prepared.take(always=True)))
        while True:
            if self._board.incarnation != self._incarnation:
                raise SessionDoubt(f"the node is now a member as incarnation {self._board.incarnation}, which has to be told anew")
            written = monotonic()
            try:
                async with asyncio.timeout(period):
                    await self._wake.wait()
            except TimeoutError:
                await self._send(call, agent_pb2.AgentMessage(heartbeat=agent_pb2.Heartbeat()))
                continue
            await asyncio.sleep(max(written + COALESCE - monotonic(), 0.0))
            self._wake.clear()
            for message in self._news():
                await self._send(call, message)

    async def _send(self, call: Call, message: agent_pb2.AgentMessage) -> None:
        """Write; a stream that has ended says why to the reader."""
        try:
            await call.write(message)
        except asyncio.InvalidStateError:
            log.debug("the stream ended while something was written")

    def _news(self) -> list[agent_pb2.AgentMessage]:
        news = []
        while (change := self._board.take()) is not None:
            news.append(agent_pb2.AgentMessage(observed=change))
        if (facts := self._board.take_facts()) is not None:
            news.append(agent_pb2.AgentMessage(facts=facts))
        if (refusing := self._board.take_refusing()) is not None:
            news.append(agent_pb2.AgentMessage(refusing=refusing))
        if (prepared := self._board.prepared.take()) is not None:
            news.append(agent_pb2.AgentMessage(prepared=prepared))
        if (usage := self._board.usage.take()) is not None:
            news.append(agent_pb2.AgentMessage(usage=usage))
        if self._ack is not None:
            news.append(agent_pb2.AgentMessage(ack=self._ack))
            self._ack = None
        return news

    async def _read(self, call: Call, stub: Calls, writer: asyncio.Task[None], silence: float | None) -> None:
        """Take in what is said, until the end, or until nothing was said for `silence` seconds although that was promised."""
        while (message := await _within(silence, call)) is not END:
            match message.WhichOneof("kind"):
                case "full":
                    await self._take(await self._desired.full(message.full))
                case "delta":
                    await self._take(await self._desired.delta(message.delta))
                case "open":
                    self._bulk.open(stub, message.open)
                case "heartbeat":
                    self._learn(message.heartbeat.coordinators)
                case kind:
                    raise SessionDoubt(f"it said {kind!r}, which we do not understand now")
        status = await call.code()
        if status is not grpc.StatusCode.OK:
            raise SessionDoubt(f"it ended the session: {await call.details() or status.name}")
        writer.cancel()

    async def _take(self, desired: Desired) -> None:
        state = desired.state
        before = self._ack.applied if self._ack else 0
        self._acknowledge(agent_pb2.Ack(epoch=state.epoch, received=state.revision, applied=before))
        await self._apply(desired)
        self._acknowledge(agent_pb2.Ack(epoch=state.epoch, received=state.revision, applied=state.revision))

    def _acknowledge(self, ack: agent_pb2.Ack) -> None:
        self._ack = ack
        self._wake.set()


async def _within(silence: float | None, call: Call) -> Any:
    """Return what is said next. Unlike `wait_for` this makes no task for each message."""
    async with asyncio.timeout(silence):
        return await call.read()
