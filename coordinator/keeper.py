"""Keeps an eye on the nodes of a cluster: who is a member, who is lost, who is back; and holds the leader back when it should doubt itself.

Everything that cannot wait happens in the turn of the loop in which ZooKeeper tells: the brakes are put on, requests go around the
node, its apps are looked at. What is to outlive the leader is committed right after.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from gestalt import clock
from gestalt.errors import GestaltError
from gestalt.zk.client import Zk
from gestalt.zk.paths import Paths

from . import deadlines, maintenance
from .brakes import cut_off
from .decider import Decider
from .dispatch import Dispatcher
from .ledger import Ledger
from .membership import Life, Member, MemberWatcher, noted
from .nodes import Tracker
from .notices import taken
from .pace import Pace
from .records import Node
from .state import Draft

log = logging.getLogger(__name__)

FIRST_VALUES = 10.0
"""Seconds that ZooKeeper has to tell of all memberships before a leader begins."""
FRESH = 1.25
"""Heartbeats for which a node that vanished with most others is believed to be there because its agent is still in session."""
GONE = (Life.LOST, Life.LEFT)
CALM = 5.0
"""Seconds between two looks at the brakes while all nodes stand as they did: how long ago one that vanishes was there is known so well."""
SETTLING = 30.0
"""Seconds in office after which nodes that this leader never heard count when it asks itself whether it is cut off: agents look for it."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What the keeper sees and moves. `heartbeat`: seconds after which agents are heard again at the latest."""

    ledger: Ledger
    tracker: Tracker
    dispatcher: Dispatcher
    decider: Decider
    heartbeat: float


