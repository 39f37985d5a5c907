"""What a cluster of three costs while nothing happens: memory of ZooKeeper, coordinators, agents and fences, and the fence's processor.

    python -m bench.rest [--runs N] [--seconds S]

Three lab nodes, each with a ZooKeeper server, a coordinator, an agent, a fence and the agent's HAProxy; two apps with a check every half
a second run on them. Memory is what would be free without the process: its own pages and its share of those it has in common with others
(PSS). Docker's daemons and the instances themselves do not count.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import psutil

from bench.cluster import cluster_of
from bench.harness import machine_facts
from bench.sheet import Sheet
from gestalt.clock import monotonic
from tests.cluster.lab.cluster import web
from tests.cluster.lab.lab import temporary_lab
from tests.cluster.lab.nodes import Node
from tests.real.docker_lab import docker

NODES = 3
UNITS = {"ZooKeeper": "zookeeper", "coordinator": "gestalt-coordinator", "agent": "gestalt-agent", "fence": "gestalt-fence"}
AIMS = {"fence, processor": "at most 0.5 %", "fence, memory": "at most 30 MB", "all, memory": "below 1,000 MB"}
_SETTLED = 20.0


async def processes(node: Node) -> dict[str, list[psutil.Process]]:
    """Return the processes of each part of a node, as the host sees them; HAProxy's by themselves, though the agent started them."""
    found: dict[str, list[psutil.Process]] = {}
    first = await node.pid()
    for name, unit in UNITS.items():
        main = int(await node.do("systemctl", "show", "--property=MainPID", "--value", unit))
        assert main, f"{unit} does not run on {node.name}"
        found[name] = [_on_host(first, main)]
    inside = (await node.do("pgrep", "--exact", "haproxy")).split()
    found["HAProxy"] = [_on_host(first, int(pid)) for pid in inside]
    return found


def _on_host(first: int, inside: int) -> psutil.Process:
    """Return a process by the number that it has in the namespace of which `first` is the first process."""
    namespace = Path(f"/proc/{first}/ns/pid").readlink()
    for pid in psutil.pids():
        try:
            if Path(f"/proc/{pid}/ns/pid").readlink() == namespace and _number_inside(pid) == inside:
                return psutil.Process(pid)
        except OSError:
            continue  # it has ended
    raise LookupError(f"process {inside} of the node is not found")


def _number_inside(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[-1]) for line in lines if line.startswith("NSpid:"))


def memory(found: list[psutil.Process]) -> float:
    """Return megabytes, PSS."""
    return float(sum(process.memory_full_info().pss for process in found)) / 1e6


def seconds_used(found: list[psutil.Process]) -> float:
    """Return seconds of processor that were used so far."""
    return float(sum(sum(process.cpu_times()[:2]) for process in found))


async def watch(sheet: Sheet, nodes: Mapping[str, dict[str, list[psutil.Process]]], seconds: float) -> None:
    """Watch for so long, and note the mean of the nodes and the sum of all."""
    before = {(node, part): seconds_used(found) for node, parts in nodes.items() for part, found in parts.items()}
    begun = monotonic()
    await asyncio.sleep(seconds)
    passed, total = monotonic() - begun, 0.0
    for part in (*UNITS, "HAProxy"):
        used = [100 * (seconds_used(parts[part]) - before[node, part]) / passed for node, parts in nodes.items()]
        held = [memory(parts[part]) for parts in nodes.values()]
        total += sum(held)
        sheet.add(f"{part}, processor: the node that used most", max(used), "%", aim=AIMS.get(f"{part}, processor", ""))
        sheet.add(f"{part}, memory: the node that used most", max(held), "MB", aim=AIMS.get(f"{part}, memory", ""))
    resident = max(sum(process.memory_info().rss for process in parts["fence"]) / 1e6 for parts in nodes.values())
    sheet.add("fence, resident, shared pages and all: the node that used most", resident, "MB", aim=AIMS["fence, memory"])
    sheet.add("all parts of all nodes, memory", total, "MB", aim=AIMS["all, memory"])


async def measure(sheet: Sheet, runs: int, seconds: float) -> None:
    """Measure one cluster."""
    async with temporary_lab(NODES, "bench") as lab:
        cluster = await cluster_of(lab)
        for name in ("one", "two"):
            await cluster.launch(web(f"/bench/lab/test/{name}", instances=NODES))
        await cluster.until_converged()
        await asyncio.sleep(_SETTLED)
        nodes = {node.name: await processes(node) for node in lab.nodes}
        for _ in range(runs):
            await watch(sheet, nodes, seconds)


def main() -> None:
    """Measure everything and print it."""
    chosen = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    chosen.add_argument("--runs", type=int, default=5)
    chosen.add_argument("--seconds", type=float, default=60.0)
    arguments = chosen.parse_args()
    facts = machine_facts() | {"docker": docker("version", "-f", "{{.Server.Version}}"), "nodes": str(NODES)}
    with Sheet("a cluster of three at rest", facts) as sheet:
        asyncio.run(measure(sheet, arguments.runs, arguments.seconds))


if __name__ == "__main__":
    assert os.geteuid() == 0, "run it as root"
    main()
