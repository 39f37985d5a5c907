"""A small honest model of what the fence's decisions act on: a ZooKeeper with one znode, a disk, a machine that can be stopped anywhere."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

from gestalt.agent.fence import membership
from gestalt.agent.fence.membership import (
    Action,
    Decision,
    Facts,
    Lease,
    Link,
    Member,
    Memory,
    Rules,
    Saved,
    Session,
    Status,
    decide,
    reserved,
)

RULES = Rules(agent_grace=300.0, settle=2.0, patience=3.0, calm=10.0)
TIMEOUT = 2.0


class Fault(Enum):
    """What may happen to a step. The first two leave the process dead, the others with a connection that was lost meanwhile."""

    KILLED_BEFORE = "killed before it"
    KILLED_AFTER = "killed after it"
    UNSENT = "connection lost before it"
    UNANSWERED = "connection lost after it"


@dataclass
class World:
    """ZooKeeper, and the clock. `created`: every (incarnation, session) that was ever in the znode, in order."""

    now: float = 1000.0
    live: set[int] = field(default_factory=set)
    sessions: int = 0
    member: Member | None = None
    lease: Lease | None = None
    created: list[tuple[int, int]] = field(default_factory=list)
    stolen: list[str] = field(default_factory=list)

    def new_session(self) -> Session:
        self.sessions += 1
        self.live.add(self.sessions)
        return Session(self.sessions, b"password")

    def expire(self, session: int) -> None:
        self.live.discard(session)
        if self.member is not None and self.member.owner == session:
            self.member = None

    def put(self, machine: Machine, action: membership.Enter) -> None:
        assert machine.session is not None
        if action.lease != (self.lease.version if self.lease else None):
            return
        if self.member is not None:
            if action.replaces != self.member.version:
                return
            if self.member.owner not in machine.held:
                self.stolen.append(f"session {machine.session.id} took from session {self.member.owner}")
        elif action.replaces is not None:
            return
        self.member = Member(machine.session.id, action.incarnation, action.agent, 0)
        self.lease = Lease(action.incarnation, self.lease.version + 1 if self.lease else 0)
        self.created.append((action.incarnation, machine.session.id))


@dataclass
class Machine:
    """One machine with its disk. `held`: every session it ever had."""

    world: World
    boot: str = "boot-1"
    saved: Saved = field(default_factory=Saved)
    agent: bool = True
    maintenance: bool = False
    held: set[int] = field(default_factory=set)
    link: Link = Link.NONE
    session: Session | None = None
    looked: bool = False
    seen: Member | None = None
    seen_lease: Lease | None = None
    memory: Memory = field(default_factory=lambda: Memory(1000.0))
    status: Status | None = None

    def decide(self) -> Decision:
        seen = (self.seen, self.seen_lease) if self.looked else (None, None)
        facts = Facts(self.world.now, self.boot, self.link, self.session, self.looked, *seen, self.agent, self.maintenance, self.saved)
        return decide(facts, self.memory, RULES)

    def step(self, fault: Fault | None = None) -> Action:
        """Decide and act; the watch on the znode, if any, tells at once."""
        if self.session is not None and self.session.id not in self.world.live:
            self.link = Link.LOST
        if self.looked and self.seen != self.world.member:
            self.looked = False
        decision = self.decide()
        self.memory = decision.memory
        self.status = decision.status or self.status
        if fault not in (Fault.KILLED_BEFORE, Fault.UNSENT):
            self.act(decision.action)
        if fault in (Fault.KILLED_BEFORE, Fault.KILLED_AFTER):
            self.die()
        elif fault is not None:
            self.looked = False
        else:
            self.memory = reserved(self.memory, decision.action)
        return decision.action

    def act(self, action: Action) -> None:
        world = self.world
        match action:
            case membership.Connect(resume):
                self.session = resume if resume and resume.id in world.live else world.new_session()
                self.held.add(self.session.id)
                self.link = Link.CONNECTED
            case membership.Drop():
                self.link, self.session, self.looked = Link.NONE, None, False
            case membership.Look():
                self.seen, self.seen_lease, self.looked = world.member, world.lease, True
            case membership.Save(saved):
                self.saved = saved
            case membership.Enter():
                world.put(self, action)
                self.looked = False
            case membership.Tell(_, agent, version) if world.member and world.member.version == version:
                world.member = replace(world.member, agent=agent, version=version + 1)
            case membership.Leave(version) if world.member and world.member.version == version:
                world.member = None

    def die(self) -> None:
        """What is on disk stays; the session lives on until it expires."""
        self.link, self.session, self.looked, self.seen = Link.NONE, None, False, None
        self.memory = Memory(self.world.now)

    def settle(self, steps: int = 40, until: float = 60.0) -> None:
        """Go on until there is nothing to do; dead sessions expire while it rests."""
        end = self.world.now + until
        for _ in range(steps):
            action = self.step()
            if not isinstance(action, membership.Rest):
                continue
            dead = self.world.live - ({self.session.id} if self.session else set())
            if dead:
                self.world.now += TIMEOUT
                for session in dead:
                    self.world.expire(session)
            elif action.until is None or action.until > end:
                return
            else:
                self.world.now = max(self.world.now, action.until)
        raise AssertionError(f"no rest after {steps} steps: {self.decide()}")
