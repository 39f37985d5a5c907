"""The service Agents: one session an agent, and the streams that agents open on request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from dataclasses import dataclass

from gestalt import __version__, clock
from gestalt.errors import GestaltError, Kind
from gestalt.identity import Identity, Role
from gestalt.model import Observed
from gestalt.proto.v1 import agent_pb2, agent_pb2_grpc, model_pb2
from gestalt.wire import from_wire

from ..bulk import Channel, Switchboard
from ..decider import Decider
from ..dispatch import Dispatcher, Link
from ..ledger import Ledger
from ..nodes import NodeView, Tracker
from ..records import Node, instance_id
from ..transitions import transitions
from .guard import Context, abort, caller, streaming

log = logging.getLogger(__name__)

PROTOCOL = 1
SILENCE = 3
"""After so many missed heartbeats a session is over."""


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

    @streaming
    async def Session(
        self, request: AsyncIterator[agent_pb2.AgentMessage], context: Context
    ) -> AsyncIterator[agent_pb2.CoordinatorMessage]:
        identity = caller(context, self.cluster_id, Role.NODE)
        messages = aiter(request)
        hello = await self._hello(messages, identity)
        view = await self._admit(hello)
        link = Link(view.id, hello.address)
        log.info("node %s: session begins", view.name)
        welcome = agent_pb2.Welcome(
            cluster_id=self.cluster_id, epoch=self.ledger.epoch, coordinator_version=__version__, heartbeat=self.heartbeat
        )
        self.tracker.connected(view)
        reader = asyncio.create_task(self._read(messages, view, link))
        try:
            yield agent_pb2.CoordinatorMessage(welcome=welcome)
            async with aclosing(_outgoing(link)) as outgoing:
                async for message in outgoing:
                    yield message
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            self._leave(view, link)

    async def _hello(self, messages: AsyncIterator[agent_pb2.AgentMessage], identity: Identity) -> agent_pb2.Hello:
        async with asyncio.timeout(self.heartbeat * SILENCE):
            first = await anext(messages, agent_pb2.AgentMessage())
        hello = first.hello
        if not first.HasField("hello") or hello.protocol != PROTOCOL:
            raise GestaltError(Kind.REFUSED, f"an agent of protocol {PROTOCOL} has to say hello first", hint="upgrade the older of the two")
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

    async def _admit(self, hello: agent_pb2.Hello) -> NodeView:
        state = self.ledger.state
        if (link := self.dispatcher.link(hello.node_id)) is not None:
            await self._replace(link)
        if hello.node_id not in state.nodes:
            others = [node.name for node in state.nodes.values()]
            if self.mode == "appliance" and others:
                raise GestaltError(
                    Kind.REFUSED,
                    f"an appliance has exactly one node, this one has {others[0]}",
                    hint="make a cluster and move the appliance there: gestaltctl cluster export",
                )
            async with self.ledger.draft(f"node:{hello.node_id}", "join") as draft:
                draft.put_node(Node(hello.node_id, hello.node_name))
                draft.tell("node.joined", hello.node_name, f"node {hello.node_name} joined")
        view = self.tracker.node(hello.node_id, hello.node_name)
        view.name, view.address, view.agent_version = hello.node_name, hello.address, hello.agent_version
        view.facts.CopyFrom(hello.facts)
        return view

    async def _replace(self, link: Link) -> None:
        """Let a node come back whose last session has fallen silent; a second live claimant of its id is refused."""
        view = self.tracker.nodes[link.node]
        if clock.monotonic() - view.last_seen < self.heartbeat * (SILENCE - 1):
            raise GestaltError(
                Kind.EXISTS,
                f"node {link.node} has a live session already",
                hint="is there a second machine with a copy of its certificate?",
            )
        link.closed.set()
        self._leave(view, link)

    def _leave(self, view: NodeView, link: Link) -> None:
        if self.dispatcher.link(link.node) not in (link, None):
            return
        self.dispatcher.detach(link)
        if view.connected:
            self.tracker.disconnected(view)
            self.ledger.tell("node.disconnected", view.name, f"the session of node {view.name} ended")
            log.warning("node %s: session ended", view.name)
        self.decider.wake(self.ledger.state.apps)

    async def _read(self, messages: AsyncIterator[agent_pb2.AgentMessage], view: NodeView, link: Link) -> None:
        """Take in messages until the agent ends, breaks the contract or falls silent; then the whole session ends."""
        try:
            while True:
                async with asyncio.timeout(self.heartbeat * SILENCE):
                    message = await anext(messages)
                self._take(message, view, link)
        except (StopAsyncIteration, TimeoutError, asyncio.CancelledError):
            log.debug("node %s: nothing more to read", view.name)
        except GestaltError as error:
            log.warning("node %s: %s", view.name, error)
        finally:
            link.closed.set()

    def _take(self, message: agent_pb2.AgentMessage, view: NodeView, link: Link) -> None:
        view.last_seen = clock.monotonic()
        match message.WhichOneof("kind"):
            case "inventory":
                self._inventory(message.inventory, view, link)
            case "observed":
                self._observed(message.observed, view)
            case "facts":
                view.facts.CopyFrom(message.facts)
                self.decider.wake_unplaced()
            case "event":
                event = message.event
                self.ledger.tell(event.kind[:100], event.subject[:200], event.message[:2000], event.app)

    def _inventory(self, inventory: agent_pb2.Inventory, view: NodeView, link: Link) -> None:
        observed = self._own(inventory.instances, view)
        self.tracker.inventory(view, self._placed_on(view.id), observed)
        view.problems = tuple(inventory.problems)
        self.dispatcher.attach(link)
        self.ledger.tell("node.ready", view.name, f"node {view.name} is ready with {len(observed)} instances")
        self.decider.wake(self.ledger.state.apps)

    def _observed(self, change: agent_pb2.ObservedChange, view: NodeView) -> None:
        owners = self.ledger.state.owners
        gone = [instance for instance in change.gone if instance in owners]
        reports = self._own(change.instances, view)
        self._tell(reports)
        changed = self.tracker.observed(view, reports, gone)
        if change.problems_changed:
            view.problems = tuple(change.problems)
        paths = {owners[instance] for instance in changed}
        self.dispatcher.refresh_routes(paths)
        self.decider.wake(paths)

    def _tell(self, reports: Iterable[Observed]) -> None:
        for report in reports:
            path = self.ledger.state.owners[report.instance]
            for kind, sentence in transitions(self.tracker.sighting(report.instance).observed, report):
                self.ledger.tell(kind, report.instance, sentence, path)

    def _own(self, messages: Iterable[model_pb2.Observed], view: NodeView) -> list[Observed]:
        """Return reports on instances that are placed on this node; an agent has no say in any other."""
        placed = self._placed_on(view.id)
        return [from_wire(message, Observed) for message in messages if message.instance in placed]

    def _placed_on(self, node: str) -> set[str]:
        state = self.ledger.state
        return {
            instance_id(state.apps[path], placed.serial)
            for path, placements in state.placements.items()
            for placed in placements.instances
            if placed.node == node and path in state.apps
        }

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


async def _outgoing(link: Link) -> AsyncGenerator[agent_pb2.CoordinatorMessage, None]:
    """Yield what is to be sent until the link is closed."""
    closed = asyncio.create_task(link.closed.wait())
    try:
        while not link.closed.is_set():
            item = asyncio.create_task(link.outbox.get())
            await asyncio.wait((item, closed), return_when=asyncio.FIRST_COMPLETED)
            if not item.done():
                item.cancel()
                return
            yield item.result()
    finally:
        closed.cancel()


async def _upwards(messages: AsyncIterator[agent_pb2.BulkUp], channel: Channel) -> None:
    try:
        async for message in messages:
            await channel.up.put(message)
    finally:
        await channel.up.put(None)


async def _downwards(channel: Channel) -> AsyncGenerator[agent_pb2.BulkDown, None]:
    """Yield the caller's input until the caller is gone."""
    closed = asyncio.create_task(channel.closed.wait())
    ended = False
    try:
        while not channel.closed.is_set():
            if ended:
                await closed
                return
            item = asyncio.create_task(channel.down.get())
            await asyncio.wait((item, closed), return_when=asyncio.FIRST_COMPLETED)
            if not item.done():
                item.cancel()
                return
            message = item.result()
            ended = message is None
            if message is not None:
                yield message
    finally:
        closed.cancel()
