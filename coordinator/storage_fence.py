"""The storage-side fence on netfilter: all other nodes refuse a lost node's packets until it is back with nothing of the old at work.

What is refused is in the node's record before anybody is told of it, so that no change of leaders opens a way for the lost node. Whether
the others do refuse it is soft state: they tell every leader anew. Only nodes that held something exclusive are refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from gestalt.config import CoordinatorSettings
from gestalt.errors import GestaltError
from gestalt.model import Refused

from .admitted import admitted_ports
from .grants import AT_WORK, grant_name
from .keeper import Reach
from .ledger import Ledger
from .membership import Life
from .nodes import NodeView, Tracker
from .records import Node, instance_id
from .state import Draft, State

if TYPE_CHECKING:  # an appliance needs no client of ZooKeeper
    from gestalt.zk.client import Watch, Zk

log = logging.getLogger(__name__)

RETRY = 1.0
"""Seconds until a refusal, or its end, is written again after the store refused the commit."""
ZOOKEEPER_CONFIGURATION = "/zookeeper/config"
FIRST_LOOK = 2.0
"""Seconds for which a new leader waits for ZooKeeper to tell its ports; those that it uses by default count until it does."""


@dataclass(frozen=True, slots=True)
class _Asked:
    incarnation: int
    address: str


class NetfilterFence:
    """A `grants.StorageFence`. `watch` first, then `run` for as long as the office lasts, then `close`.

    Args:
        ledger: holds the refusals, in the records of the nodes.
        tracker: what is known of the nodes.
        changed: called with the nodes whose records changed when all are to be told anew whom to refuse.
        own: addresses at which a refused node is let in, besides those of the coordinators on record.
        is_on: nodes are to be refused; otherwise those that are refused are let in again.
    """

    def __init__(
        self, ledger: Ledger, tracker: Tracker, changed: Callable[[Collection[str]], None], *, own: tuple[str, ...] = (), is_on: bool = True
    ) -> None:
        self._ledger = ledger
        self._tracker = tracker
        self._changed = changed
        self._own = own
        self._is_on = is_on
        self._configuration = b""
        self._asked: dict[str, _Asked] = {}
        self._refused: Mapping[str, Refused] | None = None
        self._wake = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []
        self._watch: Watch | None = None
        ledger.on_commit(self._committed)

    @classmethod
    def install(cls, settings: CoordinatorSettings, reach: Reach) -> Self:
        """Return the one of a leader, connected with its other parts."""
        is_on, hosts = settings.storage_fence == "netfilter", settings.zookeeper.hosts if settings.zookeeper is not None else ()
        own = (*hosts, settings.advertise or settings.listen, settings.join_listen)
        state, dispatcher, decider = reach.ledger.state, reach.dispatcher, reach.decider

        def changed(nodes: Collection[str]) -> None:
            dispatcher.refresh_routes({path for node in nodes for path in state.apps_on(node)})
            dispatcher.tell_neighbours()

        fence = cls(reach.ledger, reach.tracker, changed, own=own, is_on=is_on)
        dispatcher.neighbours.refused = fence.refused
        if is_on:
            decider.grants.storage = fence
            fence.on_change(lambda: decider.wake({grant.app for grant in state.grants.values()}))
        return fence

    # What is asked of it

    def secured(self, node: str, incarnation: int, address: str) -> bool:
        """See `grants.StorageFence`."""
        record = self._ledger.state.nodes.get(node)
        if record is None:
            return False
        if record.refused < incarnation:
            asked = _Asked(incarnation, address or record.address)
            if self._asked.get(node) != asked:
                self._asked[node] = asked
                self._wake.set()
            return False
        return not self.missing(node, incarnation)

    def missing(self, node: str, incarnation: int) -> tuple[str, ...]:
        """Return the names of the other nodes that do not refuse a node yet; "any node" when there is none that could."""
        witnesses = [view for view in map(self._tracker.nodes.get, self._others(node)) if view is not None]
        return tuple(view.name for view in witnesses if view.refusing.get(node, 0) < incarnation) if witnesses else ("any node",)

    def _others(self, node: str) -> Iterator[str]:
        """Yield the other nodes that can refuse anybody: those that are members, and whose agents are heard."""
        for other in self._ledger.state.nodes:
            view = self._tracker.nodes.get(other)
            if other != node and view is not None and view.heard and self._tracker.standing(other).life not in (Life.LOST, Life.LEFT):
                yield other

    def on_change(self, wake: Callable[[], None]) -> None:
        """See `grants.StorageFence`."""
        self._listeners.append(wake)

    def reported(self, view: NodeView) -> None:
        """A node's agent has told of what runs there, of whom it refuses, or where it is."""
        record, refused = self._ledger.state.nodes.get(view.id), self.refused()
        if record is not None and (view.id in refused or view.address != record.address):
            self._wake.set()
        if refused:
            for listener in self._listeners:
                listener()

    def refused(self) -> Mapping[str, Refused]:
        """Return whom the nodes are to refuse, by node id; none is to refuse itself."""
        if self._refused is None:
            nodes = [node for node in self._ledger.state.nodes.values() if node.refused]
            ports = self._ports() if nodes else ()
            self._refused = {node.id: Refused(node.refused_at, node.refused, ports) for node in nodes}
        return self._refused

    def _ports(self) -> tuple[int, ...]:
        known = self._ledger.state.coordinators.values()
        addresses = [address for item in known for address in (item.address, item.join_address)]
        return admitted_ports((*self._own, *addresses), self._configuration)

    # What it does

    async def watch(self, zk: Zk) -> None:
        """Learn the ports of ZooKeeper's servers, and hear when they change."""
        first = asyncio.Event()

        def told(found: tuple[bytes, object] | None) -> None:
            self._configuration, self._refused = found[0] if found is not None else b"", None
            first.set()
            self._changed(())

        self._watch = zk.watch(ZOOKEEPER_CONFIGURATION, told)
        try:
            async with asyncio.timeout(FIRST_LOOK):
                await first.wait()
        except TimeoutError:
            log.warning("ZooKeeper does not tell the ports of its servers: refused nodes reach them on the usual ones")

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()

    async def run(self) -> None:
        """Write down who is refused, and who is not any more, for ever."""
        while True:
            self._wake.clear()
            is_done = await self._step()
            try:
                async with asyncio.timeout(None if is_done else RETRY):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _step(self) -> bool:
        """Write what is due; return whether that worked."""
        nodes = self._ledger.state.nodes
        due = [node.id for node in nodes.values() if self._due(node) is not node]
        if not due:
            return True
        try:
            async with self._ledger.draft("leader", "storage fence") as draft:
                for node in filter(None, map(nodes.get, due)):
                    self._write(draft, node, self._due(node))
        except GestaltError as error:
            log.error("whom the nodes are to refuse is not written yet: %s", error)
            return False
        return True

    @staticmethod
    def _write(draft: Draft, node: Node, after: Node) -> None:
        if after is node:
            return
        draft.put_node(after)
        if after.refused > node.refused:
            until = f"at {after.refused_at} until it registers anew"
            draft.tell("node.refused", node.name, f"the other nodes are to refuse node {node.name} (incarnation {after.refused}) {until}")
        elif node.refused:
            draft.tell("node.admitted", node.name, f"node {node.name} has nothing of its old membership at work: it is let in again")

    def _due(self, node: Node) -> Node:
        """Return the record of a node as it should be now, itself if it is; with the address that a later leader is to know, should it be
        lost."""
        if not self._is_on:
            return replace(node, refused=0, refused_at="") if node.refused or node.refused_at else node
        member, asked = self._tracker.incarnation(node.id), self._asked.get(node.id)
        if asked is not None and asked.incarnation > node.refused and not member and self._is_its_own(node.id, asked.address):
            return replace(node, refused=asked.incarnation, refused_at=asked.address)
        if node.refused and member > node.refused and is_clean(self._ledger.state, self._tracker, node):
            return replace(node, refused=0, refused_at="")
        view = self._tracker.nodes.get(node.id)
        return replace(node, address=view.address) if view is not None and view.heard and view.address not in ("", node.address) else node

    def _is_its_own(self, node: str, address: str) -> bool:
        """Whether refusing this address refuses that node, and nobody else."""
        others = [item for item in self._ledger.state.nodes.values() if item.id != node and item.address == address]
        for other in others:
            log.error("node %s cannot be refused: node %s has its address %s, too", node, other.name, address)
        return bool(address) and not others

    def _committed(self, draft: Draft) -> None:
        """Nodes came, went or changed: have everybody told, and look who is due."""
        if any(kind in ("node", "coordinator") for kind, _ in draft.records):
            self._asked = {node: asked for node, asked in self._asked.items() if not self._tracker.incarnation(node)}
            self._refused = None
            self._wake.set()
            self._changed([key for kind, key in draft.records if kind == "node"])


