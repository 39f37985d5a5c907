"""How long the node may act on what is exclusive, and when the fence ends it: pure decisions on the boot-time clock.

A lease counts from the moment at which the request was sent whose committed answer renewed it. Everything that is not such an answer
(pings, reads, a request whose outcome is unknown) renews nothing. What is on disk is never later than what is so, so that a fence that
starts again ends things early rather than late; of another life of the machine nothing is left to end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

RENEWALS = 4
"""How often a lease is renewed within its length."""


@dataclass(frozen=True, slots=True)
class Holding:
    """Something exclusive at work here, and the cgroups that hold all of its processes."""

    cgroups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """What is on disk. `until`: the end of the lease, 0 = there is none; `incarnation`: whose lease it is. Of the boot `boot` only."""

    boot: str = ""
    incarnation: int = 0
    until: float = 0.0
    holdings: Mapping[str, Holding] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Membership:
    """What the fence knows of its membership. `incarnation`: 0 = it has none; `connected`: a request can be sent."""

    incarnation: int
    connected: bool


@dataclass(frozen=True, slots=True)
class Renew:
    """Send the committed write that renews."""


@dataclass(frozen=True, slots=True)
class End:
    """Kill these holdings now; each is out of the account when it is certain that nothing of it is left."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before `until` (None: before something changes)."""

    until: float | None


def next_step(held: Held, membership: Membership, boot: str, now: float, *, length: float, tried: float) -> Renew | End | Wait:
    """Return what to do about the lease.

    Args:
        held: what is on disk.
        membership: how the node stands.
        boot: the present life of the machine.
        now: seconds since boot.
        length: of a lease, in seconds.
        tried: when a renewal was last sent, whatever became of it.
    """
    if held.boot != boot or not held.holdings:
        return Wait(None)
    if now >= held.until or membership.incarnation not in (held.incarnation, 0):
        return End(tuple(sorted(held.holdings)))
    due = max(held.until - length + length / RENEWALS, tried + length / RENEWALS / 2)
    if membership.connected and membership.incarnation == held.incarnation:
        return Renew() if now >= due else Wait(min(due, held.until))
    return Wait(held.until)


def may_start(held: Held, membership: Membership, boot: str, now: float, kill: float) -> bool:
    """Whether something exclusive may be started now: under a lease of this very membership that leaves time to end it again.

    Args:
        kill: seconds that ending it may take.
    """
    return held.boot == boot and 0 < held.incarnation == membership.incarnation and now + kill < held.until


def renewed(held: Held, incarnation: int, boot: str, sent: float, length: float) -> Held:
    """Return the account after a write of `incarnation` that was sent at `sent` is known to be committed.

    Answers may come in any order; a lease never gets shorter by one. One of another incarnation begins a lease of its own, with
    nothing held: what the former one held cannot go on under it.
    """
    if held.boot != boot or held.incarnation != incarnation:
        left = held.holdings if held.boot == boot else {}
        return Held(boot, incarnation, sent + length) if not left else held
    return replace(held, until=max(held.until, sent + length))


def holding(held: Held, name: str, what: Holding) -> Held:
    """Return the account with one thing more. To be on disk before it is started."""
    return replace(held, holdings=MappingProxyType({**held.holdings, name: what}))


def ended(held: Held, name: str) -> Held:
    """Return the account without something of which nothing is left."""
    return replace(held, holdings=MappingProxyType({key: what for key, what in held.holdings.items() if key != name}))
