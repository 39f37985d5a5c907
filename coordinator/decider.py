"""The loop that brings the cluster nearer to what is wanted: look at an app, decide, commit, have the nodes told."""

from __future__ import annotations

import asyncio
import logging
import math
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from gestalt import clock
from gestalt.config import TimingSettings
from gestalt.errors import GestaltError
from gestalt.spec.schema import AppSpec

from . import drain, runs, system
from .advance import LEADER, Case, advance, lacking, paused, steps, waits_for, waits_for_holder
from .brakes import Brakes
from .canary import apart
from .capacity import Survey
from .dependencies import begun, held
from .dispatch import Dispatcher
from .eviction import got_over
from .gate import Gate
from .grant_book import GrantBook
from .grants import grant_name
from .ledger import Ledger
from .membership import Life
from .nodes import Tracker
from .preemption import Preemption
from .preparations import Preparations
from .progress import Progress
from .reconcile import Decision, Outcome, Terms, is_given_up, reconcile, stays, stops_first
from .records import App, Grant, NodeNames, Run, Step, Task, Verb
from .rolls import Rolls
from .scheduler.fleet import Ground
from .scheduler.place import place
from .scheduler.shortage import ENOUGH, Shortage, Why
from .slices import in_slices
from .state import Draft, State, reserve
from .together import Company
from .trials import Trials, held_open
from .turns import Turns

log = logging.getLogger(__name__)

_LOOKED_AT = 10
"""So many instances that would have to stop first are tried, whether there were room for a replacement without them."""

MANY = 200
"""So many apps are decided about in one commit at most."""

OTHERS = 4
"""One app that is not urgent is looked at for so many that are, at least: in a storm of changes, news and deadlines count as well."""

AGAIN = 0.5
"""Seconds after which an app is looked at again that placed instances and waits for news of them, unless some come before."""

RETRY = 1.0
"""Seconds until an app is looked at again after the store refused a commit."""


