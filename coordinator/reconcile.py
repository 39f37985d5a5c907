"""What has to be done next for one app: a pure function from what is wanted and what is known to steps and a verdict.

One call gives the steps that are right now; the loop repeats it when anything changed. All changes are the same thing,
instances replaced by instances: a launch replaces nothing, a stop replaces by nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

from gestalt.model import Health, Observed
from gestalt.spec.schema import AppSpec

from .brakes import UNLIMITED
from .grants import Verdict
from .records import App, Placed
from .scheduler.shortage import Why

UNCHECKED_REST = 1.0
"""Seconds that an instance without any check has to run before a change counts it as healthy, unless the app says more."""


@dataclass(frozen=True, slots=True)
class View:
    """One instance as the leader knows it.

    `observed` None: its node has not told of it (yet). `heard`: the node's inventory is in. `gone`: the node says that
    nothing of it is left. `ready_for`: seconds since it is ready; `waiting`: seconds since it was placed or was last ready, as far as
    this leader knows. `away`: seconds since its node is unreachable, infinite when it is lost, None while it is neither. `verdict`: what is
    to become of its right to be the only one, None = it needs none. `moving`: it is to be replaced by one on another node; `forced`: and
    stops whether there is one or not.
    """

    placed: Placed
    observed: Observed | None
    heard: bool
    gone: bool = False
    ready_for: float = 0.0
    waiting: float = 0.0
    away: float | None = None
    verdict: Verdict | None = None
    moving: bool = False
    forced: bool = False

    @property
    def is_over(self) -> bool:
        """Nothing of it is at work any more; what may exist once only waits for certainty."""
        return self.gone if self.verdict is None else self.verdict.free

    @property
    def ready(self) -> bool:
        return self.heard and self.observed is not None and self.observed.ready

    @property
    def known_bad(self) -> bool:
        """It is known not to serve: unknown is not unhealthy."""
        return self.heard and not self.ready

    def is_misplaced(self, spec: AppSpec) -> bool:
        """It can never start there: someone else holds a port that the coordinator chose for it."""
        chosen = set(self.placed.ports) - {port.host_port for port in spec.ports}
        return self.heard and self.observed is not None and self.observed.port_taken in chosen


class Outcome(Enum):
    """How the change under way stands."""

    GOING_ON = "going on"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Decision:
    """`start` new instances, have these serials stopped, forget those; the outcome with its reason.

    `wake_in`: seconds until time alone may change the decision, infinity when only events can. `replacing`: how many of the new instances
    replace lost ones. `held_back`: how many more would, were they allowed to. `is_proven`: all that are wanted are there, of the wanted
    version, and healthy, whatever else is still there. Of a system app only: `on` which nodes the new ones start, one on each, and
    `lacking`, on which it is not as it should be, and why.
    """

    start: int
    stop: tuple[int, ...]
    forget: tuple[int, ...]
    outcome: Outcome
    reason: str = ""
    wake_in: float = math.inf
    replacing: int = 0
    held_back: int = 0
    is_proven: bool = False
    on: tuple[str, ...] = ()
    lacking: Why = ""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a decision for an app is bound to besides its description.

    `replaceable`: how many instances may be started now in the place of lost ones. `is_stuck`: there is no room for what would take the
    place of an instance that stops first. `strategy`: of the newest version that is there or wanted, so that the way back is that of the
    way there; empty = that of the description. `settled`: how many more instances there are than the views, each of them
    `is_settled`; to be 0 unless that `is_enough`.
    """

    replaceable: int = UNLIMITED
    is_stuck: bool = False
    strategy: str = ""
    settled: int = 0


FREE = Terms()


def reconcile(app: App, spec: AppSpec, views: tuple[View, ...], stalled: float, terms: Terms = FREE) -> Decision:
    """Decide for one app.

    Args:
        app: the goal.
        spec: the template of the wanted version.
        views: all its instances, whatever their version.
        stalled: seconds since the change last made progress.
        terms: what else counts.
    """
    if spec.placement.exclusive and app.count > 1:
        app = replace(app, count=1)  # it was not refused yet when it was asked for
    case = _case(app, spec, views, stalled, terms)
    misplaced = [view for view in views if not view.placed.stop and not is_given_up(view, spec) and view.is_misplaced(spec)]
    start, replacing, held_back = _to_start(case, terms.replaceable)
    to_stop = [view for view in case.old if view.forced] if app.paused else _to_stop(case, held_back)
    stop = tuple(view.placed.serial for view in (*misplaced, *to_stop))
    outcome, reason = _judge(case)
    wake_in = min(_wake_in(case, outcome), given_up_in(views, spec))
    return Decision(start, stop, _to_forget(case, views), outcome, reason, wake_in, replacing, held_back, case.is_proven)


