"""What the leader knows of nodes and instances but nobody decided: soft state, reported again to every new leader."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gestalt.model import Observed, Reachability
from gestalt.proto.v1 import model_pb2

from .grants import Verdict
from .membership import Life, Member, Signs, Standing, is_emptied, standing
from .notices import Notices
from .reconcile import View
from .records import App, Node, Placed, instance_id
from .usage import Usages


@dataclass(slots=True)
class Sighting:
    """What is known of one instance. Times are of the leader's monotonic clock; `ready_since` None = is not ready."""

    since: float
    observed: Observed | None = None
    observed_at: float = 0.0
    ready_since: float | None = None
    unready_since: float = 0.0
    gone: bool = False
    stopping: bool = False


@dataclass(frozen=True, slots=True)
class Preparation:
    """How far a node is with a template that it is to prepare. `number`: of the request that it answers."""

    number: int
    done: bool = False
    refused: bool = False
    reason: str = ""


@dataclass(slots=True)
class NodeView:
    """What is known of one node. `heard`: its inventory is in and its stream stands; `ever_heard`: this leader had one of it.

    `member`: its membership, as ZooKeeper tells; `expected_at`: since when its agent is to be connected. `boot`: the last boot id of the
    machine that was told; `booted_at`: when this leader learnt that it is another one.
    """

    id: str
    name: str
    address: str = ""
    agent_version: str = ""
    connected: bool = False
    heard: bool = False
    ever_heard: bool = False
    last_seen: float = 0.0
    is_in_line: bool = False
    """A report of it waits to be taken in."""
    disconnected_at: float = 0.0
    member: Member | None = None
    expected_at: float = 0.0
    boot: str = ""
    booted_at: float = -math.inf
    incarnation: int = 0
    """Of its membership, as its agent named it at the beginning of the session."""
    refusing: dict[str, int] = field(default_factory=dict)
    """Whose packets it refuses: incarnations by node id, as it told in this session."""
    prepares: bool = False
    """Its agent can be asked to."""
    prepared: dict[str, Preparation] = field(default_factory=dict)
    """What it has prepared, by template hash, as it told in this session."""
    facts: model_pb2.Facts = field(default_factory=model_pb2.Facts)
    problems: tuple[str, ...] = ()
    unknown: dict[str, Observed] = field(default_factory=dict)
    """What it runs although nothing of ours is placed there, by instance, as of its reports."""


