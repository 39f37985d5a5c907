"""Whether ZooKeeper's servers grant sessions of the length that was asked for; in words, for logs and for people. Pure.

They grant none shorter than `minSessionTimeout`, by default two ticks, nor longer than `maxSessionTimeout`, twenty. With their own default,
`tickTime=2000`, that is 4 s to 40 s.
"""

from __future__ import annotations

_TOLERANCE = 0.01
"""Seconds: sessions are negotiated in whole milliseconds."""


def objection(asked: float, granted: float, lease: float) -> str:
    """Return what to say of the session that the servers granted, with the way out; empty when it is the one that was asked for.

    Nothing is unsafe by another length: leadership is counted by what was granted, and leases do not depend on it.

    Args:
        asked: `timing.session`, seconds.
        granted: by the servers, seconds.
        lease: `timing.lease`, seconds.
    """
    if abs(granted - asked) <= _TOLERANCE:
        return ""
    told = f"ZooKeeper grants sessions of {granted:g} s, not of {asked:g} s as timing.session asks"
    if granted < asked:
        way = "set maxSessionTimeout (by default 20 ticks) higher in its zoo.cfg"
        effect = f"a node or leader is given up after {granted:g} s of silence"
        return f"{told}: {effect}; {way}, or timing.session to {granted:g}s on all members"
    effect = f"a node or leader is given up only after {granted:g} s of silence"
    if is_beyond(granted, lease):
        effect += f", and without ZooKeeper what is exclusive ends before that, for a lease is {lease:g} s"
    way = f"set minSessionTimeout={asked * 1000:.0f} or tickTime={asked * 500:.0f} in the zoo.cfg of all its servers"
    return f"{told}: {effect}; {way}, or timing.session to {granted:g}s on all members"


def is_beyond(granted: float, lease: float) -> bool:
    """Tell whether a session is longer than a lease, which settings must not ask for."""
    return granted > lease + _TOLERANCE
