"""The scheduler alone, in memory, on one core: placements a second over thousands of nodes, and what a thousand nodes more cost.

    python -m bench.scheduler [--runs N] [--nodes N] [--plot FILE]

The fleet is what the leader keeps: nodes in 50 racks, three zones and five generations of processors, half of them with an SSD. Each case
begins with an empty fleet; what is placed is reserved in it at once, which is part of the time. Times are of this process on its processor,
because the machine may have other work, and the garbage collector leaves alone what was there before. `--plot` writes the placements a
second over the number of nodes as SVG.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.harness import machine_facts
from bench.plot import Line, plot
from bench.sheet import Sheet
from gestalt.coordinator.reservations import Reservations
from gestalt.coordinator.scheduler.fleet import Fleet, Ground
from gestalt.coordinator.scheduler.place import place
from gestalt.coordinator.scheduler.values import Capacity
from gestalt.spec.schema import AppSpec

GIB = 1024**3
RACKS, ZONES, GENERATIONS = 50, 3, 5
SIZES = (1000, 2500, 5000, 10_000, 20_000)
CONSTRAINTS = (
    {"attribute": "disk", "value": "ssd"},
    {"attribute": "generation", "operator": ">=", "value": "2"},
    {"attribute": "zone", "operator": "in", "value": "z0,z1"},
)


def fleet_of(nodes: int) -> Fleet:
    """Return a fleet of empty nodes."""
    fleet = Fleet(Reservations())
    for number in range(nodes):
        name = f"node{number:05d}"
        labels = {
            "node.name": name,
            "rack": f"r{number % RACKS}",
            "zone": f"z{number % ZONES}",
            "generation": str(number % GENERATIONS),
            "disk": "ssd" if number % 4 < 2 else "hdd",
        }
        cores, memory = 16.0 * (1 + number % 4), 64 * GIB * (1 + number % 4)
        fleet.put(Capacity(name, name, True, runtimes=frozenset({"docker"}), cpu=cores, memory=memory, attributes=labels))
    return fleet


def described(number: int, instances: int, ports: int = 0, **placement: Any) -> AppSpec:
    """Return an app; some ask for more than others."""
    listens = [{"name": f"p{port}", "container_port": 8000 + port} for port in range(ports)]
    resources = {"cpu": 0.05 * (1 + number % 4), "memory": f"{64 * (1 + number % 3)}MiB"}
    fields = {"path": f"/bench/lab/test/app{number}", "image": "demo:1", "instances": instances, "ports": listens, "resources": resources}
    return AppSpec.model_validate({**fields, "placement": placement})


def launch(fleet: Fleet, app: AppSpec) -> int:
    """Place an app and reserve what it takes; return how many instances were placed."""
    placing = place(app, app.instances, Ground(fleet))
    for choice in placing.choices:
        fleet.reservations.add(choice.node, app, choice.ports)
    return len(placing.choices)


@dataclass(frozen=True, slots=True)
class Case:
    """Apps that are placed one after the other. `aim`: for people."""

    name: str
    apps: Callable[[], list[AppSpec]]
    aim: str = ""

    def rate(self, nodes: int) -> float:
        """Return the placements a second of processor time."""
        fleet, apps = fleet_of(nodes), self.apps()
        launch(fleet, described(0, 1))  # the columns are there: a leader makes them once
        gc.collect()
        gc.freeze()
        begun, placed = time.process_time(), 0
        for app in apps:
            placed += launch(fleet, app)
        taken = time.process_time() - begun
        gc.unfreeze()
        assert placed == sum(app.instances for app in apps), f"{self.name}: {placed} placed"
        return placed / taken


CASES = {
    "spread": Case(
        "10,000 identical instances, spread over 50 racks",
        lambda: [described(1, 10_000, spread=[{"attribute": "rack"}])],
        "at least 100,000",
    ),
    "ones": Case(
        "10,000 apps of one instance with three constraints",
        lambda: [described(number, 1, constraints=CONSTRAINTS) for number in range(10_000)],
        "at least 15,000",
    ),
    "thousands": Case(
        "10 apps of 1,000 instances with three constraints and a port each",
        lambda: [described(number, 1000, 1, constraints=CONSTRAINTS) for number in range(10)],
        "about 100,000",
    ),
    "both": Case(
        "10 apps of 1,000 instances, spread over racks and zones, one constraint",
        lambda: [
            described(number, 1000, spread=[{"attribute": "rack"}, {"attribute": "zone"}], constraints=CONSTRAINTS[:1])
            for number in range(10)
        ],
    ),
    "packed": Case(
        "10,000 instances, packed on as few nodes as possible",
        lambda: [described(1, 10_000, strategy="binpack")],
    ),
}


def refusing(nodes: int, apps: int = 200) -> float:
    """Return the milliseconds that it takes to say why an app finds no room, for each of many."""
    fleet = fleet_of(nodes)
    waiting = [described(number, 1, constraints=[{"attribute": "zone", "value": f"none{number % 7}"}]) for number in range(apps)]
    launch(fleet, waiting[0])
    begun = time.process_time()
    for app in waiting:
        assert not launch(fleet, app)
    return (time.process_time() - begun) * 1000 / apps


def measure(sheet: Sheet, runs: int, nodes: int) -> None:
    """Measure all cases in turn, at so many nodes and at twice as many."""
    for _ in range(runs):
        for case in CASES.values():
            rates = {number: case.rate(number) for number in (nodes, 2 * nodes)}
            for number, rate in rates.items():
                aim = case.aim if number == nodes else ""
                sheet.add(f"{case.name}: {number:,} nodes", rate, "/s", aim=aim, rate=True)
            sheet.add(f"{case.name}: cost with twice the nodes", rates[nodes] / rates[2 * nodes], "x", aim="at most 2.5")
        sheet.add(f"why an app finds no node of {nodes:,}", refusing(nodes), "ms")


def draw(path: Path) -> None:
    """Write the plot."""
    lines = [Line(case.name, tuple((size, case.rate(size)) for size in SIZES)) for case in CASES.values()]
    path.write_text(plot("Placements a second of one core", "nodes", "placements a second", lines), encoding="utf-8")
    print(f"wrote {path}")


def main() -> None:
    """Measure everything and print it."""
    chosen = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    chosen.add_argument("--runs", type=int, default=5)
    chosen.add_argument("--nodes", type=int, default=5000)
    chosen.add_argument("--plot", type=Path, help="write a plot there, too")
    arguments = chosen.parse_args()
    with Sheet("the scheduler", machine_facts()) as sheet:
        measure(sheet, arguments.runs, arguments.nodes)
    if arguments.plot:
        draw(arguments.plot)


if __name__ == "__main__":
    main()
