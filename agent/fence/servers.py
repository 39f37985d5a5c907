"""ZooKeeper as the fence uses it: one session, and what was read of the node's znodes in it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from gestalt.clock import boot_id, wall
from gestalt.zk.acl import Perm, acl_for
from gestalt.zk.client import Create, Delete, Op, SessionId, Set, Stat, Watch, Zk, ZkState, ZkUnavailable
from gestalt.zk.grants import LeaseMark
from gestalt.zk.known import KnownServers, kept_in
from gestalt.zk.paths import Paths
from gestalt.zk.session_length import is_beyond, objection

from .membership import Enter, Lease, Link, Member, Session, Tell
from .settings import FenceSettings

if TYPE_CHECKING:
    from gestalt.config import ZooKeeperSettings

log = logging.getLogger(__name__)

CONNECT_LIMIT = 5.0
_LINKS = {ZkState.CONNECTED: Link.CONNECTED, ZkState.SUSPENDED: Link.SUSPENDED, ZkState.LOST: Link.LOST}
_SHOWN = acl_for("world:anyone", perms=Perm.READ)
"""Coordinators read the membership; that they may remove it is a right of the node's own znode."""


class Servers:
    """The session, if there is one. Every write puts what was read in doubt, and raises what `Zk` raises."""

    def __init__(self, settings: FenceSettings, wake: Callable[[], None]) -> None:
        self._settings = settings
        self._wake = wake
        self._known = KnownServers(settings.zookeeper.hosts, kept_in(settings.data_dir))
        self._paths = Paths(settings.zookeeper.root)
        self._zk: Zk | None = None
        self._watch: Watch | None = None
        self._seen: tuple[int, int] | None = None
        self._timeout = 0.0
        self._objection = ""
        self.looked = False
        self.member: Member | None = None
        self.lease: Lease | None = None

    @property
    def current(self) -> Zk | None:
        """The session, if there is one."""
        return self._zk

    @property
    def link(self) -> Link:
        return _LINKS[self._zk.state] if self._zk is not None else Link.NONE

    @property
    def session(self) -> Session | None:
        return Session(self._zk.session.id, self._zk.session.password) if self._zk is not None else None

    @property
    def timeout(self) -> float:
        """The length of the last session that the servers granted, in seconds; 0: there was none yet."""
        return self._timeout

    @property
    def incarnation(self) -> int:
        """Of our own member znode, as it was read last; 0 = we have none."""
        is_ours = self.member is not None and self._zk is not None and self.member.owner == self._zk.session.id
        return self.member.incarnation if self.member is not None and is_ours else 0

    def doubt(self) -> None:
        """What was read may be over."""
        self.looked = False

    async def connect(self, resume: Session | None) -> None:
        """Begin a session, or take `resume` up, and watch the member znode.

        Raises:
            ZkUnavailable: no server answered.
        """
        settings = self._settings
        now = replace(settings.zookeeper, hosts=self._known.hosts)
        try:
            self._zk = await Zk.connect(
                cast("ZooKeeperSettings", now),  # the same fields, see `settings`
                session=settings.timing.session,
                name="fence",
                resume=SessionId(resume.id, resume.password) if resume else None,
                limit=CONNECT_LIMIT,
                on_state=self._state_changed,
                acl=_SHOWN,
            )
        except ZkUnavailable:
            self._known.failed()
            raise
        self._known.follow(self._zk)
        self._judge_session(self._zk.timeout)
        self._watch = self._zk.watch(self._paths.member(settings.node_id), self._member_changed)

    def _judge_session(self, granted: float) -> None:
        """Reckon with the session that was granted, and say once if it is another than the one that was asked for."""
        timing, self._timeout = self._settings.timing, granted
        found = objection(timing.session, granted, timing.lease)
        if found and found != self._objection:
            log.log(logging.ERROR if is_beyond(granted, timing.lease) else logging.WARNING, "%s", found)
        self._objection = found

    async def close(self, *, keep_session: bool = False) -> None:
        """Let the session go."""
        if self._watch is not None:
            self._watch.close()
        if self._zk is not None:
            await self._zk.close(keep_session=keep_session)
        self._zk, self._watch, self.looked, self.member, self._seen = None, None, False, None, None

    async def look(self) -> None:
        """Read what our own and others' writes left, up to now."""
        zk, node = self.zk(), self._settings.node_id
        path = self._paths.member(node)
        await zk.sync(path)
        lease, found = await zk.get(self._paths.lease(node)), await zk.get(path)
        self.lease = Lease(_number(lease[0]), lease[1].version) if lease else None
        self.member = self._member(*found) if found else None
        self._seen = (found[1].created, found[1].version) if found else None
        self.looked = True

    async def enter(self, action: Enter) -> None:
        """Become a member, in one transaction."""
        path, lease = self._paths.member(self._settings.node_id), self._paths.lease(self._settings.node_id)
        mark = LeaseMark(action.incarnation).encode()
        self.looked = False
        ops: list[Op] = [Delete(path, action.replaces)] if action.replaces is not None else []
        ops.append(Create(path, self._value(action.incarnation, action.agent), ephemeral=True))
        ops.append(Create(lease, mark) if action.lease is None else Set(lease, mark, action.lease))
        await self.zk().multi(ops)

    async def tell(self, action: Tell) -> None:
        """Write whether the agent runs."""
        self.looked = False
        value = self._value(action.incarnation, action.agent)
        await self.zk().set(self._paths.member(self._settings.node_id), value, action.version)

    async def leave(self, version: int) -> None:
        """Give the membership up."""
        self.looked = False
        await self.zk().delete(self._paths.member(self._settings.node_id), version)

    def is_in_doubt(self) -> None:
        """A write was refused: look again, now."""
        self.doubt()
        self._wake()

    def zk(self) -> Zk:
        """Return the session.

        Raises:
            ZkUnavailable: there is none.
        """
        if self._zk is None:
            raise ZkUnavailable("there is no connection to ZooKeeper")
        return self._zk

    def _value(self, incarnation: int, agent: bool) -> bytes:
        timing, runs = self._settings.timing, "running" if agent else "down"
        state = {"incarnation": incarnation, "boot": boot_id(), "agent": runs, "since": wall().isoformat()}
        return json.dumps({**state, "lease": timing.lease, "kill": timing.kill}).encode()

    def _member(self, value: bytes, stat: Stat) -> Member:
        """Read a member znode; what holds nonsense is somebody's all the same."""
        timing = self._settings.timing
        try:
            state = json.loads(value)
            running, times = state.get("agent") == "running", (state.get("lease"), state.get("kill"))
        except (ValueError, AttributeError):
            running, times = False, (None, None)
        return Member(stat.owner, _number(value), running, stat.version, times == (timing.lease, timing.kill))

    def _state_changed(self, _: ZkState) -> None:
        self.doubt()
        self._wake()

    def _member_changed(self, found: tuple[bytes, Stat] | None) -> None:
        if not self.looked or self._seen != ((found[1].created, found[1].version) if found else None):
            self.doubt()
            self._wake()


def _number(value: bytes) -> int:
    """Return the incarnation that a znode names, 0 if none."""
    try:
        return int(json.loads(value)["incarnation"])
    except (ValueError, TypeError, KeyError):
        return 0
