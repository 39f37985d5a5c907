"""When something exclusive may be given to another node: pure rules, on the boot-time clock.

A holder is at work only under its lease, which a fence renews by a write that checks its membership and the grant's znode. So nobody is at
work under a grant any more when

- its revocation is in ZooKeeper, and the lease of that membership, read after that, does not list it: it was never taken, or handed back;
- or lease + kill + margin have passed since this leader saw that the membership is over, or knew the revocation to be in ZooKeeper:
  nothing can have renewed it since. Lease and kill are those of the fence, which that lease tells, or the leader's own if they are
  longer: a mistake in the settings of one member must not make two holders. Of a node without membership the storage has to refuse the
  packets, too;
- or the node is back with another membership, under which the grant cannot be taken, and its agent says that nothing of it is left;
- or an operator says so.

That an agent of the same membership says that it is gone is no proof: it may be starting it from what it was told before. It only has
the grant revoked, and the lease, handed back by then, proves the rest in a moment.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from gestalt.config import TimingSettings
from gestalt.model import Phase
from gestalt.zk.grants import GrantMark, LeaseMark

from .records import App, Grant

AT_WORK = frozenset({Phase.STARTING, Phase.RUNNING, Phase.STOPPING})
"""In these phases something may act."""


class StorageFence(Protocol):
    """Keeps a lost node from what it held, by other means than its own fence. All methods are called in the loop and must not block."""

    def secured(self, node: str, incarnation: int, address: str) -> bool:
        """Ask that a node be refused because its membership `incarnation` is over, and return whether that is so everywhere.

        Idempotent; asked again and again while something exclusive of that membership is placed, from the moment at which its loss is
        seen. Nobody asks of a node that has another membership: when and how a refusal is lifted is the storage fence's own affair.
        `address`: of the node, as far as it is known.
        """
        ...

    def on_change(self, wake: Callable[[], None]) -> None:
        """Have `wake` called whenever an answer of `secured` may have become true."""
        ...


class NoStorageFence:
    """Nothing but the leases keeps a lost node from what it held."""

    def secured(self, node: str, incarnation: int, address: str) -> bool:
        """Return True."""
        return True

    def on_change(self, wake: Callable[[], None]) -> None:
        """Never call it."""


@dataclass(frozen=True, slots=True)
class Rules:
    """`wait`: lease + kill + margin, seconds. `failover_after`: for how many seconds a node may be unreachable.

    `held`: lost instances are not replaced now, so that nothing is taken from a node that may well be at work.
    """

    wait: float
    failover_after: float
    held: bool = False


@dataclass(frozen=True, slots=True)
class Holder:
    """What is known of the holder of one grant.

    `member`: the number of the node's present membership, 0 = it has none. `confirmed`: the highest that was declared dead, infinite when
    the node was removed. `unreachable`: seconds for which it has been unreachable, None = it is not. `leaving`: the instance is to go.
    `gone`: the agent is heard, and says that nothing of it is left since it was told to stop; `present`: it says that it is at work.
    `over_for`: seconds since this leader saw that the membership of the grant is over; None = it is not. `revoked_for`: seconds since it
    knows the revocation to be in ZooKeeper; None = it does not. `lease`: as read after that. `wait`: lease + kill + margin by what its
    fence told, seconds, 0 = it told nothing, None = nobody has looked since the revocation. `secured`: the storage refuses the node.
    """

    grant: Grant
    member: int
    confirmed: float = 0.0
    unreachable: float | None = None
    leaving: bool = False
    gone: bool = False
    present: bool = False
    over_for: float | None = None
    revoked_for: float | None = None
    lease: LeaseMark | None = None
    wait: float | None = 0.0
    secured: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """`free`: nobody is at work under the grant, and nobody can be. `revoke`: nobody may take it from now on.

    `look_in`: seconds until time alone may change this. `why`: what it waits for, to follow "waits for node X: "; empty when the holder
    is to stay.
    """

    free: bool = False
    revoke: bool = False
    look_in: float = math.inf
    why: str = ""


FREE = Verdict(free=True)

LOOK_AGAIN = 1.0
"""Seconds until it is looked again whether a lease was read."""


def judge(holder: Holder, rules: Rules) -> Verdict:
    """Say what is to become of a grant."""
    grant = holder.grant
    if holder.confirmed >= grant.incarnation:
        return FREE
    if not grant.revoked:
        return _not_revoked(holder, rules)
    if holder.gone and holder.member > grant.incarnation:
        return FREE
    if holder.revoked_for is None:
        return Verdict(why="its right is taken back")
    if holder.lease is not None and not lists(holder.lease, grant):
        return FREE
    left = max(rules.wait, holder.wait or 0.0) - max(holder.revoked_for, holder.over_for or 0.0)
    if left > 0:
        return Verdict(look_in=left, why=f"may still hold it for {math.ceil(left)} s")
    if holder.wait is None:
        return Verdict(look_in=LOOK_AGAIN, why="ZooKeeper has not told yet for how long it may hold it")
    if not holder.member and not holder.secured:
        return Verdict(why="the other nodes do not all refuse its packets yet")
    return Verdict(why="it has not ended it yet") if holder.present else FREE


def _not_revoked(holder: Holder, rules: Rules) -> Verdict:
    """Tell whether a holder is to lose its right."""
    if holder.over_for is not None or (holder.leaving and holder.gone):
        return Verdict(revoke=True, why="its right is taken back")
    if holder.unreachable is None or rules.held:
        return Verdict()
    left = rules.failover_after - holder.unreachable
    if left > 0:
        return Verdict(look_in=left, why=f"is unreachable, and keeps it for {math.ceil(left)} s more")
    return Verdict(revoke=True, why="its right is taken back")


def lists(lease: LeaseMark, grant: Grant) -> bool:
    """Tell whether a grant may be held according to a lease. One of another membership says nothing: then it may."""
    return lease.incarnation != grant.incarnation or lease.grants.get(grant.name, 0) >= grant.generation


def wait_of(timing: TimingSettings) -> float:
    """Return the seconds after which nobody is at work any more whose right was taken back, or who cannot renew it."""
    return timing.lease + timing.kill + timing.margin


def wait_by(lease: LeaseMark, timing: TimingSettings) -> float:
    """Return the seconds after which nobody is at work any more under a lease, by what its fence told of it; 0: it holds nothing.

    Args:
        lease: as it was read.
        timing: the leader's own, for what the fence does not tell.
    """
    kill = timing.kill if lease.kill is None else lease.kill
    return lease.length + kill + timing.margin if lease.length else 0.0


def complaint(lease: float, kill: float, timing: TimingSettings) -> str:
    """Return what is wrong with the times of a node's fence, a sentence; empty when it may be relied upon as upon the others.

    Args:
        lease, kill: of the fence, seconds; 0 = it does not tell.
        timing: the leader's own.
    """
    if lease + kill <= timing.lease + timing.kill or not lease:
        return ""
    own = f"lease {timing.lease:g} s and kill {timing.kill:g} s"
    return (
        f"its fence.yaml says lease {lease:g} s and kill {kill:g} s, the leader's coordinator.yaml {own}: "
        "a replacement of what is exclusive waits for the longer ones; make `timing` the same on all members"
    )


def grant_name(app: App) -> str:
    """Return the name of an app's grant, which no other app ever has."""
    return f"{app.name}-{app.uid}"


