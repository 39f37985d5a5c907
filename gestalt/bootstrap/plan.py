"""What is to be done on which host, from what is there: pure. A step that was done is recognised by what it left, never by a note of ours.

So a run that was cut off anywhere is completed by the next one, and a run on a finished cluster has nothing to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from gestalt.errors import GestaltError

from .facts import Facts
from .hosts_file import COORDINATORS, HostSettings, HostsFile
from .packages import OPTIONAL_PACKAGES, RUNTIME, Package, chosen
from .requirements import Finding, Level, Wanted, clock_findings, findings, ports_of
from .together import COORDINATOR_FILE, address_findings, beginning, server_findings
from .zookeeper import CLIENT_PORT, ELECTION_PORT, PEER_PORT

HTTP_PORT = 80
AGENT_FILE, FENCE_FILE = "agent.yaml", "fence.yaml"
COORDINATOR_UNITS = ("gestalt-coordinator",)
ZOOKEEPER_UNITS = ("gestalt-zookeeper",)
NODE_UNITS = ("gestalt-fence", "gestalt-agent")


class Action(IntEnum):
    """What a step does. All steps of one are done before those of the next begin."""

    PACKAGES = 10
    ZOOKEEPER = 20
    FIREWALL = 30
    FOUND = 40
    JOIN_COORDINATOR = 50
    START_COORDINATOR = 60
    JOIN_NODE = 70
    START_NODE = 80

    @property
    def word(self) -> str:
        """Its name for people and programs."""
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do on one host. `what`: in words; `done`: it is so already."""

    host: str
    action: Action
    what: str
    done: bool


