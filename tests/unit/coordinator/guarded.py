"""A fleet under an exclusive app, with what ZooKeeper says of grants and leases, and a fence on each node: the slowest that is allowed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from gestalt import model
from gestalt.config import TimingSettings
from gestalt.coordinator.advance import Case, waits_for_holder
from gestalt.coordinator.grant_book import GrantBook, Terms
from gestalt.coordinator.grants import mark_of
from gestalt.coordinator.reconcile import Decision
from gestalt.coordinator.records import instance_id
from gestalt.coordinator.scheduler.values import Capacity
from gestalt.model import Health, Observed, Phase
from gestalt.zk.grants import GrantMark, LeaseMark
from tests.unit.coordinator.fleet import Fleet
from tests.unit.coordinator.world import AT, PATH, spec

LEASE, KILL, MARGIN = 8.0, 2.0, 1.0
WAIT = LEASE + KILL + MARGIN
TIMING = TimingSettings(lease=LEASE, kill=KILL, margin=MARGIN)


@dataclass
class Taken:
    """A copy at work under a grant. `until`: the end of its lease; the fence needs all of the kill budget after that."""

    grant: model.Grant
    mark: GrantMark
    incarnation: int
    until: float


@dataclass
class Fence:
    """What a node has taken, and what its agent was told last, which it keeps on disk. `deaf`: it does not hear of revocations.

    `lease`: the length in its settings.
    """

    taken: dict[str, Taken] = field(default_factory=dict)
    told: dict[str, tuple[Terms, bool]] = field(default_factory=dict)
    deaf: bool = False
    lease: float = LEASE


class Storage:
    """A storage fence that secures what it is told to."""

    def __init__(self) -> None:
        self.done: set[tuple[str, int]] = set()
        self.asked: set[tuple[str, int]] = set()

    def secured(self, node: str, incarnation: int, address: str) -> bool:
        self.asked.add((node, incarnation))
        return (node, incarnation) in self.done

    def on_change(self, wake: object) -> None:
        """Nobody sleeps here."""


class Guarded(Fleet):
    """Nodes n1, n2 … with fences. The leader keeps ZooKeeper right at each `show`; agents hear and act at each `act`."""

    def __init__(self, count: int = 3, *, failover_after: float = 30.0, storage: Storage | None = None, lease: float = LEASE) -> None:
        self.times = (lease, KILL)
        self.fences = {f"n{number}": Fence(lease=lease) for number in range(1, count + 1)}
        self.znodes: dict[str, GrantMark] = {}
        self.leases: dict[str, LeaseMark] = {}
        self.storage = storage
        super().__init__(count, 1, placement={"exclusive": True, "failover_after": failover_after})

    def take_office(self) -> None:
        super().take_office()
        self.book = GrantBook(self.state, self.tracker, TIMING, lambda: self.replaceable == 0, lambda: self.now)
        if self.storage is not None:
            self.book.storage = self.storage
        self.tracker.judge = self.book.verdict
        self._watch()
        self.show()

    def _watch(self) -> None:
        for item in self.placed if PATH in self.state.apps else ():
            stopping = item.stop or self.book.terms(self.app, item).stop
            self.tracker.watch(instance_id(self.app, item.serial), stopping=stopping)

    def _nodes(self) -> tuple[Capacity, ...]:
        return tuple(replace(item, incarnation=self.tracker.incarnation(item.id)) for item in super()._nodes())

    def decide(self) -> Decision | None:
        decision = super(Fleet, self).decide()
        self._watch()
        return decision

    # -- ZooKeeper --

    def show(self) -> None:
        """Write what is decided, then read the leases of holders whose right was taken back."""
        for grant in self.state.grants.values():
            if not self.book.is_shown(grant):
                self.znodes[grant.name] = mark_of(grant)
                self.book.shown(grant)
        for name in self.znodes.keys() - self.state.grants.keys():
            del self.znodes[name]
            self.book.removed(name)
        for grant in list(self.book.undecided()):
            self.book.leased(grant.node, self.leases.get(grant.node), self.now)

    # -- nodes --

    def connect(self, name: str) -> None:
        """The stream stands: an inventory of what is at work, whatever the agent is about to start."""
        machine = self.machines[name]
        if not machine.agent or machine.linked:
            return
        machine.linked = True
        self.tracker.connected(self.view_of(name))
        ids = self._ids(name)
        self.tracker.inventory(self.view_of(name), ids, [self._seen(item) for item in ids if item in self.fences[name].taken])

    def _ids(self, name: str) -> list[str]:
        return [instance_id(self.app, item.serial) for item in self.placed if item.node == name] if PATH in self.state.apps else []

    @staticmethod
    def _seen(identity: str) -> Observed:
        return Observed(identity, 1, Phase.RUNNING, Health.HEALTHY, ready=True)

    def rejoin(self, name: str) -> None:
        """A new membership begins with a lease that lists nothing; what an earlier one held may be at work until its end."""
        had = self.machines[name].member
        super().rejoin(name)
        if not had:
            self.leases[name] = LeaseMark(self.machines[name].incarnation)

    def lose(self, name: str, *, dead: bool = True) -> None:
        """The last renewal was answered right before the loss."""
        self.renew(name)
        super().lose(name, dead=dead)
        if dead:
            self.fences[name].taken.clear()
            self.fences[name].told.clear()

    def renew(self, name: str) -> None:
        """The fence renews, and kills what was taken from it, if it hears of that."""
        machine, fence = self.machines[name], self.fences[name]
        if not machine.member:
            return
        for identity, taken in list(fence.taken.items()):
            if taken.incarnation != machine.incarnation or self.znodes.get(taken.grant.name) != taken.mark:
                if not fence.deaf:
                    del fence.taken[identity]
            else:
                taken.until = self.now + fence.lease
        self._tell_lease(name)

    def _tell_lease(self, name: str) -> None:
        machine, fence = self.machines[name], self.fences[name]
        if machine.member and not fence.deaf:
            held = {taken.grant.name: taken.grant.generation for taken in fence.taken.values() if taken.incarnation == machine.incarnation}
            self.leases[name] = LeaseMark(machine.incarnation, fence.lease, held, KILL)

    def hear(self, name: str) -> None:
        """The agent takes in what it is told."""
        if self.machines[name].linked:
            items = [item for item in self.placed if item.node == name] if PATH in self.state.apps else []
            told = ((instance_id(self.app, item.serial), self.book.terms(self.app, item), item.stop) for item in items)
            self.fences[name].told = {identity: (terms, stop or terms.stop) for identity, terms, stop in told if not terms.withheld}

    def act(self, name: str) -> None:
        """The agent does what it was told last, connected or not."""
        machine, fence = self.machines[name], self.fences[name]
        if not machine.agent:
            return
        for identity in list(fence.taken):
            if identity not in fence.told or fence.told[identity][1]:
                del fence.taken[identity]
                self._tell_lease(name)
        for identity, (terms, stop) in fence.told.items():
            if not stop and terms.grant is not None and identity not in fence.taken:
                self._take(name, identity, terms.grant)

    def report(self, name: str) -> None:
        """The agent tells the leader."""
        if not self.machines[name].linked:
            return
        fence, ids = self.fences[name], self._ids(name)
        gone = [item for item in ids if item in fence.told and fence.told[item][1] and item not in fence.taken]
        self.tracker.observed(self.view_of(name), [self._seen(item) for item in ids if item in fence.taken], gone)

    def _take(self, name: str, identity: str, grant: model.Grant) -> None:
        """The fence takes a grant in ZooKeeper, if it is the one named there."""
        machine, fence, mark = self.machines[name], self.fences[name], self.znodes.get(grant.name)
        if (
            machine.member
            and mark is not None
            and (mark.generation, mark.node, mark.incarnation)
            == (
                grant.generation,
                name,
                machine.incarnation,
            )
        ):
            fence.taken[identity] = Taken(grant, mark, machine.incarnation, self.now + fence.lease)
            held = {taken.grant.name: taken.grant.generation for taken in fence.taken.values()}
            self.leases[name] = LeaseMark(machine.incarnation, fence.lease, held, KILL)

    def pass_time(self, seconds: float) -> None:
        """What nobody renews is killed at the very end of its lease and the kill budget."""
        super().pass_time(seconds)
        for fence in self.fences.values():
            for identity, taken in list(fence.taken.items()):
                if self.now >= taken.until + KILL:
                    del fence.taken[identity]

    def at_work(self) -> list[str]:
        """Return the copies that live, on whatever node, whatever anybody knows."""
        return [f"{identity} on {name}" for name, fence in self.fences.items() for identity in fence.taken]

    def turn(self) -> None:
        """Everybody does what is due, once."""
        for name in self.fences:
            self.renew(name)
        self.decide()
        self.show()
        for name in self.fences:
            self.hear(name)
            self.act(name)
            self.report(name)

    def settle(self, limit: int = 60) -> None:
        for _ in range(limit):
            before = (self.placed, dict(self.state.grants), self.at_work())
            self.turn()
            self.turn()
            assert len(self.at_work()) <= 1, self.at_work()
            if before == (self.placed, dict(self.state.grants), self.at_work()):
                return
        raise AssertionError(f"no end after {limit} turns: {self.placed}")


def guarded(count: int = 3, **options: object) -> Guarded:
    """Return a fleet whose app is at work on one node."""
    fleet = Guarded(count, **options)  # type: ignore[arg-type]
    fleet.settle()
    assert len(fleet.at_work()) == 1
    return fleet


def holder(fleet: Guarded) -> str:
    """Return the node that has the grant."""
    (grant,) = fleet.state.grants.values()
    return grant.node


def why(fleet: Guarded) -> str:
    """Return what the app waits for, as it is told."""
    views = fleet.tracker.views(fleet.app, fleet.state.placed(PATH).instances)
    template = fleet.state.version(PATH, fleet.app.version).spec
    return waits_for_holder(Case(fleet.app, template, views, AT))


__all__ = ["LEASE", "WAIT", "Guarded", "Storage", "guarded", "holder", "spec", "why"]
