"""How a leader begins to tell agents: all routes are worked out first, and whoever comes before they are known waits.

What a first message does not name, an agent removes. The routes of a million instances take seconds, in which the office has to be
renewed: so they are worked out in slices, and only while an agent waits. The end of an office ends its sessions: then nobody waits, and
nothing goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from gestalt import clock

from .neighbours import Neighbours
from .pace import SLICE, Pace
from .routing import Routing

if TYPE_CHECKING:
    from .dispatch import Link

log = logging.getLogger(__name__)


class Beginning:
    """Takes agents on once everything is known: those who wait one after the other, from then on each as it comes.

    Args:
        apps: all apps by path; read, never changed.
        routing: learns the routes of all of them.
        neighbours: learn of all nodes.
        take_on: tells an agent everything.
        pace: makes what has work done soon, and again in the next turn of the loop as long as it returns True.
    """

    def __init__(
        self,
        apps: Mapping[str, object],
        routing: Routing,
        neighbours: Neighbours,
        take_on: Callable[[Link], None],
        pace: Callable[[Callable[[], bool]], Pace],
    ) -> None:
        self._apps = apps
        self._routing = routing
        self._neighbours = neighbours
        self._take_on = take_on
        self._pace = pace(self._work)
        self._is_begun = self._is_done = False
        self._to_route: dict[str, None] = {}
        self._waiting: dict[str, Link] = {}

    def admit(self, link: Link) -> None:
        """Take an agent on, at once if everything is known."""
        if self._is_done:
            self._waiting.pop(link.node, None)
            self._take_on(link)
            return
        if not self._is_begun:
            self._is_begun, self._to_route = True, dict.fromkeys(self._apps)
        self._waiting[link.node] = link
        self._pace.ask()

    def routed(self, paths: Iterable[str]) -> set[str]:
        """Return those of these apps whose turn has been: whatever changes for the others is still to be worked out for the first time."""
        return set(paths) - self._to_route.keys() if self._is_begun else set()

    def leave(self, link: Link) -> None:
        """Let an agent go, if it waits."""
        if self._waiting.get(link.node) is link:
            del self._waiting[link.node]

    def _work(self) -> bool:
        """Go on for SLICE seconds; return whether there is more to do."""
        end = clock.monotonic() + SLICE
        if self._waiting and not self._is_done:
            self._learn(end)
        while self._is_done and self._waiting:
            self._welcome(self._waiting.pop(next(iter(self._waiting))))
            if clock.monotonic() >= end:
                break
        return bool(self._waiting)

    def _learn(self, end: float) -> None:
        """Work out routes until this time, and once all are known, look at the nodes."""
        with self._routing.one_moment():
            while self._to_route:
                path, _ = self._to_route.popitem()
                self._routing.refresh(path)
                try:
                    for item in self._routing.of(path).values():
                        item.make()
                except Exception:  # it ends the sessions of those who are to be told of it, and nobody else's
                    log.exception("%s: its routes cannot be told", path, extra={"app": path})
                if clock.monotonic() >= end:
                    return
        self._neighbours.look()
        self._is_done = True

    def _welcome(self, link: Link) -> None:
        try:
            self._take_on(link)
        except Exception:  # whatever it is, it ends this session only
            log.exception("node %s: it could not be told anything: ending the session", link.node)
            link.closed.set()
