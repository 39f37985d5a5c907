"""Carries out a plan of random trouble, and judges all the time what is seen from outside.

Changes are asked for by `gestaltctl`, again with the same request id until they are answered: so it is known of each what became of
it. The changes of one app wait for each other, those of several go on at once, while the faults go on.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Collection, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import yaml

from gestalt import shell
from gestalt.clock import monotonic
from gestalt.ctl.exits import Exit

from .chaos import Plan, Step
from .cluster import Cluster, web
from .http import HttpFailed, get
from .invariants import double_holders, epochs_that_shrank
from .nodes import LabError, Node
from .observer import Observer
from .scene import PATIENT_CHECK

PATIENCE = 60.0
"""Seconds within which a change is answered while the cluster must work."""

_CHANGES = ("launch", "scale", "update", "delete")
_AGAIN = (Exit.UNREACHABLE, Exit.TIMED_OUT)
_BROKEN = (Exit.INTERNAL, Exit.USAGE, Exit.UNAUTHENTICATED)
_PAUSE = 0.5
_REQUESTS = 8
"""To each app through each node when a round is over: more than an app has instances, so that each of them is asked."""


class Broken(AssertionError):
    """What must hold does not; the sentence has the seed, what was done, and how things stand."""


@dataclass
class ChaosRun:
    """One run on a cluster that is whole. `exclusive`: apps there that must never run twice."""

    cluster: Cluster
    plan: Plan
    exclusive: Collection[str] = ()
    timeline: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    _begun: float = field(default_factory=monotonic)
    _promised: bool = True
    _wrong: list[str] = field(default_factory=list)
    _turns: dict[str, asyncio.Lock] = field(default_factory=dict)
    _changes: set[asyncio.Task[None]] = field(default_factory=set)

    async def go(self, seconds: float, healing: float = 120.0) -> None:
        """Make trouble for some seconds, then have everything healed, and converge within `healing` seconds.

        Raises:
            Broken: an invariant did not hold, a change was not answered, or the cluster did not converge.
        """
        async with AsyncExitStack() as stack:
            observer = await stack.enter_async_context(await self.cluster.observer())
            try:
                await self._trouble(seconds, observer)
                await self._heal(healing)
                self._judge(observer)
            except (LabError, shell.CommandTimedOut) as error:
                self._wrong.append(str(error))
            finally:
                for change in self._changes:
                    change.cancel()
        if self._wrong:
            raise Broken(await self._report())

    async def _trouble(self, seconds: float, observer: Observer) -> None:
        judged = 0
        for step in self.plan:
            await asyncio.sleep(step.after)
            if monotonic() - self._begun > seconds or self._wrong:
                return
            self._promised = step.promised
            if step.verb in _CHANGES:
                task = asyncio.create_task(self._change(step), name=str(step))
                self._changes.add(task)
                task.add_done_callback(self._changes.discard)
            else:
                await self._fault(step)
            self._wrong += double_holders(observer.samples[judged:], self.exclusive)
            judged = len(observer.samples)

    async def _fault(self, step: Step) -> None:
        """Do a fault. One that finds nothing to hurt, such as a process that is just starting again, is noted and no more."""
        try:
            await self._doing(step)
        except LabError as error:
            self.outcomes["faults that found nothing"] += 1
            self._note(step, str(error)[-200:])
        else:
            self.outcomes["faults"] += 1
            self._note(step, "")

    def _doing(self, step: Step) -> Coroutine[Any, Any, None]:
        faults, nodes = self.cluster.lab.faults, self.cluster.lab.nodes
        match step.verb:
            case "heal":
                return faults.heal()
            case "lose":
                return faults.lose(nodes[step.node - 1], nodes[step.other - 1], 30)
        where = [nodes[number - 1] for number in (step.node, step.other) if number]
        does = getattr(faults, step.verb)
        doing: Coroutine[Any, Any, None] = does(*where, *([step.part] if step.part else []))
        return doing

    async def _change(self, step: Step) -> None:
        async with self._turns.setdefault(step.app, asyncio.Lock()):
            words, stdin = _command(step)
            request, unanswered = str(uuid.uuid4()), 0.0
            while True:
                begun, promised = monotonic(), self._promised
                code, said = await self._ask(*words, "--request-id", request, "--detach", stdin=stdin)
                if code in _AGAIN:
                    self.cluster.ledger.uncertain(step.app, None if step.verb == "delete" else step.count)
                    unanswered += monotonic() - begun if promised and self._promised else 0.0
                elif code == Exit.CONFLICT and "being deleted" in said:
                    request = str(uuid.uuid4())  # that was an answer; what is asked once it is gone is another request
                else:
                    break
                if unanswered > PATIENCE:
                    self._wrong.append(f"{step} was not answered for {unanswered:.0f} s: {said}")
                    return
                await asyncio.sleep(_PAUSE)
            self._outcome(step, code, said)

    async def _ask(self, *words: str, stdin: str | None) -> tuple[int, str]:
        try:
            done = await self.cluster.run(*words, stdin=stdin)
        except shell.CommandTimedOut as error:
            return Exit.TIMED_OUT, str(error)
        return done.code, done.complaint()

    def _outcome(self, step: Step, code: int, said: str) -> None:
        self._note(step, "done" if code == Exit.OK else said)
        self.outcomes[f"{step.verb}: {Exit(code).name}"] += 1
        if code == Exit.OK:
            self.cluster.ledger.acknowledged(step.app, None if step.verb == "delete" else step.count)
        elif code in _BROKEN:
            self._wrong.append(f"{step} ended with {Exit(code).name}: {said}")

    async def _heal(self, limit: float) -> None:
        """Have all faults end; then every change is answered, and what runs becomes what is wanted."""
        self._promised = True
        self.timeline.append(f"{monotonic() - self._begun:7.2f}  everything is healed")
        await self.cluster.lab.faults.heal_all()
        await self.cluster.until(
            "all changes to be answered", self._all_answered, limit, lambda: str([each.get_name() for each in self._changes])
        )
        if not self._wrong:
            await self.cluster.until_ready(limit)
            await self.cluster.until_converged(limit=limit)
            self.timeline.append(f"{monotonic() - self._begun:7.2f}  everything is as wanted")
            await self._use()
            self._wrong += await self.cluster.deaths()

    async def _use(self) -> None:
        """Ask for every app that should run through every node's HAProxy: each request must be answered by an instance of that app."""
        apps, listed = await self.cluster.view()
        instances = {app: {item.instance for item in listed if item.app == app} for app, count in apps.items() if count}
        asked = ((node, app) for node in self.cluster.lab.nodes for app in instances for _ in range(_REQUESTS))
        said = await asyncio.gather(*(_answer(node, app, instances[app]) for node, app in asked))
        self.outcomes["requests at the end"] += len(said)
        self._wrong += filter(None, said)

    async def _all_answered(self) -> bool:
        return not self._changes

    def _judge(self, observer: Observer) -> None:
        self._wrong += double_holders(observer.samples, self.exclusive) + epochs_that_shrank(observer.reigns)
        faults = self.outcomes["faults"]
        if self.outcomes["faults that found nothing"] > faults:
            self._wrong.append(f"most faults found nothing to hurt: {dict(self.outcomes)}")

    def _note(self, step: Step, outcome: str) -> None:
        lines = " ".join(outcome.split())
        self.timeline.append(f"{monotonic() - self._begun:7.2f}  {step}{lines and f'  ->  {lines}'}")

    async def _report(self) -> str:
        looks = [await self._ask(*words, stdin=None) for words in (("status",), ("nodes",), ("ps",), ("tasks",))]
        states = "\n".join(said for _, said in looks)
        wrong = "\n".join(dict.fromkeys(self._wrong[:20]))
        return (
            f"GESTALT_SOAK_SEED={self.plan.seed}\n{wrong}\n--- what was done\n"
            + "\n".join(self.timeline)
            + f"\n--- how things stand\n{states}"
        )


async def _answer(node: Node, app: str, instances: Collection[str]) -> str:
    """Return what is wrong with the answer to a request through a node's HAProxy; empty when nothing is."""
    try:
        by = (await get(node.address, 80, "/cgi-bin/who", host=app.rpartition("/")[2])).partition(" ")[0]
    except HttpFailed as error:
        return f"everything was as wanted, and {app} through {node.name}: {error}"
    return "" if by in instances else f"{app} through {node.name} was answered by {by!r}, which is none of its instances"


def _command(step: Step) -> tuple[list[str], str | None]:
    """Return the words for gestaltctl and what it reads."""
    match step.verb:
        case "scale":
            return ["scale", step.app, str(step.count)], None
        case "delete":
            return ["delete", step.app, "--yes"], None
    spec = web(step.app, instances=step.count, checks=[PATIENT_CHECK], env={"TURN": uuid.uuid4().hex})
    return [step.verb, "--file", "-"], yaml.safe_dump(spec)
