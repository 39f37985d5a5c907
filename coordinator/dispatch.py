"""Which agents are told of what, and when: everything at first, and only what has changed from then on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from gestalt import clock
from gestalt.proto.v1 import agent_pb2

from .beginning import Beginning
from .grant_book import PLAIN, Terms
from .neighbours import Neighbours
from .nodes import Tracker
from .pace import Pace
from .records import App, Grant, Placed, Version, instance_id
from .routing import Routing
from .state import Draft, Moves, State
from .told import Change, Templates, Told

log = logging.getLogger(__name__)

ALL_EDGES = 50
"""In a cluster of fewer nodes than that each gets all routes; in a larger one those with the role `edge` do."""

EDGE = "edge"
SLICE = 0.02
"""Seconds for which agents are told of changes before others have their turn."""
SENDING = 0.0002
"""Seconds that a message costs after it was made: to make many small ones of what could be one is no gain."""


def _free(app: App, placed: Placed) -> Terms:
    """The terms of what is not exclusive."""
    return PLAIN


@dataclass(slots=True)
class Link:
    """The way to one connected agent. `wants_peers`: it is told of all nodes. `closed` is set to end its session.

    `sent`: when a message was sent last, by the monotonic clock.
    """

    node: str
    address: str
    wants_peers: bool = False
    outbox: asyncio.Queue[agent_pb2.CoordinatorMessage] = field(default_factory=lambda: asyncio.Queue(maxsize=1000))
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    sent: float = field(default_factory=clock.monotonic)

    def send(self, message: agent_pb2.CoordinatorMessage) -> None:
        """Queue a message; an agent that does not read for so long that the queue is full loses its session."""
        try:
            self.outbox.put_nowait(message)
        except asyncio.QueueFull:
            log.warning("node %s does not read its stream: ending the session", self.node)
            self.closed.set()


@dataclass(slots=True)
class News:
    """What is to be looked at of a node: these instances, the routes of these apps, and what it is told of other nodes."""

    instances: set[str] = field(default_factory=set)
    apps: set[str] = field(default_factory=set)
    neighbours: bool = False


class Dispatcher:
    """Keeps every connected agent told of the newest desired state. Many changes in one turn of the loop become one message.

    What a commit does to instances costs as much as it does: of a node on which some change only these are looked at. For all else that may
    be something to a node everything there is.
    """

    def __init__(self, state: State, tracker: Tracker, epoch: Callable[[], int]) -> None:
        self._state = state
        self._tracker = tracker
        self._epoch = epoch
        self._links: dict[str, Link] = {}
        self._told: dict[str, Told] = {}
        self._revisions: dict[str, int] = {}
        self._is_small = len(state.nodes) < ALL_EDGES
        self._knows_neighbours = True
        self._pace = Pace(self._flush)
        self._news: dict[str, News | None] = {}
        self._behind: list[str] = []
        self._unrouted: set[str] = set()
        self._to_route: list[str] = []
        self._templates = Templates()
        self.terms: Callable[[App, Placed], Terms] = _free
        """How nodes are told of an instance."""
        self.prepare: Callable[[str], Sequence[tuple[Version, int]]] = lambda node: ()
        """What a node is to prepare: versions, with the number of each request."""
        address = partial(_address, state, tracker)
        self.neighbours = Neighbours(state.nodes, address)
        self.believed: frozenset[str] = frozenset()
        """The nodes whose word counts although they lost their membership: most did at once, and these still report."""
        self._routing = Routing(
            state,
            tracker,
            address,
            is_cut_off=lambda node: node in self.neighbours.refused(),
            is_believed=lambda node: node in self.believed,
            ask=lambda path: self.refresh_routes({path}),
        )
        self._beginning = Beginning(state.apps, self._routing, self.neighbours, self._take_on, partial(Pace, share=1.0))

    def link(self, node: str) -> Link | None:
        return self._links.get(node)

    def attach(self, link: Link) -> None:
        """Take on an agent and tell it everything, once that is known. What it brings to the routes follows with what others are told."""
        self._beginning.admit(link)
        self.refresh_routes(self._state.apps_on(link.node))

    def _take_on(self, link: Link) -> None:
        before = self._told.pop(link.node, None)
        self._told[link.node] = Told(before.revision if before is not None else self._revisions.pop(link.node, 0))
        self._links[link.node] = link
        self._knows_neighbours &= not self.neighbours.is_news(link.node)
        if not self._knows_neighbours and any(other.wants_peers for other in self._links.values()):
            self._pace.ask()
        self._news.pop(link.node, None)
        message = agent_pb2.CoordinatorMessage()
        change = self._change(link.node, message.full)
        self._look_at_everything(link, change)
        change.finish_full(self._epoch())
        link.send(message)

    def detach(self, link: Link) -> None:
        """Let an agent go. When it comes back, it is told everything; only the number of the last revision is kept until then.

        Of a node that was removed nothing is kept: what joins again by its id begins anew.
        """
        self._beginning.leave(link)
        if self._links.get(link.node) is link:
            del self._links[link.node]
            self._news.pop(link.node, None)
            told = self._told.pop(link.node)
            if link.node in self._state.nodes:
                self._revisions[link.node] = told.revision

    # What there may be to tell

    def committed(self, draft: Draft, paths: Collection[str]) -> None:
        """A commit is durable that concerns these apps: have agents told of what it changes for them, soon."""
        if nodes := [key for kind, key in draft.records if kind == "node"]:
            self.tell_neighbours()
            self.tell_soon(nodes)
            for node in nodes:
                if node not in self._state.nodes:
                    self._revisions.pop(node, None)
                    self._tracker.removed(node)
        is_small, self._is_small = self._is_small, len(self._state.nodes) < ALL_EDGES
        if is_small != self._is_small or any(kind == "switches" for kind, _ in draft.records):
            self.tell_all()
        self.refresh_routes(paths)
        for moves in draft.moves:
            self._tell_of(moves)
        self.tell_soon(self._state.nodes_of(record.app for record in draft.records.values() if isinstance(record, Grant)))

    def learned(self, paths: Collection[str]) -> None:
        """More is known of the grants of these apps: have their nodes told on which terms they run them, soon."""
        self.refresh_routes(paths)
        self.tell_soon(self._state.nodes_of(paths))

    def refresh_routes(self, paths: Iterable[str]) -> None:
        """Have the routes of these apps worked out anew, and those agents told that get one that changed, soon."""
        if asked := self._beginning.routed(paths):
            self._unrouted |= asked
            self._pace.ask()

    def tell_all(self) -> None:
        """Have every agent told of whatever changed for it, soon."""
        self._knows_neighbours = False
        self.tell_soon(self._links)

    def tell_neighbours(self) -> None:
        """Have every agent told of what changed about the other nodes, soon, if anything did."""
        self._knows_neighbours = False
        self._pace.ask()

    def tell_soon(self, nodes: Iterable[str]) -> None:
        """Have these nodes told of whatever changed for them, soon."""
        for node in nodes:
            if node in self._links:
                self._news[node] = None
                self._pace.ask()

    def _tell_of(self, moves: Moves) -> None:
        """Have nodes told of what became of these instances, soon."""
        for app, placed in (*moves.gone, *moves.come, *moves.changed):
            if (news := self._of(placed.node)) is not None:
                news.instances.add(instance_id(app, placed.serial))
                news.apps.add(app.path)
                self._pace.ask()

    def _of(self, node: str) -> News | None:
        """Return what is to be looked at of a node, to be added to; None: everything is, or nobody is there to be told."""
        return self._news.setdefault(node, News()) if node in self._links else None

    # Telling

    def _flush(self) -> bool:
        """Work out routes and tell those who are behind, for SLICE seconds; return whether there is more to do."""
        end = clock.monotonic() + SLICE
        if not (self._to_route or self._behind):
            self._to_route, self._unrouted = list(self._unrouted), set()
        self._route(end)
        if self._to_route:
            return True
        if not self._behind:
            if not self._knows_neighbours:
                self._knows_neighbours = True
                for news in map(self._of, self._links if self.neighbours.look() else ()):
                    if news is not None:
                        news.neighbours = True
            self._behind = sorted(self._news, key=lambda node: _is_urgent(self._news[node]))  # these are told first: from the end
        while self._behind and clock.monotonic() < end:
            if self._tell(self._behind.pop()):
                self._pace.owe(SENDING)
                end -= SENDING  # who sends them has to have a turn, too
        return bool(self._behind)

    def _route(self, end: float) -> None:
        """Work out routes until this time, and note who is to be told."""
        changed = []
        with self._routing.one_moment():
            while self._to_route and clock.monotonic() < end:
                if self._routing.refresh(path := self._to_route.pop()):
                    changed.append(path)
        for nodes, paths in [(self._edges() if changed else (), changed), *((self._state.nodes_of([path]), [path]) for path in changed)]:
            for node in nodes:
                if (news := self._of(node)) is not None:
                    news.apps.update(paths)

    def _tell(self, node: str) -> bool:
        """Tell an agent what there is to tell; return whether that is anything."""
        link = self._links.get(node)
        if link is None or node not in self._news:
            return False
        news = self._news.pop(node)
        message = agent_pb2.CoordinatorMessage()
        change = self._change(node, message.delta.put)
        try:
            if news is None:
                self._look_at_everything(link, change)
            else:
                change.instances(news.instances)
                change.routes(self._routing, news.apps, all_routes=self._is_edge(node))
                if news.neighbours:
                    _look_at_neighbours(self.neighbours, link, change)
            is_news = change.finish_delta(self._epoch(), message.delta)
        except Exception:  # what it was told is not certain any more
            log.exception("node %s: what has changed could not be told: ending the session", node)
            link.closed.set()
            return False
        if is_news:
            link.send(message)
        return is_news

    def _change(self, node: str, put: agent_pb2.NodeState) -> Change:
        here, state = self._state.placed_on(node), self._state
        return Change(self._told[node], put, here=here, state=state, terms=self.terms, templates=self._templates)

    def _look_at_everything(self, link: Link, change: Change) -> None:
        change.recovering(is_so=bool(self._state.switches.recovering))
        change.prepare(self.prepare(link.node))
        change.everything(self._routing, all_routes=self._is_edge(link.node))
        _look_at_neighbours(self.neighbours, link, change)

    def _edges(self) -> Iterable[str]:
        """Return the nodes that get all routes: every node of a small cluster is an edge."""
        nodes = self._state.nodes
        return self._links if len(nodes) < ALL_EDGES else [node for node, record in nodes.items() if EDGE in record.roles]

    def _is_edge(self, node: str) -> bool:
        record = self._state.nodes.get(node)
        return len(self._state.nodes) < ALL_EDGES or (record is not None and EDGE in record.roles)


def _is_urgent(news: News | None) -> bool:
    """Tell whether there may be something to start or to stop on a node."""
    return news is None or bool(news.instances)


def _address(state: State, tracker: Tracker, node: str) -> str:
    """Return where a node is reached: as its agent said, or as it was when it joined."""
    view, record = tracker.nodes.get(node), state.nodes.get(node)
    return (view.address if view is not None else "") or (record.address if record is not None else "")


def _look_at_neighbours(neighbours: Neighbours, link: Link, change: Change) -> None:
    change.refused(neighbours.refused_by(link.node))
    change.peers(neighbours.known if link.wants_peers else {}, neighbours.put_peers)
