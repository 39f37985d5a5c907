"""How a node stands: a pure function from its record, its membership and its stream; and the watcher that learns of memberships.

A membership is an ephemeral znode of the node's fence. It is judged by its incarnation: one that is not above the incarnation whose
loss was noted is over, whatever a server that lags behind still shows.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from gestalt.errors import GestaltError, Kind
from gestalt.zk.paths import Paths

from .records import Node

if TYPE_CHECKING:  # an appliance needs no client of ZooKeeper
    from gestalt.zk.client import Stat, Watch, Zk

log = logging.getLogger(__name__)


class Life(StrEnum):
    """The states of a node, in the words of the design."""

    READY = "ready"
    CORDONED = "cordoned"
    DRAINING = "draining"
    DRAINED = "drained"
    MAINTENANCE = "maintenance"
    AGENT_DOWN = "agent-down"
    UNREACHABLE = "unreachable"
    LOST = "lost"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class Member:
    """What a node's fence says of itself. `boot`: the boot id of the machine.

    `lease` and `kill`: its times, seconds, 0 = it does not say. For people to see: what is waited for stands in its lease.
    """

    incarnation: int
    boot: str
    agent_running: bool
    lease: float = 0.0
    kill: float = 0.0


@dataclass(frozen=True, slots=True)
class Signs:
    """What the leader sees of a node now.

    `fenced`: nodes of this cluster have memberships; those of an appliance have none. `member`: its membership, None = there is none.
    `heard`: its stream stands and its inventory is in. `ever_heard`: this leader had its inventory once. `missing`: seconds for which the
    stream has been missing although the agent runs.
    """

    fenced: bool
    member: Member | None
    heard: bool
    ever_heard: bool
    missing: float


@dataclass(frozen=True, slots=True)
class Standing:
    """How a node stands. `reason`: why it is not ready, to follow its name; empty when it is.

    `away`: for how many seconds it has been unreachable, infinite when it is lost or left, None while nobody gives it up.
    `confirmed`: it is certain that nothing of it is at work any more.
    """

    life: Life
    reason: str = ""
    away: float | None = None
    confirmed: bool = False

    @property
    def is_gone(self) -> bool:
        """Its membership is over: what ran there is to run elsewhere."""
        return self.away == math.inf


def standing(record: Node | None, signs: Signs, unreachable_after: float) -> Standing:
    """Say how a node stands.

    Args:
        record: what is decided about it; None = it was removed.
        signs: what is seen of it.
        unreachable_after: seconds without a stream after which it counts as unreachable.
    """
    if not signs.fenced:
        return _unfenced(record, signs, unreachable_after)
    if record is None:
        return Standing(Life.LEFT, "has left the cluster", math.inf, confirmed=True)
    if signs.member is None or signs.member.incarnation <= record.lost:
        return _without_membership(record)
    if signs.heard:
        return _at_work(record)
    if not signs.member.agent_running:
        return Standing(Life.AGENT_DOWN, "has no running agent: its instances go on, nobody looks after them")
    if signs.missing < unreachable_after:
        return _at_work(record)
    silent = f"is a member, but its agent has not been heard for {signs.missing:.0f} s"
    return Standing(Life.UNREACHABLE, silent, signs.missing - unreachable_after)


def _unfenced(record: Node | None, signs: Signs, unreachable_after: float) -> Standing:
    """A node of an appliance: there is nowhere else to go, so that nobody gives it up."""
    if not signs.heard and (not signs.ever_heard or signs.missing >= unreachable_after):
        return Standing(Life.UNREACHABLE, "is not connected")
    return _at_work(record) if record is not None else Standing(Life.READY)


def _without_membership(record: Node) -> Standing:
    if not record.incarnation:
        return Standing(Life.LOST, "has not started its fence yet")
    confirmed = bool(record.lost) and record.confirmed == record.lost
    word = "was declared dead" if confirmed else "is dead or cut off"
    return Standing(Life.LOST, f"has lost its membership: it {word}", math.inf, confirmed)


def _at_work(record: Node) -> Standing:
    life = Life(record.admin)
    return Standing(life, "" if life is Life.READY else "is in maintenance" if life is Life.MAINTENANCE else f"is {life}")


def is_emptied(record: Node | None) -> bool:
    """Tell whether what runs on a node is to go elsewhere."""
    return record is not None and record.admin in (Life.DRAINING, Life.DRAINED)


def parse_member(value: bytes) -> Member | None:
    """Return the membership that a fence wrote; None when it does not say what it should."""
    try:
        found = json.loads(value)
        lease, kill = (float(found.get(name, 0.0)) for name in ("lease", "kill"))
        return Member(int(found["incarnation"]), str(found.get("boot", "")), found.get("agent", "running") == "running", lease, kill)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def noted(record: Node, member: Member | None) -> Node:
    """Return the record of a node with its loss or return; the same record if there is nothing to note.

    A membership that is over by its number changes nothing.
    """
    if member is None:
        return record if record.lost == record.incarnation else replace(record, lost=record.incarnation)
    if member.incarnation <= record.lost or (member.incarnation <= record.incarnation and not record.lost):
        return record
    return replace(record, incarnation=max(member.incarnation, record.incarnation), lost=0)


class MemberWatcher:
    """Watches the memberships of nodes. `changed(node, member)` is called in the loop with each first value and each change.

    A value that cannot be read changes nothing: the znode is there, so that the node lives.
    """

    def __init__(self, zk: Zk, paths: Paths, changed: Callable[[str, Member | None], None]) -> None:
        self._zk = zk
        self._paths = paths
        self._changed = changed
        self._watches: dict[str, Watch] = {}
        self._first: dict[str, asyncio.Event] = {}

    async def start(self, nodes: Iterable[str], limit: float) -> None:
        """Begin to watch nodes and wait for the first value of each.

        Raises:
            GestaltError: UNAVAILABLE, when ZooKeeper does not tell within `limit` seconds.
        """
        for node in nodes:
            self.watch(node)
        try:
            async with asyncio.timeout(limit):
                for first in list(self._first.values()):
                    await first.wait()
        except TimeoutError:
            hint = "is a majority of ZooKeeper's servers up?"
            raise GestaltError(Kind.UNAVAILABLE, f"ZooKeeper did not tell which nodes are alive within {limit:g} s", hint=hint) from None

    @property
    def nodes(self) -> frozenset[str]:
        return frozenset(self._watches)

    def watch(self, node: str) -> None:
        """Begin to watch a node; one that is watched already stays as it is."""
        if node in self._watches:
            return
        first = self._first[node] = asyncio.Event()

        def told(found: tuple[bytes, Stat] | None) -> None:
            first.set()
            self._told(node, found[0] if found is not None else None)

        self._watches[node] = self._zk.watch(self._paths.member(node), told)

    def _told(self, node: str, value: bytes | None) -> None:
        member = parse_member(value) if value is not None else None
        if value is not None and member is None:
            log.error("node %s: its membership cannot be read: %r", node, value[:200])
        else:
            self._changed(node, member)

    def forget(self, node: str) -> None:
        """Watch a node no more."""
        self._first.pop(node, None)
        if (watch := self._watches.pop(node, None)) is not None:
            watch.close()

    def close(self) -> None:
        for node in list(self._watches):
            self.forget(node)
