"""What each node is told: its complete desired state, as a full message first and as differences from then on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gestalt import clock
from gestalt.model import DesiredInstance, NodeState, Route
from gestalt.proto.v1 import agent_pb2
from gestalt.wire import to_wire

from .grant_book import Terms
from .neighbours import Neighbours
from .nodes import Tracker
from .pace import Pace
from .records import App, Placed, Version, bindings, instance_id
from .routes import Routed, route
from .state import State

log = logging.getLogger(__name__)

ALL_EDGES = 50
"""In a cluster of fewer nodes than that each gets all routes; in a larger one those with the role `edge` do."""

EDGE = "edge"
SLICE = 0.02
"""Seconds for which agents are told of changes before others have their turn."""


def _free(app: App, placed: Placed) -> Terms:
    """The terms of what is not exclusive."""
    return Terms()


def node_state(
    state: State,
    node: str,
    routes: Mapping[str, Route],
    epoch: int,
    revision: int,
    *,
    terms: Callable[[App, Placed], Terms] = _free,
) -> NodeState:
    """Return everything that a node should run and route. `terms`: how it is told of an instance.

    Of its own instances the agent knows best whether they are ready: the flag is left out, so that it costs no message.
    """
    result = NodeState(epoch, revision, recovering=bool(state.switches.recovering))
    here = set(state.placed_on(node).values())
    for path in sorted(here):
        app = state.apps.get(path)
        for placed in state.placed(path).instances if app is not None else ():
            if placed.node == node and app is not None and not (on := terms(app, placed)).withheld:
                _add(result, state, app, placed, on)
    result.routes.update({key: _for_node(item, result.instances) if item.app in here else item for key, item in routes.items()})
    return result


def _add(result: NodeState, state: State, app: App, placed: Placed, terms: Terms) -> None:
    version = state.version(app.path, placed.version)
    instance = instance_id(app, placed.serial)
    result.templates[version.hash] = version.spec
    result.instances[instance] = DesiredInstance(
        instance, app.path, placed.version, version.hash, bindings(version.spec, placed), placed.stop or terms.stop, terms.grant
    )


def _for_node(item: Route, own: Mapping[str, DesiredInstance]) -> Route:
    return replace(item, servers=tuple(replace(server, ready=False) if server.instance in own else server for server in item.servers))


def difference(before: NodeState, after: NodeState) -> agent_pb2.NodeDelta | None:
    """Return what leads from one state to the next, or None when they are the same but for the revision."""
    put = NodeState(
        0,
        0,
        {key: item for key, item in after.templates.items() if key not in before.templates},
        {key: item for key, item in after.instances.items() if before.instances.get(key) != item},
        {key: item for key, item in after.routes.items() if before.routes.get(key) != item},
        {key: item for key, item in after.refused.items() if before.refused.get(key) != item},
        {key: item for key, item in after.peers.items() if (peer := before.peers.get(key)) is not item and peer != item},
        recovering=after.recovering,
        prepare=after.prepare,
    )
    delta = agent_pb2.NodeDelta(
        epoch=after.epoch,
        base=before.revision,
        revision=after.revision,
        put=to_wire(put, agent_pb2.NodeState),
        drop_templates=sorted(before.templates.keys() - after.templates.keys()),
        drop_instances=sorted(before.instances.keys() - after.instances.keys()),
        drop_routes=sorted(before.routes.keys() - after.routes.keys()),
        drop_refused=sorted(before.refused.keys() - after.refused.keys()),
        drop_peers=sorted(before.peers.keys() - after.peers.keys()),
    )
    same = replace(before, epoch=after.epoch, revision=after.revision) == after
    return None if same else delta


@dataclass(slots=True)
class Link:
    """The way to one connected agent. `wants_peers`: it is told of all nodes. `closed` is set to end its session."""

    node: str
    address: str
    wants_peers: bool = False
    outbox: asyncio.Queue[agent_pb2.CoordinatorMessage] = field(default_factory=lambda: asyncio.Queue(maxsize=1000))
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    def send(self, message: agent_pb2.CoordinatorMessage) -> None:
        """Queue a message; an agent that does not read for so long that the queue is full loses its session."""
        try:
            self.outbox.put_nowait(message)
        except asyncio.QueueFull:
            log.warning("node %s does not read its stream: ending the session", self.node)
            self.closed.set()


class Dispatcher:
    """Keeps every connected agent told of the newest desired state. Many changes in one turn of the loop become one message."""

    def __init__(self, state: State, tracker: Tracker, epoch: Callable[[], int]) -> None:
        self._state = state
        self._tracker = tracker
        self._epoch = epoch
        self._links: dict[str, Link] = {}
        self._told: dict[str, NodeState] = {}
        self._routes: dict[str, dict[str, Route]] = {}
        self._is_begun = False
        self._knows_neighbours = True
        self._pace = Pace(self._flush)
        self._behind: list[str] = []
        self._wires: dict[str, tuple[Route, agent_pb2.Route]] = {}
        self.terms: Callable[[App, Placed], Terms] = _free
        """How nodes are told of an instance."""
        self.prepare: Callable[[str], Sequence[tuple[Version, int]]] = lambda node: ()
        """What a node is to prepare: versions, with the number of each request."""
        self.neighbours = Neighbours(state.nodes, self._address)
        self.believed: frozenset[str] = frozenset()
        """The nodes whose word counts although they lost their membership: most did at once, and these still report."""

    def link(self, node: str) -> Link | None:
        return self._links.get(node)

    def attach(self, link: Link) -> None:
        """Take on an agent and tell it everything."""
        self._links[link.node] = link
        self._told.setdefault(link.node, NodeState(self._epoch(), 0))
        if not self._is_begun:
            self._begin()
        self.heard(set(self._state.placed_on(link.node).values()))
        self._knows_neighbours &= not self.neighbours.is_news(link.node)
        if not self._knows_neighbours and any(other.wants_peers for other in self._links.values()):
            self._pace.ask()
        full = self._next(link)
        self._told[link.node] = full
        message = agent_pb2.CoordinatorMessage()
        self._put_whole(full, message.full)
        link.send(message)

    def _begin(self) -> None:
        """Know everything before anybody is told: what a first message does not name, an agent removes."""
        self._is_begun = True
        self.neighbours.look()
        self.refresh_routes(self._state.apps)

    def _put_whole(self, full: NodeState, message: agent_pb2.NodeState) -> None:
        """Put a state into a message. That of a route is made once for all nodes: at a change of the leader all of them ask."""
        message.CopyFrom(to_wire(replace(full, routes={}, peers={}), agent_pb2.NodeState))
        for key, item in full.routes.items():
            known = self._wires.get(key)
            if known is None or known[0] is not item:
                known = (item, to_wire(item, agent_pb2.Route))
                if self._routes.get(item.app, {}).get(key) is item:
                    self._wires[key] = known
            message.routes[key].CopyFrom(known[1])
        if full.peers:
            self.neighbours.put_peers(message)

    def detach(self, link: Link) -> None:
        if self._links.get(link.node) is link:
            del self._links[link.node]

    def refresh_routes(self, paths: Iterable[str]) -> None:
        """Work out the routes of these apps anew and have all agents told of whatever changed, soon."""
        for path in paths:
            self._reroute(path)
        self._pace.ask()

    def ask(self) -> None:
        """Have all agents told of whatever changed, soon."""
        self._pace.ask()

    def heard(self, paths: Iterable[str]) -> None:
        """More was observed of these apps: have agents told if their routes changed."""
        changed = [path for path in paths if self._reroute(path)]
        if changed:
            self._pace.ask()

    def _reroute(self, path: str) -> bool:
        """Work out the routes of an app; return whether they changed. Those that did not stay the same value."""
        app, before = self._state.apps.get(path), self._routes.get(path, {})
        if app is None:
            for key in before:
                self._wires.pop(key, None)
            return self._routes.pop(path, None) is not None
        after = {item.key: item for item in self._route(app)}
        if after == before and path in self._routes:
            return False
        self._routes[path] = after
        return True

    def _route(self, app: App) -> tuple[Route, ...]:
        return route(app, self._state.version(app.path, app.version), [self._routed(app, item) for item in self._placed(app)])

    def _placed(self, app: App) -> tuple[Placed, ...]:
        return self._state.placed(app.path).instances

    def _routed(self, app: App, placed: Placed) -> Routed:
        ready = self._tracker.takes_requests(app, placed)
        lost = self._tracker.standing(placed.node).is_gone and placed.node not in self.believed
        lost = lost or placed.node in self.neighbours.refused()  # what is sent there does not arrive
        return Routed(placed, self._state.version(app.path, placed.version), self._address(placed.node), ready, lost)

    def _address(self, node: str) -> str:
        """Return where a node is reached: as its agent said, or as it was when it joined."""
        view, record = self._tracker.nodes.get(node), self._state.nodes.get(node)
        return (view.address if view is not None else "") or (record.address if record is not None else "")

    def _next(self, link: Link) -> NodeState:
        node = link.node
        routes = {key: item for path in self._routed_on(node) for key, item in self._routes.get(path, {}).items()}
        own = node_state(self._state, node, routes, self._epoch(), self._told[node].revision + 1, terms=self.terms)
        asked = self.prepare(node)
        return replace(
            own,
            refused=self.neighbours.refused_by(node),
            peers=self.neighbours.known if link.wants_peers else {},
            templates=own.templates | {version.hash: version.spec for version, _ in asked},
            prepare={version.hash: number for version, number in asked},
        )

    def _routed_on(self, node: str) -> Iterable[str]:
        """Return the apps whose routes a node gets: all at an edge, which every node of a small cluster is, else those that it runs."""
        record = self._state.nodes.get(node)
        is_edge = len(self._state.nodes) < ALL_EDGES or (record is not None and EDGE in record.roles)
        return self._routes if is_edge else sorted(set(self._state.placed_on(node).values()))

    def _flush(self) -> bool:
        """Tell those who are behind, for SLICE seconds; return whether there are more of them."""
        if not self._behind:
            self.neighbours.look()
            self._knows_neighbours = True
            self._behind = list(self._links)
        end = clock.monotonic() + SLICE
        while self._behind and clock.monotonic() < end:
            self._tell(self._behind.pop())
        return bool(self._behind)

    def _tell(self, node: str) -> None:
        link = self._links.get(node)
        if link is None:
            return
        after = self._next(link)
        delta = difference(self._told[node], after)
        if delta is not None:
            self._told[node] = after
            link.send(agent_pb2.CoordinatorMessage(delta=delta))
