"""The service Agents: one session an agent, and the streams that agents open on request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Set
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import grpc

from gestalt import __version__, clock
from gestalt.errors import GestaltError, Kind
from gestalt.identity import Identity, Role
from gestalt.model import Observed
from gestalt.proto.v1 import agent_pb2, agent_pb2_grpc, model_pb2
from gestalt.versions import check_compatible

from .. import reports
from ..bulk import Channel, Switchboard
from ..decider import Decider
from ..dispatch import Dispatcher, Link
from ..enrolment import Enrolment, coordinators_of, not_a_member
from ..ledger import Ledger
from ..nodes import NodeView, Tracker, take_facts
from ..pace import Line
from ..records import Node
from ..state import Draft
from ..transitions import transitions
from .guard import Context, abort, caller, streaming, unary

log = logging.getLogger(__name__)

T = TypeVar("T")

PROTOCOL = 1
SILENCE = 3
"""After so many missed heartbeats a session is over."""

STRANGE = 1000
"""So many instances of a node that nobody placed there are remembered at most, of one report."""


@dataclass(frozen=True, slots=True)
class AgentsServicer(agent_pb2_grpc.AgentsServicer):
    """Admits agents, takes in what they report, tells them what is wanted."""

    cluster_id: str
    mode: str
    heartbeat: float
    ledger: Ledger
    tracker: Tracker
    dispatcher: Dispatcher
    decider: Decider
    switchboard: Switchboard
    sessions: dict[str, Link] = field(default_factory=dict)
    """The one session of each node, from its hello on; it has the dispatcher's link once its inventory is in."""
    enrolment: Enrolment | None = None
    silence: float = 0.0
    """Seconds without a message of ours after which an agent is to look for another leader; 0: never."""
    reported: Callable[[NodeView], None] = lambda view: None
    """Called after a node has told of what runs there, or of whom it refuses."""
    line: Line = field(default_factory=Line)
    """In which reports wait to be taken in: thousands of agents may have something to say at once."""

    @streaming
    async def Session(
        self, request: AsyncIterator[agent_pb2.AgentMessage], context: Context
    ) -> AsyncIterator[agent_pb2.CoordinatorMessage]:
        identity = caller(context, self.cluster_id, Role.NODE)
        messages = aiter(request)
        hello = await self._hello(messages, identity)
        await self._join(hello)
        view, link = self._begin(hello)
        welcome = agent_pb2.Welcome(
            cluster_id=self.cluster_id,
            epoch=self.ledger.epoch,
            coordinator_version=__version__,
            heartbeat=self.heartbeat,
            silence=self.silence,
            coordinators=coordinators_of(self.ledger),
        )
        work = (self._read(messages, view, link), self._cut_off(asyncio.current_task(), view, link))
        tasks = [asyncio.create_task(item) for item in work]
        try:
            yield agent_pb2.CoordinatorMessage(welcome=welcome)
            async with aclosing(_outgoing(link)) as outgoing:
                async for message in outgoing:
                    yield message
        finally:
            self._leave(view, link)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _cut_off(self, session: asyncio.Task[Any] | None, view: NodeView, link: Link) -> None:
        """End a session that is closed, also one that hangs in a message which the agent does not read."""
        await link.closed.wait()
        if link.outbox.empty():
            link.outbox.put_nowait(agent_pb2.CoordinatorMessage())  # wakes who waits for something to send
        self._leave(view, link)
        await asyncio.sleep(self.heartbeat)
        if session is not None:
            session.cancel()

    async def _hello(self, messages: AsyncIterator[agent_pb2.AgentMessage], identity: Identity) -> agent_pb2.Hello:
        try:
            async with asyncio.timeout(self.heartbeat * SILENCE):
                first = await anext(messages, agent_pb2.AgentMessage())
        except TimeoutError:
            raise GestaltError(Kind.TIMED_OUT, "an agent has to say hello first, and at once") from None
        hello = first.hello
        if not first.HasField("hello") or hello.protocol != PROTOCOL:
            raise GestaltError(Kind.REFUSED, f"an agent of protocol {PROTOCOL} has to say hello first", hint="upgrade the older of the two")
        check_compatible(f"the agent of node {hello.node_name}", hello.agent_version, "the coordinator", __version__)
        if hello.node_id != identity.name or hello.cluster_id != self.cluster_id:
            raise GestaltError(
                Kind.UNAUTHENTICATED,
                f"the certificate is of node {identity.name}, the agent says that it is node {hello.node_id} of cluster {hello.cluster_id}",
                hint="check node_id, cluster_id and tls in the agent's settings",
            )
        if hello.highest_epoch > self.ledger.epoch:
            raise GestaltError(
                Kind.REFUSED,
                f"the agent has seen epoch {hello.highest_epoch}, this coordinator is at {self.ledger.epoch}: it knows less than the node",
                hint="was an old backup put back? the agent's data_dir/epoch holds the number",
            )
        return hello

    @unary
    async def Renew(self, request: agent_pb2.RenewRequest, context: Context) -> agent_pb2.RenewReply:
        identity = caller(context, self.cluster_id, Role.NODE)
        if self.enrolment is None:
            raise GestaltError(Kind.REFUSED, "this coordinator signs no certificates", hint="set authority in coordinator.yaml")
        return self.enrolment.renew(identity.name, request)

    def _hang_up(self, node: str) -> None:
        """End the session of a node at once; it is admitted again only if it is still known then."""
        if (link := self.sessions.get(node)) is not None:
            link.closed.set()

    def committed(self, draft: Draft) -> None:
        """End the sessions of removed nodes, and tell all agents where coordinators are when that has changed."""
        for (kind, key), record in draft.records.items():
            if kind == "node" and record is None:
                self._hang_up(key)
        if any(kind == "coordinator" for kind, _ in draft.records):
            beat = agent_pb2.CoordinatorMessage(heartbeat=agent_pb2.Heartbeat(coordinators=coordinators_of(self.ledger)))
            for link in self.sessions.values():
                link.send(beat)

    async def _join(self, hello: agent_pb2.Hello) -> None:
        """Let known nodes in. An appliance notes its one node; one after the other, however many knock at once.

        Raises:
            GestaltError: REFUSED, with the way in.
        """
        if hello.node_id in self.ledger.state.nodes:
            return
        if self.mode != "appliance":
            raise not_a_member(hello.node_id)
        async with self.ledger.draft(f"node:{hello.node_id}", "join") as draft:
            others = [node.name for node in self.ledger.state.nodes.values() if node.id != hello.node_id]
            if others:
                raise GestaltError(
                    Kind.REFUSED,
                    f"an appliance has exactly one node, this one has {others[0]}",
                    hint="several nodes make a cluster: `gestaltctl cluster export` here, `gestaltctl cluster import` into a cluster",
                )
            if hello.node_id not in self.ledger.state.nodes:
                draft.put_node(Node(hello.node_id, hello.node_name))
                draft.tell("node.joined", hello.node_name, f"node {hello.node_name} joined")

    def _begin(self, hello: agent_pb2.Hello) -> tuple[NodeView, Link]:
        """Begin a session: from now on it is the only one of its node."""
        view = self.tracker.node(hello.node_id, hello.node_name)
        if (before := self.sessions.get(hello.node_id)) is not None:
            self._replace(view, before)
        link = self.sessions[hello.node_id] = Link(view.id, hello.address, hello.wants_peers)
        view.name, view.address, view.agent_version = hello.node_name, hello.address, hello.agent_version
        view.incarnation, view.prepares = hello.incarnation, hello.prepares
        take_facts(self.tracker, view, hello.facts)
        self.tracker.connected(view)
        log.info("node %s: session begins", view.name, extra={"node": view.name})
        return view, link

    def _replace(self, view: NodeView, link: Link) -> None:
        """Let a node come back whose last session has fallen silent; a second live claimant of its id is refused."""
        if view.is_in_line or clock.monotonic() - view.last_seen < self.heartbeat * (SILENCE - 1):
            raise GestaltError(
                Kind.EXISTS,
                f"node {link.node} has a live session already",
                hint="is there a second machine with a copy of its certificate?",
            )
        link.closed.set()
        self._leave(view, link)

    def _leave(self, view: NodeView, link: Link) -> None:
        """End a session; of one that has ended or was replaced nothing is left to end."""
        if self.sessions.get(link.node) is not link:
            return
        del self.sessions[link.node]
        self.dispatcher.detach(link)
        self.tracker.disconnected(view)
        self.ledger.tell("node.disconnected", view.name, f"the session of node {view.name} ended")
        log.warning("node %s: session ended", view.name, extra={"node": view.name})
        self._wake_apps_on(link.node)

    def _wake_apps_on(self, node: str) -> None:
        """Have those apps looked at that a node's coming or going is something to."""
        self.decider.wake(self.ledger.state.apps_on(node))
        self.decider.wake_unplaced()

    async def _read(self, messages: AsyncIterator[agent_pb2.AgentMessage], view: NodeView, link: Link) -> None:
        """Take in messages until the agent ends, breaks the contract or falls silent; then the whole session ends."""
        try:
            while True:
                async with asyncio.timeout(self.heartbeat * SILENCE):
                    message = await anext(messages)
                with _in_line(view):
                    await self.line.do(partial(self._take, message, view, link))
                if link.closed.is_set():
                    return
        except (StopAsyncIteration, TimeoutError, asyncio.CancelledError, grpc.aio.AbortError):
            log.debug("node %s: nothing more to read", view.name, extra={"node": view.name})
        except GestaltError as error:
            log.warning("node %s: %s", view.name, error, extra={"node": view.name})
        except Exception:  # whatever it is, it ends this session only
            log.exception("node %s: the session failed", view.name, extra={"node": view.name})
        finally:
            link.closed.set()

    def _take(self, message: agent_pb2.AgentMessage, view: NodeView, link: Link) -> None:
        if link.closed.is_set():
            return
        match message.WhichOneof("kind"):
            case "inventory":
                self._inventory(message.inventory, view, link)
            case "observed":
                self._observed(message.observed, view)
            case "facts":
                if take_facts(self.tracker, view, message.facts):
                    self.decider.wake_unplaced()
            case "refusing":
                view.refusing = dict(islice(message.refusing.nodes.items(), len(self.ledger.state.nodes)))
                self.reported(view)
            case "prepared":
                view.prepared = reports.prepared(message.prepared)
                self.decider.wake(self.decider.preparations.waiting(view.id))
            case "usage":
                self.tracker.usages.take(view.id, message.usage)
            case "event":
                event = message.event
                self.ledger.tell(event.kind[:100], event.subject[:200], event.message[:2000], event.app[:500])

    def _inventory(self, inventory: agent_pb2.Inventory, view: NodeView, link: Link) -> None:
        placed = self._placed_on(view.id)
        observed = self._own(inventory.instances, placed)
        self.tracker.inventory(view, placed, observed)
        view.unknown = self._strange(inventory.instances, placed)
        view.problems = reports.sentences(inventory.problems)
        self.dispatcher.attach(link)
        self.ledger.tell("node.ready", view.name, f"node {view.name} is ready with {len(observed)} instances")
        self._wake_apps_on(view.id)
        self.reported(view)

    def _observed(self, change: agent_pb2.ObservedChange, view: NodeView) -> None:
        owners, placed = self.ledger.state.owners, self._placed_on(view.id)
        seen = self._own(change.instances, placed)
        self._tell(seen)
        view.unknown |= self._strange(change.instances, placed)
        for instance in change.gone:
            view.unknown.pop(instance, None)
        changed = self.tracker.observed(view, seen, [instance for instance in change.gone if instance in placed])
        if change.problems_changed:
            view.problems = reports.sentences(change.problems)
        paths = {owners[instance] for instance in changed}
        self.dispatcher.refresh_routes(paths)
        self.decider.wake(paths, urgent=False)
        self.reported(view)

    def _tell(self, seen: Iterable[Observed]) -> None:
        for report in seen:
            path = self.ledger.state.owners[report.instance]
            for kind, sentence in transitions(self.tracker.sighting(report.instance).observed, report):
                self.ledger.tell(kind, report.instance, sentence, path)

    @staticmethod
    def _own(messages: Iterable[model_pb2.Observed], placed: Set[str]) -> list[Observed]:
        """Return reports on instances that are placed on this node; an agent has no say in any other."""
        return [reports.observed(message) for message in messages if message.instance in placed]

    @staticmethod
    def _strange(messages: Iterable[model_pb2.Observed], placed: Set[str]) -> dict[str, Observed]:
        """Return reports on what is not placed there: nothing is decided by them, they are only shown."""
        strange = (message for message in messages if message.instance not in placed)
        return {report.instance: report for report in map(reports.observed, islice(strange, STRANGE))}

    def _placed_on(self, node: str) -> Set[str]:
        return self.ledger.state.placed_on(node).keys()

    async def Bulk(self, request_iterator: AsyncIterator[agent_pb2.BulkUp], context: Context) -> AsyncIterator[agent_pb2.BulkDown]:
        try:
            identity = caller(context, self.cluster_id, Role.NODE)
            messages = aiter(request_iterator)
            first = await anext(messages, agent_pb2.BulkUp())
            channel = self.switchboard.take(first.open, identity.name)
        except GestaltError as error:
            await abort(context, error)
        reader = asyncio.create_task(_upwards(messages, channel))
        try:
            async with aclosing(_downwards(channel)) as inputs:
                async for message in inputs:
                    yield message
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            await channel.end_up()


