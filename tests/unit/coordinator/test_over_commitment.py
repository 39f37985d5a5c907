"""Whatever apps come and go: of no node more is set aside than it offers, and no more instances are placed than are asked for."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from gestalt.coordinator.scheduler.fleet import Ground
from gestalt.coordinator.scheduler.values import Capacity
from gestalt.spec.schema import AppSpec, Resources
from tests.unit.coordinator.test_columns import NODES, Cluster, Dice

UNLIMITED = 2**60


def asked_of(resources: Resources) -> dict[str, float]:
    devices = {f"devices.{name}": number for name, number in resources.devices.items()}
    return {"cpu": resources.cpu, "memory": resources.memory, "disk": resources.disk, "pids": resources.pids, **devices}


def offered_by(node: Capacity) -> dict[str, float]:
    """Return what a node has to give; memory, disk and processes that it does not tell of are without limit, devices are none."""
    unknown = {"memory": node.memory or UNLIMITED, "disk": UNLIMITED, "pids": UNLIMITED}
    return {"cpu": node.cpu, **unknown, **node.supply}


def check(offers: dict[str, Capacity], there: list[tuple[str, AppSpec, tuple[int, ...]]]) -> None:
    """Add up what instances were promised, and hold it against what their nodes offer."""
    for node_id, node in offers.items():
        mine = [(spec, ports) for on, spec, ports in there if on == node_id]
        total: Counter[str] = Counter()
        for spec, _ in mine:
            total.update(asked_of(spec.resources))  # type: ignore[arg-type]
        offered = offered_by(node)
        over = {name: (amount, offered.get(name, 0)) for name, amount in total.items() if amount > offered.get(name, 0) + 1e-6}
        assert not over, f"{node_id} is over-committed"
        ports = [port for _, taken in mine for port in taken]
        assert len(set(ports)) == len(ports), f"a port of {node_id} is given twice"


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32))
def test_nothing_is_ever_over_committed(seed: int) -> None:
    """Each choice is made by columns and node by node, and is the same; the sum is made here, by nobody whom it concerns."""
    dice, cluster = Dice(seed), Cluster()
    offers = {item.id: item for item in (dice.offer(number) for number in range(NODES))}
    for item in offers.values():
        cluster.fleet.put(item)
    apps = [dice.app() for _ in range(4)]
    for _ in range(15):
        for _ in range(dice.choice([0, 0, 1, 5])):
            cluster.take_away(dice.randrange(100))
        asked, count = dice.choice(apps), dice.choice([1, 3, 12])
        placing = cluster.place(asked, count, Ground(cluster.fleet, {}))
        assert len(placing.choices) + placing.missing == count
        check(offers, cluster.there)
