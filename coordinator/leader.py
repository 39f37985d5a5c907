"""A leader at work: everything that exists for one office, put together here, and gone with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from gestalt import clock
from gestalt.config import CoordinatorSettings
from gestalt.proto.v1 import agent_pb2, agent_pb2_grpc, api_pb2, api_pb2_grpc
from gestalt.zk.client import Zk
from gestalt.zk.paths import Paths

from . import deadlines
from .api.agents import AgentsServicer
from .api.apps import AppsServicer, change_reply
from .api.changes import ChangesServicer
from .api.control import ControlServicer
from .api.control_plane import ControlPlaneServicer
from .api.guard import OfficeGuard
from .api.jobs import JobsServicer
from .api.members import JoinsServicer, MembersServicer
from .api.recovery import RecoveryServicer
from .api.views import EventsServicer, TasksServicer
from .autoscaler import Autoscaler
from .balancer import Balancer
from .brakes import Allowance, Brakes, Doubt
from .bulk import Switchboard
from .decider import Decider
from .dispatch import Dispatcher, Link
from .election import Candidate
from .enrolment import Enrolment
from .events import EventRing
from .garbage import Garbage
from .grant_keeper import GrantKeeper
from .keeper import NodeKeeper, Reach
from .ledger import Ledger, Retention
from .nodes import Tracker
from .office import Office
from .planner import Planner
from .present import Presenter
from .pulse import Pulse
from .reception import Answerers, Desk
from .recovery import Recovery
from .requests import Requests
from .status import Status
from .storage_fence import NetfilterFence
from .store.base import MetaStore
from .streams import Streams

log = logging.getLogger(__name__)

AUDITS = 10_000
"""Audit records that are kept in the store."""

_ELSEWHERE = {"gestalt.v1.Joins", "gestalt.v1.Promises"}
"""Services with an address of their own, and those that coordinators give whether they lead or not."""

SERVICES = tuple(
    service.full_name
    for file in (api_pb2, agent_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    if service.full_name not in _ELSEWHERE
)
"""The services that only a leader gives."""

BEATS = 3
"""How often an agent that hears nothing else hears of us within the silence that it bears; twice at least, whatever it hears."""
SILENCE_LIMIT = 0.1
"""Seconds for which the end of an office waits for the calls that it cuts off; nothing of the office leaves in them any more."""


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
        self.ledger = Ledger(seat.store, self.events, _retention(settings), seat.office)
        self._session = seat.zk.timeout if seat.zk is not None else settings.timing.session
        patience = settings.patience_with_agents(self._session)
        self.tracker = Tracker(clock.monotonic, self.ledger.state.nodes, unreachable_after=patience, fenced=seat.zk is not None)
        self.dispatcher = Dispatcher(self.ledger.state, self.tracker, lambda: self.ledger.epoch)
        self._brakes = brakes = Brakes(Doubt(settings.hands_off_share), Allowance(settings.replacements_per_second))
        self.decider = Decider(self.ledger, self.tracker, self.dispatcher, brakes, settings.timing)
        self.autoscaler = Autoscaler(self.ledger, self.tracker, self.decider)
        self.balancer = Balancer(self.ledger, self.tracker, self.decider)
        self._reach = Reach(self.ledger, self.tracker, self.dispatcher, self.decider, settings.heartbeat)
        self.storage_fence = NetfilterFence.install(settings, self._reach)
        self._keeper: NodeKeeper | None = None
        self._grants: GrantKeeper | None = None
        self._switchboard = Switchboard()
        self._work: list[asyncio.Task[None]] = []
        self._garbage = Garbage()
        self._guard = OfficeGuard(seat.office)
        self._enrolment = Enrolment(settings, self.ledger)

    def renew(self, settings: CoordinatorSettings) -> None:
        """Take over what can change while we lead. It counts from the next decision on."""
        self._settings = settings
        self.ledger.retention = _retention(settings)
        self._brakes.doubt.share = settings.hands_off_share
        self._brakes.allowance.rate = settings.replacements_per_second

    async def prepare(self) -> None:
        """Read what there is, after the ledger has begun the office.

        Raises:
            StoreError: the store cannot be used.
        """
        self._garbage.begin()
        await self.ledger.read()
        self._garbage.begin()
        Recovery(self.ledger, self._brakes, self.decider).begin()
        self._enrolment = Enrolment.create(self._settings, self.ledger, self._seat.zk)
        await self._enrolment.begin()
        self.ledger.on_commit(self._enrolment.committed)
        for node in self.ledger.state.nodes.values():
            self.tracker.node(node.id, node.name)
        if self._seat.zk is not None and self._settings.zookeeper is not None:
            paths = Paths(self._settings.zookeeper.root)
            self._keeper = NodeKeeper(self._reach, self._seat.zk, paths, self._seat.office.end)
            await self._keeper.start()
            await self.storage_fence.watch(self._seat.zk)
            self._grants = GrantKeeper.create(self.ledger, self.decider.grants, self._seat.zk, self._seat.store, self._settings.zookeeper)
            await self._grants.start()

    def begin(self) -> Answerers:
        """Begin to act: decide, and look after the nodes. Returns those who answer callers and agents, and machines that join."""
        main, joins = Desk(self._guard), Desk(self._guard)
        self.register(main)
        self._register_joins(joins)
        self._spawn(self.decider.run(), "decider")
        self._spawn(self.decider.preemption.run(), "preemption")
        self._spawn(self.autoscaler.run(), "autoscaler")
        self._spawn(self.balancer.run(), "balancer")
        self._spawn(self._garbage.run(), "garbage")
        if self._keeper is not None:
            self._spawn(self._keeper.run(), "nodes")
            self._spawn(self.storage_fence.run(), "storage fence")
        else:
            self._spawn(deadlines.run(self.ledger), "deadlines")
        if self._grants is not None:
            self._grants.on_change(self.decider.learned)
            self._spawn(self._grants.run(), "grants")
        return Answerers(main, joins, leading=True)

    def link(self, node: str) -> Link | None:
        """Return the way to a connected agent."""
        return self.dispatcher.link(node)

    async def silence(self) -> None:
        """Cut off all calls and streams, and let no new ones in. The end of the office does so by itself. Idempotent."""
        self._guard.cut()
        await self._guard.ended(SILENCE_LIMIT)

    async def stop(self) -> None:
        """End everything, streams first."""
        await self.silence()
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        if self._keeper is not None:
            self._keeper.close()
        self.storage_fence.close()
        self._enrolment.close()
        try:
            await self.ledger.close()
        finally:
            self._garbage.end()

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(lambda done: self._ended(done, name))
        self._work.append(task)

    def _ended(self, done: asyncio.Task[None], name: str) -> None:
        if not done.cancelled():
            log.critical("%s has ended", name, exc_info=done.exception())
            self._fail(f"{name} has ended: {done.exception()}")

    def register(self, server: Any) -> None:
        """Add the services to a server, or to what stands in for one."""
        cluster, settings, seat = self._settings.cluster_id, self._settings, self._seat
        presenter = Presenter(self.ledger, self.tracker, self.decider, self.autoscaler.sentence)
        requests = Requests(self.ledger, lambda outcome: change_reply(presenter, outcome))
        planner = Planner(self.ledger, self.decider)
        streams = Streams(self.ledger, self.dispatcher, self._switchboard)
        status = Status(cluster, settings.mode, seat.where, presenter, clock.monotonic(), seat.roster)
        api_pb2_grpc.add_AppsServicer_to_server(AppsServicer(cluster, requests, presenter, planner, streams), server)
        api_pb2_grpc.add_JobsServicer_to_server(JobsServicer(cluster, requests, presenter), server)
        api_pb2_grpc.add_ChangesServicer_to_server(ChangesServicer(cluster, requests, presenter), server)
        agents = self._agents()
        self.ledger.on_commit(agents.committed)
        if agents.silence:
            self._spawn(Pulse(agents.sessions, agents.silence / BEATS).run(), "pulse")
        nodes = MembersServicer(cluster, presenter, self.ledger, self._enrolment, requests, self.balancer)
        api_pb2_grpc.add_NodesServicer_to_server(nodes, server)
        api_pb2_grpc.add_TasksServicer_to_server(TasksServicer(cluster, presenter, self.events), server)
        api_pb2_grpc.add_EventsServicer_to_server(EventsServicer(cluster, self.events), server)
        api_pb2_grpc.add_ClusterServicer_to_server(ControlServicer(cluster, status, seat.office), server)
        api_pb2_grpc.add_RecoveryServicer_to_server(RecoveryServicer(cluster, self.ledger, self.tracker), server)
        control_plane = ControlPlaneServicer(cluster, settings.name, self.ledger, self._enrolment, self.tracker, seat.roster)
        api_pb2_grpc.add_ControlPlaneServicer_to_server(control_plane, server)
        agent_pb2_grpc.add_AgentsServicer_to_server(agents, server)

    def _register_joins(self, server: Any) -> None:
        agent_pb2_grpc.add_JoinsServicer_to_server(JoinsServicer(self._enrolment), server)

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
            silence=self._session if settings.mode == "cluster" else 0.0,
            reported=self.storage_fence.reported,
        )


def _retention(settings: CoordinatorSettings) -> Retention:
    return Retention(settings.task_retention, AUDITS, settings.request_retention)
