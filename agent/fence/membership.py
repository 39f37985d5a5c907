"""What the fence does next about its membership: one pure function, one step a call.

An incarnation is a number that stands for one creation of the member znode. It is fsynced before the request that uses it is
sent, and never used for a second creation, whatever was interrupted: after any doubt the fence looks, and either finds its own
znode (owned by the session that it is in) or takes the next number. The lease znode, written in the same transaction, keeps the
highest number for the whole cluster, so that neither a lost disk nor a cloned one brings a number back.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum
from math import inf

EARLIER_KEPT = 8


class Link(Enum):
    """How we stand with ZooKeeper. LOST: the session is over for certain."""

    NONE = "none"
    CONNECTED = "connected"
    SUSPENDED = "suspended"
    LOST = "lost"


class Status(StrEnum):
    """How the node stands, for the agent and for people."""

    JOINING = "joining"
    MEMBER = "member"
    SUSPENDED = "suspended"
    OUT = "out"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Session:
    """A ZooKeeper session; whoever knows both can take it up again."""

    id: int
    password: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Saved:
    """What is on disk.

    `incarnation`: the highest that was ever reserved. `session`, `earlier` (ids of sessions before it) and `agent_gone` (since when no
    agent is linked, on the boot-time clock; None: one is) count in the boot `boot` only.
    """

    incarnation: int = 0
    boot: str = ""
    session: Session | None = None
    earlier: tuple[int, ...] = ()
    agent_gone: float | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """The member znode as it was read. `version`: of the znode, for a write that is to find it unchanged.

    `current`: the times that it tells are those of our settings.
    """

    owner: int
    incarnation: int
    agent: bool
    version: int
    current: bool = True


@dataclass(frozen=True, slots=True)
class Lease:
    """The lease znode as it was read: which incarnation wrote it last."""

    incarnation: int
    version: int


@dataclass(frozen=True, slots=True)
class Rules:
    """Times in seconds. `settle`: how long after our own start a linked agent may take to link again.

    `patience`: for how long a member znode of somebody else may stay, before he counts as alive. `calm`: how long nobody may hold the
    id before one that was refused tries again.
    """

    agent_grace: float
    settle: float
    patience: float
    calm: float


@dataclass(frozen=True, slots=True)
class Facts:
    """What is so now. `looked`: `member` and `lease` were read in this session and nothing has put `member` in doubt since."""

    now: float
    boot: str
    link: Link
    session: Session | None
    looked: bool
    member: Member | None
    lease: Lease | None
    agent: bool
    maintenance: bool
    saved: Saved


@dataclass(frozen=True, slots=True)
class Memory:
    """What the fence remembers while it runs, and may forget with it.

    `fresh`: an incarnation that was reserved and used in no request yet, 0 = none. `floor`: the highest one seen in ZooKeeper. `other`:
    the session of another claimant, seen first at `other_since`. `vacant_since`: since when nobody holds the id, None = somebody does.
    """

    started: float
    fresh: int = 0
    floor: int = 0
    other: int = 0
    other_since: float = 0.0
    refused: bool = False
    vacant_since: float | None = None


@dataclass(frozen=True, slots=True)
class Connect:
    """Reach ZooKeeper, in the session `resume` if that still lives, else in a new one."""

    resume: Session | None


@dataclass(frozen=True, slots=True)
class Drop:
    """Let the session that is over go."""


@dataclass(frozen=True, slots=True)
class Look:
    """Read the member and the lease znode."""


@dataclass(frozen=True, slots=True)
class Save:
    """Write to disk, durably. `reserves`: the incarnation in it is then ours to use once."""

    saved: Saved
    reserves: bool = False


@dataclass(frozen=True, slots=True)
class Enter:
    """Create the member znode and write the incarnation into the lease znode, found at version `lease` (None: not there).

    In the same transaction delete the leftover member of version `replaces`, if any.
    """

    incarnation: int
    agent: bool
    replaces: int | None
    lease: int | None


@dataclass(frozen=True, slots=True)
class Tell:
    """Write into the member znode of version `version` whether the agent runs, and our times."""

    incarnation: int
    agent: bool
    version: int


@dataclass(frozen=True, slots=True)
class Leave:
    """Delete the member znode of version `version`: the node gives itself up."""

    version: int


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing to do before `until` (None: before something happens)."""

    until: float | None = None


Action = Connect | Drop | Look | Save | Enter | Tell | Leave | Rest


@dataclass(frozen=True, slots=True)
class Decision:
    """The next step. `memory` counts from before it is tried, but for `Memory.fresh` after a `Save`: see `reserved`.

    `status`: None while it stays as it was.
    """

    action: Action
    memory: Memory
    status: Status | None
    sentence: str


def reserved(memory: Memory, done: Action) -> Memory:
    """Return the memory after `done` succeeded."""
    return replace(memory, fresh=done.saved.incarnation) if isinstance(done, Save) and done.reserves else memory


def decide(facts: Facts, memory: Memory, rules: Rules) -> Decision:
    """Return the next step. Whatever happens to it, calling again with what is so then is right."""
    if facts.agent:
        memory = replace(memory, started=-inf)  # it has linked again; when it ends, that counts at once
    if (save := _note(facts, memory, rules)) is not None:
        return Decision(save, memory, None, "notes what changed")
    match facts.link:
        case Link.NONE:
            return Decision(Connect(facts.saved.session), memory, Status.JOINING, "ZooKeeper is not reached yet")
        case Link.LOST:
            return Decision(Drop(), replace(memory, fresh=0), Status.JOINING, "the session is over")
        case Link.SUSPENDED:
            return Decision(Rest(), memory, Status.SUSPENDED, "ZooKeeper does not answer; the session may still live")
    return _connected(facts, memory, rules)


