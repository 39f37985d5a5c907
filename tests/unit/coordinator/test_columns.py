"""A large fleet is looked at as columns: whatever came and went, they choose what is chosen node by node, for the same reasons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from gestalt.coordinator.reservations import Reservations
from gestalt.coordinator.scheduler import columns
from gestalt.coordinator.scheduler.fleet import Fleet, Ground
from gestalt.coordinator.scheduler.place import lacking, place
from gestalt.coordinator.scheduler.strategies import Strategies, settled
from gestalt.coordinator.scheduler.values import Capacity, Placing
from gestalt.spec.schema import AppSpec, Resources
from tests.unit.coordinator.world import node, spec

MIB = 1024**2
NODES = 10


def offer(number: int, rack: str, zone: str, *, tenths: int = 10, mebibytes: int = 64, **fields: object) -> Capacity:
    """Return a node; an empty rack or zone is none."""
    labels = {name: value for name, value in (("rack", rack), ("zone", zone)) if value}
    name = f"n{number}"
    attributes = {"node.name": name, **labels, **fields.pop("attributes", {})}  # type: ignore[dict-item]
    return node(name, cpu=tenths / 10, memory=mebibytes * MIB, attributes=attributes, port_first=3000, **fields)


class Dice(Random):
    """Draws nodes and apps, of which few are alike and most fit somewhere."""

    def offer(self, number: int) -> Capacity:
        if self.random() < 0.5:
            return offer(number, self.choice("ab"), self.choice("xy"), tenths=10, port_last=3100)
        return offer(
            number,
            self.choice(["", "a", "b", "c"]),
            self.choice(["", "x", "y"]),
            tenths=self.choice([0, 5, 10, 20, 40, 40]),
            mebibytes=self.choice([0, 64, 64, 256, 256]),
            ready=self.random() < 0.9,
            why_not=self.choice(["is cordoned", "is not connected"]),
            runtimes=self.choice([frozenset({"docker"}), frozenset({"docker", "process"}), frozenset({"docker"}), frozenset({"process"})]),
            port_last=self.choice([3000, 3003, 3100]),
            supply=self.supply(),
            attributes=self.choice([{}, {}, {}, {}, {"pool": "gpu"}, {"rack": ""}]),
        )

    def supply(self) -> dict[str, int]:
        known = {"disk": self.choice([0, 20, 100]) * MIB, "pids": self.choice([50, 250]), "devices.gpu": 3, "devices.fpga": 2}
        return {name: number for name, number in known.items() if self.random() < 0.5}

    def some(self, of: Callable[[], dict[str, Any]], most: int) -> list[dict[str, Any]]:
        """Return up to so many of something, about different attributes."""
        drawn = [of() for _ in range(self.choice([0, 0, *range(1, most + 1)]))]
        return list({item["attribute"]: item for item in drawn}.values())

    def attribute(self) -> str:
        return self.choice(["rack", "rack", "zone", "zone", "node.name"])

    def spread(self) -> dict[str, Any]:
        targets = self.choice([{}, {}, {"a": 50}, {"a": 20, "x": 30}])
        return {"attribute": self.attribute(), "weight": self.choice([0, 1, 50, 100]), "targets": targets}

    def constraint(self) -> dict[str, Any]:
        operators = [
            ("max-per", "1"),
            ("max-per", "3"),
            ("group-by", ""),
            ("group-by", "2"),
            ("unique", ""),
            ("cluster", ""),
            ("exists", ""),
        ]
        operator, value = self.choice([*operators, ("=", "a"), ("!=", "x"), ("!=", "a")])
        return {"attribute": self.attribute(), "operator": operator, "value": value}

    def affinity(self) -> dict[str, Any]:
        return {"attribute": self.attribute(), "value": self.choice(["a", "x", "n1"]), "weight": self.randint(-100, 100)}

    def app(self) -> AppSpec:
        chosen = self.choice([(), (), (), (0,), (0,), (0, 0), (3001,), (3001, 0), (9000,)])
        ports = [{"name": f"p{index}", "container_port": 80 + index, "host_port": port} for index, port in enumerate(chosen)]
        placement = {
            "spread": self.some(self.spread, 2),
            "constraints": self.some(self.constraint, 2),
            "affinities": self.some(self.affinity, 2),
            "strategy": self.choice(["spread", "", "binpack"]),
            "pool": self.choice([""] * 9 + ["gpu"]),
        }
        resources = {"cpu": self.choice([0, 0.1, 0.1, 0.3, 1]), "memory": self.choice([0, "8MiB", "8MiB", "24MiB"])}
        resources |= self.choice([{}, {}, {"disk": "10MiB"}, {"pids": 100, "devices": {"gpu": 1}}, {"devices": {"gpu": 1, "fpga": 2}}])
        return spec(instances=self.randint(1, 12), ports=ports, checks=[], resources=resources, placement=placement)

    def ground(self, fleet: Fleet) -> Ground:
        """Return what one app finds."""
        ids = [f"n{number}" for number in range(NODES)]
        same_app = {node: self.randint(0, 3) for node in self.sample(ids, self.choice([0, 0, 3]))}
        target = self.choice(ids) if self.random() < 0.1 else ""
        left = frozenset(self.sample(ids, 2)) if self.random() < 0.1 else frozenset()
        avoided = {node: self.choice(["/a/rival", "/a/second"]) for node in self.sample(ids, self.choice([0, 0, 4]))}
        said = self.choice([Strategies(), Strategies("binpack"), Strategies("spread", {"gpu": "binpack"})])
        beside = {node: self.randint(-200, 200) for node in self.sample([*ids, "gone"], self.choice([0, 0, 5]))}
        kept = frozenset(node for node in avoided if self.random() < 0.5)
        return Ground(fleet, same_app, target, left, avoided=avoided, only_room=kept, strategies=said, beside=beside)


@dataclass
class Cluster:
    """Nodes that come, change and go, and instances on them."""

    fleet: Fleet = field(default_factory=lambda: Fleet(Reservations(), large=0))
    there: list[tuple[str, AppSpec, tuple[int, ...]]] = field(default_factory=list)

    def place(self, asked: AppSpec, count: int, ground: Ground) -> Placing:
        """Place by columns, compare with the choice node by node, and take what was chosen into the fleet."""
        found = place(asked, count, ground)
        assert found == place(settled(asked, ground.strategies), count, tuple(ground))
        assert lacking(asked, count, ground) == found.shortage
        for choice in found.choices:
            self.fleet.reservations.add(choice.node, asked, choice.ports)
            self.there.append((choice.node, asked, choice.ports))
        return found

    def take_away(self, index: int) -> None:
        if self.there:
            node_id, asked, ports = self.there.pop(index % len(self.there))
            self.fleet.reservations.remove(node_id, asked, ports)

    def released(self, ground: Ground, number: int) -> Ground:
        for node_id, asked, ports in self.there[:number]:
            ground = ground.without(node_id, ports, asked.resources)
        return ground


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1, 2, columns.KEPT]))
def test_columns_choose_what_is_chosen_node_by_node(seed: int, kept: int) -> None:
    with patch.object(columns, "KEPT", kept):
        _compare(Dice(seed), Cluster())


def _compare(dice: Dice, cluster: Cluster) -> None:
    for number in dice.sample(range(NODES), dice.randint(0, NODES)):
        cluster.fleet.put(dice.offer(number))
    apps = [dice.app() for _ in range(3)]
    for _ in range(10):
        for _ in range(dice.choice([0, 0, 1, 2])):
            cluster.fleet.put(dice.offer(dice.randrange(NODES)))
        if dice.random() < 0.1:
            cluster.fleet.remove(f"n{dice.randrange(NODES)}")
        for _ in range(dice.choice([0, 0, 1, 10])):
            cluster.take_away(dice.randrange(100))
        asked = dice.choice(apps)
        ground = cluster.released(dice.ground(cluster.fleet), dice.choice([0, 0, 0, 2]))
        cluster.place(asked, dice.choice([1, asked.instances]), ground)


def test_equal_nodes_are_taken_by_name_however_they_came() -> None:
    cluster = Cluster()
    for number in (7, 3, 9, 1):
        cluster.fleet.put(offer(number, "", ""))
    asked = spec(instances=6, ports=[], checks=[])
    chosen = cluster.place(asked, 6, Ground(cluster.fleet)).choices
    assert [item.node for item in chosen] == ["n1", "n3", "n7", "n9", "n1", "n3"]


def test_a_draft_that_fails_leaves_nothing_behind() -> None:
    cluster = Cluster()
    cluster.fleet.put(offer(1, "", "", tenths=10))
    asked = spec(instances=1, ports=[], checks=[], resources={"cpu": 1, "memory": "8MiB"})
    first = place(asked, 1, Ground(cluster.fleet))
    assert place(asked, 1, Ground(cluster.fleet)) == first
    cluster.fleet.reservations.add("n1", asked, ())
    assert place(asked, 1, Ground(cluster.fleet)).missing == 1


def test_a_small_fleet_needs_no_columns() -> None:
    fleet = Fleet(Reservations(), large=2)
    fleet.put(offer(1, "", ""))
    assert not fleet.is_large
    fleet.put(offer(2, "", ""))
    assert fleet.is_large


def test_why_a_node_is_not_ready_is_asked_for_when_it_is_told() -> None:
    fleet = Fleet(Reservations(), large=0)
    fleet.put(replace(offer(1, "", ""), ready=False, why_not="is cordoned"))
    fleet.why_not = lambda item: f"has been silent since {item.name} was seen"
    assert place(spec(), 1, Ground(fleet)).reason == "node n1 has been silent since n1 was seen"


def test_what_leaves_makes_room_for_what_comes() -> None:
    cluster = Cluster()
    cluster.fleet.put(offer(1, "", "", tenths=10))
    asked = spec(instances=1, ports=[], checks=[], resources={"cpu": 1, "memory": "8MiB"})
    cluster.place(asked, 1, Ground(cluster.fleet))
    ground = Ground(cluster.fleet)
    assert place(asked, 1, ground).missing == 1
    assert place(asked, 1, ground.without("n1", (), Resources(cpu=1, memory=8 * MIB))).missing == 0
    assert place(asked, 1, ground.without("nowhere", (), Resources(cpu=1))).missing == 1
