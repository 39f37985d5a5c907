"""A bootstrap from its beginning to its end: look at all hosts, plan, and carry the plan out phase by phase."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Protocol, TypeVar

from gestalt.clock import monotonic, wall
from gestalt.errors import Detail, GestaltError, Kind

from .actions import Actions
from .facts import PROBE, Facts, read_facts
from .hosts_file import HostSettings, HostsFile
from .packages import Package, find_packages
from .plan import Action, Plan, Step, make_plan
from .source import source_finding
from .ssh import Remote, connected, unusable

PROBE_LIMIT = 60.0

T = TypeVar("T")
R = TypeVar("R")


class Audience(Protocol):
    """Who is told how it goes. Called from the loop; returns at once."""

    def looked(self, host: str) -> None: ...
    def begun(self, step: Step) -> None: ...
    def ended(self, outcome: Outcome) -> None: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a step ended. `error` None: well."""

    step: Step
    seconds: float
    error: GestaltError | None = None


@dataclass(slots=True)
class Bootstrap:
    """One run: the hosts that it is connected to, what was found on them, and what follows from that."""

    hosts: HostsFile
    packages: Sequence[Package]
    plan: Plan
    actions: Actions
    parallel: int

    async def carry_out(self, audience: Audience) -> list[Outcome]:
        """Do all that is left, and wait until all nodes are ready; return how each step ended.

        The steps of a phase that has begun are all carried out; after one that failed, no other phase begins, and no cluster is made or
        joined before all ZooKeeper servers of ours serve: a unit that runs may be one that ends again and again.
        """
        pending = self.plan.pending
        outcomes = await self._phases([step for step in pending if step.action < Action.FOUND], audience)
        if pending and not any(outcome.error for outcome in outcomes):
            outcomes += await self._silent_servers(audience)
        if not any(outcome.error for outcome in outcomes):
            outcomes += await self._phases([step for step in pending if step.action >= Action.FOUND], audience)
        return outcomes

    async def until_ready(self, outcomes: Sequence[Outcome]) -> None:
        """Wait until all nodes are ready, after these steps.

        Raises:
            GestaltError: as of `Actions.until_ready`; never UNAVAILABLE, which says that nothing was changed, when something was.
        """
        try:
            await self.actions.until_ready()
        except GestaltError as error:
            if outcomes and error.kind is Kind.UNAVAILABLE:
                raise GestaltError(Kind.FAILED, f"all steps are done, but then: {error.message}", hint=error.hint) from error
            raise

    async def _phases(self, pending: Sequence[Step], audience: Audience) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for _, steps in groupby(pending, key=lambda step: step.action):
            outcomes += await _each(list(steps), lambda step: self._one(step, audience), self.parallel)
            if any(outcome.error for outcome in outcomes):
                break
        return outcomes

    async def _silent_servers(self, audience: Audience) -> list[Outcome]:
        """Wait for the ZooKeeper servers of ours; return those that do not serve, each as a step of its host that failed."""
        began = monotonic()

        async def ask(host: HostSettings) -> GestaltError | None:
            try:
                await self.actions.until_serves(host)
            except GestaltError as error:
                return error
            return None

        errors = await _each(self.hosts.servers, ask, self.parallel)
        steps = [Step(host.name, Action.ZOOKEEPER, "serve", done=False) for host in self.hosts.servers]
        silent = [Outcome(step, monotonic() - began, error) for step, error in zip(steps, errors, strict=True) if error]
        for outcome in silent:
            audience.ended(outcome)
        return silent

    async def _one(self, step: Step, audience: Audience) -> Outcome:
        began = monotonic()
        audience.begun(step)
        error = None
        try:
            await self.actions.do(step)
        except GestaltError as failure:
            error = failure
        outcome = Outcome(step, monotonic() - began, error)
        audience.ended(outcome)
        return outcome


@asynccontextmanager
async def prepared(hosts: HostsFile, audience: Audience, parallel: int) -> AsyncIterator[Bootstrap]:
    """Look at all hosts, and be connected to them while the block runs.

    Raises:
        GestaltError: the packages cannot be used; UNAVAILABLE, with one detail a host, when hosts cannot be.
    """
    packages = find_packages(hosts.packages)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gestalt-")))
        numbered = list(enumerate(hosts.hosts))
        found = await _each(numbered, lambda item: _look(item[1], hosts, folder / str(item[0]), stack, audience), parallel)
        seen = {item.host: item for item in found if isinstance(item, _Seen)}
        failed = [(host.name, item) for host, item in zip(hosts.hosts, found, strict=True) if isinstance(item, GestaltError)]
        if failed:
            raise _not_all(failed, len(hosts.hosts))
        facts = {name: item.facts for name, item in seen.items()}
        remotes = {name: item.remote for name, item in seen.items()}
        source = await asyncio.to_thread(source_finding, hosts.zookeeper)
        plan = make_plan(hosts, packages, facts, {name: item.ahead for name, item in seen.items()}, source)
        yield Bootstrap(hosts, packages, plan, Actions(hosts, packages, facts, remotes, plan.first), parallel)


@dataclass(frozen=True, slots=True)
class _Seen:
    host: str
    remote: Remote
    facts: Facts
    ahead: float


async def _look(host: HostSettings, hosts: HostsFile, socket: Path, stack: AsyncExitStack, audience: Audience) -> _Seen | GestaltError:
    """Connect to a host and ask it for its facts; return the error when it does not do."""
    try:
        remote = await stack.enter_async_context(connected(host, hosts.ssh, socket))
        done = await remote.run("sh", "-s", stdin=PROBE.encode(), limit=PROBE_LIMIT)
        if not done.ok:
            raise unusable(host, done.complaint())
        facts = read_facts(done.stdout.decode(errors="replace"))
    except GestaltError as error:
        return error
    audience.looked(host.name)
    return _Seen(host.name, remote, facts, facts.clock - wall().timestamp())


def _not_all(failed: Sequence[tuple[str, GestaltError]], count: int) -> GestaltError:
    details = [Detail(name, f"{error.message} ({error.hint})") for name, error in failed]
    message = f"{len(failed)} of {count} hosts cannot be used; nothing was changed on any"
    return GestaltError(Kind.UNAVAILABLE, message, hint="when that is repaired, repeat this", details=details)


async def _each(items: Sequence[T], work: Callable[[T], Awaitable[R]], parallel: int) -> list[R]:
    """Do the work for each item, so many at once, and return the results in their order."""
    free = asyncio.Semaphore(parallel)

    async def one(item: T) -> R:
        async with free:
            return await work(item)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(item)) for item in items]
    return [task.result() for task in tasks]