def is_given_up(view: View, spec: AppSpec) -> bool:
    """Tell whether an instance does not count any more because of its node; what may exist once only waits for certainty."""
    if view.verdict is not None:
        return view.verdict.free
    return view.away is not None and view.away >= spec.placement.failover_after


@dataclass(frozen=True, slots=True)
class _Case:
    """An app's instances by what is to become of them: stay, be replaced, are going, are given up with their node."""

    app: App
    spec: AppSpec
    current: list[View]
    old: list[View]
    leaving: list[View]
    lost: list[View]
    stalled: float
    terms: Terms

    @property
    def strategy(self) -> str:
        """In which order instances are replaced now: as asked for while there are some of another version, else one by one."""
        asked = self.terms.strategy or self.spec.update.strategy
        others = any(view.placed.version != self.app.version for view in (*self.old, *self.leaving))
        return asked if others and (asked == "recreate" or (asked == "blue_green" and not stops_first(self.spec))) else "rolling"

    @property
    def limits(self) -> tuple[int, int]:
        """How many instances there may be more, and available fewer, than wanted while they are replaced."""
        if self.strategy == "recreate":
            return 0, self.app.wanted
        if self.strategy == "blue_green":
            return len(self.old) + self.app.wanted, 0
        surge, unavailable = limits(self.spec, self.app.wanted)
        if stops_first(self.spec) or any(not is_current(self.app, view.placed) for view in self.old):
            return surge, unavailable
        return max(surge, 1), 0  # what only moves is as good as its replacement: nothing is gained by having fewer

    @property
    def number(self) -> int:
        """How many are as wanted."""
        return len(self.current) + self.terms.settled

    @property
    def steady(self) -> int:
        return sum(is_steady(view, self.spec) for view in self.current) + self.terms.settled

    @property
    def is_proven(self) -> bool:
        return 0 < self.app.wanted == self.number == self.steady


def _case(app: App, spec: AppSpec, views: tuple[View, ...], stalled: float, terms: Terms) -> _Case:
    alive = [view for view in views if not is_given_up(view, spec)]
    live = [view for view in alive if not view.placed.stop and not view.is_misplaced(spec)]
    return _Case(
        app,
        spec,
        current=[view for view in live if stays(app, view)],
        old=[view for view in live if not stays(app, view)],
        leaving=[view for view in alive if _is_leaving(view, spec)],
        lost=[view for view in views if is_given_up(view, spec)],
        stalled=stalled,
        terms=terms,
    )


def _is_leaving(view: View, spec: AppSpec) -> bool:
    """Tell whether an instance that is to go is still there. The only one of its kind counts until it is certain that it is not at work."""
    is_to_go = view.placed.stop or (view.verdict is not None and view.is_misplaced(spec))
    return is_to_go and not view.is_over


def _to_forget(case: _Case, views: tuple[View, ...]) -> tuple[int, ...]:
    """Return what is gone, and what was lost once nothing depends on its return: the agent removes what it is not told of."""
    settled = {view.placed.serial for view in case.lost if view.placed.stop or case.steady >= case.app.wanted}
    return tuple(view.placed.serial for view in views if (view.placed.stop and view.is_over) or view.placed.serial in settled)


def is_current(app: App, placed: Placed) -> bool:
    """Tell whether an instance is one of the wanted version that no restart asks to replace."""
    return placed.version == app.version and placed.serial >= app.renew_below


def stays(app: App, view: View) -> bool:
    """Tell whether an instance is as wanted, and where it may be."""
    return is_current(app, view.placed) and not view.moving


def stops_first(spec: AppSpec) -> bool:
    """Tell whether an old instance has to go before its replacement can start."""
    return spec.placement.exclusive or any(port.host_port for port in spec.ports)


