"""A bootstrap from its beginning to its end: look at all hosts, plan, and carry the plan out phase by phase."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Protocol

from gestalt.clock import monotonic, wall
from gestalt.errors import Detail, GestaltError, Kind

from .actions import Actions
from .alone import Hold, alone, operator
from .each import each
from .facts import PROBE, Facts, read_facts
from .hosts_file import HostSettings, HostsFile
from .packages import Package, find_packages
from .plan import Action, Plan, Step, make_plan
from .source import source_finding
from .ssh import Remote, connected

PROBE_LIMIT = 60.0


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
    holds: Mapping[str, Hold] = field(default_factory=dict)

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
            outcomes += await each(list(steps), lambda step: self._one(step, audience), self.parallel)
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

        errors = await each(self.hosts.servers, ask, self.parallel)
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
            self._require_hold(step.host)
            await self.actions.do(step)
        except GestaltError as failure:
            error = failure
        outcome = Outcome(step, monotonic() - began, error)
        audience.ended(outcome)
        return outcome

    def _require_hold(self, host: str) -> None:
        if host in self.holds and self.holds[host].is_lost:
            hint = "another operator may be at work there by now; repeat this: what is done is kept"
            raise GestaltError(Kind.FAILED, "the connection that held the lock there was lost", hint=hint)


@asynccontextmanager
async def prepared(hosts: HostsFile, audience: Audience, parallel: int, *, only_plan: bool = False) -> AsyncIterator[Bootstrap]:
    """Look at all hosts, be connected to them while the block runs, and, unless only a plan is wanted, the one operator of them.

    Raises:
        GestaltError: the packages cannot be used; UNAVAILABLE, with one detail a host, when hosts cannot be; CONFLICT, when another
            operator is at work on one.
    """
    packages = find_packages(hosts.packages)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gestalt-")))
        numbered = list(enumerate(hosts.hosts))
        reached = await each(numbered, lambda item: _reach(item[1], hosts, folder / str(item[0]), stack), parallel)
        failed = {host.name: item for host, item in zip(hosts.hosts, reached, strict=True) if isinstance(item, GestaltError)}
        remotes = {item.host.name: item for item in reached if isinstance(item, Remote)}
        holds: dict[str, Hold] = {}
        if not failed and not only_plan:
            taken = await stack.enter_async_context(alone(hosts.hosts, remotes, operator(), parallel))
            failed = {name: item for name, item in taken.items() if isinstance(item, GestaltError)}
            holds = {name: item for name, item in taken.items() if isinstance(item, Hold)}
        looked_at = [remote for name, remote in remotes.items() if name not in failed]
        found = await each(looked_at, lambda remote: _look(remote, audience), parallel)
        seen = {item.host: item for item in found if isinstance(item, _Seen)}
        failed |= {remote.host.name: item for remote, item in zip(looked_at, found, strict=True) if isinstance(item, GestaltError)}
        if failed:
            raise _not_all([(host.name, failed[host.name]) for host in hosts.hosts if host.name in failed], len(hosts.hosts))
        facts = {name: item.facts for name, item in seen.items()}
        source = await asyncio.to_thread(source_finding, hosts.zookeeper)
        plan = make_plan(hosts, packages, facts, {name: item.ahead for name, item in seen.items()}, source)
        yield Bootstrap(hosts, packages, plan, Actions(hosts, packages, facts, remotes, plan.first), parallel, holds)


@dataclass(frozen=True, slots=True)
class _Seen:
    host: str
    facts: Facts
    ahead: float


async def _reach(host: HostSettings, hosts: HostsFile, socket: Path, stack: AsyncExitStack) -> Remote | GestaltError:
    """Connect to a host; return the error when that does not do."""
    try:
        return await stack.enter_async_context(connected(host, hosts.ssh, socket))
    except GestaltError as error:
        return error


async def _look(remote: Remote, audience: Audience) -> _Seen | GestaltError:
    """Ask a host for its facts; return the error when that does not do."""
    try:
        done = await remote.run("sh", "-s", stdin=PROBE.encode(), limit=PROBE_LIMIT)
        if not done.ok:
            raise remote.disobeyed(done)
        facts = read_facts(done.stdout.decode(errors="replace"))
    except GestaltError as error:
        return error
    audience.looked(remote.host.name)
    return _Seen(remote.host.name, facts, facts.clock - wall().timestamp())


def _not_all(failed: Sequence[tuple[str, GestaltError]], count: int) -> GestaltError:
    details = [Detail(name, f"{error.message} ({error.hint})") for name, error in failed]
    message = f"{len(failed)} of {count} hosts cannot be used; nothing was changed on any"
    return GestaltError(Kind.UNAVAILABLE, message, hint="when that is repaired, repeat this", details=details)
