"""Grants in ZooKeeper that the state does not know: whoever they name may be at work, although nothing decided says so.

They come with a state that was put back to an earlier one. Until an operator ends the recovery they stay as they are, and so does what
runs under them; nothing exclusive of the same app starts beside it. Then they are taken back like any other, waited for by the same
rules, and removed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gestalt import clock
from gestalt.zk.grants import GrantMark

from .grants import AT_WORK, Holder, Rules, StorageFence, Verdict, judge
from .leases import Leases
from .nodes import Tracker
from .records import Grant
from .state import State


@dataclass(slots=True)
class _Strange:
    """`grant`: as if it were decided, and revoked. `revoked_at`: since when ZooKeeper says so; None = it does not yet."""

    grant: Grant
    instance: str
    revoked_at: float | None = None
    over_since: float | None = None


class StrangeGrants:
    """What one leader found when it took office.

    Args:
        state: what is decided; read, never changed.
        tracker: what is known of nodes and instances.
        leases: what the leases of nodes said.
        wait: lease + kill + margin by the leader's own times, seconds; a holder whose fence told longer ones is waited for longer.
        storage: returns who keeps a lost node from what it held.
        now: the boot-time clock.
    """

    def __init__(
        self,
        state: State,
        tracker: Tracker,
        leases: Leases,
        wait: float,
        *,
        storage: Callable[[], StorageFence],
        now: Callable[[], float] = clock.boottime,
    ) -> None:
        self._state, self._tracker, self._storage, self._now = state, tracker, storage, now
        self._rules, self._leases = Rules(wait, 0.0), leases
        self._found: dict[str, _Strange] = {}
        self._generations: dict[str, int] = {}

    def note(self, name: str, mark: GrantMark) -> None:
        """Note a grant that no record is of. One that names nobody was taken back by a leader before, which may not have waited for it."""
        node, incarnation = (mark.node, mark.incarnation) if mark.node else (mark.former_node, mark.former_incarnation)
        grant = Grant(mark.app, name, mark.generation, 0, node, incarnation, revoked=True)
        self._generations[name] = mark.generation
        self._found[name] = _Strange(grant, mark.instance, None if mark.node else self._now())

    def to_revoke(self) -> list[tuple[str, GrantMark]]:
        """Return those that ZooKeeper is to name nobody for, by name, and what it is to say: a later leader has to wait for the same."""
        left = [each.grant for each in self._found.values() if each.revoked_at is None]
        return [(one.name, GrantMark(one.app, one.generation, former_node=one.node, former_incarnation=one.incarnation)) for one in left]

    def revoked(self, name: str) -> None:
        """Note that ZooKeeper names nobody for this grant any more; to be called after it answered."""
        self._found[name].revoked_at = self._now()

    def to_read(self) -> set[str]:
        """Return the nodes whose leases may tell something that time has not told yet."""
        waiting = (each.grant for each in self._found.values() if each.revoked_at is not None and not self._verdict(each).free)
        return {grant.node for grant in waiting if grant.node}

    def over(self) -> list[str]:
        """Return the names of those under which nobody is at work any more, nor can be."""
        return [name for name, each in self._found.items() if self._verdict(each).free]

    def forget(self, name: str) -> str:
        """Note that ZooKeeper does not have it any more; return the path of its app."""
        return self._found.pop(name).grant.app

    def names(self) -> set[str]:
        """Return the names of all."""
        return set(self._found)

    def __bool__(self) -> bool:
        return bool(self._found)

    def generation(self, name: str) -> int:
        """Return the generation that was found of a grant, 0: there was none; the next one goes on from there."""
        return self._generations.get(name, 0)

    def why_taken(self, path: str) -> str:
        """Return why nothing exclusive of an app may start because of these, a sentence; empty when they do not keep it."""
        for each in self._found.values():
            verdict = self._verdict(each)
            if each.grant.app == path and not verdict.free:
                node = self._state.nodes.get(each.grant.node)
                where = f"node {node.name if node else each.grant.node}" if each.grant.node else "a node"
                return f"{where} may run a copy that the restored state does not know: {verdict.why}"
        return ""

    def _verdict(self, each: _Strange) -> Verdict:
        verdict = judge(self._holder(each), self._rules)
        if verdict.free or each.revoked_at is not None:
            return verdict
        return Verdict(why="`gestaltctl cluster recover --confirm` ends it")

    def _holder(self, each: _Strange) -> Holder:
        grant, since = each.grant, each.revoked_at
        member, record = self._tracker.incarnation(grant.node), self._state.nodes.get(grant.node)
        if member != grant.incarnation and each.over_since is None:
            each.over_since = self._now()
        view = self._tracker.nodes.get(grant.node)
        seen = view.unknown.get(each.instance) if view is not None and view.heard else None
        address = (view.address if view is not None else "") or (record.address if record is not None else "")
        return Holder(
            grant,
            member,
            confirmed=record.confirmed if record is not None else -1,
            present=seen is not None and seen.phase in AT_WORK,
            over_for=self._now() - each.over_since if each.over_since is not None and grant.node else None,
            revoked_for=self._now() - since if since is not None else None,
            lease=self._leases.lease(grant, since) if since is not None else None,
            wait=self._leases.wait(grant, since, view.member if view is not None else None) if grant.node and since is not None else 0.0,
            secured=member != 0 or record is None or self._storage().secured(grant.node, grant.incarnation, address),
        )