class Tracker:
    """Keeps the soft state. Every method that takes in a report returns the ids of the instances whose state changed.

    Args:
        now: the monotonic clock.
        records: what is decided about the nodes; read, never changed.
        unreachable_after: seconds without a stream after which a node counts as unreachable.
        fenced: nodes have memberships, which `member` is told of; those of an appliance have none.
    """

    def __init__(
        self,
        now: Callable[[], float],
        records: Mapping[str, Node] | None = None,
        *,
        unreachable_after: float = 4.0,
        fenced: bool = False,
    ) -> None:
        self._now = now
        self._records: Mapping[str, Node] = records if records is not None else {}
        self._unreachable_after = unreachable_after
        self.fenced = fenced
        self.judge: Callable[[App, Placed], Verdict | None] = lambda app, placed: None
        """Says what is to become of the right of an instance, of those that need one."""
        self.nodes: dict[str, NodeView] = {}
        self.touched = Notices()
        """The nodes of which anything changed that placing asks about, or that tells how they stand."""
        self.stirred = Notices()
        """The instances that became ready, or are not any more, or of which anything else was learnt that decisions rest on."""
        self.sightings: dict[str, Sighting] = {}
        self.usages = Usages(now)
        self._standings: dict[str, tuple[Node | None, Member | None, Standing]] = {}

    def node(self, node: str, name: str) -> NodeView:
        if node not in self.nodes:
            self.nodes[node] = NodeView(node, name, disconnected_at=self._now())
            self.touched.add(node)
        return self.nodes[node]

    def sighting(self, instance: str) -> Sighting:
        if instance not in self.sightings:
            now = self._now()
            self.sightings[instance] = Sighting(since=now, unready_since=now)
        return self.sightings[instance]

    def watch(self, instance: str, *, stopping: bool, is_inherited: bool = False) -> None:
        """Begin to watch an instance. A report that it was gone before it was to stop says nothing of what came later.

        One that is inherited from the office before was to stop, if it is, before anything was reported: that counts.
        """
        sighting = self.sighting(instance)
        if stopping and not sighting.stopping:
            sighting.stopping, sighting.gone = True, sighting.gone and is_inherited

    def forget(self, instance: str) -> None:
        self.sightings.pop(instance, None)

    def removed(self, node: str) -> None:
        """A node is no member any more: how it stands is not kept. Its view is: grants that are not over yet ask for it."""
        self._standings.pop(node, None)

    def connected(self, view: NodeView) -> None:
        self.touched.add(view.id)
        view.connected, view.heard, view.last_seen = True, False, self._now()
        view.refusing, view.prepared = {}, {}

    def disconnected(self, view: NodeView) -> None:
        self.touched.add(view.id)
        view.connected, view.heard, view.disconnected_at = False, False, self._now()

    def member(self, view: NodeView, member: Member | None) -> None:
        """Take in the membership of a node. Time in which its agent did not run is not held against it."""
        self.touched.add(view.id)
        before, view.member = view.member, member
        ran = before is not None and before.agent_running and member is not None and before.incarnation == member.incarnation
        if not ran:
            view.expected_at = self._now()
        if member is not None and member.boot:
            if view.boot not in ("", member.boot):
                view.booted_at = self._now()
            view.boot = member.boot

    def standing(self, node: str) -> Standing:
        """Return how a node stands now."""
        view, record = self.nodes.get(node) or NodeView(node, node), self._records.get(node)
        if record is None or (not view.heard and not (self.fenced and view.member is None)):
            missing = self._now() - max(view.disconnected_at, view.expected_at)
            return standing(record, Signs(self.fenced, view.member, view.heard, view.ever_heard, missing), self._unreachable_after)
        known = self._standings.get(node)
        if known is None or known[0] is not record or known[1] is not view.member:  # time changes nothing about one that is heard, or lost
            signs = Signs(self.fenced, view.member, heard=True, ever_heard=True, missing=0.0)
            known = self._standings[node] = record, view.member, standing(record, signs, self._unreachable_after)
        return known[2]

    def incarnation(self, node: str) -> int:
        """Return the number of the membership that a node has now; 0: it has none."""
        view, record = self.nodes.get(node), self._records.get(node)
        if view is None or view.member is None or record is None or view.member.incarnation <= record.lost:
            return 0
        return view.member.incarnation

    def inventory(self, view: NodeView, placed: Iterable[str], observed: Sequence[Observed]) -> set[str]:
        """Take in everything that a node has. `placed`: the ids that belong there; what it does not have is gone."""
        placed = tuple(placed)
        if not view.heard:
            self._excuse(placed, view.disconnected_at)
        view.heard = view.ever_heard = True
        self.touched.add(view.id)
        found = {item.instance for item in observed}
        changed = set(placed) - found
        for instance in changed:
            self._lose(instance)
        for item in observed:
            if _counts_afresh(self.sighting(item.instance).observed, item):
                self._lose(item.instance)
        return changed | self.observed(view, observed, ())

    def observed(self, view: NodeView, observed: Iterable[Observed], gone: Iterable[str]) -> set[str]:
        """Take in what changed on a node."""
        view.last_seen = self._now()
        changed = {item.instance for item in observed if self._see(item)}
        for instance in gone:
            self._lose(instance)
            changed.add(instance)
        return changed

    def _excuse(self, placed: Iterable[str], away_since: float) -> None:
        """Leave out the time in which their node was away: they could not tell that they became ready."""
        now = self._now()
        for sighting in map(self.sighting, placed):
            sighting.unready_since += now - max(away_since, sighting.unready_since)

    def _lose(self, instance: str) -> None:
        """Nothing of it is left: should it come back, the time in which it may become ready begins now."""
        sighting = self.sighting(instance)
        self.stirred.add(instance)
        sighting.gone, sighting.observed = True, None
        if sighting.ready_since is not None:
            sighting.ready_since, sighting.unready_since = None, self._now()

    def _see(self, item: Observed) -> bool:
        sighting, now = self.sighting(item.instance), self._now()
        before = sighting.observed
        if before is not None and (item.attempt, item.phase) < (before.attempt, before.phase):
            return False
        sighting.observed, sighting.observed_at, sighting.gone = item, now, False
        if item.ready and sighting.ready_since is None:
            sighting.ready_since = now
        elif not item.ready and sighting.ready_since is not None:
            sighting.ready_since, sighting.unready_since = None, now
        if before is not None and _decisive(before) == _decisive(item):
            return False
        self.stirred.add(item.instance)
        return True

    def views(self, app: App, instances: Iterable[Placed]) -> tuple[View, ...]:
        """Return instances of an app as `reconcile` needs them."""
        return tuple(self._view(app, placed) for placed in instances)

    def _view(self, app: App, placed: Placed) -> View:
        sighting, now = self.sighting(instance_id(app, placed.serial)), self._now()
        node, stands, record = self.nodes.get(placed.node), self.standing(placed.node), self._records.get(placed.node)
        return View(
            placed,
            sighting.observed,
            heard := node is not None and node.heard,
            gone=heard and sighting.gone,
            ready_for=now - sighting.ready_since if sighting.ready_since is not None else 0.0,
            waiting=now - sighting.unready_since,
            away=stands.away,
            verdict=self.judge(app, placed),
            moving=placed.serial in app.moving or is_emptied(record),
            forced=record is not None and record.forced,
        )

    def takes_requests(self, app: App, placed: Placed) -> bool:
        """Tell whether an instance was ready when it was last heard of. Its node's silence says nothing against it, a reboot does.

        Nor does the silence of a node that this leader never heard: a new leader must not empty every load balancer.
        """
        node, sighting = self.nodes.get(placed.node), self.sightings.get(instance_id(app, placed.serial))
        if sighting is not None and sighting.observed is not None:
            return sighting.observed.ready and (node is None or node.booted_at <= sighting.observed_at)
        return node is None or not node.ever_heard

    def reachability(self, node: str) -> Reachability:
        """Return in the words of the API whether a node is heard from."""
        if node not in self.nodes:
            return Reachability.UNKNOWN
        match self.standing(node).life:
            case Life.LOST | Life.LEFT:
                return Reachability.LOST
            case Life.UNREACHABLE | Life.AGENT_DOWN:
                return Reachability.UNREACHABLE
        return Reachability.REACHABLE


def _counts_afresh(before: Observed | None, item: Observed) -> bool:
    """Tell whether an agent lost its memory and counts attempts from 1 again: an inventory is the truth, what was seen before is not."""
    return before is not None and item.attempt < before.attempt


def take_facts(tracker: Tracker, view: NodeView, facts: model_pb2.Facts) -> bool:
    """Take in what the agent of a node says of its machine; return whether more than how busy it is has changed."""
    before = _lasting(view.facts)
    view.facts.CopyFrom(facts)
    if _lasting(facts) == before:
        return False
    tracker.touched.add(view.id)
    return True


def _lasting(facts: model_pb2.Facts) -> model_pb2.Facts:
    """Return the facts without what changes all the time, and no instance is placed by."""
    lasting = model_pb2.Facts()
    lasting.CopyFrom(facts)
    lasting.ClearField("load")
    lasting.ClearField("memory_available")
    lasting.ClearField("disk_free")
    return lasting


def _decisive(item: Observed) -> Observed:
    """Return what decisions rest on: how long it has been so, and in what words, changes none."""
    return replace(item, age=0.0, reason="", log_tail=(), checks=())