def limits(spec: AppSpec, wanted: int) -> tuple[int, int]:
    """Return how many instances there may be more, and available fewer, than wanted while they are replaced."""
    if stops_first(spec):
        return 0, 1
    surge = share(spec.update.max_surge, wanted, round_up=True)
    unavailable = share(spec.update.max_unavailable, wanted, round_up=False)
    return (surge, unavailable) if surge or unavailable else (1, 0)


def share(text: str, whole: int, *, round_up: bool) -> int:
    """Return a count, or a percentage of `whole` rounded as Nomad and Kubernetes do: surge up, unavailable down."""
    if not text.endswith("%"):
        return int(text)
    part = int(text[:-1]) * whole / 100
    return math.ceil(part) if round_up else math.floor(part)


def rest_needed(spec: AppSpec) -> float:
    """Return for how many seconds an instance has to be ready before it counts. Without a check, just running says little."""
    return spec.update.min_healthy_time or (0.0 if spec.checks else UNCHECKED_REST)


def is_steady(view: View, spec: AppSpec) -> bool:
    """Tell whether an instance is ready for so long that a change may count on it."""
    return view.ready and view.ready_for >= rest_needed(spec)


def is_settled(app: App, view: View, spec: AppSpec) -> bool:
    """Tell whether an instance is as wanted, where it may be, at work for so long that a change may count on it, and nothing is about to
    change that: it counts, and nothing more has to be known of it."""
    if not is_steady(view, spec) or view.placed.stop or view.gone or view.forced or view.is_misplaced(spec):
        return False
    return view.verdict is None and view.away is None and stays(app, view)


def is_enough(app: App, spec: AppSpec, strategy: str, views: Iterable[View], settled: int) -> bool:
    """Tell whether beside these views a number of settled instances is enough to decide by: none of them is chosen out, or makes room.

    What moves counts as if it stayed: it may have to wait for its turn.
    """
    there = sum(not view.placed.stop and is_current(app, view.placed) and not is_given_up(view, spec) for view in views)
    return strategy != "recreate" and settled + there <= app.wanted


def _to_start(case: _Case, replaceable: int) -> tuple[int, int, int]:
    """Return how many to start, how many of them in the place of lost ones, and how many more such there would be."""
    lost = [view for view in case.lost if not view.placed.stop]
    occupying = case.number + len(case.old) + (len(case.leaving) if stops_first(case.spec) else 0)
    free = _room(case, case.number, occupying)
    unbraked = _room(case, case.number + sum(is_current(case.app, view.placed) for view in lost), occupying + len(lost))
    if case.app.paused:
        free = min(free, max(0, case.app.at_pause - case.number - len(case.old)))  # as many as there were, and no more
        unbraked = min(unbraked, max(0, free - len(lost)))
    replacing = max(0, min(replaceable, free - unbraked))
    return unbraked + replacing, replacing, free - unbraked - replacing


def _room(case: _Case, current: int, occupying: int) -> int:
    surge, _ = case.limits
    if case.strategy == "recreate" and (case.old or case.leaving):
        return 0  # versions never run side by side
    return max(0, min(case.app.wanted - current, case.app.wanted + surge - occupying))


def _worst_first(view: View, spec: AppSpec) -> tuple[int, int]:
    """Order instances by how little is lost with them: what is known to be bad, is unknown, is new."""
    rank = 0 if view.known_bad else 1 if not view.heard else 2 if not is_steady(view, spec) else 3
    return rank, -view.placed.serial


def _surplus(case: _Case) -> list[View]:
    """Return whom to stop of too many. Until enough are steady, one that was not heard ousts nobody: it may not run at all."""
    wanted, spec = case.app.wanted, case.spec
    known = [view for view in case.current if view.heard]
    enough = sum(is_steady(view, spec) for view in known) >= wanted
    candidates = case.current if enough else known
    return sorted(candidates, key=lambda view: _worst_first(view, spec))[: max(0, len(candidates) - wanted)]