def mark_of(grant: Grant) -> GrantMark:
    """Return what the grant's znode is to say."""
    if grant.revoked:
        return GrantMark(grant.app, grant.generation)
    instance = f"{grant.name}-{grant.serial}"
    return GrantMark(grant.app, grant.generation, instance, grant.node, grant.incarnation)


def caught_up(grant: Grant, found: GrantMark) -> Grant:
    """Return the record that follows from what an earlier leader wrote to ZooKeeper; mostly the one that there is.

    A leader writes to ZooKeeper what is decided already. If that is ahead of what is decided, the state was put back to an earlier one:
    whoever is named there may hold it, and numbers go on from there.
    """
    is_ahead = found.generation > grant.generation or (
        found.generation == grant.generation and not grant.revoked and found != mark_of(grant)
    )
    if not is_ahead:
        return grant
    node, incarnation = (found.node, found.incarnation) if found.node else (grant.node, grant.incarnation)
    return replace(grant, generation=found.generation, node=node, incarnation=incarnation, revoked=True)


def next_grant(before: Grant | None, app: App, serial: int, node: str, incarnation: int, *, last: int = 0) -> Grant:
    """Return the grant of a new instance. The one before it must be free; `last`: the generation of one that no record is of."""
    generation = max(before.generation if before else 0, last) + 1
    return Grant(app.path, grant_name(app), generation, serial, node, incarnation)
