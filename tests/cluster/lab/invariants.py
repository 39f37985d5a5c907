"""What must hold whatever fails, judged over what was seen from outside. Pure: every function returns what is wrong, a sentence each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Copy:
    """A container of an app with living processes. `frozen`: none of them can move."""

    node: str
    app: str
    instance: str
    attempt: int
    frozen: bool = False

    @property
    def name(self) -> str:
        """Return what people call it."""
        return f"{self.instance} (attempt {self.attempt}) on {self.node}"


@dataclass(frozen=True, slots=True)
class Sample:
    """The copies that all lived at one moment."""

    at: float
    copies: tuple[Copy, ...]


@dataclass(frozen=True, slots=True)
class Reign:
    """Who led, as the store said at one moment."""

    at: float
    epoch: int
    leader: str


@dataclass(frozen=True, slots=True)
class Request:
    """One request and its end. `failure` is empty when it was answered, then `by` says which instance did."""

    at: float
    through: str
    took: float
    by: str = ""
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Listed:
    """An instance as Gestalt lists it. `endpoint`: "address:port" of its first port, empty without one."""

    app: str
    instance: str
    attempt: int
    node: str
    phase: str
    health: str
    endpoint: str = ""


@dataclass(frozen=True, slots=True)
class ProxyServer:
    """A server that a node's HAProxy has."""

    instance: str
    endpoint: str
    takes_requests: bool


@dataclass
class Ledger:
    """What callers were told: how many instances each app may have now, None for no such app.

    A change whose outcome the caller was never told leaves both possible.
    """

    possible: dict[str, set[int | None]] = field(default_factory=dict)

    def acknowledged(self, app: str, count: int | None) -> None:
        """Note that a change was answered as done: launch and scale give a count, delete None."""
        self.possible[app] = {count}

    def uncertain(self, app: str, count: int | None) -> None:
        """Note that a change was sent and nobody knows what became of it."""
        self.possible.setdefault(app, {None}).add(count)


def working(sample: Sample, app: str) -> set[str]:
    """Return the nodes on which copies of an app are at work. What is frozen is not at work."""
    return {copy.node for copy in sample.copies if copy.app == app and not copy.frozen}


def double_holders(samples: Iterable[Sample], exclusive: Collection[str]) -> list[str]:
    """Return where two copies of an exclusive app were at work at once. What is frozen is not at work."""
    wrong = []
    for sample in samples:
        at_work: dict[str, list[Copy]] = {}
        for copy in sample.copies:
            if copy.app in exclusive and not copy.frozen:
                at_work.setdefault(copy.app, []).append(copy)
        for app, copies in at_work.items():
            if len(copies) > 1:
                wrong.append(f"at {sample.at:.2f} {app} is at work {len(copies)} times: " + ", ".join(copy.name for copy in copies))
    return wrong


def shortages(samples: Iterable[Sample], app: str, least: int) -> list[str]:
    """Return where fewer than `least` copies of an app were at work. What is frozen is not at work."""
    counts = [(sample.at, sum(copy.app == app and not copy.frozen for copy in sample.copies)) for sample in samples]
    return [f"at {at:.2f} {app} is at work {count} times only, not {least}" for at, count in counts if count < least]


def touched(samples: Sequence[Sample], app: str) -> list[str]:
    """Return which copies of an app ended or began after the first sample."""
    seen = [(sample.at, {copy.name for copy in sample.copies if copy.app == app}) for sample in samples]
    wrong = []
    for (_, before), (at, after) in pairwise(seen):
        wrong += [f"at {at:.2f} {name} ended" for name in sorted(before - after)]
        wrong += [f"at {at:.2f} {name} began" for name in sorted(after - before)]
    return wrong


def epochs_that_shrank(reigns: Sequence[Reign]) -> list[str]:
    """Return where an epoch was followed by a lower one, and epochs with two leaders."""
    wrong = [
        f"at {later.at:.2f} the epoch went from {earlier.epoch} to {later.epoch}"
        for earlier, later in pairwise(reigns)
        if later.epoch < earlier.epoch
    ]
    leaders: dict[int, set[str]] = {}
    for reign in reigns:
        if reign.leader:
            leaders.setdefault(reign.epoch, set()).add(reign.leader)
    return wrong + [f"epoch {epoch} had the leaders {', '.join(sorted(names))}" for epoch, names in leaders.items() if len(names) > 1]


def lost_changes(ledger: Ledger, apps: Mapping[str, int]) -> list[str]:
    """Return what was acknowledged and is not so.

    Args:
        ledger: what callers were told.
        apps: the wanted count of each app that there is.
    """
    wrong = []
    for app, possible in ledger.possible.items():
        if (there := apps.get(app)) not in possible:
            allowed = " or ".join(sorted(map(_state, possible)))
            wrong.append(f"{app} is {_state(there)}, but was acknowledged to be {allowed}")
    return wrong + [f"{app} is there, and nobody asked for it" for app in apps if app not in ledger.possible]


def disagreements(listed: Collection[Listed], sample: Sample) -> list[str]:
    """Return where what runs differs from what Gestalt lists: each listed instance runs exactly once, and nothing else does."""
    wanted = Counter((item.app, item.instance, item.attempt, item.node) for item in listed if item.phase == "running")
    actual = Counter((copy.app, copy.instance, copy.attempt, copy.node) for copy in sample.copies)
    wrong = [f"{item.instance} is {item.phase}, not running" for item in listed if item.phase != "running"]
    for key in sorted(wanted.keys() | actual.keys()):
        if wanted[key] != actual[key]:
            _, instance, attempt, node = key
            wrong.append(f"{instance} (attempt {attempt}) on {node} is listed {wanted[key]} times and runs {actual[key]} times")
    return wrong


def wrong_counts(apps: Mapping[str, int], listed: Collection[Listed]) -> list[str]:
    """Return the apps that do not have as many healthy instances as wanted."""
    healthy = Counter(item.app for item in listed if item.health == "healthy")
    total = Counter(item.app for item in listed)
    return [
        f"{app} has {total[app]} instances, {healthy[app]} of them healthy; wanted are {apps.get(app, 0)}"
        for app in sorted(apps.keys() | total.keys())
        if not total[app] == healthy[app] == apps.get(app, 0)
    ]


def wrong_servers(routed: Collection[Listed], proxies: Mapping[str, Collection[ProxyServer]]) -> list[str]:
    """Return where a HAProxy differs from the instances with a route: each is a server that takes requests, nothing else is there."""
    wanted = {item.instance: item.endpoint for item in routed}
    wrong = []
    for node, servers in sorted(proxies.items()):
        there = {server.instance: server for server in servers}
        wrong += [f"HAProxy of {node} has {name}, which is no instance" for name in sorted(there.keys() - wanted.keys())]
        wrong += [f"HAProxy of {node} does not have {name}" for name in sorted(wanted.keys() - there.keys())]
        for name in sorted(wanted.keys() & there.keys()):
            if there[name].endpoint != wanted[name]:
                wrong.append(f"HAProxy of {node} has {name} at {there[name].endpoint}, it is at {wanted[name]}")
            elif not there[name].takes_requests:
                wrong.append(f"HAProxy of {node} sends {name} no requests")
    return wrong


def failed_requests(requests: Iterable[Request], begin: float = float("-inf"), end: float = float("inf")) -> list[str]:
    """Return the requests begun in a stretch of time that failed."""
    return [
        f"at {request.at:.2f} through {request.through} after {request.took:.2f} s: {request.failure}"
        for request in requests
        if request.failure and begin <= request.at < end
    ]


def _state(count: int | None) -> str:
    return "gone" if count is None else f"there with {count} instances"