class NodeKeeper:
    """Watches the nodes for one leader. `start` before the first decision, then `run` for as long as the office lasts, then `close`.

    Args:
        reach: the parts of the leader.
        zk: the leader's session.
        paths: of the cluster.
        give_up: called with a reason when the leader turns out to be cut off from most nodes.
    """

    def __init__(self, reach: Reach, zk: Zk, paths: Paths, give_up: Callable[[str], None]) -> None:
        self._ledger, self._tracker = reach.ledger, reach.tracker
        self._dispatcher, self._decider = reach.dispatcher, reach.decider
        self._brakes = reach.decider.brakes
        self._brakes.refresh = self._look_at_heard
        self._fresh = FRESH * reach.heartbeat
        self._zk, self._paths, self._give_up = zk, paths, give_up
        self._watcher = MemberWatcher(zk, paths, self._told)
        self._wake = asyncio.Event()
        self._heard_of: set[str] = set()
        self._pace = Pace(self._look_at_heard)
        self._lives: dict[str, Life] = {}
        self._touched = self._ledger.state.touched.reader(), self._tracker.touched.reader()
        self._unheard: set[str] = set()
        """Nodes whose agents are not heard: how they stand changes with time."""
        self._unnoted: set[str] = set()
        """Nodes of which anything changed since it was looked at what is to be written of them."""
        self._braked_at = -math.inf
        self._began = clock.monotonic()
        self._started = False
        self._noting_doubt = False

    async def start(self) -> None:
        """Learn of all memberships, and compare them with what the leader before knew.

        Raises:
            GestaltError: ZooKeeper does not tell.
        """
        state = self._ledger.state
        self._began = clock.monotonic()
        await self._zk.sync(self._paths.nodes)
        await self._watcher.start(state.nodes, FIRST_VALUES)
        self._brakes.doubt.base = frozenset(state.switches.doubted)
        self._brakes.doubt.remember((node.id for node in state.nodes.values() if node.incarnation and not node.lost), self._began)
        self._lives = {node: self._tracker.standing(node).life for node in state.nodes}
        self._unheard, self._unnoted = set(state.nodes), set(state.nodes)
        self._started, self._brakes.doubt.noted = True, bool(state.switches.doubted)
        self._ledger.on_commit(self._committed)
        self._look(())

    async def run(self) -> None:
        """Note what has changed, for ever."""
        while True:
            self._wake.clear()
            self._look(())
            try:
                await self._note()
            except GestaltError as error:
                log.error("what became of the nodes is not written yet: %s", error)
            try:
                async with asyncio.timeout(deadlines.TICK):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def close(self) -> None:
        self._watcher.close()

    def _told(self, node: str, member: Member | None) -> None:
        """ZooKeeper tells of a membership: do at once what cannot wait."""
        record = self._ledger.state.nodes.get(node)
        self._tracker.member(self._tracker.node(node, record.name if record else node), member)
        if self._started:
            name = record.name if record else node
            log.info("node %s: %s", name, member or "has no membership any more", extra={"node": name})
            self._heard_of.add(node)
            self._pace.ask()

    def _look_at_heard(self) -> None:
        if self._heard_of:
            heard, self._heard_of = self._heard_of, set()
            self._look(tuple(heard))
            self._wake.set()

    def _look(self, told: tuple[str, ...]) -> None:
        """See how the nodes stand, put the brakes on or off, and have the apps looked at whose nodes changed."""
        touched = self._unheard.union(told, *map(taken, self._touched))
        changed = {node for node in touched if self._stands_anew(node)}
        self._unnoted |= touched
        is_calm = not (changed or told or self._brakes.doubt.base or self._brakes.cut_off)
        braked = False if is_calm and clock.monotonic() < self._braked_at + CALM else self._brake(self._lives)
        paths = set(self._ledger.state.apps) if braked else self._on(changed.union(told))
        if paths:
            self._dispatcher.refresh_routes(paths)
            self._decider.wake(paths)
        if changed:
            self._decider.wake_unplaced()

    def _stands_anew(self, node: str) -> bool:
        """See how a node stands; return whether that is another way than before."""
        before = self._lives.get(node)
        if node not in self._ledger.state.nodes:
            self._lives.pop(node, None)
            self._unheard.discard(node)
            return before is not None
        life = self._lives[node] = self._tracker.standing(node).life
        view = self._tracker.nodes.get(node)
        (self._unheard.discard if view is not None and view.heard else self._unheard.add)(node)
        if before not in (None, life):
            self._tell(node, life)
        return before is not life

    def _brake(self, lives: dict[str, Life]) -> bool:
        """Put the brakes on or off; return whether they changed."""
        self._braked_at = clock.monotonic()
        before = (self._brakes.held, self._brakes.cut_off)
        believed = self._dispatcher.believed
        members = frozenset(node for node, life in lives.items() if life not in GONE)
        doubt = self._brakes.doubt
        counted = {node for node in lives if not maintenance.is_expected(self._ledger.state.nodes.get(node))}
        doubt.assess(counted, members & counted, self._braked_at)
        self._brakes.held, self._dispatcher.believed = doubt.sentence(members), self._believed() if doubt.base else frozenset()
        self._brakes.cut_off = self._cut_off({node: life for node, life in lives.items() if node in counted})
        if self._brakes.cut_off and not before[1]:
            log.critical("stepping down: %s", self._brakes.cut_off)
            self._give_up(self._brakes.cut_off)
        return believed != self._dispatcher.believed or any(before) != bool(self._brakes.held or self._brakes.cut_off)

    def _believed(self) -> frozenset[str]:
        """Return the nodes whose agents say at this moment that they are there, whatever became of their memberships."""
        since = clock.monotonic() - self._fresh
        return frozenset(node for node, view in self._tracker.nodes.items() if view.heard and (view.is_in_line or view.last_seen >= since))

    def _members(self) -> frozenset[str]:
        return frozenset(node for node in self._ledger.state.nodes if self._tracker.standing(node).life not in GONE)

    def _cut_off(self, lives: dict[str, Life]) -> str:
        settled = clock.monotonic() - self._began >= SETTLING
        unreachable = sum(life is Life.UNREACHABLE and (settled or self._tracker.nodes[node].ever_heard) for node, life in lives.items())
        expected = sum(life not in (*GONE, Life.AGENT_DOWN) for life in lives.values())
        return cut_off(expected, unreachable)

    def _on(self, nodes: set[str]) -> set[str]:
        """Return the apps that have instances on these nodes."""
        return {path for node in nodes for path in self._ledger.state.apps_on(node)}

    def _tell(self, node: str, life: Life) -> None:
        """Tell of a state that is merely observed. A loss and a return are told with their commit."""
        name, reason = self._ledger.state.nodes[node].name, self._tracker.standing(node).reason
        if life in (Life.AGENT_DOWN, Life.UNREACHABLE):
            self._ledger.tell(f"node.{life}", name, f"node {name} {reason}")

    def _committed(self, draft: Draft) -> None:
        """Nodes came, left or changed, or an operator moved the switches."""
        kinds = {kind for kind, _ in draft.records}
        if "node" in kinds:
            nodes = self._ledger.state.nodes
            for node in nodes.keys() - self._watcher.nodes:
                self._tracker.node(node, nodes[node].name)
                self._watcher.watch(node)
            for node in self._watcher.nodes - nodes.keys():
                self._watcher.forget(node)
        if "switches" in kinds:
            if self._brakes.doubt.committed(bool(self._ledger.state.switches.doubted), ours=self._noting_doubt):
                self._brakes.doubt.confirm(self._members())
            self._decider.wake(self._ledger.state.apps)
        if kinds & {"node", "switches"}:
            touched = {key for kind, key in draft.records if kind == "node"}
            self._look(tuple(touched))
            self._wake.set()

    async def _note(self) -> None:
        """Write what a later leader has to know: losses, returns, the doubt, the end of drains."""
        if self._doubted() != self._ledger.state.switches.doubted:
            try:
                async with self._ledger.draft("leader", "doubt") as draft:
                    self._noting_doubt = True  # from here on nobody else commits
                    self._note_doubt(draft)
            finally:
                self._noting_doubt = False
        nodes, unnoted = self._ledger.state.nodes, tuple(self._unnoted)
        if any((node := nodes.get(id_)) is not None and self._noted(node) is not node for id_ in unnoted):
            async with self._ledger.draft("leader", "membership") as draft:
                for node in filter(None, map(nodes.get, unnoted)):
                    self._note_node(draft, node)
        self._unnoted -= {id_ for id_ in unnoted if (node := nodes.get(id_)) is None or self._noted(node) is node}
        await deadlines.note(self._ledger)

    def _doubted(self) -> tuple[str, ...]:
        return tuple(sorted(self._brakes.doubt.base))

    def _note_doubt(self, draft: Draft) -> None:
        doubted, before = self._doubted(), self._ledger.state.switches.doubted
        draft.put(replace(self._ledger.state.switches, doubted=doubted))
        if doubted and not before:
            draft.tell("cluster.held", "cluster", self._brakes.held)
        elif before and not doubted:
            draft.tell("cluster.released", "cluster", "enough nodes are back: lost instances are replaced again")

    def _noted(self, node: Node) -> Node:
        return noted(node, self._tracker.node(node.id, node.name).member)

    def _note_node(self, draft: Draft, node: Node) -> None:
        after = self._noted(node)
        if after is node:
            return
        draft.put_node(after)
        if after.lost and not node.lost:
            draft.tell("node.lost", node.name, f"node {node.name} has lost its membership (incarnation {after.lost})")
        elif node.lost and not after.lost:
            draft.tell("node.back", node.name, f"node {node.name} is back (incarnation {after.incarnation})")
        else:
            draft.tell("node.member", node.name, f"node {node.name} has a new membership (incarnation {after.incarnation})")
