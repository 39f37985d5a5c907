"""What each node is told: its complete desired state, as a full message first and as differences from then on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gestalt import clock
from gestalt.model import DesiredInstance, NodeState, Route
from gestalt.proto.v1 import agent_pb2, spec_pb2
from gestalt.spec.schema import AppSpec
from gestalt.wire import spec_to_wire, to_wire

from .grant_book import Terms
from .neighbours import Neighbours
from .nodes import Tracker
from .pace import Pace
from .records import App, Grant, Placed, Version, bindings, instance_id
from .routes import Routed, route
from .state import Draft, State, run_key

log = logging.getLogger(__name__)

ALL_EDGES = 50
"""In a cluster of fewer nodes than that each gets all routes; in a larger one those with the role `edge` do."""

EDGE = "edge"
KEPT_TEMPLATES = 2000
"""So many messages of templates are kept ready."""
RUN_VARIABLE = "GESTALT_RUN"
"""In it an instance of a job finds the id of its run."""
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
    here = set()
    for instance, placed in state.placed_on(node).items():
        path = state.owners[instance]
        here.add(path)
        if not (on := terms(app := state.apps[path], placed)).withheld:
            _add(result, state, app, placed, on)
    result.routes.update({key: _for_node(item, result.instances) if item.app in here else item for key, item in routes.items()})
    return result


def _add(result: NodeState, state: State, app: App, placed: Placed, terms: Terms) -> None:
    version = state.version(app.path, placed.version)
    instance = instance_id(app, placed.serial)
    result.templates[version.hash] = version.spec
    result.instances[instance] = DesiredInstance(
        instance,
        app.path,
        placed.version,
        version.hash,
        bindings(version.spec, placed),
        placed.stop or terms.stop,
        terms.grant,
        _variables(state, app, placed),
        placed.ended,
    )


def _variables(state: State, app: App, placed: Placed) -> dict[str, str]:
    """Return what the run of an instance sets, and which one it is."""
    run = state.runs.get(run_key(app.path, placed.run)) if placed.run else None
    return {**run.parameters, RUN_VARIABLE: run.id} if run is not None else {}


def _for_node(item: Route, own: Mapping[str, DesiredInstance]) -> Route:
    return replace(item, servers=tuple(replace(server, ready=False) if server.instance in own else server for server in item.servers))


def _message(key: str, spec: AppSpec) -> spec_pb2.AppSpec:
    """Make the message of a template, which is known by this hash."""
    return spec_to_wire(spec)


def difference(
    before: NodeState, after: NodeState, template: Callable[[str, AppSpec], spec_pb2.AppSpec] = _message
) -> agent_pb2.NodeDelta | None:
    """Return what leads from one state to the next, or None when they are the same but for the revision.

    `template`: gives the message of a template, which has the hash that comes first.
    """
    put = NodeState(
        0,
        0,
        {},
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
    for key, spec in after.templates.items():
        if key not in before.templates:
            delta.put.templates[key].CopyFrom(template(key, spec))
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


class Templates:
    """The messages of templates, each made once for all nodes; the newest are kept."""

    def __init__(self) -> None:
        self._made: dict[str, spec_pb2.AppSpec] = {}

    def message(self, key: str, spec: AppSpec) -> spec_pb2.AppSpec:
        """Return the message of a template, which has this hash."""
        if key not in self._made:
            if len(self._made) >= KEPT_TEMPLATES:
                del self._made[next(iter(self._made))]
            self._made[key] = spec_to_wire(spec)
        return self._made[key]


class Dispatcher:
    """Keeps every connected agent told of the newest desired state. Many changes in one turn of the loop become one message.

    Only those agents are looked at for which something may have changed: a large cluster costs no more than the part of it that moves.
    """

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
        self._stale: set[str] = set()
        self._behind: list[str] = []
        self._templates = Templates()
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
        self.refresh_routes(self._state.apps_on(link.node))
        self._knows_neighbours &= not self.neighbours.is_news(link.node)
        if not self._knows_neighbours and any(other.wants_peers for other in self._links.values()):
            self._pace.ask()
        self._stale.discard(link.node)
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

    def committed(self, draft: Draft, paths: Collection[str]) -> None:
        """A commit is durable that concerns these apps: have agents told of what it changes for them, soon."""
        if any(kind in ("node", "switches") for kind, _ in draft.records):
            self.tell_all()
        self.refresh_routes(paths)
        for moves in draft.moves:
            self.tell_soon(moves.nodes)
        self.tell_soon(self._state.nodes_of(record.app for record in draft.records.values() if isinstance(record, Grant)))

    def learned(self, paths: Collection[str]) -> None:
        """More is known of the grants of these apps: have their nodes told on which terms they run them, soon."""
        self.refresh_routes(paths)
        self.tell_soon(self._state.nodes_of(paths))

    def refresh_routes(self, paths: Iterable[str]) -> None:
        """Work out the routes of these apps anew, and have those agents told that get one that changed, soon."""
        changed = [path for path in paths if self._reroute(path)]
        if changed:
            self.tell_soon(self._edges())
            self.tell_soon(self._state.nodes_of(changed))

    def tell_all(self) -> None:
        """Have every agent told of whatever changed for it, soon."""
        self._knows_neighbours = False
        self.tell_soon(self._links)

    def tell_soon(self, nodes: Iterable[str]) -> None:
        """Have these nodes told of whatever changed for them, soon."""
        before = len(self._stale)
        self._stale.update(nodes)
        if len(self._stale) > before:
            self._pace.ask()

    def _edges(self) -> Iterable[str]:
        """Return the nodes that get all routes: every node of a small cluster is an edge."""
        nodes = self._state.nodes
        return self._links if len(nodes) < ALL_EDGES else [node for node, record in nodes.items() if EDGE in record.roles]

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
        return bool(before or after)

    def _route(self, app: App) -> tuple[Route, ...]:
        version = self._state.version(app.path, app.version)
        if not any(port.http is not None or port.tcp is not None for port in version.spec.ports):
            return ()
        return route(app, version, [self._routed(app, item) for item in self._state.placed(app.path).instances if not item.ended])

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
        return self._routes if is_edge else sorted(self._state.apps_on(node))

    def _flush(self) -> bool:
        """Tell those who are behind, for SLICE seconds; return whether there are more of them."""
        if not self._behind:
            if not self._knows_neighbours:
                self._knows_neighbours = True
                self._stale.update(self._links if self.neighbours.look() else ())
            self._behind, self._stale = list(self._stale), set()
        end = clock.monotonic() + SLICE
        while self._behind and clock.monotonic() < end:
            self._tell(self._behind.pop())
        return bool(self._behind)

    def _tell(self, node: str) -> None:
        link = self._links.get(node)
        if link is None:
            return
        after = self._next(link)
        delta = difference(self._told[node], after, self._templates.message)
        if delta is not None:
            self._told[node] = after
            link.send(agent_pb2.CoordinatorMessage(delta=delta))