class Decider:
    """Owns the decisions. Events only wake it; silence is fine, for time alone wakes it, too, where a deadline is near."""

    def __init__(
        self,
        ledger: Ledger,
        tracker: Tracker,
        dispatcher: Dispatcher,
        brakes: Brakes | None = None,
        timing: TimingSettings = TimingSettings(),  # noqa: B008 (frozen)
    ) -> None:
        self.brakes = brakes or Brakes()
        self.grants = GrantBook(ledger.state, tracker, timing, lambda: bool(self._held()))
        tracker.judge, dispatcher.terms = self.grants.verdict, self.grants.terms
        self._ledger = ledger
        self._tracker = tracker
        self._dispatcher = dispatcher
        self._urgent: set[str] = set()
        self._later: set[str] = set()
        self._line: list[str] = []
        """Those that are not urgent, in their order: who comes meanwhile comes after them."""
        self._due: dict[str, float] = {}
        self._rolls = Rolls(ledger.state, tracker, lambda app, item: self.grants.terms(app, item).stop)
        self._survey = Survey(ledger.state, tracker, clock.monotonic, self._rolls.special)
        self._progress = Progress()
        self.trials = Trials()
        self._wake = asyncio.Event()
        self.gate = Gate(ledger.state, tracker)
        self.preparations = Preparations(ledger.state, tracker, dispatcher.tell_soon, lambda: ledger.epoch)
        dispatcher.prepare = self.preparations.of_node
        self.unplaced: dict[str, Why] = {}
        self._hopeless: dict[str, str] = {}
        self._everywhere: set[str] = set()
        self._turns = Turns(ledger.state)
        self._jobs = runs.Jobs()
        self._alone: set[str] = set()
        self._at_hand: list[str] = []
        self._waits_for_news: set[str] = set()
        self.preemption = Preemption(ledger, tracker, self.ground, self._held)
        ledger.on_commit(self._committed)

    def wake(self, paths: Iterable[str], *, urgent: bool = True) -> None:
        """Have these apps looked at soon. `urgent`: before the others, as long as there is more to do than can be done at once."""
        (self._urgent if urgent else self._later).update(paths)
        self._wake.set()

    def learned(self, paths: Iterable[str]) -> None:
        """More is known of the grants of these apps: tell their nodes, and look again."""
        paths = tuple(paths)
        self._dispatcher.learned(paths)
        self.wake(paths)

    def wake_unplaced(self) -> None:
        """Have those apps looked at whose instances did not all fit, and those that run everywhere: something about the nodes changed."""
        self.wake([*self.unplaced, *self._everywhere])

    async def run(self) -> None:
        """Decide for ever. One app at a time, so that a long pass never holds the loop."""
        await in_slices(map(partial(self._rolls.take, is_inherited=True), tuple(self._ledger.state.apps)))
        self.wake(self._ledger.state.apps)
        await self._survey.warm_up()
        while True:
            await self._wait()
            urgent, self._urgent = self.preemption.in_order(self._urgent), set()
            if not self._line:
                self._line, self._later = self.preemption.in_order(self._later), set()
            least = len(self._line) - 1 - len(urgent) // OTHERS
            for line in (urgent, self._line):
                while line and (line is urgent or not self._urgent or len(line) > least):
                    del line[: await self._look(line[:MANY])]
                    await asyncio.sleep(0)  # others have their turn

    async def _wait(self) -> None:
        self._wake.clear()
        now = clock.monotonic()
        self._later.update(path for path, due in self._due.items() if due <= now)
        if self._urgent or self._later or self._line:
            return
        nearest = min(self._due.values(), default=math.inf)
        try:
            async with asyncio.timeout(None if math.isinf(nearest) else nearest - now):
                await self._wake.wait()
        except TimeoutError:
            await self._wait()

    async def _look(self, paths: Sequence[str]) -> int:
        """Look at the first of these apps, and at those after it for which one commit will do; return how many of them are done with."""
        seen, is_again = [paths[0]], False
        self._at_hand = seen  # until the commit: nobody else makes one before
        try:
            async with self._ledger.draft(LEADER, "reconcile") as draft:
                company = Company(self._ledger.state, draft, self._alone)
                self._try_to_decide(draft, seen[0])
                while company.goes_on(seen[-1]) and len(seen) < len(paths) and company.admits(paths[len(seen)]):
                    await asyncio.sleep(0)  # others have their turn; nothing is committed meanwhile but this draft
                    seen.append(paths[len(seen)])
                    self._try_to_decide(draft, seen[-1])
                    if is_again := company.leaves_room and seen[-1] in self.unplaced:
                        break  # what others leave is there after the commit, and it comes first
            self._alone -= set(seen)
        except GestaltError as error:
            log.error("%s: decided, but not written: %s", ", ".join(seen), error, extra={"app": seen[0]} if len(seen) == 1 else None)
            self._due |= dict.fromkeys(seen, clock.monotonic() + RETRY)
            self._alone |= set(seen)  # what is wrong with one of them is not to stop the others
            is_again = False
        finally:
            self._at_hand = []
            self._waits_for_news.clear()
        for path in seen:
            if waiting := self.gate.woken(path):
                self.wake(waiting)
        return len(seen) - is_again

    def _try_to_decide(self, draft: Draft, path: str) -> None:
        """Decide, or nothing: an app that cannot be decided about must not take this leader, and every next one, from all the others."""
        records, events = dict(draft.records), len(draft.events)
        self._due.pop(path, None)
        self._later.discard(path)
        self._urgent.discard(path)
        try:
            self._decide(draft, path)
            reserve(draft, path)
        except GestaltError:
            raise
        except Exception as error:
            log.exception("%s: nothing could be decided", path, extra={"app": path})
            draft.records = records
            del draft.events[events:]
            self._note(path, f"nothing can be decided about it ({type(error).__name__}): the log of the leading coordinator says more")
            self._due[path] = clock.monotonic() + RETRY

    def _decide(self, draft: Draft, path: str) -> None:
        app = draft.app(path)
        if app is None:
            self._forget(path)
            return
        self.brakes.refresh()  # or the loss of many were taken for that of few, as long as the rest of them is not looked at
        wait = self.gate.look(app)
        if app.awaiting and (not wait.why or wait.is_changing):
            self._progress.forget(path)  # what is done elsewhere is no standstill
        if app.awaiting and not wait.why and not app.paused:
            draft.put_app(begun(app))
            draft.tell("app.begins", path, f"{path}: what it depends on is healthy, version {app.awaiting} begins", path)
            return
        now, halted = clock.monotonic(), self._held()
        case = self.case(app, clock.wall().isoformat(), brief=True)
        if case.spec.kind == "job":
            self._decide_job(draft, case, now, halted)
            return
        stuck = _stuck(case, self._ledger.state, self.ground)
        stalled = self._progress.stalled(app, case.spec, case.views, now, settled=case.settled)
        case = replace(case, views=self._progress.since_resumed(path, case.views, now))
        terms = Terms(0 if halted else self.brakes.allowance.left(now), bool(stuck), case.strategy, case.settled)
        if case.spec.kind == "system":
            self._everywhere.add(path)
            app, decision = system.look(self._ledger.state, app, case.views, self.ground(path), stalled)
            case = replace(case, app=app)
        else:
            decision = held_open(reconcile(app, case.spec, case.views, stalled, terms), case)
        wanted = decision.start
        decision, readiness = self.preparations.hold(case, decision, lambda: self.ground(path))
        if wait.why:
            update = self._ledger.state.version(path, app.goal).spec.update
            decision = held(decision, wait, app, stalled, update.progress_deadline)
        elif why := _hindered(case, decision, str(stuck) or readiness.hindering(decision), self._ledger.state, self._tracker):
            decision = replace(decision, outcome=Outcome.FAILED, reason=why)
        is_to_place = decision.start or (decision.stop and stops_first(case.spec))
        reason = advance(draft, case, decision, self.ground(path) if is_to_place else ())
        self.preemption.note(draft, case, decision, reason)
        instances = draft.placed(path).instances
        added = len(instances.since(app.next_serial))
        self.brakes.allowance.take(min(decision.replacing, added))
        left = replace(terms, replaceable=max(0, terms.replaceable - decision.replacing))
        trial = self.trials.look(
            draft, case, nodes=partial(self._survey.ground, path), terms=left, now=now, waits=str(reason), needs=self.gate.look
        )
        self.brakes.allowance.take(trial.replaced)
        if app.gave_way:
            got_over(draft, path, case.spec, max(lacking(case, instances), wanted - added, trial.missing))
        self._note(path, paused(app) or reason or waits_for(case, decision, halted) or stuck or readiness.why or trial.unplaced)
        self._hopeless[path] = decision.reason
        if _waits_for_news(case, decision, added):
            self._waits_for_news.add(path)
        self.wake(self._turns.next())
        is_held_back = (decision.held_back or trial.held_back) and not halted
        self._look_again(path, self.brakes.allowance.wait if is_held_back else min(decision.wake_in, trial.wake_in), now)

    def _decide_job(self, draft: Draft, case: Case, now: float, halted: str) -> None:
        path = case.app.path
        bounds = runs.Terms(now, 0 if halted else self.brakes.allowance.left(now), partial(self.ground, path), halted)
        told = self._jobs.decide(draft, case, bounds)
        self.brakes.allowance.take(told.lost)
        self._note(path, told.waits or waits_for_holder(case))
        self._look_again(path, told.wake_in, now)

    def _look_again(self, path: str, wake_in: float, now: float) -> None:
        """Have an app looked at in so many seconds, unless these are infinite."""
        if not math.isinf(wake_in):
            self._due[path] = now + wake_in

    def _forget(self, path: str) -> None:
        self.unplaced.pop(path, None)
        self._hopeless.pop(path, None)
        self._everywhere.discard(path)
        self._progress.forget(path)
        self._turns.forget(path)
        self._rolls.forget(path)
        self._survey.forget(path)
        self.preparations.drop(path)
        self.trials.forget(path)
        self.preemption.forget(path)
        self._alone.discard(path)

    def _held(self) -> str:
        return self.brakes.why_not(self._ledger.state.switches.paused)

    def lacks(self, path: str) -> str:
        """Return why an app has too few instances, as of now; empty when nothing is known to keep them away."""
        app = self._ledger.state.apps.get(path)
        if app is None:
            return ""
        if waits := self.gate.look(app).why:
            return waits
        if path not in self.unplaced:
            return ""
        return waits_for_holder(self.case(app, "")) or self.preemption.told(path, str(self.unplaced[path]))

    def _note(self, path: str, reason: Why) -> None:
        if reason:
            self.unplaced[path] = reason
        else:
            self.unplaced.pop(path, None)

    def case(self, app: App, at: str, *, brief: bool = False) -> Case:
        """Return an app with everything that is known of it now. `brief`: its settled instances may be no more than a number."""
        state = self._ledger.state
        spec, strange = state.version(app.path, app.version).spec, self.grants.strange
        known, settled = self._rolls.views(app) if brief else (self._tracker.views(app, state.placed(app.path).instances), 0)
        newest = state.version(app.path, max(app.version, *(view.placed.version for view in known), 0))
        names, strategy = NodeNames(state.nodes), newest.spec.update.strategy
        views, canaries = apart(app, self._turns.take(app, known))
        taken, last = strange.why_taken(app.path), strange.generation(grant_name(app))
        return Case(app, spec, views, at, names, uuid.uuid4().hex[:12], taken, last, strategy, canaries, settled)

    def ground(self, path: str = "", spec: AppSpec | None = None) -> Ground:
        """Return all nodes with what is reserved on them, as `place` needs them for the app of this path, if it is to be so."""
        return self._survey.ground(path, spec=spec)

    def task_steps(self, task: Task) -> tuple[Step, ...]:
        """Return the steps of a task as they are now."""
        if task.kind is Verb.DRAIN:
            return self._drain_steps(task)
        if task.kind is Verb.RUN:
            return runs.steps_of(self._ledger.state, task)
        app = self._ledger.state.apps.get(task.app)
        if (
            app is not None
            and app.canary_task == task.id
            and (trial := self.trials.case(Draft(self._ledger.state), self.case(app, ""))) is not None
        ):
            return self.trials.steps(app, trial, task)
        if app is None or app.task != task.id:
            return task.steps
        return steps(self.case(app, ""), task, self.lacks(app.path), self.gate.look(app))

    def _drain_steps(self, task: Task) -> tuple[Step, ...]:
        node = next((node for node in self._ledger.state.nodes.values() if node.drain == task.id), None)
        if node is None:
            return task.steps
        state = self._ledger.state
        left = {instance: state.owners[instance] for instance in state.placed_on(node.id)}
        why = {path: self.lacks(path) or self._hopeless.get(path, "") for path in left.values()}
        return drain.steps(task, node, left, why, self._turns.waiting)

    def _committed(self, draft: Draft) -> None:
        """A commit is durable: tell the nodes, and look again at every app that it touched; in a while if only news can change anything."""
        paths = {key for kind, key in draft.records if kind in ("app", "placements")}
        for moves in draft.moves:
            self._rolls.follow(moves)
        for record in draft.records.values():
            if isinstance(record, Grant | Run):
                self._rolls.take(record.app)
                paths.add(record.app)
        self._dispatcher.committed(draft, paths)
        if paths:
            self._survey.follow(paths)
            own = paths.intersection(self._at_hand)
            for path in own & self._waits_for_news:
                self._due[path] = min(self._due.get(path, math.inf), clock.monotonic() + AGAIN)
            self.wake(paths - own)
            self.wake(own - self._waits_for_news, urgent=False)
            self.wake(list(self.unplaced) if draft.gives_room else ())
            self.wake(self._turns.next())
        if any(kind == "node" for kind, _ in draft.records):
            self.wake_unplaced()  # a label or an operator's word may be what they wait for


