"""A coordinator of a cluster: it stands by, leads while it is elected, and stands by again, all in one process.

One session with ZooKeeper holds one candidacy and at most one office. Whatever ends the office, a missed deadline, another leader, an
operator, also ends the session: then the others need not wait for it, and we begin anew at the end of the line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
from collections.abc import Awaitable
from dataclasses import replace
from typing import TypeVar

from gestalt import __version__
from gestalt.config import CoordinatorSettings, ZooKeeperSettings
from gestalt.daemon import Life, Service
from gestalt.errors import GestaltError
from gestalt.zk.client import Set, Zk, ZkError, ZkRefused, ZkState, ZkUnavailable, ZkUnknown
from gestalt.zk.known import KnownServers, kept_in
from gestalt.zk.paths import Paths
from gestalt.zk.session_length import is_beyond, objection

from .admission import Admission
from .api.promises import PromisesServicer
from .election import Candidacy, CandidacyLost, Candidate, LeaderSight, Roster
from .garbage import sweep
from .grants import wait_of
from .leader import SERVICES, Leader, Seat
from .memory import Memory
from .office import RENEWALS, SHARE, Office
from .reception import Reception
from .renewal import keep_certificate
from .standby import Standby
from .store import formats
from .store.zookeeper import ZookeeperStore
from .store.zookeeper_candidacy import Candidacy as Claim
from .witness import Witness

log = logging.getLogger(__name__)

T = TypeVar("T")

PAUSE = 0.2
"""Seconds between the end of one session and the begin of the next, spread so that coordinators do not move in step."""

ADRIFT = 3.0
"""A session that has been without connection for so many times its length is given up: kazoo alone would wait for ever."""

_ASK_AGAIN = 0.1
_CLOSE_LIMIT = 2.0


class SessionOver(Exception):
    """The session with ZooKeeper has ended, or is not worth waiting for."""


class Connection:
    """One session with ZooKeeper, and whether it goes on."""

    def __init__(self, sight: LeaderSight) -> None:
        self.over = asyncio.Event()
        self._sight = sight
        self._adrift: asyncio.TimerHandle | None = None
        self._zk: Zk | None = None

    async def open(self, settings: ZooKeeperSettings, servers: KnownServers, session: float, name: str) -> Zk:
        """Begin the session, and go where the servers go.

        Raises:
            ZkUnavailable: no server answers.
        """
        self._sight.reach(connected=False)
        now = settings.model_copy(update={"hosts": servers.hosts})
        try:
            self._zk = await Zk.connect(now, session=session, name=name, on_state=self._heard)
        except ZkUnavailable:
            servers.failed()
            raise
        servers.follow(self._zk)
        self._heard(self._zk.state)
        return self._zk

    def _heard(self, state: ZkState) -> None:
        if self._adrift is not None:
            self._adrift.cancel()
            self._adrift = None
        self._sight.reach(connected=state is ZkState.CONNECTED)
        if state is ZkState.LOST:
            self.over.set()
        elif state is ZkState.SUSPENDED and self._zk is not None:
            self._adrift = asyncio.get_running_loop().call_later(self._zk.timeout * ADRIFT, self.over.set)

    async def close(self) -> None:
        """End the session; what does not answer is left to expire."""
        if self._adrift is not None:
            self._adrift.cancel()
        if self._zk is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._zk.close()), _CLOSE_LIMIT)

    async def during(self, work: Awaitable[T]) -> T:
        """Wait for work that has a meaning only in this session.

        Raises:
            SessionOver: it ended first; the work is cancelled.
        """
        working, ending = asyncio.ensure_future(work), asyncio.ensure_future(self.over.wait())
        try:
            await asyncio.wait((working, ending), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            raise SessionOver("the session with ZooKeeper is over")
        finally:
            for each in (working, ending):
                each.cancel()
            await asyncio.gather(working, ending, return_exceptions=True)


class ClusterService(Service[CoordinatorSettings]):
    """One of the coordinators of a cluster."""

    def __init__(self, settings: CoordinatorSettings, life: Life) -> None:
        assert settings.zookeeper is not None, "the settings are checked when they are read"
        self._settings = settings
        self._life = life
        self._zookeeper = settings.zookeeper
        self._servers = KnownServers(settings.zookeeper.hosts, kept_in(settings.data_dir))
        self._paths = Paths(settings.zookeeper.root)
        self._sight = LeaderSight(settings.timing.session * SHARE)
        self._standby = Standby(self._sight)
        self._office: Office | None = None
        promises = PromisesServicer(settings.cluster_id, wait_of(settings.timing), self.leads, lambda: self._sight.address)
        self._reception = Reception(settings, SERVICES, self._standby.answerers, promises)
        self._me = Candidate(settings.name, settings.advertise, __version__, formats.newest())
        self._work: list[asyncio.Task[None]] = []
        self._complaint = ""
        self._objection = ""
        self._witness = Witness.of(settings)
        self.leader: Leader | None = None
        self._newest: Leader | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen, and begin to stand for leadership; ZooKeeper may be away for now.

        Raises:
            GestaltError: the address cannot be used.
        """
        self.port = await self._reception.open()
        listen = f"{self._settings.listen.rpartition(':')[0]}:{self.port}"
        self._me = replace(self._me, address=self._me.address or listen)
        self._sight.own = self._me.address
        alive = self._life.tell_alive(lambda: True)  # the end of one of these tasks ends all of us anyway
        for work, name in ((self._stand(), "election"), (alive, "signs of life"), (keep_certificate(self._settings), "certificate")):
            task = asyncio.create_task(work, name=name)
            task.add_done_callback(self._ended)
            self._work.append(task)

    def _ended(self, done: asyncio.Task[None]) -> None:
        if not done.cancelled():
            log.critical("%s has ended", done.get_name(), exc_info=done.exception())
            self._life.die(f"{done.get_name()} has ended: {done.exception()}")

    async def _stand(self) -> None:
        """Stand for leadership for ever, one session after the other."""
        while True:
            try:
                await self._serve_session()
            except (SessionOver, CandidacyLost, ZkError, GestaltError) as error:
                self._complain(str(error))
            await asyncio.sleep(PAUSE * random.uniform(0.5, 1.0))  # noqa: S311 (spreads load, guards nothing)

    def _complain(self, complaint: str) -> None:
        """Say why there is no candidacy, once for as long as it stays the same."""
        level = logging.DEBUG if complaint == self._complaint else logging.WARNING
        log.log(level, "standing by again: %s", complaint)
        self._complaint = complaint

    async def _serve_session(self) -> None:
        connection = Connection(self._sight)
        watching: asyncio.Task[None] | None = None
        try:
            zk = await connection.open(self._zookeeper, self._servers, self._settings.timing.session, f"coordinator-{self._me.name}")
            self._complaint = ""
            self._judge_session(zk.timeout)
            self._standby.remember(None)
            sweep()
            zk.watch(self._paths.leader, self._sight.seen)
            admission = Admission(zk, self._paths, self._me, self._not_admitted, self._witness)
            await connection.during(admission.wait())
            watching = asyncio.create_task(self._witness.follow(zk, self._paths), name="witness")
            candidacy = Candidacy(zk, self._paths, self._me)
            await candidacy.enter()
            await connection.during(_until_first(candidacy))
            await connection.during(admission.confirm())  # much may have happened while we waited
            sweep()  # calls that the last office cut off may have ended late
            await Term(self, zk, connection, candidacy).serve()
        finally:
            if watching is not None:
                watching.cancel()
            await connection.close()

    def _judge_session(self, granted: float) -> None:
        """Reckon with the session that was granted, and say once if it is another than the one that was asked for."""
        self._sight.patience = granted * SHARE
        timing = self._settings.timing
        found = objection(timing.session, granted, timing.lease)
        if found and found != self._objection:
            log.log(logging.ERROR if is_beyond(granted, timing.lease) else logging.WARNING, "%s", found)
        self._objection = found

    def _not_admitted(self, why: str) -> None:
        if why and why != self._sight.handicap:
            log.error("not admitted as candidate for leadership: %s", why)
        self._sight.handicap = why

    def leads(self) -> bool:
        """Return whether we hold an office now."""
        return self._office is not None and self._office.holds()

    # What a term needs of us

    @property
    def settings(self) -> CoordinatorSettings:
        return self._settings

    @property
    def paths(self) -> Paths:
        return self._paths

    @property
    def me(self) -> Candidate:
        return self._me

    async def lead(self, leader: Leader) -> None:
        """Let a leader answer in our stead."""
        self.leader = leader
        self._reception.hand_over(leader.begin())
        self._sight.tell(self._me.address)
        await self._reception.tell_health()

    def refer(self) -> None:
        """Refer callers to whoever leads from this moment on: it is not us. Idempotent."""
        self.leader = self._newest = None
        self._sight.tell("")
        self._reception.hand_over(self._standby.answerers)

    async def stand_by(self, last: Leader | None) -> None:
        """Go on as a standby. `last`: the leader that we were when ZooKeeper went away, to be remembered."""
        self._standby.remember(Memory(last.register, self._sight) if last is not None else None)
        await self._reception.tell_health()

    def new_leader(self, seat: Seat) -> Leader:
        self._office = seat.office
        self._newest = Leader(self._settings, seat, self._life.die)
        return self._newest

    async def reload(self, settings: CoordinatorSettings) -> None:
        """Take over what can change at run time, for an office that goes on or begins, and for those that come."""
        self._settings = settings
        if self._newest is not None:
            self._newest.renew(settings)

    async def stop(self) -> None:
        """Give up an office at once, so that another may take it."""
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        await self._reception.close()