def is_clean(state: State, tracker: Tracker, node: Node) -> bool:
    """Whether a node's agent, in a session under a later membership than the refused one, tells of nothing old at work that is exclusive.

    What is unknown, of which no app is known, counts as exclusive.
    """
    view = tracker.nodes.get(node.id)
    if view is None or not view.heard or view.incarnation <= node.refused:
        return False
    strange = (report for report in view.unknown.values() if report.phase in AT_WORK)
    return not any(_is_exclusive(state, report.app) for report in strange) and not any(_old_at_work(state, tracker, node))


def _is_exclusive(state: State, path: str) -> bool:
    app = state.apps.get(path)
    return app is None or state.version(path, app.version).spec.placement.exclusive


def _old_at_work(state: State, tracker: Tracker, node: Node) -> Iterator[str]:
    """Yield what is placed there, is exclusive, is at work and has no right from after the refused membership."""
    for path, placements in state.placements.items():
        app = state.apps.get(path)
        for placed in placements.instances if app is not None else ():
            if app is None or placed.node != node.id:
                continue
            seen = tracker.sighting(instance_id(app, placed.serial)).observed
            if seen is None or seen.phase not in AT_WORK or not state.version(path, placed.version).spec.placement.exclusive:
                continue
            grant = state.grants.get(grant_name(app))
            if grant is None or grant.serial != placed.serial or grant.revoked or grant.incarnation <= node.refused:
                yield seen.instance
