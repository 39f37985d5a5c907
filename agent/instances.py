"""All instances of the node: one worker each, told what is wanted and what the runtimes list."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from gestalt.clock import monotonic
from gestalt.model import Observed, Phase
from gestalt.plugin.runtime import AttemptKey, AttemptStatus, DriverUnavailable, RuntimeDriver
from gestalt.spec.schema import AppSpec

from .desired import Desired
from .exclusive import Exclusive
from .local import Surroundings, Target
from .observe import assume, remembered, since
from .ongoing import wait_a_while
from .plan import Goal
from .records import InstanceRecord
from .worker import Worker

log = logging.getLogger(__name__)

LAUNCHES_AT_ONCE = 8
GARBAGE_EVERY = 600.0

Listing = dict[str, dict[int, AttemptStatus]]


class Instances:
    """Owns the workers. `ensure` compares everything with what the runtimes list; between two of those, events do."""

    name = "instances"

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._desired = Desired()
        self._workers: dict[str, Worker] = {}
        self._listed: set[str] = set()
        self._undesired: dict[str, float] = {}
        self._resyncs: dict[str, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._grace: asyncio.TimerHandle | None = None
        self._collected_at = monotonic()
        self._isolated = False
        around.exclusive.subscribe(partial(_nudge, self._workers))
        around.returning.subscribe(partial(_wake, self._workers))
        for name, driver in around.drivers.items():
            driver.subscribe(self._listener(name))

    def adopt(self, records: Mapping[str, InstanceRecord], desired: Desired) -> None:
        """Begin with what the last life of the agent left behind. To be called once, before anything else."""
        for record in records.values():
            if record.runtime in self._around.drivers:
                self._hire(record)
        self.set_desired(desired)

    def set_desired(self, desired: Desired) -> None:
        """Take over what is wanted. Returns at once; the workers are on their way."""
        self._desired = desired
        self._around.board.set_problems("desired state", desired.problems)
        for instance in desired.state.instances:
            self._aim_wanted(instance)
        for instance, why in desired.refused.items():
            self._refuse(instance, why)
        self._judge_undesired()
        if desired.complete:
            self._around.returning.heard()

    def isolate(self, isolated: bool) -> None:
        """The node is cut off from the cluster, or is not any more."""
        log.warning("this node is cut off from the cluster" if isolated else "this node is back in the cluster")
        self._isolated = isolated
        for worker in self._workers.values():
            worker.isolate(isolated)

    def locate(self, instance: str) -> tuple[RuntimeDriver, AttemptKey] | None:
        """Return where the logs of an instance are and where commands run in it."""
        worker = self._workers.get(instance)
        attempt = worker.local.last_attempt() if worker else 0
        if worker is None or attempt == 0:
            return None
        return self._around.drivers[worker.local.record.runtime], worker.local.key(attempt)

    async def ensure(self) -> None:
        """Compare everything with what the runtimes list, and once in a while collect their garbage.

        Of a runtime that takes long, as one that hangs does, nothing is known until it has answered, and everything stays as it is.
        """
        for name in self._around.drivers:
            self._resync_soon(name)
        await wait_a_while(self._resyncs.values())
        self._judge_undesired()
        if self._listed >= self._around.drivers.keys():
            await _hand_back(self._around.exclusive, self._workers.keys())
        if monotonic() - self._collected_at >= GARBAGE_EVERY:
            self._collected_at = monotonic()
            await self._collect_garbage()

    def summary(self) -> str:
        """Return one sentence about the instances."""
        counts: dict[Phase, int] = defaultdict(int)
        for observed in self._around.board.observations():
            counts[observed.phase] += 1
        shown = ", ".join(f"{count} {phase.name.lower()}" for phase, count in sorted(counts.items()))
        return f"{sum(counts.values())} instances" + (f": {shown}" if shown else "")

    async def close(self) -> None:
        """Let go of everything, and write down what is to be remembered of it."""
        await self.let_go()
        await self._around.records.flush()

    async def let_go(self) -> None:
        """End the care for everything; it goes on running."""
        if self._grace is not None:
            self._grace.cancel()
        tasks = [*self._resyncs.values(), *self._closing]
        for task in self._resyncs.values():
            task.cancel()
        await asyncio.gather(*tasks, *(worker.close() for worker in self._workers.values()), return_exceptions=True)
        self._workers.clear()

    # What is wanted

    def _aim_wanted(self, instance: str) -> None:
        wanted = self._desired.state.instances[instance]
        spec = self._desired.state.templates.get(wanted.template)
        worker = self._workers.get(instance)
        if worker is None:
            runtime = spec.runtime if spec else next(iter(self._around.drivers), "")
            if runtime not in self._around.drivers:
                self._refuse(instance, f"the runtime {runtime!r} is not enabled on this node")
                return
            worker = self._hire(InstanceRecord(instance, runtime))
        self._undesired.pop(instance, None)
        goal = Goal.END if wanted.keep else Goal.STOP if wanted.stop else Goal.KEEP if wanted.ended else Goal.RUN
        worker.aim(Target(goal, wanted, spec, "its log is kept" if goal is Goal.KEEP else ""))

    def _refuse(self, instance: str, why: str) -> None:
        """Leave what runs of it alone, and say why nothing else happens."""
        self._undesired.pop(instance, None)
        worker = self._workers.get(instance)
        if worker is not None:
            worker.aim(replace(worker.local.target, goal=Goal.KEEP, why=f"is left as it is: {why}"))
        else:
            self._around.board.put(Observed(instance, 0, Phase.FAILED, reason=why))

    def _judge_undesired(self) -> None:
        """What nobody wants is removed after a grace, and never before the first full state of the current epoch.

        A leader that is recovering does not know what is wanted: it lists what it knows, and the rest stays as it is.
        """
        judged = self._desired.complete and not self._desired.state.recovering
        wanted = self._desired.state.instances.keys() | self._desired.refused.keys()
        now, grace = monotonic(), self._around.settings.orphan_grace
        for instance in [item for item in self._workers if item not in wanted]:
            worker = self._workers[instance]
            if worker.local.gone:
                self._dismiss(instance)
            elif judged and now - self._undesired.setdefault(instance, now) >= grace:
                worker.aim(replace(worker.local.target, goal=Goal.DISCARD, why="nobody wants it"))
            elif worker.local.target.goal is not Goal.DISCARD:
                worker.aim(replace(worker.local.target, goal=Goal.KEEP, why="is in no desired state"))
        for observed in self._around.board.observations():
            if observed.instance not in wanted and observed.instance not in self._workers:
                self._around.board.drop(observed.instance)
        self._look_again_at_undesired(grace if judged else 0.0)

    def _look_again_at_undesired(self, grace: float) -> None:
        """Have them judged again when their grace is over; 0: they are not judged now."""
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None
        waiting = [item for item in self._workers.keys() & self._undesired.keys() if self._workers[item].local.target.goal is Goal.KEEP]
        if grace and waiting:
            self._grace = asyncio.get_running_loop().call_later(grace, self._judge_undesired)

    def _hire(self, record: InstanceRecord) -> Worker:
        worker = Worker(record, self._around)
        worker.isolate(self._isolated)
        told = assume(record, remembered(record), "was found again" if record.attempt else "")
        self._around.board.put(told, since=since(record, told))
        self._workers[record.instance] = worker
        if record.runtime in self._listed:
            worker.compare({})
        return worker

    def _dismiss(self, instance: str) -> None:
        self._undesired.pop(instance, None)
        self._around.board.drop(instance)
        task = asyncio.create_task(self._workers.pop(instance).close(), name=f"dismiss {instance}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    # What is there

    def _listener(self, name: str) -> Callable[[AttemptKey | None], None]:
        def wake(key: AttemptKey | None) -> None:
            worker = self._workers.get(key.instance) if key else None
            if key is not None and worker is not None:
                worker.touch(key.attempt)
            else:
                self._resync_soon(name)

        return wake

    def _resync_soon(self, name: str) -> None:
        running = self._resyncs.get(name)
        if running is None or running.done():
            self._resyncs[name] = asyncio.create_task(self._resync(name), name=f"resync {name}")

    async def _resync(self, name: str) -> None:
        try:
            statuses = await self._around.drivers[name].list()
        except DriverUnavailable as error:
            self._around.board.set_problems(f"runtime {name}", (str(error),))
            return
        except Exception:  # a fault of one driver must not end the others
            log.exception("the runtime %s cannot be listed", name)
            self._around.board.set_problems(f"runtime {name}", (f"the driver of {name} failed, see the log of the agent",))
            return
        self._around.board.set_problems(f"runtime {name}", ())
        self._listed.add(name)
        self._compare(name, _by_instance(statuses))

    def _compare(self, name: str, listing: Listing) -> None:
        for instance in listing:
            if instance not in self._workers:
                self._hire(InstanceRecord(instance, name))
                log.info("found an instance that nobody told of", extra={"instance": instance, "runtime": name})
        for instance, worker in self._workers.items():
            if worker.local.record.runtime == name:
                worker.compare(listing.get(instance, {}))
        self._judge_undesired()

    async def _collect_garbage(self) -> None:
        in_use: dict[str, list[AppSpec]] = defaultdict(list)
        for spec in _specs_in_use(self._desired, self._workers):
            in_use[spec.runtime].append(spec)
        for name, driver in self._around.drivers.items():
            freed = await driver.collect_garbage(in_use[name])
            if freed:
                log.info("collected the garbage of %s", name, extra={"bytes": freed})


def _specs_in_use(desired: Desired, workers: Mapping[str, Worker]) -> Iterable[AppSpec]:
    yield from desired.state.templates.values()
    yield from (worker.local.target.spec for worker in workers.values() if worker.local.target.spec is not None)


def _nudge(workers: Mapping[str, Worker]) -> None:
    """What the fence holds has changed."""
    for worker in workers.values():
        worker.nudge()


def _wake(workers: Mapping[str, Worker]) -> None:
    """Whether something may be started has changed."""
    for worker in workers.values():
        worker.look_again()


async def _hand_back(exclusive: Exclusive, known: Collection[str]) -> None:
    """Hand back what is held for instances that nobody knows: an agent before us took it, and came no further."""
    for instance in set(exclusive.listed()) - set(known):
        problem = await exclusive.release(instance)
        log.info("the fence held %s, which is not here%s", instance, f": {problem}" if problem else "", extra={"instance": instance})


def _by_instance(statuses: Sequence[AttemptStatus]) -> Listing:
    listing: Listing = defaultdict(dict)
    for status in statuses:
        listing[status.key.instance][status.key.attempt] = status
    return listing
