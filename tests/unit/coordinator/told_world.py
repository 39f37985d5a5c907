"""Some apps on four nodes whose agents are told by a dispatcher: whatever changes there, and what follows from the records alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from gestalt import model
from gestalt.agent.desired import apply_delta
from gestalt.coordinator.dispatch import Dispatcher, Link
from gestalt.coordinator.grant_book import PLAIN, Terms
from gestalt.coordinator.membership import Member
from gestalt.coordinator.nodes import Tracker
from gestalt.coordinator.records import App, Grant, Node, Placed, Placements, Run, Switches, Version, bindings, instance_id
from gestalt.coordinator.routes import Routed, route
from gestalt.coordinator.state import Draft, State, run_key, version_key
from gestalt.model import DesiredInstance, NodeState, Observed, Peer, Phase, Refused, Route
from gestalt.proto.v1 import agent_pb2
from gestalt.spec.schema import AppSpec
from gestalt.spec.template import template_hash
from gestalt.wire import from_wire
from tests.unit.coordinator.world import AT

NODES = ("n1", "n2", "n3", "n4")
EDGE = "n4"
SILENT = "n5"
"""A node that comes and goes, and has no agent."""
EDGES_ALL_BELOW = 3
"""To be put in place of `dispatch.ALL_EDGES`."""
PORTS: tuple[list[dict[str, object]], ...] = (
    [],
    [{"name": "http", "container_port": 80, "http": {"path_prefix": "/"}}],
    [{"name": "admin", "container_port": 90}, {"name": "http", "container_port": 80, "http": {"path_prefix": "/x"}}],
    [],
    [],
)
PATHS = tuple(f"/org/ws/env/app-{number}" for number in range(len(PORTS)))
TERMS = (PLAIN, Terms(withheld=True), Terms(stop=True), Terms(grant=model.Grant("g", 1)), Terms(grant=model.Grant("g", 2)))


class OnDemand:
    """Takes the place of a pace: does what it was asked for when the test says so."""

    asked: ClassVar[dict[Callable[[], bool], None]] = {}

    def __init__(self, work: Callable[[], bool], share: float = 1.0) -> None:
        self._work = work

    def ask(self) -> None:
        self.asked[self._work] = None

    def owe(self, seconds: float) -> None:
        """No time passes here."""

    @classmethod
    def work(cls) -> None:
        while cls.asked:
            cls.turn()

    @classmethod
    def turn(cls) -> None:
        """Let each have a turn."""
        asked = list(cls.asked)
        cls.asked.clear()
        for work in asked:
            if work():
                cls.asked[work] = None


class Agent:
    """What an agent has: all that it was told, one message after the other."""

    def __init__(self, node: str, epoch: int) -> None:
        self.link = Link(node, "10.0.0.1", wants_peers=node == "n1")
        self.state = agent_pb2.NodeState()
        self.messages = 0
        self._epoch = epoch

    def read(self) -> None:
        """Take in what came, and insist on a chain without a gap."""
        while not self.link.outbox.empty():
            message, before = self.link.outbox.get_nowait(), self.state.revision
            self.messages += 1
            if message.HasField("full"):
                self.state = message.full
            else:
                assert message.delta.base == before, "the coordinator left a gap"
                self.state = apply_delta(self.state, message.delta)
            assert (self.state.epoch, self.state.revision) == (self._epoch, before + 1)


class Office:
    """A leader's records and dispatcher, and the agents of all nodes."""

    def __init__(self) -> None:
        self.state, self.uids, self.requests = State(), 0, 0
        self.terms: dict[str, Terms] = {}
        self.asked: dict[str, list[tuple[Version, int]]] = {}
        self.refused: dict[str, Refused] = {}
        for name in NODES:
            self.state.nodes[name] = Node(name, name, address=f"10.0.0.{name[1]}", roles=("edge",) if name == EDGE else ())
        self.tracker = Tracker(lambda: 1000.0, self.state.nodes, fenced=True)
        self.agents: dict[str, Agent] = {}
        for name in NODES:
            self.tracker.member(self.tracker.node(name, name), Member(1, "boot", agent_running=True))
        self.begin()

    def begin(self) -> None:
        """Have a leader begin, whom all agents find."""
        OnDemand.asked.clear()
        self.dispatcher = Dispatcher(self.state, self.tracker, lambda: 7)
        self.dispatcher.terms = lambda app, placed: self.terms.get(app.path, PLAIN)
        self.dispatcher.prepare = lambda node: self.asked.get(node, ())
        self.dispatcher.neighbours.refused = lambda: self.refused
        for name in NODES:
            self.agents[name] = Agent(name, 7)
            self.dispatcher.attach(self.agents[name].link)

    def flush(self) -> None:
        """Let the dispatcher do what it was asked for, and agents read."""
        OnDemand.work()
        for agent in self.agents.values():
            agent.read()

    # -- what happens --

    def commit(self, draft: Draft) -> None:
        self.state.apply(draft)
        paths = {key for kind, key in draft.records if kind in ("app", "placements")}
        paths |= {record.app for record in draft.records.values() if isinstance(record, Grant | Run)}
        self.dispatcher.committed(draft, paths)

    def launch(self, which: int, number: int) -> None:
        if PATHS[which] not in self.state.apps:
            draft = Draft(self.state)
            self._launch(draft, which, number)
            self.commit(draft)

    def _launch(self, draft: Draft, which: int, number: int) -> None:
        self.uids += 1
        draft.put_version(self._version(which, 1, number))
        app = App(PATHS[which], f"{self.uids:06x}", 1, 1, 0, 1, 3, AT)
        self._place(draft, draft.put_app(app), (), 1 + number % 3)

    def _version(self, which: int, number: int, variant: int) -> Version:
        """Return a version. Apps 0, 3 and 4 share templates."""
        spec = AppSpec.model_validate({"path": PATHS[which], "image": f"x:{variant % 2}", "ports": PORTS[which]})
        return Version(PATHS[which], number, template_hash(spec), spec, AT, "tester")

    def _place(self, draft: Draft, app: App, there: tuple[Placed, ...], count: int, version: int = 0) -> None:
        found = draft.version(app.path, version or app.version)
        assert found is not None
        serials = range(app.next_serial, app.next_serial + count)
        run = f"run{app.next_serial % 2}" if app.path == PATHS[4] else ""
        ports = len(found.spec.ports)
        new = [Placed(n, found.number, NODES[n * n % 4 - n % 3], tuple(3000 + 2 * n + i for i in range(ports)), run=run) for n in serials]
        if run:
            draft.put(Run(app.path, run, found.number, "tester", AT, {"ROUND": run}))
        draft.put_app(replace(app, next_serial=serials.stop))
        draft.put_placements(Placements(app.path, (*there, *new)))

    def scale(self, which: int, number: int) -> None:
        draft, app = Draft(self.state), self.state.apps[PATHS[which]]
        there = self.state.placed(app.path).instances
        self._place(draft, app, there[number % 3 :], number % 4)
        self.commit(draft)

    def update(self, which: int, number: int) -> None:
        """A new version, one instance of it, and one of the others is to stop."""
        draft, app = Draft(self.state), self.state.apps[PATHS[which]]
        draft.put_version(self._version(which, app.last_version + 1, number))
        after = replace(app, version=app.last_version + 1, last_version=app.last_version + 1)
        there = self.state.placed(app.path).instances
        self._place(draft, after, (*(replace(item, stop=True) for item in there[:1]), *there[1:]), 1)
        self.commit(draft)

    def end(self, which: int, number: int) -> None:
        """One instance ended by itself, or is to stop."""
        there = list(self.state.placed(PATHS[which]).instances)
        if there:
            item = there[number % len(there)]
            there[number % len(there)] = replace(item, ended=True) if item.run and number % 2 else replace(item, stop=not item.stop)
            draft = Draft(self.state)
            draft.put_placements(Placements(PATHS[which], tuple(there)))
            self.commit(draft)

    def delete(self, which: int, number: int) -> None:
        """Delete an app with all that is kept of it. Sometimes another one of its path comes in the same commit."""
        draft, app = Draft(self.state), self.state.apps[PATHS[which]]
        for kind, key in (("app", app.path), ("placements", app.path)):
            draft.delete(kind, key)
        for version in range(1, app.last_version + 1):
            draft.delete("version", version_key(app.path, version))
        for run in self.state.runs_of(app.path):
            draft.delete("run", run_key(app.path, run.id))
        for node, asked in self.asked.items():
            self.asked[node] = [item for item in asked if item[0].app != app.path]
            if self.asked[node] != asked:
                self.dispatcher.tell_soon([node])
        if number % 2:
            self._launch(draft, which, number)
        self.commit(draft)

    def grant(self, which: int, number: int) -> None:
        """The terms of an app's instances are others, by a record or by what the leader learns."""
        self.terms[PATHS[which]] = TERMS[number % len(TERMS)]
        if number % 2:
            draft = Draft(self.state)
            draft.put(Grant(PATHS[which], f"g{which}", number, 1, "n1", 1))
            self.commit(draft)
        else:
            self.dispatcher.learned([PATHS[which]])

    def prepare(self, which: int, number: int) -> None:
        self.requests += 1
        app, node = self.state.apps[PATHS[which]], NODES[number % 4]
        asked = [item for item in self.asked.get(node, ()) if item[0].app != app.path]
        wanted = [(self.state.version(app.path, app.version), self.requests)] if number % 3 else []
        self.asked[node] = [*asked, *wanted]
        self.dispatcher.tell_soon([node])

    def report(self, which: int, number: int) -> None:
        """An instance became ready, or is not any more."""
        there = self.state.placed(PATHS[which]).instances
        if there:
            item = there[number % len(there)]
            seen = Observed(instance_id(self.state.apps[PATHS[which]], item.serial), 1, Phase.RUNNING, ready=number % 3 > 0)
            self.tracker.observed(self.tracker.nodes[item.node], [seen], ())
            self.dispatcher.refresh_routes([PATHS[which]])

    def node(self, which: int, number: int) -> None:
        """Something about a node: its roles, its membership, its address, its session, or whether it is refused."""
        name, view = NODES[which % 4], self.tracker.nodes[NODES[which % 4]]
        paths = self.state.apps_on(name)
        match number % 7:
            case 0:
                draft, record = Draft(self.state), self.state.nodes[name]
                draft.put_node(replace(record, roles=() if record.roles else ("edge",)))
                self.commit(draft)
            case 1:
                self.tracker.member(view, None if view.member is not None else Member(2, "boot", agent_running=True))
                self.dispatcher.refresh_routes(paths)
            case 2:
                self.refused = {} if name in self.refused else self.refused | {name: Refused("10.0.0.9", 1, (22,))}
                self.dispatcher.refresh_routes({path for node in NODES for path in self.state.apps_on(node)})
                self.dispatcher.tell_neighbours()
            case 3:
                view.address = f"10.0.1.{number}"
                self._reconnect(name)
            case 4:
                self._reconnect(name)
            case 5:
                self.dispatcher.attach(self.agents[name].link)
            case 6:
                draft = Draft(self.state)
                if SILENT in self.state.nodes:
                    draft.delete("node", SILENT)
                else:
                    draft.put_node(Node(SILENT, SILENT, address="10.0.0.5"))
                self.commit(draft)

    def _reconnect(self, name: str) -> None:
        self.agents[name].read()
        self.dispatcher.detach(self.agents[name].link)
        self.agents[name].link = Link(name, "10.0.0.1", wants_peers=name == "n1")
        self.dispatcher.attach(self.agents[name].link)

    def recover(self, number: int) -> None:
        draft = Draft(self.state)
        draft.put(Switches(recovering="an export" if number % 2 else ""))
        self.commit(draft)

    # -- what follows from it --

    def told(self, node: str) -> NodeState:
        """Return what an agent knows. Templates are told by their hash alone."""
        state = from_wire(self.agents[node].state, NodeState)
        assert all(template_hash(spec) == key for key, spec in state.templates.items())
        return replace(state, revision=0, templates=dict.fromkeys(state.templates))

    def scratch(self, node: str) -> NodeState:
        """Return what an agent is to know, from the records alone."""
        result = NodeState(7, 0, recovering=bool(self.state.switches.recovering))
        apps = {path for path in PATHS for item in self.state.placed(path).instances if item.node == node}
        for path in apps:
            for item in self.state.placed(path).instances:
                if item.node == node and not (terms := self.terms.get(path, PLAIN)).withheld:
                    self._add(result, self.state.apps[path], item, terms)
        for version, number in self.asked.get(node, ()):
            result.prepare[version.hash] = number
        edge = "edge" in self.state.nodes[node].roles
        routes = [item for path in self.state.apps if edge or path in apps for item in self._route(self.state.apps[path])]
        result.routes.update({item.key: self._masked(item, result) for item in routes})
        result.refused.update({name: item for name, item in self.refused.items() if name != node})
        if node == "n1":
            result.peers.update({name: Peer(name, self._address(name)) for name in self.state.nodes})
        templates = {item.template for item in result.instances.values()} | result.prepare.keys()
        return replace(result, templates=dict.fromkeys(templates))

    def _add(self, result: NodeState, app: App, item: Placed, terms: Terms) -> None:
        version, identity = self.state.version(app.path, item.version), instance_id(app, item.serial)
        env = {"ROUND": item.run, "GESTALT_RUN": item.run} if item.run else {}
        stop, ports = item.stop or terms.stop, bindings(version.spec, item)
        result.instances[identity] = DesiredInstance(
            identity, app.path, item.version, version.hash, ports, stop, terms.grant, env, item.ended
        )

    def _address(self, node: str) -> str:
        view = self.tracker.nodes.get(node)
        return (view.address if view is not None else "") or self.state.nodes[node].address

    def _route(self, app: App) -> tuple[Route, ...]:
        routed = []
        for item in self.state.placed(app.path).instances:
            lost = self.tracker.standing(item.node).is_gone or item.node in self.refused
            ready, version = self.tracker.takes_requests(app, item), self.state.version(app.path, item.version)
            if not item.ended:
                routed.append(Routed(item, version, self._address(item.node), ready, lost))
        return route(app, self.state.version(app.path, app.version), routed)

    @staticmethod
    def _masked(item: Route, own: NodeState) -> Route:
        servers = (replace(server, ready=server.ready and server.instance not in own.instances) for server in item.servers)
        return replace(item, servers=tuple(servers))
