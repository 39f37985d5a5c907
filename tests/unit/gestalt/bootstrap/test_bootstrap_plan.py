"""The plan: what is left follows from what is there, wherever a run was cut off."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations, groupby
from pathlib import Path
from typing import Any

import pytest

from gestalt.bootstrap.facts import Engine, Facts
from gestalt.bootstrap.hosts_file import HostsFile
from gestalt.bootstrap.packages import Package
from gestalt.bootstrap.plan import NODE_UNITS, Action, Plan, Step, make_plan, openings, packages_for
from gestalt.bootstrap.requirements import Level

PACKAGES = [
    Package(Path("r"), "gestalt-runtime", "0.1.0-1", "x86_64", "3.11"),
    *(Package(Path(name), name, "0.1.0-1", "noarch") for name in ("gestaltctl", "gestalt-agent", "gestalt-coordinator")),
]
BARE = Facts(
    root=True,
    hostname="h",
    architecture="x86_64",
    distribution="rhel",
    version="9.4",
    cpus=4,
    memory=8 * 1024**3,
    var_free=100 * 1024**3,
    usr_free=100 * 1024**3,
    clock=0,
    systemd=252,
    pythons=("3.11",),
    haproxy="2.4.22",
    java="17.0.1",
    dnf=True,
    curl=True,
    sockets=("/run/docker.sock",),
    engine=Engine("/run/docker.sock", "docker", "25"),
    firewalld=True,
)
World = dict[str, Facts]


def site(*, count: int = 4, **fields: Any) -> HostsFile:
    hosts = [{"name": f"h{number}", "address": f"10.0.0.{number}"} for number in range(1, count + 1)]
    archive = {"archive": "apache-zookeeper-3.8.4-bin.tar.gz"}
    return HostsFile.model_validate({"packages": "p", "zookeeper": archive, "hosts": hosts, "firewall": True, **fields})


def bare(hosts: HostsFile) -> World:
    return {host.name: BARE for host in hosts.hosts}


def plan_of(hosts: HostsFile, world: World) -> Plan:
    return make_plan(hosts, PACKAGES, world, dict.fromkeys(world, 0.0))


def carried_out(hosts: HostsFile, world: World, steps: Iterable[Step]) -> World:
    """Return the machines as they are after these steps."""
    after = dict(world)
    for step in steps:
        after[step.host] = _after(hosts, step, after[step.host])
    return after


def _after(hosts: HostsFile, step: Step, facts: Facts) -> Facts:
    host = next(host for host in hosts.hosts if host.name == step.host)
    node, coordinator = {"agent.yaml", "fence.yaml"}, {"coordinator.yaml"}
    founder = node | coordinator | {"client.yaml"}
    match step.action:
        case Action.PACKAGES:
            return replace(facts, packages={item.name: item.version for item in packages_for(hosts, host, PACKAGES, facts)})
        case Action.FIREWALL:
            return replace(facts, opened=facts.opened | set(openings(hosts, host)))
        case Action.FOUND | Action.JOIN_COORDINATOR | Action.JOIN_NODE:
            made = {Action.FOUND: founder, Action.JOIN_COORDINATOR: coordinator, Action.JOIN_NODE: node}[step.action]
            started = {"gestalt-coordinator"} if step.action is Action.FOUND else set()
            return replace(facts, settings=facts.settings | made, clusters=frozenset({"c"}), units=facts.units | started)
        case Action.ZOOKEEPER:
            return replace(facts, units=facts.units | {"gestalt-zookeeper"}, listening=frozenset({2181, 2888, 3888}))
        case Action.START_COORDINATOR:
            return replace(facts, units=facts.units | {"gestalt-coordinator"}, listening=facts.listening | {7400, 7401})
        case Action.START_NODE:
            return replace(facts, units=facts.units | set(NODE_UNITS), listening=facts.listening | {80, 7402})


def names(steps: Iterable[Step]) -> set[tuple[str, Action]]:
    return {(step.host, step.action) for step in steps}


def test_bare_hosts_need_everything_in_the_order_of_phases() -> None:
    plan = plan_of(site(), bare(site()))
    assert plan.doubts == ()
    assert [step.action for step in plan.steps] == sorted(step.action for step in plan.steps)
    assert names(step for step in plan.pending if step.host == "h1") == {
        ("h1", action) for action in (Action.PACKAGES, Action.ZOOKEEPER, Action.FIREWALL, Action.FOUND, Action.START_NODE)
    }
    assert names(step for step in plan.pending if step.host == "h4") == {
        ("h4", action) for action in (Action.PACKAGES, Action.FIREWALL, Action.JOIN_NODE, Action.START_NODE)
    }


def test_cut_off_anywhere_the_next_plan_is_exactly_the_rest() -> None:
    """Anywhere: before a phase, after it, or with any of its hosts done."""
    hosts = site()
    whole, world = plan_of(hosts, bare(hosts)), bare(hosts)
    left = names(whole.steps)
    looked_at = 0
    for _, phase in groupby(whole.steps, key=lambda step: step.action):
        steps = list(phase)
        for count in range(len(steps) + 1):
            for done in combinations(steps, count):
                plan = plan_of(hosts, carried_out(hosts, world, done))
                assert names(plan.pending) == left - names(done)
                assert plan.doubts == ()
                looked_at += 1
        world = carried_out(hosts, world, steps)
        left -= names(steps)
    assert looked_at > 60
    assert plan_of(hosts, world).pending == []


def test_a_cluster_that_was_made_and_not_started_is_made_again() -> None:
    """All that `cluster init` has to do may not be done although its settings are there: it goes on where it was."""
    hosts = site()
    world = bare(hosts) | {"h1": replace(BARE, settings=frozenset({"coordinator.yaml", "agent.yaml"}), clusters=frozenset({"c"}))}
    assert ("h1", Action.FOUND) in names(plan_of(hosts, world).pending)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"memory": 1}, "of memory, and needs"),
        ({"clusters": frozenset({"other"}), "settings": frozenset({"agent.yaml"})}, "settings of another cluster"),
        ({"packages": {"gestaltctl": "0.0.9-1"}}, "gestaltctl 0.0.9-1 is installed, and 0.1.0-1 is given"),
        ({"architecture": "aarch64"}, "there is no package gestalt-runtime for aarch64"),
        ({"listening": frozenset({7400})}, "port 7400"),
    ],
)
def test_what_stops_it_is_told_of_its_host(change: dict[str, Any], said: str) -> None:
    hosts = site()
    plan = plan_of(hosts, bare(hosts) | {"h2": replace(BARE, **change)})
    assert [doubt.host for doubt in plan.errors if said in doubt.what] == ["h2"]


def test_few_coordinators_and_clocks_that_differ_are_warned_of() -> None:
    hosts = site(count=2)
    plan = make_plan(hosts, PACKAGES, bare(hosts), {"h1": 0.0, "h2": 20.0})
    assert {doubt.level for doubt in plan.doubts} == {Level.WARNING}
    assert any(doubt.what.startswith("1 coordinators") for doubt in plan.warnings)
    assert any("clock" in doubt.what for doubt in plan.warnings)


def test_firewalld_is_left_alone_unless_asked_for_and_that_is_told() -> None:
    hosts = site(firewall=False)
    plan = plan_of(hosts, bare(hosts))
    assert Action.FIREWALL not in {step.action for step in plan.steps}
    assert {doubt.host for doubt in plan.warnings if "firewalld" in doubt.what} == {"h1", "h2", "h3", "h4"}
