"""What nodes are to a system app: found over columns, it is what is found node by node, whatever is there and in the way."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gestalt.coordinator.records import Placed
from gestalt.coordinator.reservations import Reservations
from gestalt.coordinator.scheduler.fleet import Fleet, Ground
from gestalt.coordinator.spots import Role, Spot, There, spot, spots
from gestalt.spec.schema import AppSpec
from tests.unit.coordinator.test_columns import NODES, Cluster, Dice
from tests.unit.coordinator.world import node, spec


def there_of(dice: Dice, cluster: Cluster) -> There:
    """Return what the nodes have of an app: any of the instances that are there may be its own."""
    ids = [f"n{number}" for number in range(NODES)]
    found = {on: (Placed(serial, 1, on, ports), asked.resources) for serial, (on, asked, ports) in enumerate(cluster.there)}
    old = {on: item for on, item in found.items() if dice.random() < 0.7}
    busy = {on: dice.random() < 0.5 for on in dice.sample(ids, dice.choice([0, 0, 2]))}
    return There(old, busy, set(dice.sample(ids, dice.choice([0, 3]))) - old.keys())


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_columns_find_what_is_found_node_by_node(seed: int) -> None:
    dice, cluster = Dice(seed), Cluster()
    for number in dice.sample(range(NODES), dice.randint(0, NODES)):
        cluster.fleet.put(dice.offer(number))
    apps = [dice.app() for _ in range(3)]
    for _ in range(6):
        if dice.random() < 0.5:
            cluster.fleet.put(dice.offer(dice.randrange(NODES)))
        if dice.random() < 0.1:
            cluster.fleet.remove(f"n{dice.randrange(NODES)}")
        asked = dice.choice(apps)
        cluster.place(asked, dice.choice([1, asked.instances]), Ground(cluster.fleet))
        ground = cluster.released(dice.ground(cluster.fleet), dice.choice([0, 0, 2]))
        there = there_of(dice, cluster)
        assert spots(asked, ground, there) == [spot(asked, item, there) for item in ground]


def asking(port: int = 0) -> AppSpec:
    return spec(ports=[{"name": "http", "container_port": 80, "host_port": port}], checks=[])


def fleet_of(count: int) -> Fleet:
    fleet = Fleet(Reservations(), large=0)
    for number in range(count):
        fleet.put(node(f"n{number}"))
    return fleet


def test_where_nothing_stands_in_the_way_no_node_becomes_a_value() -> None:
    fleet, asked, values = fleet_of(9), asking(9100), list[str]()
    for number in range(6):
        fleet.reservations.add(f"n{number}", asked, (9100,))
    fleet.put(node("n8", ready=False, why_not="is cordoned"))
    plain = fleet.node
    fleet.node = lambda name: values.append(name) or plain(name)  # type: ignore[method-assign,func-returns-value]
    old = {f"n{number}": (Placed(number, 1, f"n{number}", (9100,)), asked.resources) for number in range(3)}
    found = spots(asked, Ground(fleet), There(old, {}, {"n3", "n4"}))
    assert found[:5] == [Spot(f"n{number}", f"n{number}", Role.WANTED) for number in range(5)]
    assert found[5].why == "has host port 9100 in use by another instance"
    assert found[6:8] == [Spot("n6", "n6", Role.WANTED), Spot("n7", "n7", Role.WANTED)]
    assert found[8] == Spot("n8", "n8", Role.KEPT, "is cordoned")
    assert values == ["n5", "n8"]
