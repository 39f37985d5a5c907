"""How many instances an app is to have, from what is measured of them. Pure: no clock, no I/O.

The formula is that of Kubernetes' Horizontal Pod Autoscaler (kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale,
"Algorithm details"): instances x measured / target, rounded up, where `measured` is the mean of an instance. That is the sum over all
instances, counted in targets; so the sum is what is reckoned with here. Whoever is not measured counts as nothing when there might be
too few instances, and as much as its share, or as it had last, when there might be too many: silence takes no instance away.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gestalt.spec.schema import Autoscale, Metric
from gestalt.units import show_duration

from .reconcile import share

TOLERANCE = 0.1
"""So far from its target, as a part of it, nothing is changed: kube-controller-manager's --horizontal-pod-autoscaler-tolerance."""

NAMED = 3
"""So many silent nodes are named at most."""

_ROUNDING = 1e-9
"""What sums of floats may be off by."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One instance at one moment, in the metric's own unit. `value` None: it was not measured; `last`: what it had when it was."""

    value: float | None
    ready: bool = True
    last: float = 0.0


@dataclass(frozen=True, slots=True)
class Load:
    """What all instances have, counted in targets: 3.2 is as much as 3.2 instances are to have.

    `low`: at least; `high`: at most, as far as that can be said: infinite while it cannot. `unknown`: so many instances, or
    load balancers, were not measured.
    """

    low: float
    high: float
    unknown: int = 0


def load_of_instances(readings: Sequence[Reading], count: int, target: float) -> Load:
    """Return the load of instances of which each is measured by itself; those of the wanted `count` that are missing are unknown.

    One that is not ready adds nothing to `low`: it may be starting up, which says nothing of the load.
    """
    missing = max(0, count - len(readings))
    low = sum(item.value for item in readings if item.value is not None and item.ready)
    high = sum(_at_most(item, target) for item in readings) + missing * target
    return Load(low / target, high / target, missing + sum(item.value is None for item in readings))


def _at_most(item: Reading, target: float) -> float:
    if item.value is None:
        return max(target, item.last)
    return item.value if item.ready else max(target, item.value)


def load_of_balancers(total: float, silent: int, target: float) -> Load:
    """Return the load that load balancers give all instances together; what the `silent` ones give is unknown."""
    return Load(total / target, math.inf if silent else total / target, silent)


def mean(loads: Sequence[Load]) -> Load:
    """Return the load over a window. One that was unknown altogether for a moment is so for the window."""
    number = len(loads)
    return Load(sum(item.low for item in loads) / number, sum(item.high for item in loads) / number, max(item.unknown for item in loads))


@dataclass(frozen=True, slots=True)
class Situation:
    """An app at one moment. `loads`: the means over the window, by kind of metric.

    `settled`: seconds since its last change was done; `measured`: for so many it has been measured since. `held`: why nothing may be
    changed now. `crowded`: why even those that are wanted do not all have a place. Both empty = nothing hinders. `silent`: the names of
    nodes of which it is unknown what their load balancers do.
    """

    count: int
    settled: float
    loads: Mapping[str, Load] = field(default_factory=dict)
    held: str = ""
    crowded: str = ""
    measured: float = math.inf
    silent: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Advice:
    """`count`: how many there are to be now; `why`: in a sentence, also why not more or fewer."""

    count: int
    why: str


def advise(policy: Autoscale, situation: Situation) -> Advice:
    """Return how many instances an app is to have now: within the bounds, at most a step away from what it has."""
    count = situation.count
    if situation.held:
        return Advice(count, f"nothing is changed: {situation.held}")
    if bounded := _bounded(policy, count):
        return bounded
    if situation.measured < policy.window:
        left = show_duration(max(1.0, policy.window - situation.measured))
        return Advice(count, f"measures for {left} more before it decides")
    asks = [_ask(metric, situation.loads.get(metric.kind), count, situation.silent) for metric in policy.metrics]
    wanted = max(number for number, _ in asks)
    said = next(sentence for number, sentence in asks if number == wanted)
    return _braked(policy, situation, wanted, said)


def _bounded(policy: Autoscale, count: int) -> Advice | None:
    """Return what brings a number into its bounds; None when it is within."""
    if count < policy.min:
        return Advice(policy.min, f"{policy.min} are the fewest: {count} → {policy.min}")
    if count > policy.max:
        return Advice(policy.max, f"{policy.max} are the most: {count} → {policy.max}")
    return None


def _ask(metric: Metric, load: Load | None, count: int, silent: Sequence[str]) -> tuple[int, str]:
    """Return how many instances one metric asks for, and how it stands."""
    if load is None:
        return count, f"{metric.kind} is not measured"
    wanted = count
    if load.low > count * (1 + TOLERANCE) + _ROUNDING:
        wanted = math.ceil(load.low - _ROUNDING)
    elif load.high < count * (1 - TOLERANCE) - _ROUNDING:
        wanted = math.ceil(load.high - _ROUNDING)
    is_kept = load.high == math.inf and wanted == count and load.low < count * (1 - TOLERANCE)
    return wanted, _standing(metric, load, count, _unknown(load, silent, is_kept=is_kept))


def _unknown(load: Load, silent: Sequence[str], *, is_kept: bool) -> str:
    """Say what was not measured, and that this is why the number stays as it is, if it is."""
    if not is_kept:
        return f" ({load.unknown} not measured)" if load.unknown else ""
    named = ", ".join(silent[:NAMED]) + (f" and {len(silent) - NAMED} more" if len(silent) > NAMED else "")
    which = f"the load balancer of {named} is unknown" if silent else "a load balancer was unknown within the window"
    return f" (nothing is taken away: {which})"


def _standing(metric: Metric, load: Load, count: int, unknown: str) -> str:
    """Say what is measured, of what is to be: "cpu 91 % of 70 %"."""
    if metric.kind in ("cpu", "memory") and load.unknown >= count:
        return f"{metric.kind} is not measured"
    measured = load.low * metric.target / count
    match metric.kind:
        case "cpu" | "memory":
            return f"{metric.kind} {measured:.0f} % of {metric.target:g} %{unknown}"
        case "requests":
            return f"{measured:.3g} requests a second of {metric.target:g}{unknown}"
    return f"{measured:.3g} under way of {metric.target:g}{unknown}"


def _braked(policy: Autoscale, situation: Situation, wanted: int, said: str) -> Advice:
    """Hold back what is too much, too soon, or has no room."""
    count = situation.count
    step = max(1, share(policy.max_step, count, round_up=True))
    reached = min(max(wanted, count - step, policy.min), count + step, policy.max)
    change = f"{said}: {count} → {reached}"
    if reached == count:
        limit = f", {count} are the {'most' if wanted > count else 'fewest'}" if wanted != count else f": {count} are right"
        return Advice(count, f"{said}{limit}")
    pause = policy.cool_down_up if reached > count else policy.cool_down_down
    if situation.settled < pause:
        left = show_duration(max(1.0, pause - situation.settled))
        return Advice(count, f"{change} in {left} at the earliest: it was changed lately")
    if reached > count and situation.crowded:
        return Advice(count, f"{change} has to wait, not all of the {count} have a place: {situation.crowded}")
    return Advice(reached, change)


def mean_by_kind(samples: Iterable[Mapping[str, Load]], kinds: Iterable[str]) -> dict[str, Load]:
    """Return the means of what was measured of each kind at all these moments; a kind that never was is left out."""
    taken = tuple(samples)
    found = {kind: [sample[kind] for sample in taken if kind in sample] for kind in kinds}
    return {kind: mean(loads) for kind, loads in found.items() if loads}
