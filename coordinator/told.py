"""What an agent was told last, and the changes that lead from there to how things are by now.

To look at one instance, or at the routes of one app, costs what it does however much is there. To look at everything is to look at each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from gestalt.model import DesiredInstance, Peer, Refused
from gestalt.proto.v1 import agent_pb2, spec_pb2
from gestalt.spec.schema import AppSpec
from gestalt.wire import fill, spec_to_wire

from .grant_book import Terms
from .records import App, Placed, Version, bindings
from .routing import Routing, Served
from .state import State, run_key

KEPT_TEMPLATES = 2000
"""So many messages of templates are kept ready."""
RUN_VARIABLE = "GESTALT_RUN"
"""In it an instance of a job finds the id of its run."""

Known = tuple[Placed, str, Terms]
"""What an agent was told of an instance rests on: its placement, the hash of its template, and the terms. All else never changes."""

_NOBODY: frozenset[str] = frozenset()


@dataclass(slots=True)
class Told:
    """What an agent was told. It names what the agent has, and holds no copy: there may be a million instances.

    `templates`: by hash, for how many instances and requests to prepare it is needed. `routes`: of an app, and which of its instances were
    on the node.
    """

    revision: int
    instances: dict[str, Known] = field(default_factory=dict)
    templates: dict[str, int] = field(default_factory=dict)
    routes: dict[str, tuple[Served, frozenset[str]]] = field(default_factory=dict)
    refused: Mapping[str, Refused] = field(default_factory=dict)
    peers: Mapping[str, Peer] = field(default_factory=dict)
    prepare: dict[str, int] = field(default_factory=dict)
    recovering: bool = False


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


def desired(state: State, app: App, instance: str, version: Version, known: Known) -> DesiredInstance:
    """Return what an agent is told of an instance."""
    placed, template, terms = known
    run = state.runs.get(run_key(app.path, placed.run)) if placed.run else None
    return DesiredInstance(
        instance,
        app.path,
        placed.version,
        template,
        bindings(version.spec, placed),
        placed.stop or terms.stop,
        terms.grant,
        {**run.parameters, RUN_VARIABLE: run.id} if run is not None else {},
        placed.ended,
        placed.keep,
    )


class Change:
    """The difference between what one agent was told and how things are by now, in the making.

    What is looked at goes into the message, if it changed, and into what the agent was told: whoever drops the message drops that, too.

    Args:
        told: what the agent was told; it is changed.
        put: an empty message, which gets what is new or has changed.
        here: what is placed on the node, by instance id.
        state: what is decided.
        terms: how the node is told of an instance.
        templates: the messages of templates.
    """

    def __init__(
        self,
        told: Told,
        put: agent_pb2.NodeState,
        *,
        here: Mapping[str, Placed],
        state: State,
        terms: Callable[[App, Placed], Terms],
        templates: Templates,
    ) -> None:
        self._told = told
        self._put = put
        self._here = here
        self._state = state
        self._terms = terms
        self._templates = templates
        self._had: dict[str, bool] = {}
        self._specs: dict[str, AppSpec] = {}
        self._gone: dict[str, list[str]] = {"templates": [], "instances": [], "routes": [], "refused": [], "peers": []}
        self._is_other = False

    # What can be looked at

    def everything(self, routing: Routing, *, all_routes: bool) -> None:
        """Look at all instances, then at all routes."""
        self.instances({*self._told.instances, *self._here})
        own = self._by_app()
        self._serve(routing, {*self._told.routes, *(routing.apps() if all_routes else own)}, own, all_routes=all_routes)

    def instances(self, instances: Iterable[str]) -> None:
        """Look at these instances."""
        told, here, owners, apps = self._told.instances, self._here, self._state.owners, self._state.apps
        for instance in instances:
            before, placed = told.get(instance), here.get(instance)
            if placed is not None:
                app = apps[owners[instance]]
                terms = self._terms(app, placed)
                if not terms.withheld:
                    if before is None or not ((before[0] is placed or before[0] == placed) and before[2] == terms):
                        self._put_instance(app, instance, placed, terms, before)
                    continue
            if before is not None:
                del told[instance]
                self._release(before[1])
                self._gone["instances"].append(instance)

    def routes(self, routing: Routing, paths: Iterable[str], *, all_routes: bool) -> None:
        """Look at the routes of these apps, after the instances. `all_routes`: the node gets those of apps, too, that it does not run."""
        asked = {path for path in paths if path in self._told.routes or routing.of(path)}
        if asked:
            self._serve(routing, asked, self._by_app(), all_routes=all_routes)

    def refused(self, refused: Mapping[str, Refused]) -> None:
        """Look at whom the node is to refuse."""
        before, self._told.refused = self._told.refused, refused
        for key, item in refused.items():
            if before.get(key) != item:
                fill(self._put.refused[key], item)
                self._is_other = True
        self._gone["refused"] += before.keys() - refused.keys()

    def peers(self, peers: Mapping[str, Peer], put_all: Callable[[agent_pb2.NodeState], None]) -> None:
        """Look at the other nodes. `put_all` puts all of them into a message."""
        before, self._told.peers = self._told.peers, peers
        if before is peers:
            return
        if not before:
            if peers:
                put_all(self._put)
                self._is_other = True
            return
        for key, item in peers.items():
            if (known := before.get(key)) is not item and known != item:
                fill(self._put.peers[key], item)
                self._is_other = True
        self._gone["peers"] += before.keys() - peers.keys()

    def prepare(self, asked: Iterable[tuple[Version, int]]) -> None:
        """Look at what the node is to prepare."""
        asked = tuple(asked)
        before, self._told.prepare = self._told.prepare, {version.hash: number for version, number in asked}
        if before == self._told.prepare:
            return
        for version in {version.hash: version for version, _ in asked}.values():
            self._use(version)
        for template in before:
            self._release(template)
        self._is_other = True

    def recovering(self, *, is_so: bool) -> None:
        """Look at whether the state was restored and may lack something."""
        self._is_other |= self._told.recovering != is_so
        self._told.recovering = is_so

    # The end

    def finish_full(self, epoch: int) -> None:
        """Complete the message `put` as one that stands for itself."""
        self._complete()
        self._put.epoch, self._put.revision = epoch, self._told.revision

    def finish_delta(self, epoch: int, delta: agent_pb2.NodeDelta) -> bool:
        """Complete the message of which `put` is a part; return False when nothing has changed."""
        if not (self._is_other or any(self._gone.values())):
            return False
        self._complete()
        delta.epoch, delta.base, delta.revision = epoch, self._told.revision - 1, self._told.revision
        delta.drop_templates.extend(sorted(self._gone["templates"]))
        delta.drop_instances.extend(sorted(self._gone["instances"]))
        delta.drop_routes.extend(sorted(self._gone["routes"]))
        delta.drop_refused.extend(sorted(self._gone["refused"]))
        delta.drop_peers.extend(sorted(self._gone["peers"]))
        return True

    # The parts

    def _complete(self) -> None:
        """Put in templates, and what every message has."""
        for template, had in self._had.items():
            has = template in self._told.templates
            if has and not had:
                self._put.templates[template].CopyFrom(self._templates.message(template, self._specs[template]))
            elif had and not has:
                self._gone["templates"].append(template)
        self._put.recovering = self._told.recovering
        self._put.prepare.update(self._told.prepare)
        self._told.revision += 1

    def _put_instance(self, app: App, instance: str, placed: Placed, terms: Terms, before: Known | None) -> None:
        version = self._state.version(app.path, placed.version)
        known = self._told.instances[instance] = (placed, version.hash, terms)
        self._use(version)
        if before is not None:
            self._release(before[1])
        fill(self._put.instances[instance], desired(self._state, app, instance, version, known))
        self._is_other = True

    def _use(self, version: Version) -> None:
        templates, template = self._told.templates, version.hash
        self._had.setdefault(template, template in templates)
        self._specs[template] = version.spec
        templates[template] = templates.get(template, 0) + 1

    def _release(self, template: str) -> None:
        templates = self._told.templates
        self._had.setdefault(template, True)
        if templates[template] > 1:
            templates[template] -= 1
        else:
            del templates[template]

    def _by_app(self) -> dict[str, list[str]]:
        """Return the instances of each app on the node that it is told of; an app of which it is told of none is there, too."""
        owners, told, found = self._state.owners, self._told.instances, dict[str, list[str]]()
        for instance in self._here:
            mine = found.setdefault(owners[instance], [])
            if instance in told:
                mine.append(instance)
        return found

    def _serve(self, routing: Routing, paths: Iterable[str], own: Mapping[str, list[str]], *, all_routes: bool) -> None:
        told = self._told.routes
        for path in paths:
            before, own_before = told.get(path, ({}, _NOBODY))
            after = routing.of(path) if all_routes or path in own else {}
            mine = frozenset(own[path]) if after and path in own else _NOBODY
            if after:
                told[path] = after, mine
            else:
                told.pop(path, None)
            self._gone["routes"] += before.keys() - after.keys()
            for key, item in after.items():
                known = before.get(key)
                if known is None or routing.differs(known, own_before, item, mine):
                    routing.put(item, mine, self._put.routes[key])
                    self._is_other = True