def _connected(facts: Facts, memory: Memory, rules: Rules) -> Decision:
    if facts.saved.session != facts.session:
        return Decision(Save(_in_session(facts)), memory, None, "is in a new session")
    if not facts.looked:
        return Decision(Look(), memory, None, "looks whether it is a member")
    memory = replace(memory, floor=max(memory.floor, facts.lease.incarnation if facts.lease else 0))
    if facts.member is None:
        return _vacant(facts, memory, rules)
    memory = replace(memory, floor=max(memory.floor, facts.member.incarnation), vacant_since=None)
    if facts.session is not None and facts.member.owner == facts.session.id:
        return _inside(facts, facts.member, memory, rules)
    if facts.member.owner in facts.saved.earlier:
        return _enter(facts, memory, rules, facts.member.version)
    return _occupied(facts, facts.member, memory, rules)


def _note(facts: Facts, memory: Memory, rules: Rules) -> Save | None:
    """Return what has to be on disk before anything else: another boot, and since when the agent is gone."""
    saved = facts.saved
    if saved.boot != facts.boot:
        gone = None if facts.agent else facts.now
        return Save(Saved(incarnation=saved.incarnation, boot=facts.boot, agent_gone=gone))
    gone = saved.agent_gone if saved.agent_gone is not None else facts.now
    wanted = None if _agent_runs(facts, memory, rules) else gone
    return Save(replace(saved, agent_gone=wanted)) if wanted != saved.agent_gone else None


def _agent_runs(facts: Facts, memory: Memory, rules: Rules) -> bool:
    """One that was linked before our own restart has a moment to link again."""
    return facts.agent or (facts.saved.agent_gone is None and facts.now < memory.started + rules.settle)


def _in_session(facts: Facts) -> Saved:
    before = facts.saved
    earlier = (before.session.id, *before.earlier) if before.session else before.earlier
    return replace(before, session=facts.session, earlier=earlier[:EARLIER_KEPT])


def _gives_up_at(facts: Facts, rules: Rules) -> float | None:
    """Return when the node gives itself up for want of an agent, or None."""
    gone = facts.saved.agent_gone
    return None if gone is None or facts.maintenance else gone + rules.agent_grace


def _inside(facts: Facts, member: Member, memory: Memory, rules: Rules) -> Decision:
    memory = replace(memory, fresh=0, other=0, refused=False)
    gives_up = _gives_up_at(facts, rules)
    if member.incarnation > facts.saved.incarnation:
        known = replace(facts.saved, incarnation=member.incarnation)
        return Decision(Save(known), memory, None, "learns its incarnation")
    if gives_up is not None and facts.now >= gives_up:
        return Decision(Leave(member.version), memory, Status.OUT, "gives up the membership: the agent has been away for too long")
    runs = _agent_runs(facts, memory, rules)
    if member.agent != runs:
        action = Tell(member.incarnation, runs, member.version)
        return Decision(action, memory, Status.MEMBER, "the agent runs" if runs else "the agent does not run")
    if not member.current:
        return Decision(Tell(member.incarnation, runs, member.version), memory, Status.MEMBER, "the settings have other times")
    until = _earliest(gives_up, None if facts.agent or not runs else memory.started + rules.settle)
    return Decision(Rest(until), memory, Status.MEMBER, "is a member")


def _vacant(facts: Facts, memory: Memory, rules: Rules) -> Decision:
    vacant = facts.now if memory.vacant_since is None else memory.vacant_since
    memory = replace(memory, other=0, vacant_since=vacant)
    gives_up = _gives_up_at(facts, rules)
    if gives_up is not None and facts.now >= gives_up:
        return Decision(Rest(), memory, Status.OUT, "stays out until the agent is back")
    if memory.refused and facts.now < vacant + rules.calm:
        return Decision(Rest(vacant + rules.calm), memory, Status.REFUSED, "waits whether the other machine comes back")
    return _enter(facts, replace(memory, refused=False), rules, None)


def _enter(facts: Facts, memory: Memory, rules: Rules, replaces: int | None) -> Decision:
    """Reserve the next incarnation, then use it, once."""
    if memory.fresh and memory.fresh == facts.saved.incarnation and memory.fresh > memory.floor:
        lease = facts.lease.version if facts.lease else None
        action = Enter(memory.fresh, _agent_runs(facts, memory, rules), replaces, lease)
        return Decision(action, replace(memory, fresh=0), Status.JOINING, "becomes a member")
    following = replace(facts.saved, incarnation=max(facts.saved.incarnation, memory.floor) + 1)
    return Decision(Save(following, reserves=True), replace(memory, fresh=0), None, "reserves an incarnation")


def _occupied(facts: Facts, member: Member, memory: Memory, rules: Rules) -> Decision:
    """Somebody else's: it goes by itself when he is dead, and is never touched."""
    if memory.other != member.owner:
        memory = replace(memory, other=member.owner, other_since=facts.now)
    until = memory.other_since + rules.patience
    if facts.now < until and not memory.refused:
        return Decision(Rest(until), memory, Status.JOINING, "waits for a membership to end that another life of this node left")
    sentence = f"another machine is in the cluster with the id of this node (session {member.owner:#x}); this one stays out"
    return Decision(Rest(), replace(memory, refused=True), Status.REFUSED, sentence)


def _earliest(*times: float | None) -> float | None:
    return min((time for time in times if time is not None), default=None)
