"""What is kept of a large fleet does not grow with what anybody ever asked for, and finds what is taken without a look at each node."""

from __future__ import annotations

import weakref
from typing import Any

import pytest

from gestalt.coordinator.reservations import Reservations
from gestalt.coordinator.scheduler.columns import KEPT
from gestalt.coordinator.scheduler.fleet import Fleet, Ground
from gestalt.coordinator.scheduler.place import place
from gestalt.coordinator.scheduler.race import Race, Runner
from gestalt.spec.schema import AppSpec
from tests.unit.coordinator.world import node, spec

NODES = 20


def fleet_of(count: int = NODES) -> Fleet:
    fleet = Fleet(Reservations(), large=0)
    for number in range(count):
        fleet.put(node(f"n{number:02d}"))
    return fleet


def asking(port: int = 0, **fields: Any) -> AppSpec:
    return spec(ports=[{"name": "http", "container_port": 80, "host_port": port}], checks=[], **fields)


def test_names_that_were_asked_for_long_ago_are_forgotten() -> None:
    fleet = fleet_of()
    columns = fleet.columns()
    kept = [weakref.ref(columns.coded("rack0")), weakref.ref(columns.supply("devices.card0")[0]), weakref.ref(columns.taken(9000))]
    for number in range(1, 2 * KEPT):
        constraints = [{"attribute": f"rack{number}", "operator": "missing"}]
        asked = asking(9000 + number, resources={"devices": {f"card{number}": 1}}, placement={"constraints": constraints})
        assert place(asked, 1, Ground(fleet)).missing == 1
        assert place(asking(placement={"constraints": [{"attribute": "zone", "operator": "missing"}]}), 1, Ground(fleet)).missing == 0
    assert [item() for item in kept] == [None, None, None]
    assert fleet.columns() is columns, "no node has come or gone"


def test_what_is_asked_for_again_and_again_stays() -> None:
    columns = fleet_of().columns()
    zone = columns.coded("zone")
    for number in range(3 * KEPT):
        columns.coded(f"rack{number}")
        assert columns.coded("zone") is zone


def test_values_that_no_node_has_any_more_are_forgotten() -> None:
    fleet = fleet_of()
    batch = fleet.columns().coded("batch")
    for number in range(5 * KEPT):
        fleet.put(node("n07", attributes={"batch": str(number)}))
        assert len(batch.values) <= 2 * NODES + KEPT + 1
    asked = asking(placement={"constraints": [{"attribute": "batch", "value": str(number)}]})
    assert [choice.node for choice in place(asked, 1, Ground(fleet)).choices] == ["n07"]


def test_a_node_where_a_fixed_port_is_free_is_found_without_a_look_at_each(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet, asked, looked_at = fleet_of(), asking(8080), list[int]()
    plain = Runner.__init__

    def counted(runner: Runner, race: Race, row: int) -> None:
        looked_at.append(row)
        plain(runner, race, row)

    monkeypatch.setattr(Runner, "__init__", counted)
    for there in range(NODES):
        (choice,) = place(asked, 1, Ground(fleet)).choices
        assert choice.ports == (8080,)
        fleet.reservations.add(choice.node, asked, choice.ports)
        assert len(looked_at) == there + 1
    assert len({*looked_at}) == NODES
    assert place(asked, 1, Ground(fleet)).reason.startswith(f"{NODES} nodes: have host port 8080 in use")
    assert len(looked_at) == NODES, "nor is one to say why"
