"""Which nodes are told of which routes."""

from __future__ import annotations

import pytest

from gestalt.coordinator.dispatch import ALL_EDGES, Dispatcher, Link
from gestalt.coordinator.nodes import Tracker
from gestalt.coordinator.records import Node
from tests.unit.coordinator.world import World, node, spec


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
    assert bool(link.outbox.get_nowait().full.routes) is is_routed
