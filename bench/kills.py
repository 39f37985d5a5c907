"""What a death costs: agent, coordinator, a container and HAProxy killed with SIGKILL in turn, under open-loop requests.

For each victim, so many times: requests sent and failed by method, instances restarted that were not killed, and the longest time
without an answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from bench.appliance import appliance
from bench.harness import machine_facts, options
from tests.real.appliance_lab import Appliance, Traffic, wait_for, web
from tests.real.docker_lab import docker

PATH = "/test/e2e/live/web"
RATE = 50.0
METHODS = ("GET", "POST")


@dataclass(frozen=True, slots=True)
class Cost:
    """What killing one kind of victim cost. `pause`: the longest time without an answered GET, in seconds."""

    victim: str
    kills: int
    sent: dict[str, int]
    failed: dict[str, int]
    restarted: int
    pause: float


def cost(found: Appliance, victim: str, kill: Callable[[], str], kills: int) -> Cost:
    """Kill so many times under traffic. `kill` returns the name of the container that it killed, or nothing."""
    before, expected = found.containers(), set[str]()
    with Traffic(found.http_port, rate=RATE, methods=METHODS) as traffic:
        for _ in range(kills):
            expected.add(kill())
            time.sleep(2)  # what a death costs shows in the seconds after it
    after = found.containers()
    restarted = sum(after.get(name) != item for name, item in before.items() if name not in expected)
    counts = traffic.counts
    failed = {method: len(counts[method].failures) for method in METHODS}
    return Cost(victim, kills, {method: counts[method].sent for method in METHODS}, failed, restarted, traffic.longest_pause("GET"))


def kill_daemon(found: Appliance, name: str) -> str:
    """Kill a daemon, and start it again as systemd would."""
    found.kill(name)
    found.up()
    found.wait_ready()
    return ""


def kill_container(found: Appliance) -> str:
    """Kill one container and wait until its replacement is ready."""
    victim = sorted(found.containers())[0]
    docker("kill", victim)
    wait_for("the replacement", lambda: victim not in found.containers() and len(found.containers()) == 3)
    wait_for("all to be ready", lambda: all(item["observed"]["ready"] for item in found.instances(PATH)))
    return victim


def kill_haproxy(found: Appliance) -> str:
    """Kill master and worker of HAProxy."""
    old = set(found.pids("haproxy"))
    found.kill("haproxy")
    wait_for("another haproxy", lambda: set(found.pids("haproxy")) - old)
    return ""


def main() -> None:
    """Measure and print."""
    parser = options(__doc__.splitlines()[0] if __doc__ else "")
    parser.set_defaults(runs=3)
    arguments = parser.parse_args()
    for name, fact in machine_facts().items():
        print(f"{name + ':':<14}{fact}")
    with appliance() as found:
        found.apply(web())
        victims: dict[str, Callable[[], str]] = {
            "agent": lambda: kill_daemon(found, "gestalt-agent"),
            "coordinator": lambda: kill_daemon(found, "gestalt-coordinator"),
            "a container": lambda: kill_container(found),
            "HAProxy": lambda: kill_haproxy(found),
        }
        costs = [cost(found, victim, kill, arguments.runs) for victim, kill in victims.items()]
    heads = f"{'GETs':>6} {'failed':>7} {'POSTs':>6} {'failed':>7} {'others restarted':>17} {'longest pause':>14}"
    print(f"\n{'killed':<12} {'kills':>5} {heads}")
    for item in costs:
        figures = f"{item.sent['GET']:>6} {item.failed['GET']:>7} {item.sent['POST']:>6} {item.failed['POST']:>7}"
        print(f"{item.victim:<12} {item.kills:>5} {figures} {item.restarted:>17} {item.pause * 1000:>11.0f} ms")


if __name__ == "__main__":
    main()
