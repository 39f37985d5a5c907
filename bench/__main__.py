"""`python -m bench [NAME ...] [options]`: benchmarks one after the other, each in a process of its own; `--help` lists them."""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = {
    "store": "the appliance's store beside bare SQLite",
    "appliance": "launches beside bare docker run, and what an appliance costs at rest",
    "kills": "what a death costs in an appliance: agent, coordinator, container, HAProxy",
    "zookeeper": "the store in ZooKeeper: fenced commits beside bare transactions, what a new leader reads",
    "agents": "1,000 simulated agents on one coordinator, at rest and when the leader is killed",
    "handovers": "a coordinator that steps down a hundred times: how long it takes, and that nothing leaks",
    "rest": "a cluster of three at rest: memory of all parts, the fence's processor",
    "leader": "the leader killed, frozen, lost with its node, stepping down: to the next accepted launch",
    "scheduler": "placing in memory, one core: placements a second over thousands of nodes, and what twice as many cost",
    "failover": "a node lost: to the replacement's answer, beside Docker Swarm; GETs and POSTs meanwhile",
    "loss": "the loss of one node in a hundred, in memory, one core: what deciding about all apps takes",
    "c1m": "a million containers over 5,000 simulated nodes, durable in ZooKeeper; 1 % of the nodes lost",
}


def main() -> int:
    """Run those that are named, or all; return the exit code of the first that failed, but run the others, too."""
    words = sys.argv[1:]
    chosen = [word for word in words if word in BENCHMARKS]
    rest = [word for word in words if word not in chosen]
    if not chosen and {"-h", "--help"} & set(rest):
        print(f"{__doc__}\n")
        print("\n".join(f"  {name:<11}{what}" for name, what in BENCHMARKS.items()))
        print("\nOptions are handed on: `--runs N` is known to all, `python -m bench NAME --help` tells the others.")
        return 0
    if unknown := [word for word in rest[:1] if not chosen and not word.startswith("-")]:
        print(f"there is no benchmark {unknown[0]}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    failures = 0
    for name in chosen or BENCHMARKS:
        print(f"\n== {name}: {BENCHMARKS[name]}", flush=True)
        done = subprocess.run([sys.executable, "-m", f"bench.{name}", *rest], check=False)
        failures = failures or done.returncode
    return failures


if __name__ == "__main__":
    raise SystemExit(main())