class Term:
    """One office, from its taking to its end."""

    def __init__(self, service: ClusterService, zk: Zk, connection: Connection, candidacy: Candidacy) -> None:
        self._service = service
        self._zk = zk
        self._connection = connection
        self._office = Office.of_session(zk.timeout)
        self._over = asyncio.Event()
        claim = Claim(candidacy.path, service.me.encode(), service.paths.barred(service.me.name))
        self._store = ZookeeperStore(zk, service.paths, service.settings.cluster_id, candidate=lambda: claim)
        self._roster = Roster(zk, service.paths)
        where = f"zookeeper {','.join(service.settings.zookeeper.hosts if service.settings.zookeeper else ())}{service.paths.root}"
        self._leader = service.new_leader(Seat(self._store, self._office, where, zk, self._line))
        self._office.on_end(service.refer)  # what is under way has been cut off before that, by the leader
        self._office.on_end(self._over.set)
        self._watch: asyncio.TimerHandle | None = None

    def _line(self) -> tuple[Candidate, ...]:
        """Return ourselves and who stands by."""
        me = self._service.me
        return (me, *(other for other in self._roster.candidates if other.address != me.address))

    async def serve(self) -> None:
        """Take office, lead until the office is over, and leave nothing of it behind. Streams are closed first of all.

        Raises:
            StoreError: the office could not be taken.
        """
        renewing: asyncio.Task[None] | None = None
        try:
            await self._leader.ledger.begin()
            self._look()
            renewing = asyncio.create_task(self._renew(), name="renewal of the office")
            await self._inaugurate()
            await self._connection.during(self._over.wait())
        except SessionOver as over:
            self._office.end(str(over))
        finally:
            self._office.end("the coordinator stops")
            last = self._leader if self._zk.state is ZkState.SUSPENDED else None
            await self._leader.silence()
            closing = asyncio.ensure_future(self._connection.close())
            log.warning("the office of epoch %d is over: %s", self._leader.ledger.epoch, self._office.reason)
            await self._clean_up(renewing, closing, last)

    async def _clean_up(self, renewing: asyncio.Task[None] | None, closing: asyncio.Future[None], last: Leader | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        if renewing is not None:
            renewing.cancel()
        self._roster.close()
        await self._service.stand_by(last)
        await asyncio.gather(self._leader.stop(), closing, *([renewing] if renewing else []), return_exceptions=True)

    async def _inaugurate(self) -> None:
        """Read everything and begin to act, unless the office ends meanwhile."""

        async def begin() -> None:
            await self._leader.prepare()
            if self._office.holds():
                await self._service.lead(self._leader)

        beginning, ending = asyncio.ensure_future(begin()), asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait((beginning, ending), return_when=asyncio.FIRST_COMPLETED)
            if beginning.done():
                beginning.result()
        finally:
            for each in (beginning, ending):
                each.cancel()
            await asyncio.gather(beginning, ending, return_exceptions=True)

    def _look(self) -> None:
        """See to it that the end of the office is noticed when it comes, and right after a stall. A timer alone sleeps in a suspend."""
        if self._office.holds():
            later = min(self._office.remaining() + 0.001, self._zk.timeout / RENEWALS)
            self._watch = asyncio.get_running_loop().call_later(later, self._look)

    async def _renew(self) -> None:
        """Write, fenced, several times in a session's length; the deadline itself ends the office when that fails for too long."""
        period = self._zk.timeout / RENEWALS
        me, epoch = self._service.me, self._leader.ledger.epoch
        told = {"epoch": epoch, "name": me.name, "address": me.address, "version": me.version, "session": self._zk.timeout}
        value = json.dumps(told, sort_keys=True).encode()
        while self._office.holds():
            sent = self._office.now()
            try:
                await self._zk.multi([self._store.fence(), Set(self._service.paths.leader, value)])
                self._office.answered(sent)
            except ZkRefused as refusal:
                self._office.end(f"another coordinator has taken office ({refusal})")
            except (ZkUnavailable, ZkUnknown) as error:
                log.warning("the office was not renewed, %.2g s are left: %s", self._office.remaining(), error)
                await asyncio.sleep(_ASK_AGAIN)
                continue
            await asyncio.sleep(max(sent + period - self._office.now(), 0.0))


async def _until_first(candidacy: Candidacy) -> None:
    while True:
        try:
            return await candidacy.first()
        except ZkUnavailable:
            await asyncio.sleep(_ASK_AGAIN)
