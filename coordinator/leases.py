"""What the leases of nodes said when they were read, and for how long what they list may be held."""

from __future__ import annotations

from gestalt.config import TimingSettings
from gestalt.zk.grants import LeaseMark

from .grants import wait_by
from .membership import Member
from .records import Grant


class Leases:
    """Remembers for one leader. `timing`: its own times, for what a fence does not tell."""

    def __init__(self, timing: TimingSettings) -> None:
        self._timing = timing
        self._read: dict[str, tuple[LeaseMark | None, float]] = {}
        self._waits: dict[tuple[str, int], float] = {}

    def note(self, node: str, lease: LeaseMark | None, asked: float) -> None:
        """Note what the lease of a node says; None: nothing that can be understood. `asked`: when the read began.

        Of each membership the longest times that were told count, whatever becomes of the znode.
        """
        self._read[node] = lease, asked
        if lease is not None:
            key = node, lease.incarnation
            self._waits[key] = max(self._waits.get(key, 0.0), wait_by(lease, self._timing))

    def is_read(self, grant: Grant, since: float) -> bool:
        """Return whether the lease of the holder was asked for since a moment, and answered."""
        return grant.node in self._read and self._read[grant.node][1] >= since

    def lease(self, grant: Grant, since: float) -> LeaseMark | None:
        """Return the lease of the holder, as it was read since a moment; None: it was not, or says nothing."""
        return self._read[grant.node][0] if self.is_read(grant, since) else None

    def wait(self, grant: Grant, since: float, member: Member | None) -> float | None:
        """Return lease + kill + margin by what the holder told, 0 = it told nothing; None: it was not read since a moment.

        `member`: the present membership of its node, whose lease has been written anew if it is another one; its settings are the same.
        """
        if not self.is_read(grant, since):
            return None
        now = member.lease + member.kill + self._timing.margin if member is not None and member.lease else 0.0
        return max(self._waits.get((grant.node, grant.incarnation), 0.0), now)