def _to_stop(case: _Case, missing: int) -> list[View]:
    """Return whom to stop: surplus copies, bad ones first, never so many that fewer are ready than promised.

    `missing`: how many were lost and may not be replaced now. They are not there anyway, so that a change goes on without them.
    """
    wanted = case.app.wanted
    forced = [view for view in case.old if view.forced]
    waiting = [view for view in case.old if not view.forced]
    worst_first = sorted(waiting, key=lambda view: (not view.known_bad, -view.placed.serial))
    if wanted == 0:
        return forced + worst_first + case.current
    surplus = _surplus(case)
    _, unavailable = case.limits
    steady = case.steady - sum(is_steady(view, case.spec) for view in surplus)
    promised = max(min(1, wanted - unavailable), wanted - unavailable - missing)
    ready_after = steady + sum(view.ready for view in waiting)
    stop = surplus + forced
    if case.terms.is_stuck or (case.strategy == "recreate" and unheard(case.app, case.old)):
        return stop
    if case.strategy == "blue_green" and steady < wanted:
        return stop + [
            view for view in _neither_blue_nor_green(case) if not view.forced
        ]  # the others go all at once, when all of the new version are there
    for view in worst_first:
        if view.known_bad:
            stop.append(view)
        elif ready_after - 1 >= promised and view.heard:
            ready_after -= 1
            stop.append(view)
    return stop


def unheard(app: App, views: Iterable[View]) -> list[View]:
    """Return the instances of other versions of which nobody knows whether they are at work."""
    return [view for view in views if not view.heard and view.placed.version != app.version]


def _neither_blue_nor_green(case: _Case) -> list[View]:
    """Return those of an update that gave way, or is undone: they get no requests while the stable version serves, and room is needed."""
    blue = any(view.placed.version == case.app.stable and view.ready for view in (*case.current, *case.old))
    blue = blue or (case.terms.settled > 0 and case.app.version == case.app.stable)
    return [view for view in case.old if view.placed.version != case.app.stable and (blue or view.known_bad)]


def _judge(case: _Case) -> tuple[Outcome, str]:
    if case.app.paused and case.app.awaiting:
        return Outcome.GOING_ON, ""  # nothing of it began
    if case.number == case.app.wanted == case.steady and not case.old and not case.leaving:
        return Outcome.DONE, ""
    if case.app.paused:
        return Outcome.GOING_ON, ""
    for view in case.current if case.app.wanted else ():
        if reason := hopeless(view, case.spec):
            return Outcome.FAILED, reason
    gave_way = case.app.gave_way and not case.app.moving  # a migration is given up: what moves is better where it is than nowhere
    waits = bool(case.lost or gave_way) or any(view.moving and view.placed.serial not in case.app.moving for view in case.old)
    short_of_nodes = waits and case.number < case.app.wanted  # what waits for a node is no fault of the change
    everyone = (*case.current, *case.old, *case.leaving)
    if case.stalled >= case.spec.update.progress_deadline and all(view.heard for view in everyone) and not short_of_nodes:
        return Outcome.FAILED, f"there was no progress for {case.spec.update.progress_deadline:g} s"
    return Outcome.GOING_ON, ""


def hopeless(view: View, spec: AppSpec) -> str:
    """Return why an instance will not become healthy any more; empty while there is hope."""
    observed = view.observed
    if not view.heard or view.ready:
        return ""
    if observed is not None and observed.crash_loop:
        return f"{observed.instance} is in a crash loop: {observed.reason}"
    if view.waiting >= spec.update.health_deadline:
        return f"an instance did not become healthy within {spec.update.health_deadline:g} s: {_last_words(observed)}"
    return ""


def _last_words(observed: Observed | None) -> str:
    if observed is None:
        return "the agent has not started it"
    failing = [f"check {check.name}: {check.output}" for check in observed.checks if check.health is not Health.HEALTHY]
    return f"{observed.instance} is {observed.phase.name.lower()}: " + (observed.reason or "; ".join(failing) or "no check has succeeded")


def _wake_in(case: _Case, outcome: Outcome) -> float:
    if outcome is Outcome.DONE:
        return math.inf
    update = case.spec.update
    times = [rest_needed(case.spec) - view.ready_for for view in case.current if view.ready]
    if outcome is Outcome.GOING_ON and case.app.task and not case.app.paused:
        times += [update.health_deadline - view.waiting for view in case.current if not view.ready]
        times.append(update.progress_deadline - case.stalled)
    return min((time for time in times if time > 0), default=math.inf)


def given_up_in(views: tuple[View, ...], spec: AppSpec) -> float:
    """Return the seconds until the next instance of a node that is away is given up, or may be."""
    after = spec.placement.failover_after
    verdicts = (view.verdict.look_in for view in views if view.verdict is not None)
    left = (after - view.away for view in views if view.away is not None and view.verdict is None)
    return min((time for time in (*verdicts, *left) if time > 0), default=math.inf)
