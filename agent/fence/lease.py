"""How long the node may act on what is exclusive, and when the fence ends it: pure decisions on the boot-time clock.

A lease counts from the moment at which the request was sent whose committed answer renewed it. Everything that is not such an answer
(pings, reads, a request whose outcome is unknown) renews nothing. What is on disk is never later than what is so, so that a fence that
starts again ends things early rather than late; of another life of the machine nothing is left to end.

The mark in ZooKeeper lists at least what is live on disk, and that lists at least what is at work: a grant is taken there first, then
written down, then acted upon; it is handed back in the reverse order. So whatever is interrupted, nothing is at work that is not listed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from types import MappingProxyType

from gestalt.zk.grants import GrantMark, LeaseMark

RENEWALS = 4
"""How often a lease is renewed within its length."""


@dataclass(frozen=True, slots=True)
class Holding:
    """Something exclusive at work here, and the cgroups that hold all of its processes.

    `grant` at `generation`, as it was read at `version` and `modified` (the zxid of its last change). `closed`: its lease or its grant is
    over, it was killed, and it is not handed back yet: what still comes up in its cgroups is killed, too.
    """

    cgroups: tuple[str, ...]
    grant: str
    generation: int
    version: int = 0
    modified: int = 0
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """What is on disk. `until`: the end of the lease, 0 = there is none; `incarnation`: whose lease it is. Of the boot `boot` only."""

    boot: str = ""
    incarnation: int = 0
    until: float = 0.0
    holdings: Mapping[str, Holding] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def live(self) -> Mapping[str, Holding]:
        """What may be at work."""
        return {name: what for name, what in self.holdings.items() if not what.closed}

    @property
    def closed(self) -> Mapping[str, Holding]:
        """What was killed and is not handed back."""
        return {name: what for name, what in self.holdings.items() if what.closed}


@dataclass(frozen=True, slots=True)
class Membership:
    """What the fence knows of its membership. `incarnation`: 0 = it has none; `connected`: a request can be sent.

    `session`: the length that was granted last, in seconds; 0 = none was yet.
    """

    incarnation: int
    connected: bool
    session: float = 0.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the agent asks for: to start `name`, all of it in `cgroups`, under a grant of this generation."""

    name: str
    cgroups: tuple[str, ...]
    grant: str
    generation: int


@dataclass(frozen=True, slots=True)
class Renew:
    """Send the committed write that renews, and says what is held."""


@dataclass(frozen=True, slots=True)
class End:
    """Kill these holdings now; each is closed when it is certain that nothing of it is left."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before `until` (None: before something changes)."""

    until: float | None


def next_step(
    held: Held,
    membership: Membership,
    boot: str,
    now: float,
    *,
    length: float,
    tried: float,
    revoked: Collection[str] = (),
    told: bool = True,
) -> Renew | End | Wait:
    """Return what to do about the lease.

    Args:
        held: what is on disk.
        membership: how the node stands.
        boot: the present life of the machine.
        now: seconds since boot.
        length: of a lease, in seconds.
        tried: when a write was last sent that did not become a renewal for certain.
        revoked: what is held, but whose grant was written anew.
        told: ZooKeeper has the mark that says what is held.
    """
    live = held.live if held.boot == boot else {}
    if live and (now >= held.until or membership.incarnation not in (held.incarnation, 0)):
        return End(tuple(sorted(live)))
    again = tried + length / RENEWALS / 2
    due = inf
    if membership.connected and membership.incarnation and (live or not told):
        due = max(held.until - length + length / RENEWALS, again) if told else again
    if over := sorted(live.keys() & set(revoked)):
        return End(tuple(over))
    if now >= due:
        return Renew()
    until = min(due, held.until) if live else due
    return Wait(None if until == inf else until)


def may_start(held: Held, membership: Membership, boot: str, now: float, kill: float) -> bool:
    """Whether something exclusive may be started now: under a lease of this very membership that leaves time to end it again.

    Args:
        kill: seconds that ending it may take.
    """
    return held.boot == boot and 0 < held.incarnation == membership.incarnation and now + kill < held.until


