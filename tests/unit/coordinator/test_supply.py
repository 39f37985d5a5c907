"""What is counted besides cores, memory and ports: disk, processes, devices; what a node keeps free, and what it offers more than once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from gestalt.coordinator.reservations import Reservations
from gestalt.coordinator.scheduler.fleet import Fleet, Ground
from gestalt.coordinator.scheduler.place import place
from gestalt.coordinator.scheduler.values import Capacity
from gestalt.proto.v1 import model_pb2, spec_pb2
from gestalt.spec.honour import unhonoured
from gestalt.spec.schema import AppSpec
from tests.unit.coordinator.fleet import settled
from tests.unit.coordinator.test_survey import surveyed
from tests.unit.coordinator.world import node, spec

GIB = 1024**3
CLUSTER = {"attribute": "rack", "operator": "cluster"}


def asking(instances: int = 1, **resources: object) -> AppSpec:
    return spec(instances=instances, ports=[], checks=[], resources={"cpu": 0.1, "memory": 0, **resources})


def offered(facts: model_pb2.Facts) -> Capacity:
    """Return a node as the leader takes it from what its agent says."""
    fleet = settled(1, 0)
    survey = surveyed(fleet)
    fleet.view_of("n1").facts.CopyFrom(facts)
    return next(iter(survey.ground()))


@pytest.mark.parametrize(
    ("resources", "supply", "reason"),
    [
        (
            {"disk": "10GiB"},
            {"disk": 4 * GIB},
            "node n1 has 4GiB of disk left, 10GiB are asked for, resources.disk of at most 4GiB would fit",
        ),
        ({"pids": 200}, {"pids": 100}, "node n1 has 100 of pids left, 200 are asked for, resources.pids of at most 100 would fit"),
        (
            {"devices": {"gpu": 2}},
            {"devices.gpu": 1},
            "node n1 has 1 of gpu left, 2 are asked for, resources.devices.gpu of at most 1 would fit",
        ),
        ({"devices": {"gpu": 1}}, {}, "node n1 has 0 of gpu left, 1 are asked for"),
    ],
)
def test_what_is_lacking_is_told(resources: dict[str, object], supply: dict[str, int], reason: str) -> None:
    assert place(asking(**resources), 1, (node(supply=supply),)).reason == reason


def test_what_a_node_does_not_tell_of_is_plenty_but_of_devices_it_has_those_that_it_names() -> None:
    assert not place(asking(disk="1TiB", pids=10_000), 1, (node(),)).missing
    assert place(asking(devices={"fpga": 1}), 1, (node(supply={"devices.gpu": 1}),)).missing


def test_nothing_is_given_twice() -> None:
    nodes = (node("a", supply={"devices.gpu": 2, "disk": 4 * GIB}), node("b", supply={"devices.gpu": 1}), node("c"))
    placing = place(asking(9, devices={"gpu": 1}), 9, nodes)
    assert Counter(choice.node for choice in placing.choices) == {"a": 2, "b": 1}
    assert placing.reason == "3 nodes: too little of gpu left (a has 0 of gpu left, 1 are asked for)"
    assert Counter(choice.node for choice in place(asking(9, disk="1GiB", devices={"gpu": 1}), 9, nodes).choices) == {"a": 2, "b": 1}


@pytest.mark.parametrize("large", [0, 100])
def test_what_goes_leaves_its_devices(large: int) -> None:
    fleet, asked = Fleet(Reservations(), large=large), asking(devices={"gpu": 1}, disk="1GiB")
    fleet.put(replace(node(), supply={"devices.gpu": 1}))
    fleet.reservations.add("n1", asked, ())
    ground = Ground(fleet)
    assert place(asked, 1, ground).missing == 1
    assert place(asked, 1, ground.without("n1", (), asked.resources)).missing == 0
    fleet.reservations.remove("n1", asked, ())
    assert place(asked, 1, Ground(fleet)).missing == 0
    assert fleet.reservations == Reservations()
    for item in (asking(), asked):
        fleet.reservations.add("n1", item, ())
    fleet.reservations.remove("n1", asked, ())
    assert fleet.reservations.on("n1").supply == {}, "as a new leader finds it, who never saw what went"


def test_a_node_offers_what_it_does_not_keep_free_as_often_as_it_says() -> None:
    facts = model_pb2.Facts(
        cpu=8,
        memory=16 * GIB,
        disk=100 * GIB,
        pids=32_768,
        devices={"gpu": 2},
        reserved=spec_pb2.Resources(cpu=2, memory=4 * GIB, disk=10 * GIB, pids=768),
        cpu_overcommit=4.0,
        memory_overcommit=1.5,
    )
    found = offered(facts)
    assert (found.cpu, found.memory) == (24.0, 18 * GIB)
    assert found.supply == {"disk": 90 * GIB, "pids": 32_000, "devices.gpu": 2}
    assert found.attributes["cpu"] == "8", "constraints look at the machine"


def test_an_agent_that_says_nothing_of_it_offers_all_once() -> None:
    found = offered(model_pb2.Facts(cpu=8, memory=16 * GIB, disk=GIB))
    assert (found.cpu, found.memory, found.supply) == (8.0, 16 * GIB, {"disk": GIB})


def test_who_keeps_more_free_than_there_is_offers_nothing() -> None:
    """0 memory would mean that nobody knows how much there is."""
    reserved = spec_pb2.Resources(cpu=20, memory=64 * GIB, disk=2 * GIB)
    found = offered(model_pb2.Facts(cpu=8, memory=16 * GIB, disk=GIB, reserved=reserved))
    assert (found.cpu, found.supply) == (0.0, {"disk": 0})
    assert place(asking(memory="8MiB"), 1, (replace(found, cpu=1.0, runtimes=frozenset({"docker"})),)).reason.startswith("node n1 has 1B")


def test_a_limit_of_disk_that_is_only_counted_is_told() -> None:
    assert unhonoured(asking(disk="1GiB")) == ("resources.disk is set aside on the node, but not limited yet",)


@pytest.mark.parametrize("large", [0, 100])
def test_what_is_to_be_together_goes_where_its_devices_are(large: int) -> None:
    fleet = Fleet(Reservations(), large=large)
    for name, rack, gpus in (("a", "r1", 1), ("b", "r1", 1), ("c", "r2", 3)):
        fleet.put(replace(node(name), supply={"devices.gpu": gpus}, attributes={"rack": rack}))
    together = asking(3, devices={"gpu": 1})
    together = together.model_copy(update={"placement": spec(placement={"constraints": [CLUSTER]}).placement})
    assert {choice.node for choice in place(together, 3, Ground(fleet)).choices} == {"c"}
