"""What one leader knows of grants besides the records: what ZooKeeper says by now, when losses were seen, what leases list.

Soft state: a new leader begins anew, and counts all waiting from then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gestalt import clock, model
from gestalt.config import TimingSettings
from gestalt.zk.grants import LeaseMark

from .grants import AT_WORK, FREE, Holder, NoStorageFence, Rules, StorageFence, Verdict, grant_name, judge, lists, wait_of
from .leases import Leases
from .membership import Life
from .nodes import Tracker
from .records import App, Grant, Placed, instance_id
from .state import State
from .strange_grants import StrangeGrants


@dataclass(frozen=True, slots=True)
class Terms:
    """How a node is told of an instance. `withheld`: not yet at all. `stop`: whatever the placement says."""

    withheld: bool = False
    stop: bool = False
    grant: model.Grant | None = None


PLAIN = Terms()
"""Those of what is not exclusive."""


class GrantBook:
    """Knows the grants of one leader. Without memberships, in an appliance, there is nothing to know.

    Args:
        state: what is decided; read, never changed.
        tracker: what is known of nodes and instances.
        timing: the leader's own times; a holder whose fence told longer ones is waited for longer.
        held: whether lost instances are not to be replaced now.
        now: the boot-time clock.
    """

    def __init__(
        self,
        state: State,
        tracker: Tracker,
        timing: TimingSettings,
        held: Callable[[], bool] = lambda: False,
        now: Callable[[], float] = clock.boottime,
    ) -> None:
        self.storage: StorageFence = NoStorageFence()
        self._state = state
        self._tracker = tracker
        self.timing = timing
        self._wait = wait_of(timing)
        self._held = held
        self._now = now
        self._shown: dict[str, tuple[Grant, float]] = {}
        self._leases = Leases(timing)
        self.strange = StrangeGrants(state, tracker, self._leases, self._wait, storage=lambda: self.storage, now=now)
        self._over: dict[tuple[str, int], float] = {}

    # What ZooKeeper says

    def now(self) -> float:
        """Return the time to hand to `leased` later; to be taken before the lease is asked for."""
        return self._now()

    def shown(self, grant: Grant) -> None:
        """Note that ZooKeeper says what this record says; to be called after it answered."""
        self._shown[grant.name] = grant, self._now()

    def removed(self, name: str) -> None:
        """Note that ZooKeeper has no such grant any more."""
        self._shown.pop(name, None)

    def is_shown(self, grant: Grant) -> bool:
        """Return whether ZooKeeper says what this record says."""
        return self._shown.get(grant.name, (None,))[0] == grant

    def leased(self, node: str, lease: LeaseMark | None, asked: float) -> None:
        """Note what the lease of a node says; None: nothing that can be understood. `asked`: when the read began."""
        self._leases.note(node, lease, asked)

    def undecided(self) -> Iterator[Grant]:
        """Yield the grants of which the lease of their node may tell something that time has not told yet."""
        for grant in self._state.grants.values():
            if grant.revoked and self._is_placed(grant) and self.is_shown(grant) and self._is_undecided(grant):
                yield grant

    def _is_undecided(self, grant: Grant) -> bool:
        shown = self._shown[grant.name][1]
        wait, lease = self._wait_for(grant, shown), self._leases.lease(grant, shown)
        if wait is None:
            return True
        if self._now() - shown >= max(self._wait, wait):
            return False
        return lease is None or (lease.incarnation == grant.incarnation and lists(lease, grant))

    def _wait_for(self, grant: Grant, shown: float) -> float | None:
        view = self._tracker.nodes.get(grant.node)
        return self._leases.wait(grant, shown, view.member if view is not None else None)

    def _is_placed(self, grant: Grant) -> bool:
        return any(item.serial == grant.serial for item in self._state.placed(grant.app).instances)

    # What follows for instances

    def grant_of(self, app: App, placed: Placed) -> Grant | None:
        """Return the grant of an instance, revoked or not; None when it has none."""
        grant = self._state.grants.get(grant_name(app))
        return grant if grant is not None and grant.serial == placed.serial else None

    def terms(self, app: App, placed: Placed) -> Terms:
        """Return how the node is told of an instance: of an exclusive one only when ZooKeeper shows its grant."""
        if not self._tracker.fenced or not self._is_exclusive(app, placed.version):
            return PLAIN
        grant = self.grant_of(app, placed)
        if grant is None or grant.revoked:
            return Terms(stop=True)
        return Terms(grant=model.Grant(grant.name, grant.generation)) if self.is_shown(grant) else Terms(withheld=True)

    def verdict(self, app: App, placed: Placed) -> Verdict | None:
        """Return what is to become of the right of an instance; None: it is not exclusive, and needs none."""
        grant = self.grant_of(app, placed) if self._tracker.fenced else None
        if grant is not None:
            return judge(self._holder(app, placed, grant), self._rules(app))
        if not self._tracker.fenced or not any(self._is_exclusive(app, number) for number in {app.version, placed.version}):
            return None
        later = self._state.grants.get(grant_name(app))
        if later is not None and later.serial > placed.serial:
            return FREE  # or it would not have been given
        is_over = self._tracker.standing(placed.node).confirmed or self._is_gone(app, placed)
        return Verdict(free=is_over, why="" if is_over else "it may still be at work there, and has no lease that ends")

    def _is_exclusive(self, app: App, number: int) -> bool:
        return self._state.version(app.path, number).spec.placement.exclusive

    def _rules(self, app: App) -> Rules:
        placement = self._state.version(app.path, app.version).spec.placement
        return Rules(self._wait, placement.failover_after, held=self._held())

    def _is_gone(self, app: App, placed: Placed) -> bool:
        view, sighting = self._tracker.nodes.get(placed.node), self._tracker.sighting(instance_id(app, placed.serial))
        return view is not None and view.heard and sighting.gone and sighting.stopping

    def _is_present(self, app: App, placed: Placed) -> bool:
        view, seen = self._tracker.nodes.get(placed.node), self._tracker.sighting(instance_id(app, placed.serial)).observed
        return view is not None and view.heard and seen is not None and seen.phase in AT_WORK

    def _holder(self, app: App, placed: Placed, grant: Grant) -> Holder:
        member, stands = self._tracker.incarnation(grant.node), self._tracker.standing(grant.node)
        record, view = self._state.nodes.get(grant.node), self._tracker.nodes.get(grant.node)
        over = self._over_for(grant, member)
        shown = self._shown[grant.name][1] if grant.revoked and self.is_shown(grant) else None
        address = (view.address if view is not None else "") or (record.address if record is not None else "")
        return Holder(
            grant,
            member,
            confirmed=record.confirmed if record is not None else math.inf,
            unreachable=stands.away if stands.life is Life.UNREACHABLE else None,
            leaving=placed.stop,
            gone=self._is_gone(app, placed),
            present=self._is_present(app, placed),
            over_for=over,
            revoked_for=None if shown is None else self._now() - shown,
            lease=None if shown is None else self._leases.lease(grant, shown),
            wait=None if shown is None else self._wait_for(grant, shown),
            secured=member != 0 or self.storage.secured(grant.node, grant.incarnation, address),
        )

    def _over_for(self, grant: Grant, member: int) -> float | None:
        """Return for how many seconds the membership of a grant has been over; it never comes back."""
        key = (grant.node, grant.incarnation)
        if member != grant.incarnation:
            self._over.setdefault(key, self._now())
        return self._now() - self._over[key] if key in self._over else None
