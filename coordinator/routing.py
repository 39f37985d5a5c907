"""The routes of all apps, as they were worked out last, and their messages, each made once for all nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache

from gestalt.model import Route
from gestalt.proto.v1 import agent_pb2
from gestalt.wire import to_wire

from .again import Again
from .nodes import Tracker
from .records import App, Placed, Version
from .routes import Routed, route
from .state import State

_KEPT = 256
"""So many routes are kept with what was found out by a look at all of their servers."""


@dataclass(slots=True, eq=False)
class Shared:
    """A route, as many nodes are told it: two of them are the same only when they are one."""

    route: Route
    _wire: bytes = b""

    def put(self, message: agent_pb2.Route) -> None:
        """Put the route into an empty message."""
        self.make()
        message.MergeFromString(self._wire)

    def make(self) -> None:
        """Have ready what is put into messages: of a thousand servers that takes milliseconds, once."""
        self._wire = self._wire or to_wire(self.route, agent_pb2.Route).SerializeToString()


Served = Mapping[str, Shared]
"""The routes of one app by key. It is never changed."""

_NOTHING: Served = {}


class Routing:
    """Knows the routes of every app that has any.

    Args:
        state: what is decided; read, never changed.
        tracker: what is known of nodes and instances.
        address: where a node is reached; empty = that is not known.
        is_cut_off: whether what is sent to a node does not arrive, whatever is known of its membership.
        is_believed: whether the word of a node counts although it lost its membership.
        ask: called with an app whose routes could not be worked out, to have that tried again.
    """

    def __init__(
        self,
        state: State,
        tracker: Tracker,
        address: Callable[[str], str],
        *,
        is_cut_off: Callable[[str], bool],
        is_believed: Callable[[str], bool],
        ask: Callable[[str], None],
    ) -> None:
        self._state = state
        self._tracker = tracker
        self._address = address
        self._is_cut_off = is_cut_off
        self._is_believed = is_believed
        self._again = Again(ask)
        self._served: dict[str, Served] = {}
        self._nodes: dict[str, tuple[str, bool]] = {}
        self._where = lru_cache(_KEPT)(_where)
        self._changed = lru_cache(_KEPT)(_changed)

    def apps(self) -> Iterator[str]:
        """Yield the paths of the apps that have routes."""
        return iter(self._served)

    def of(self, path: str) -> Served:
        """Return the routes of an app; what did not change since is the same value."""
        return self._served.get(path, _NOTHING)

    @contextmanager
    def one_moment(self) -> Iterator[None]:
        """What is asked of nodes within the block, which does not await, is looked up once a node."""
        self._nodes = {}
        try:
            yield
        finally:
            self._nodes = {}

    def refresh(self, path: str) -> bool:
        """Work out the routes of an app; return whether they changed. An app whose routes cannot be worked out keeps those it has."""
        try:
            is_news = self._refresh(path)
        except Exception as error:  # noqa: BLE001 - it is logged there; one app's fault is no other's
            self._again.failed(path, f"the routes of {path}", error)
            return False
        self._again.succeeded(path)
        return is_news

    def _refresh(self, path: str) -> bool:
        before, app = self.of(path), self._state.apps.get(path)
        after = {item.key: self._same(before.get(item.key), item) for item in self._route(app, before)} if app is not None else {}
        if after == before:
            return False
        if after:
            self._served[path] = after
        else:
            del self._served[path]
        return True

    @staticmethod
    def _same(before: Shared | None, item: Route) -> Shared:
        return before if before is not None and before.route == item else Shared(item)

    def _route(self, app: App, before: Served) -> tuple[Route, ...]:
        version = self._state.version(app.path, app.version)
        if not any(port.http is not None or port.tcp is not None for port in version.spec.ports):
            return ()
        versions = {version.number: version}
        routed = [self._routed(app, item, versions) for item in self._state.placed(app.path).instances if not item.ended]
        return route(app, version, routed, {key: item.route for key, item in before.items()})

    def _routed(self, app: App, placed: Placed, versions: dict[int, Version]) -> Routed:
        version = versions.get(placed.version)
        if version is None:
            version = versions[placed.version] = self._state.version(app.path, placed.version)
        address, lost = self._nodes.get(placed.node) or self._look_at(placed.node)
        return Routed(placed, version, address, self._tracker.takes_requests(app, placed), lost)

    def _look_at(self, node: str) -> tuple[str, bool]:
        """Return where a node is reached, and whether what is sent there does not arrive."""
        lost = self._tracker.standing(node).is_gone and not self._is_believed(node)
        found = self._nodes[node] = self._address(node), lost or self._is_cut_off(node)
        return found

    # What a node is told of a route: of its own instances the agent knows best whether they are ready, so that the flag is left out.

    def put(self, item: Shared, own: frozenset[str], message: agent_pb2.Route) -> None:
        """Put a route into an empty message for the node that has these instances."""
        item.put(message)
        where = self._where(item) if own else {}
        for instance in own & where.keys():
            message.servers[where[instance]].ready = False

    def differs(self, before: Shared, own_before: frozenset[str], after: Shared, own: frozenset[str]) -> bool:
        """Tell whether a node that had some instances, and has others by now, is told something else of a route than before."""
        if before is after and own_before == own:
            return False
        changed = self._changed(before, after)
        if changed is None:
            return True
        asked = changed | (own_before ^ own)
        if not asked - (own_before & own):
            return False
        where = self._where(after)
        places = ((instance, where[instance]) for instance in asked if instance in where)
        return any(
            (instance not in own_before and before.route.servers[place].ready) != (instance not in own and after.route.servers[place].ready)
            for instance, place in places
        )


def _where(item: Shared) -> dict[str, int]:
    """Return the place of each instance among the servers."""
    return {server.instance: place for place, server in enumerate(item.route.servers)}


def _changed(before: Shared, after: Shared) -> frozenset[str] | None:
    """Return the instances that became ready, or are not ready any more; None: more than that changed."""
    old, new = before.route, after.route
    if len(old.servers) != len(new.servers) or replace(old, servers=()) != replace(new, servers=()):
        return None
    pairs = [(one, other) for one, other in zip(old.servers, new.servers, strict=True) if one is not other and one != other]
    is_more = any(replace(one, ready=other.ready) != other for one, other in pairs)
    return None if is_more else frozenset(other.instance for _, other in pairs)