@dataclass(frozen=True, slots=True)
class Doubt:
    """What is wrong with a host, or may be; of no single one where `host` is empty. An error stops everything."""

    host: str
    level: Level
    what: str
    hint: str


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps, in the order in which they are done, and what speaks against it. `first`: where the cluster begins, or began."""

    steps: tuple[Step, ...]
    doubts: tuple[Doubt, ...]
    first: str

    @property
    def pending(self) -> list[Step]:
        """The steps that are left."""
        return [step for step in self.steps if not step.done]

    @property
    def errors(self) -> list[Doubt]:
        """What stops it."""
        return [doubt for doubt in self.doubts if doubt.level is Level.ERROR]

    @property
    def warnings(self) -> list[Doubt]:
        """What has to be accepted."""
        return [doubt for doubt in self.doubts if doubt.level is Level.WARNING]


def make_plan(
    hosts: HostsFile, packages: Sequence[Package], facts: Mapping[str, Facts], clocks: Mapping[str, float], source: Finding | None = None
) -> Plan:
    """Return the plan. `facts`, `clocks`: of each host, by its name; of the latter, by how much they are ahead of ours. `source`: what is
    wrong with the archive or package of ZooKeeper, which stops it where a server is to be made of it.
    """
    steps: list[Step] = []
    doubts = [*_of_counts(hosts), *(Doubt("", item.level, item.what, item.hint) for item in clock_findings(clocks))]
    found_together = [*address_findings(hosts, facts), *server_findings(hosts, facts)]
    doubts += [Doubt(name, item.level, item.what, item.hint) for name, item in found_together]
    begun = beginning(hosts, facts)
    doubts += [Doubt("", item.level, item.what, item.hint) for item in begun.trouble]
    for host in hosts.hosts:
        found = facts[host.name]
        try:
            files = packages_for(hosts, host, packages, found)
        except GestaltError as error:
            doubts.append(Doubt(host.name, Level.ERROR, error.message, error.hint))
            files = []
        wanted = _wanted(hosts, host, found, files, begun.cluster)
        doubts += [Doubt(host.name, item.level, item.what, item.hint) for item in findings(found, wanted)]
        doubts += _of_versions(host, files, found)
        steps += _steps(hosts, host, files, found, is_first=host == begun.first)
    if source and any(step.action is Action.ZOOKEEPER and not step.done for step in steps):
        doubts.append(Doubt("", source.level, source.what, source.hint))
    return Plan(tuple(sorted(steps, key=lambda step: step.action)), tuple(doubts), begun.first.name)


def packages_for(hosts: HostsFile, host: HostSettings, packages: Sequence[Package], facts: Facts) -> list[Package]:
    """Return the packages of ours that a host is to have.

    Raises:
        GestaltError: NOT_FOUND, when one is missing.
    """
    return chosen(packages, facts.architecture, is_coordinator=host in hosts.coordinators, has_selinux=facts.selinux.lower() != "disabled")


def _steps(hosts: HostsFile, host: HostSettings, files: Sequence[Package], facts: Facts, *, is_first: bool) -> list[Step]:
    def step(action: Action, what: str, *, done: bool) -> Step:
        return Step(host.name, action, what, done)

    missing = [package for package in files if package.name not in facts.packages]
    named = ", ".join(map(str, missing or files))
    steps = [step(Action.PACKAGES, f"install {named}", done=not missing)]
    if host in hosts.servers:
        steps.append(step(Action.ZOOKEEPER, "set up and start a ZooKeeper server", done=_runs(facts, ZOOKEEPER_UNITS)))
    if hosts.firewall and facts.firewalld:
        opened = openings(hosts, host)
        steps.append(step(Action.FIREWALL, f"open firewalld for {', '.join(opened)}", done=set(opened) <= facts.opened))
    if is_first:
        is_founded = COORDINATOR_FILE in facts.settings and _runs(facts, COORDINATOR_UNITS)
        steps.append(step(Action.FOUND, f"make the cluster, start {', '.join(COORDINATOR_UNITS)}", done=is_founded))
    elif host in hosts.coordinators:
        steps += [
            step(Action.JOIN_COORDINATOR, "join as a coordinator", done=COORDINATOR_FILE in facts.settings),
            step(Action.START_COORDINATOR, f"start {', '.join(COORDINATOR_UNITS)}", done=_runs(facts, COORDINATOR_UNITS)),
        ]
    if not is_first:
        steps.append(step(Action.JOIN_NODE, "join as a node", done={AGENT_FILE, FENCE_FILE} <= facts.settings))
    return [*steps, step(Action.START_NODE, f"start {', '.join(NODE_UNITS)}", done=_runs(facts, NODE_UNITS))]


def openings(hosts: HostsFile, host: HostSettings) -> tuple[str, ...]:
    """Return the services and ports for which firewalld has to be open on a host."""
    ports = (CLIENT_PORT, PEER_PORT, ELECTION_PORT) if host in hosts.servers else ()
    services = ("gestalt-agent", *(("gestalt-coordinator",) if host in hosts.coordinators else ()))
    return (*services, *(f"{port}/tcp" for port in ports))


def _runs(facts: Facts, units: Sequence[str]) -> bool:
    return set(units) <= facts.units


def _wanted(hosts: HostsFile, host: HostSettings, facts: Facts, files: Sequence[Package], cluster: str) -> Wanted:
    is_coordinator, is_server = host in hosts.coordinators, host in hosts.servers
    ports = ports_of(node=True, coordinator=is_coordinator, zookeeper=is_server)
    runtime = next((package for package in files if package.name == RUNTIME), None)
    return Wanted(
        coordinator=is_coordinator,
        zookeeper=hosts.zookeeper.heap if is_server else 0,
        python=runtime.python if runtime else "",
        architecture=runtime.architecture if runtime else "",
        storage_fence=hosts.storage_fence,
        selinux=any(package.name in OPTIONAL_PACKAGES for package in files),
        cluster=cluster,
        firewall=hosts.firewall or set(openings(hosts, host)) <= facts.opened,
        ports={host.http_port if port == HTTP_PORT else port: purpose for port, purpose in ports.items()},
    )


def _of_counts(hosts: HostsFile) -> list[Doubt]:
    doubts: list[Doubt] = []
    if len(hosts.coordinators) < COORDINATORS:
        what = f"{len(hosts.coordinators)} coordinators: without them nothing that is lost is replaced"
        doubts.append(Doubt("", Level.WARNING, what, "take 3 or 5, on machines that do not fail together"))
    return doubts


def _of_versions(host: HostSettings, files: Sequence[Package], facts: Facts) -> list[Doubt]:
    doubts = []
    for package in files:
        there = facts.packages.get(package.name, package.version)
        if there != package.version:
            what = f"{package.name} {there} is installed, and {package.version} is given: nothing is upgraded here"
            doubts.append(Doubt(host.name, Level.ERROR, what, "give the packages that are installed, or upgrade first: docs/install.md"))
    return doubts
