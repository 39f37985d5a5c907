"""A leader at work: everything that exists for one office, put together here, and gone with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass

import grpc

from gestalt import clock
from gestalt.config import CoordinatorSettings
from gestalt.proto.v1 import agent_pb2, agent_pb2_grpc, api_pb2, api_pb2_grpc
from gestalt.rpc_server import RpcServer
from gestalt.zk.client import Zk
from gestalt.zk.paths import Paths

from .api.agents import AgentsServicer
from .api.apps import AppsServicer, change_reply
from .api.control import ControlServicer
from .api.guard import OfficeGuard
from .api.members import JoinsServicer, MembersServicer
from .api.views import EventsServicer, TasksServicer
from .brakes import Allowance, Brakes, Doubt
from .bulk import Switchboard
from .decider import Decider
from .dispatch import Dispatcher, Link
from .election import Candidate
from .enrolment import Enrolment
from .events import EventRing
from .keeper import NodeKeeper, Reach
from .ledger import Ledger, Retention
from .nodes import Tracker
from .office import Office
from .planner import Planner
from .present import Presenter
from .requests import Requests
from .status import Status
from .store.base import MetaStore
from .streams import Streams

log = logging.getLogger(__name__)

AUDITS = 10_000
"""Audit records that are kept in the store."""

SERVICES = tuple(service.full_name for file in (api_pb2, agent_pb2) for service in file.DESCRIPTOR.services_by_name.values())
"""The services that only a leader gives."""


@dataclass(frozen=True, slots=True)
class Seat:
    """What a leader leads with. `zk`: its session, in a cluster. `roster`: who else stands by, itself the first."""

    store: MetaStore
    office: Office
    where: str
    zk: Zk | None = None
    roster: Callable[[], Sequence[Candidate]] = tuple


class Leader:
    """A leading coordinator. Its parts, from the inside out: ledger, tracker, dispatcher, decider, servicers.

    `fail` hears when a part has ended by itself: a fault of ours, after which it is better to start afresh than to go on half.
    """

    def __init__(self, settings: CoordinatorSettings, seat: Seat, fail: Callable[[str], None]) -> None:
        self._settings = settings
        self._seat = seat
        self._fail = fail
        self.events = EventRing(settings.event_ring)
        retention = Retention(settings.task_retention, AUDITS, settings.request_retention)
        self.ledger = Ledger(seat.store, self.events, retention, seat.office)
        self.tracker = Tracker(
            clock.monotonic, self.ledger.state.nodes, unreachable_after=settings.unreachable_after, fenced=seat.zk is not None
        )
        self.dispatcher = Dispatcher(self.ledger.state, self.tracker, lambda: self.ledger.epoch)
        brakes = Brakes(Doubt(settings.hands_off_share), Allowance(settings.replacements_per_second))
        self.decider = Decider(self.ledger, self.tracker, self.dispatcher, brakes)
        self._keeper: NodeKeeper | None = None
        self._switchboard = Switchboard()
        self._work: list[asyncio.Task[None]] = []
        self._server: RpcServer | None = None
        self._join_server: RpcServer | None = None
        self._enrolment = Enrolment(settings, self.ledger)

    async def prepare(self) -> None:
        """Read what there is, after the ledger has begun the office.

        Raises:
            StoreError: the store cannot be used.
        """
        await self.ledger.read()
        self._enrolment = Enrolment.create(self._settings, self.ledger, self._seat.zk)
        await self._enrolment.begin()
        for node in self.ledger.state.nodes.values():
            self.tracker.node(node.id, node.name)
        if self._seat.zk is not None and self._settings.zookeeper is not None:
            paths, reach = Paths(self._settings.zookeeper.root), Reach(self.ledger, self.tracker, self.dispatcher, self.decider)
            self._keeper = NodeKeeper(reach, self._seat.zk, paths, self._seat.office.end)
            await self._keeper.start()

    async def listen(self, address: str) -> int:
        """Begin to act: answer callers and agents, decide. Returns the port. After it raised it may be called again.

        Raises:
            GestaltError: the address cannot be used.
        """
        guard = OfficeGuard(self._seat.office, SERVICES)
        tls, join_listen = self._settings.tls, self._settings.join_listen
        if join_listen and self._join_server is None:
            self._join_server = await RpcServer.start_open(join_listen, tls, self._register_joins, interceptors=(guard,))
        self._server = await RpcServer.start(address, tls, self.register, interceptors=(guard,))
        self._spawn(self.decider.run(), "decider")
        if self._keeper is not None:
            self._spawn(self._keeper.run(), "nodes")
        return self._server.port

    def link(self, node: str) -> Link | None:
        """Return the way to a connected agent."""
        return self.dispatcher.link(node)

    async def silence(self, grace: float = 0.0) -> None:
        """Close all streams and refuse new ones, with `grace` seconds for calls that are under way. Idempotent."""
        servers, self._server, self._join_server = (self._server, self._join_server), None, None
        await asyncio.gather(*(server.stop(grace) for server in servers if server is not None))

    async def stop(self, grace: float = 0.0) -> None:
        """End everything, streams first."""
        await self.silence(grace)
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        if self._keeper is not None:
            self._keeper.close()
        await self.ledger.close()

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(lambda done: self._ended(done, name))
        self._work.append(task)

    def _ended(self, done: asyncio.Task[None], name: str) -> None:
        if not done.cancelled():
            log.critical("%s has ended", name, exc_info=done.exception())
            self._fail(f"{name} has ended: {done.exception()}")

    def register(self, server: grpc.aio.Server) -> Sequence[str]:
        """Add the services to a server, and return their names."""
        cluster, settings, seat = self._settings.cluster_id, self._settings, self._seat
        presenter = Presenter(self.ledger, self.tracker, self.decider)
        requests = Requests(self.ledger, lambda outcome: change_reply(presenter, outcome))
        planner = Planner(self.ledger, self.decider)
        streams = Streams(self.ledger, self.dispatcher, self._switchboard)
        status = Status(cluster, settings.mode, seat.where, presenter, clock.monotonic(), seat.roster)
        api_pb2_grpc.add_AppsServicer_to_server(AppsServicer(cluster, requests, presenter, planner, streams), server)
        agents = self._agents()
        nodes = MembersServicer(cluster, presenter, self.ledger, self._enrolment, agents.hang_up)
        api_pb2_grpc.add_NodesServicer_to_server(nodes, server)
        api_pb2_grpc.add_TasksServicer_to_server(TasksServicer(cluster, presenter, self.events), server)
        api_pb2_grpc.add_EventsServicer_to_server(EventsServicer(cluster, self.events), server)
        api_pb2_grpc.add_ClusterServicer_to_server(ControlServicer(cluster, status, seat.office), server)
        agent_pb2_grpc.add_AgentsServicer_to_server(agents, server)
        return SERVICES

    def _register_joins(self, server: grpc.aio.Server) -> Sequence[str]:
        agent_pb2_grpc.add_JoinsServicer_to_server(JoinsServicer(self._enrolment), server)
        return ("gestalt.v1.Joins",)

    def _agents(self) -> AgentsServicer:
        settings = self._settings
        return AgentsServicer(
            settings.cluster_id,
            settings.mode,
            settings.heartbeat,
            self.ledger,
            self.tracker,
            self.dispatcher,
            self.decider,
            self._switchboard,
            enrolment=self._enrolment,
            silence=settings.timing.session if settings.mode == "cluster" else 0.0,
        )
