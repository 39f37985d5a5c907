"""The coordinator at work: takes office, listens, decides; the parts are put together here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence

import grpc

from gestalt import clock
from gestalt.config import CoordinatorSettings
from gestalt.daemon import Life, Service
from gestalt.proto.v1 import agent_pb2, agent_pb2_grpc, api_pb2, api_pb2_grpc
from gestalt.rpc_server import RpcServer

from .api.agents import AgentsServicer
from .api.apps import AppsServicer, change_reply
from .api.views import ClusterServicer, EventsServicer, NodesServicer, TasksServicer
from .bulk import Switchboard
from .decider import Decider
from .dispatch import Dispatcher, Link
from .events import EventRing
from .ledger import Ledger, Retention
from .nodes import Tracker
from .planner import Planner
from .present import Presenter
from .requests import Requests
from .status import Status
from .store import store_for
from .streams import Streams

log = logging.getLogger(__name__)

AUDITS = 10_000
"""Audit records that are kept in the store."""


class CoordinatorService(Service[CoordinatorSettings]):
    """A leading coordinator. Its parts, from the inside out: ledger, tracker, dispatcher, decider, servicers."""

    def __init__(self, settings: CoordinatorSettings, life: Life) -> None:
        self._settings = settings
        self._life = life
        self._events = EventRing(settings.event_ring)
        store = store_for(settings)
        self._ledger = Ledger(store, self._events, Retention(settings.task_retention, AUDITS, settings.request_retention))
        self._tracker = Tracker(clock.monotonic)
        self._dispatcher = Dispatcher(self._ledger.state, self._tracker, lambda: self._ledger.epoch)
        self._decider = Decider(self._ledger, self._tracker, self._dispatcher)
        self._switchboard = Switchboard()
        self._work: list[asyncio.Task[None]] = []
        self._server: RpcServer | None = None

    async def start(self) -> None:
        """Take office and listen.

        Raises:
            GestaltError: the store or the address cannot be used.
        """
        await self._ledger.take_office()
        for node in self._ledger.state.nodes.values():
            self._tracker.node(node.id, node.name)
        self._server = await RpcServer.start(self._settings.listen, self._settings.tls, self._register)
        self._spawn(self._decider.run(), "decider")
        self._spawn(self._watch_office(), "office")

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._server.port if self._server is not None else 0

    def link(self, node: str) -> Link | None:
        """Return the way to a connected agent."""
        return self._dispatcher.link(node)

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(lambda done: self._ended(done, name))
        self._work.append(task)

    def _ended(self, done: asyncio.Task[None], name: str) -> None:
        """A part that ends by itself is a fault of ours: it is better to start afresh than to go on half."""
        if not done.cancelled():
            log.critical("%s has ended", name, exc_info=done.exception())
            self._life.die(f"{name} has ended: {done.exception()}")

    async def _watch_office(self) -> None:
        """Step down when another leader has taken office; until then tell systemd that work is being done."""
        while not self._ledger.deposed.is_set():
            self._life.worked()
            try:
                async with asyncio.timeout(1.0):
                    await self._ledger.deposed.wait()
            except TimeoutError:
                continue
        self._life.die("another coordinator has taken office, or the store does not say what it holds")

    def _register(self, server: grpc.aio.Server) -> Sequence[str]:
        cluster, settings = self._settings.cluster_id, self._settings
        presenter = Presenter(self._ledger, self._tracker, self._decider, settings.unreachable_after)
        requests = Requests(self._ledger, lambda outcome: change_reply(presenter, outcome))
        planner = Planner(self._ledger, self._decider)
        streams = Streams(self._ledger, self._dispatcher, self._switchboard)
        status = Status(cluster, settings.mode, f"{settings.store.kind} {settings.store.path}", presenter, clock.monotonic())
        api_pb2_grpc.add_AppsServicer_to_server(AppsServicer(cluster, requests, presenter, planner, streams), server)
        api_pb2_grpc.add_NodesServicer_to_server(NodesServicer(cluster, presenter), server)
        api_pb2_grpc.add_TasksServicer_to_server(TasksServicer(cluster, presenter, self._events), server)
        api_pb2_grpc.add_EventsServicer_to_server(EventsServicer(cluster, self._events), server)
        api_pb2_grpc.add_ClusterServicer_to_server(ClusterServicer(cluster, status), server)
        agents = AgentsServicer(
            cluster, settings.mode, settings.heartbeat, self._ledger, self._tracker, self._dispatcher, self._decider, self._switchboard
        )
        agent_pb2_grpc.add_AgentsServicer_to_server(agents, server)
        services = [*api_pb2.DESCRIPTOR.services_by_name.values(), *agent_pb2.DESCRIPTOR.services_by_name.values()]
        return [service.full_name for service in services]

    async def reload(self, settings: CoordinatorSettings) -> None:
        """Only the log level changes at run time; what else differs is named."""
        same = settings.model_copy(update={"log_level": self._settings.log_level})
        if same != self._settings:
            log.warning("changed settings other than log_level count after a restart of the coordinator")

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop()
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        await self._ledger.close()


async def build(settings: CoordinatorSettings, life: Life) -> CoordinatorService:
    """Return a coordinator that works."""
    service = CoordinatorService(settings, life)
    await service.start()
    return service
