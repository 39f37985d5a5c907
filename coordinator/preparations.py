"""Which nodes are asked to prepare what, and how far they are. Soft state: a new leader asks again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from .advance import Case
from .handover import unprepared, ways
from .nodes import Preparation, Tracker
from .reconcile import Decision, Outcome, stays
from .records import Version
from .scheduler.fleet import Nodes
from .state import State

NAMED = 3
"""So many nodes that are waited for are named at most."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """`missing`: the nodes that are not ready, with the reason. `refused`: why one of them never will be; empty = none has said so."""

    missing: dict[str, str] = field(default_factory=dict)
    refused: str = ""

    @property
    def why(self) -> str:
        """What is waited for, as a sentence; empty = nothing."""
        told = list(self.missing.values())
        more = [f"{len(told) - NAMED} more nodes"] if len(told) > NAMED else []
        return "nothing stops before its successor can start: waits for " + "; ".join([*told[:NAMED], *more]) if told else ""

    def hindering(self, decision: Decision) -> str:
        """Return why a change fails; that something is under way is a reason only when it has failed already."""
        return self.refused or (self.why if decision.outcome is Outcome.FAILED else "")


@dataclass(frozen=True, slots=True)
class _Request:
    version: Version
    number: int
    nodes: frozenset[str]


class Preparations:
    """Asks nodes to prepare versions of apps. `tell` has agents told of what changed for these nodes; `epoch`: of the leader."""

    def __init__(self, state: State, tracker: Tracker, tell: Callable[[Iterable[str]], None], epoch: Callable[[], int]) -> None:
        self._state = state
        self._tracker = tracker
        self._tell = tell
        self._epoch = epoch
        self._requests: dict[str, _Request] = {}
        self._count = 0

    def hold(self, case: Case, decision: Decision, nodes: Callable[[], Nodes]) -> tuple[Decision, Readiness]:
        """Return the decision without the stops for which nobody is prepared yet, and what they wait for; have that prepared."""
        path, version = case.app.path, self._state.version(case.app.path, case.app.version)
        found = ways(case, decision, nodes, lambda placed: self._state.version(path, placed.version).spec.resources)
        if not found:
            is_asked = path in self._requests
            if is_asked and (not case.app.wanted or all(view.placed.stop or stays(case.app, view) for view in case.views)):
                self.drop(path)
            return decision, Readiness()
        readiness = self.want(version, frozenset().union(*found.values()))
        return unprepared(case, decision, readiness.missing, found, readiness.refused), readiness

    def want(self, version: Version, nodes: Iterable[str]) -> Readiness:
        """Have a version of an app prepared on these nodes, and no other version of it anywhere; return how far they are."""
        asked = frozenset(node for node in nodes if (view := self._tracker.nodes.get(node)) is not None and view.prepares)
        before = self._requests.get(version.app)
        if not asked:
            return self.drop(version.app)
        if before is None or before.version.number != version.number:
            self._count += 1
            self._requests[version.app] = _Request(version, (self._epoch() << 32) + self._count, asked)
            self._tell(asked | before.nodes if before is not None else asked)
        elif not asked <= before.nodes:
            self._requests[version.app] = _Request(version, before.number, before.nodes | asked)
            self._tell(asked)
        return self._readiness(self._requests[version.app], asked)

    def drop(self, path: str) -> Readiness:
        """Have nothing prepared for an app any more."""
        if (before := self._requests.pop(path, None)) is not None:
            self._tell(before.nodes)
        return Readiness()

    def of_node(self, node: str) -> list[tuple[Version, int]]:
        """Return what a node is to prepare, with the number of each request. Of apps with the same template the newest counts for all."""
        found = [(request.version, request.number) for request in self._requests.values() if node in request.nodes]
        return sorted(found, key=lambda item: item[1])

    def waiting(self, node: str) -> set[str]:
        """Return the apps to which it is something how far a node is."""
        return {path for path, request in self._requests.items() if node in request.nodes}

    def _readiness(self, request: _Request, nodes: frozenset[str]) -> Readiness:
        missing, refused = {}, ""
        for node in sorted(nodes):
            view = self._tracker.nodes[node]
            found = view.prepared.get(request.version.hash)
            if found is None or found.number < request.number:
                found = Preparation(request.number)
            if not found.done:
                missing[node] = f"node {view.name}, which " + (f"says: {found.reason}" if found.reason else "prepares it")
            if found.refused:
                refused = refused or f"node {view.name} cannot run it, and nothing was stopped for it: {found.reason}"
        return Readiness(missing, refused)