def objection(wanted: Wanted, mark: GrantMark | None, node: str, incarnation: int) -> str:
    """Return why a grant, as ZooKeeper has it, must not be taken for what is wanted; nothing when it may."""
    if mark is None:
        return f"ZooKeeper has no grant {wanted.grant}"
    if mark.generation != wanted.generation:
        return f"the grant {wanted.grant} is at generation {mark.generation}, not {wanted.generation}"
    if not mark.node:
        return f"the grant {wanted.grant} is nobody's now"
    if mark.node != node:
        return f"the grant {wanted.grant} is that of node {mark.node}"
    if mark.incarnation != incarnation:
        return f"the grant {wanted.grant} is for membership {mark.incarnation} of this node, which is now at {incarnation}"
    if mark.instance != wanted.name:
        return f"the grant {wanted.grant} is for {mark.instance}"
    return ""


def obstacle(held: Held, wanted: Wanted, membership: Membership, boot: str) -> str:
    """Return why nothing can be taken as things stand here; nothing when it can."""
    if membership.incarnation == 0 or not membership.connected:
        return "there is no lease to be had: this node is no member of the cluster now"
    live = held.live if held.boot == boot else {}
    if live and held.incarnation != membership.incarnation:
        return "what an earlier membership held has not ended yet"
    before = live.get(wanted.name)
    if before is not None and (before.grant, before.generation) != (wanted.grant, wanted.generation):
        return f"it still holds generation {before.generation} of the grant {before.grant}"
    if other := next((name for name, what in live.items() if name != wanted.name and what.grant == wanted.grant), ""):
        return f"{other} still holds the grant {wanted.grant}"
    return ""


def mark_of(holdings: Mapping[str, Holding], incarnation: int, length: float, kill: float) -> LeaseMark:
    """Return what ZooKeeper is told when `holdings` are what is live."""
    grants = {what.grant: what.generation for what in holdings.values()}
    return LeaseMark(incarnation, length, grants, kill) if grants else LeaseMark(incarnation)


def shortened(held: Held, now: float, length: float) -> Held:
    """Return the account at the start of a fence, whose leases may be shorter than those of its last life: ZooKeeper is told of its own."""
    return replace(held, until=min(held.until, now + length))


def renewed(held: Held, incarnation: int, boot: str, sent: float, length: float) -> Held:
    """Return the account after a write of `incarnation` that was sent at `sent` is known to be committed.

    Answers may come in any order; a lease never gets shorter by one. One of another incarnation begins a lease of its own, with
    nothing held: what the former one held cannot go on under it.
    """
    if held.boot != boot:
        return Held(boot, incarnation, sent + length)
    if held.incarnation != incarnation:
        return held if held.live else replace(held, incarnation=incarnation, until=sent + length)
    return replace(held, until=max(held.until, sent + length))


def extended(held: Held, membership: Membership, boot: str, now: float, *, incarnation: int, sent: float, length: float) -> Held:
    """Return the account after every coordinator promised, asked at `sent`, that nothing of `incarnation` will be replaced for a while.

    It counts only while ZooKeeper cannot be asked, for a lease that is not over and is of that very incarnation; else nothing changes.
    """
    is_its_own = held.boot == boot and 0 < held.incarnation == incarnation and membership.incarnation in (incarnation, 0)
    if membership.connected or not is_its_own or not now < held.until or sent > now:
        return held
    return replace(held, until=max(held.until, sent + length))


def holding(held: Held, name: str, what: Holding) -> Held:
    """Return the account with one thing more. To be on disk before it is started."""
    return replace(held, holdings=MappingProxyType({**held.holdings, name: what}))


def closed(held: Held, name: str) -> Held:
    """Return the account after something was killed: it is at work no more, and must not come up again."""
    return holding(held, name, replace(held.holdings[name], closed=True)) if name in held.holdings else held


def ended(held: Held, name: str) -> Held:
    """Return the account without something of which nothing is left, and of which nothing more is started."""
    return replace(held, holdings=MappingProxyType({key: what for key, what in held.holdings.items() if key != name}))