@contextmanager
def _in_line(view: NodeView) -> Iterator[None]:
    """Note that a report of a node waits to be taken in. Nothing more is read of it until then; it is there."""
    view.is_in_line, view.last_seen = True, clock.monotonic()
    try:
        yield
        view.last_seen = clock.monotonic()
    finally:
        view.is_in_line = False


async def _outgoing(link: Link) -> AsyncGenerator[agent_pb2.CoordinatorMessage, None]:
    """Yield what is to be sent until the link is closed."""
    while not link.closed.is_set():
        message = await link.outbox.get()
        if not link.closed.is_set():
            link.sent = clock.monotonic()
            yield message


async def _next(queue: asyncio.Queue[T], closed: asyncio.Event) -> T | None:
    """Return the next item of a queue, or None once `closed` is set."""
    item, end = asyncio.create_task(queue.get()), asyncio.create_task(closed.wait())
    try:
        await asyncio.wait((item, end), return_when=asyncio.FIRST_COMPLETED)
        return item.result() if item.done() and not closed.is_set() else None
    finally:
        item.cancel()
        end.cancel()


async def _upwards(messages: AsyncIterator[agent_pb2.BulkUp], channel: Channel) -> None:
    async for message in messages:
        await channel.up.put(message)
    await channel.end_up()


async def _downwards(channel: Channel) -> AsyncGenerator[agent_pb2.BulkDown, None]:
    """Yield the caller's input until the caller is gone."""
    while (message := await _next(channel.down, channel.closed)) is not None:
        yield message
    await channel.closed.wait()