def _waits_for_news(case: Case, decision: Decision, added: int) -> bool:
    """Tell whether a decision leaves nothing to be done until something is heard of the instances that it places, but for deadlines."""
    is_plain = case.spec.kind == "service" and not (case.app.canary or stops_first(case.spec) or decision.stop or decision.forget)
    return is_plain and 0 < added == decision.start and decision.outcome is Outcome.GOING_ON


def _stuck(case: Case, state: State, ground_of: Callable[[str], Ground]) -> Shortage:
    """Return why nothing may stop to make way for its replacement, if there would be no room for that."""
    if not stops_first(case.spec) or case.spec.kind == "system":
        return ENOUGH
    old = [view.placed for view in case.views if not (view.placed.stop or stays(case.app, view) or is_given_up(view, case.spec))]
    if not old:
        return ENOUGH
    why, ground = ENOUGH, ground_of(case.app.path)
    for placed in old[:_LOOKED_AT]:
        asked = state.version(case.app.path, placed.version).spec.resources
        placing = place(case.spec, 1, ground.without(placed.node, placed.ports, asked))
        if not placing.missing:
            return ENOUGH
        why = placing.shortage
    return why


def _hindered(case: Case, decision: Decision, stuck: str, state: State, tracker: Tracker) -> str:
    """Return why a change cannot reach its goal any more; empty while it can, or has."""
    app = case.app
    if decision.outcome is not Outcome.GOING_ON or not app.moving or app.paused:
        return stuck if decision.outcome is Outcome.FAILED else ""
    lost = [view for view in case.given_up if view.placed.serial in app.moving or view.placed.node == app.target]
    if [view for view in lost if not view.placed.stop]:
        return f"{case.nodes_of(lost)} went away meanwhile"
    if not _moves(case):
        return ""
    target = state.nodes.get(app.target)
    if app.target and (target is None or target.admin != Life.READY):
        return f"node {target.name if target is not None else app.target} takes no instances any more"
    asked = [app.target] if app.target else state.nodes
    return stuck if not any(_is_silent(tracker, node) for node in asked) else ""


def _is_silent(tracker: Tracker, node: str) -> bool:
    """Tell whether a node may well take instances, but is not heard at this moment."""
    view = tracker.nodes.get(node)
    return not tracker.standing(node).is_gone and not (view is not None and view.heard)


def _moves(case: Case) -> bool:
    """Tell whether a migration has something left to move."""
    return any(view.placed.serial in case.app.moving and not view.placed.stop for view in (*case.views, *case.canaries))
