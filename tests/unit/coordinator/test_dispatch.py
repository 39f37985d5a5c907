"""Which nodes are told of what, and that nobody is left behind."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gestalt.coordinator import changes, dispatch
from gestalt.coordinator.dispatch import ALL_EDGES, Dispatcher, Link
from gestalt.coordinator.grant_book import Terms
from gestalt.coordinator.nodes import Tracker
from gestalt.coordinator.records import Node, Placed, Placements
from gestalt.coordinator.state import Draft
from gestalt.errors import GestaltError
from gestalt.model import NodeState
from gestalt.wire import from_wire
from tests.real.simulated_agent import _applied
from tests.unit.coordinator.fleet import Fleet
from tests.unit.coordinator.told_world import OnDemand
from tests.unit.coordinator.world import PATH, World, node, spec


@pytest.mark.parametrize(
    ("nodes", "roles", "runs_it", "is_routed"),
    [(ALL_EDGES - 1, (), False, True), (ALL_EDGES, (), False, False), (ALL_EDGES, ("edge",), False, True), (ALL_EDGES, (), True, True)],
)
async def test_a_large_cluster_routes_at_its_edges_and_where_the_app_runs(
    nodes: int, roles: tuple[str, ...], runs_it: bool, is_routed: bool
) -> None:
    world = World(capacities=(node("n0" if runs_it else "n1"),))
    world.apply(spec(instances=1))
    world.decide()
    for number in range(nodes):
        world.state.nodes[f"n{number}"] = Node(f"n{number}", f"n{number}", address="10.0.0.1", roles=roles if number == 0 else ())
    link = Link("n0", "10.0.0.1")
    Dispatcher(world.state, Tracker(lambda: 0.0), lambda: 1).attach(link)
    assert bool((await link.outbox.get()).full.routes) is is_routed


class _Told(Fleet):
    """A fleet whose nodes are told by a dispatcher. n4 is an edge."""

    def __init__(self, **fields: object) -> None:
        self.dispatcher: Dispatcher | None = None
        super().__init__(4, 3, **fields)
        self.settle()
        for name, record in self.state.nodes.items():
            self.state.nodes[name] = replace(record, address="10.0.0.1", roles=("edge",) if name == "n4" else ())
        self.dispatcher = Dispatcher(self.state, self.tracker, lambda: 1)
        self.links = {name: Link(name, "10.0.0.1") for name in self.machines}
        self.told = {name: NodeState(0, 0) for name in self.machines}
        for link in self.links.values():
            self.dispatcher.attach(link)

    def _apply(self, draft: Draft) -> None:
        super()._apply(draft)
        if self.dispatcher is not None:
            self.dispatcher.committed(draft, {PATH})

    def _tell_member(self, name: str) -> None:
        super()._tell_member(name)
        if self.dispatcher is not None:
            self.dispatcher.refresh_routes({PATH})

    def connect(self, name: str) -> None:
        super().connect(name)
        if self.dispatcher is not None:
            self.dispatcher.refresh_routes({PATH})

    def _do(self, item: Placed) -> None:
        super()._do(item)
        if self.dispatcher is not None:
            self.dispatcher.refresh_routes({PATH})

    def what_agents_know(self) -> dict[str, NodeState]:
        """Return the state of each agent, with all that it was told until now."""
        OnDemand.work()
        for name, link in self.links.items():
            while not link.outbox.empty():
                message = link.outbox.get_nowait()
                after = from_wire(message.full, NodeState) if message.HasField("full") else _applied(self.told[name], message.delta)
                self.told[name] = after
        return {name: replace(told, revision=0) for name, told in self.told.items()}

    def what_is_so(self) -> dict[str, NodeState]:
        """Return what agents are told that come only now."""
        found = {}
        for name in self.machines:
            link = Link(name, "10.0.0.1")
            Dispatcher(self.state, self.tracker, lambda: 1).attach(link)
            OnDemand.work()
            found[name] = replace(from_wire(link.outbox.get_nowait().full, NodeState), revision=0)
        return found


EVENTS = ["update", "scale", "lose", "back", "agent", "decide", "migrate", "delete"]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 7)), max_size=25))
def test_whatever_happens_agents_know_what_one_is_told_that_comes_only_now(story: list[tuple[str, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "Pace", OnDemand)
        patch.setattr(dispatch, "ALL_EDGES", 2)
        fleet = _Told()
        for event, number in story:
            if PATH in fleet.state.apps:
                _happen(fleet, event, number)
                assert fleet.what_agents_know() == fleet.what_is_so()


def _happen(fleet: Fleet, event: str, number: int) -> None:
    with suppress(GestaltError):  # what is refused changes nothing, also not what agents know
        match event:
            case "update":
                fleet.apply(spec(f"web:{number}"))  # instances are no part of a template
            case "scale":
                fleet.ask(changes.scale, PATH, number)
            case "lose":
                fleet.lose("n2")
            case "back":
                fleet.back("n2")
            case "migrate":
                fleet.ask(changes.migrate, PATH, fleet.state.nodes["n3"], None)
            case "delete":
                fleet.ask(changes.delete, PATH)
            case "agent":
                fleet.agent_step(number)
            case "decide":
                fleet.decide()


def test_nobody_looks_at_nodes_that_a_change_does_not_touch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "Pace", OnDemand)
    fleet = Fleet(3, 1, ports=[], checks=[])
    fleet.decide()
    (item,) = fleet.placed
    dispatcher, looked_at = Dispatcher(fleet.state, fleet.tracker, lambda: 1), set()
    for name in fleet.machines:
        dispatcher.attach(Link(name, "10.0.0.1"))

    OnDemand.work()

    def terms(_: object, placed: Placed) -> Terms:
        looked_at.add(placed.node)
        return Terms()

    other = replace(fleet.app, path="/org/ws/env/other", uid="cccccc")
    draft = Draft(fleet.state)
    draft.put_version(replace(fleet.state.version(PATH, 1), app=other.path))
    draft.put_app(other)
    (elsewhere,) = [name for name in ("n1", "n2", "n3") if name != item.node][:1]
    draft.put_placements(Placements(other.path, (Placed(1, 1, elsewhere, ()),)))
    fleet.state.apply(draft)
    dispatcher.terms = terms
    dispatcher.committed(draft, {other.path})
    OnDemand.work()
    assert looked_at == {elsewhere}
