"""What has to be done next for one app: a pure function from what is wanted and what is known to steps and a verdict.

One call gives the steps that are right now; the loop repeats it when anything changed. All changes are the same thing,
instances replaced by instances: a launch replaces nothing, a stop replaces by nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from gestalt.model import Health, Observed
from gestalt.spec.schema import AppSpec

from .records import App, Placed

UNCHECKED_REST = 1.0
"""Seconds that an instance without any check has to run before a change counts it as healthy, unless the app says more."""


@dataclass(frozen=True, slots=True)
class View:
    """One instance as the leader knows it.

    `observed` None: its node has not told of it (yet). `heard`: the node's inventory is in. `gone`: the node says that
    nothing of it is left. `ready_for`: seconds since it is ready; `waiting`: seconds since it was placed or was last ready, as far as
    this leader knows.
    """

    placed: Placed
    observed: Observed | None
    heard: bool
    gone: bool = False
    ready_for: float = 0.0
    waiting: float = 0.0

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

    `wake_in`: seconds until time alone may change the decision, infinity when only events can.
    """

    start: int
    stop: tuple[int, ...]
    forget: tuple[int, ...]
    outcome: Outcome
    reason: str = ""
    wake_in: float = math.inf


def reconcile(app: App, spec: AppSpec, views: tuple[View, ...], stalled: float) -> Decision:
    """Decide for one app.

    Args:
        app: the goal.
        spec: the template of the wanted version.
        views: all its instances, whatever their version.
        stalled: seconds since the change last made progress.
    """
    live = [view for view in views if not view.placed.stop and not view.is_misplaced(spec)]
    misplaced = [view.placed.serial for view in views if not view.placed.stop and view.is_misplaced(spec)]
    case = _Case(
        app,
        spec,
        current=[view for view in live if is_current(app, view.placed)],
        old=[view for view in live if not is_current(app, view.placed)],
        leaving=[view for view in views if view.placed.stop and not view.gone],
        stalled=stalled,
    )
    forget = tuple(view.placed.serial for view in views if view.placed.stop and view.gone)
    stop = (*misplaced, *(view.placed.serial for view in _to_stop(case)))
    outcome, reason = _judge(case)
    return Decision(_to_start(case), stop, forget, outcome, reason, _wake_in(case, outcome))


@dataclass(frozen=True, slots=True)
class _Case:
    """An app's instances by what is to become of them: stay, be replaced, are going."""

    app: App
    spec: AppSpec
    current: list[View]
    old: list[View]
    leaving: list[View]
    stalled: float


def is_current(app: App, placed: Placed) -> bool:
    """Tell whether an instance is one of the wanted version that no restart asks to replace."""
    return placed.version == app.version and placed.serial >= app.renew_below


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


def _to_start(case: _Case) -> int:
    surge, _ = limits(case.spec, case.app.wanted)
    occupying = len(case.current) + len(case.old) + (len(case.leaving) if stops_first(case.spec) else 0)
    return max(0, min(case.app.wanted - len(case.current), case.app.wanted + surge - occupying))


def _to_stop(case: _Case) -> list[View]:
    """Return whom to stop: surplus copies, bad ones first, never so many that fewer are ready than promised."""
    wanted = case.app.wanted
    worst_first = sorted(case.old, key=lambda view: (not view.known_bad, -view.placed.serial))
    surplus = sorted(case.current, key=lambda view: (not view.known_bad, -view.placed.serial))[: max(0, len(case.current) - wanted)]
    if wanted == 0:
        return worst_first + surplus
    _, unavailable = limits(case.spec, wanted)
    steady = sum(is_steady(view, case.spec) for view in case.current) - sum(is_steady(view, case.spec) for view in surplus)
    ready_after = steady + sum(view.ready for view in case.old)
    stop = list(surplus)
    for view in worst_first:
        if view.known_bad:
            stop.append(view)
        elif ready_after - 1 >= wanted - unavailable and view.heard:
            ready_after -= 1
            stop.append(view)
    return stop


def _judge(case: _Case) -> tuple[Outcome, str]:
    steady = sum(is_steady(view, case.spec) for view in case.current)
    if len(case.current) == case.app.wanted == steady and not case.old and not case.leaving:
        return Outcome.DONE, ""
    for view in case.current if case.app.wanted else ():
        if reason := _hopeless(view, case.spec):
            return Outcome.FAILED, reason
    if case.stalled >= case.spec.update.progress_deadline and all(view.heard for view in (*case.current, *case.old, *case.leaving)):
        return Outcome.FAILED, f"there was no progress for {case.spec.update.progress_deadline:g} s"
    return Outcome.GOING_ON, ""


def _hopeless(view: View, spec: AppSpec) -> str:
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
    if outcome is not Outcome.GOING_ON:
        return math.inf
    update = case.spec.update
    times = [rest_needed(case.spec) - view.ready_for for view in case.current if view.ready]
    if case.app.task:
        times += [update.health_deadline - view.waiting for view in case.current if not view.ready]
        times.append(update.progress_deadline - case.stalled)
    return min((time for time in times if time > 0), default=math.inf)
