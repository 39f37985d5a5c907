"""How many instances an app is to have: the formula, what holds it back, and what never happens whatever is measured."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gestalt.coordinator.autoscale import (
    Advice,
    Load,
    Reading,
    Situation,
    advise,
    load_of_balancers,
    load_of_instances,
    mean,
    mean_by_kind,
)
from gestalt.spec.schema import Autoscale, Metric

LONG = 100_000.0


def policy(target: float = 70, kind: str = "cpu", **fields: object) -> Autoscale:
    metrics = ({"kind": kind, "target": target},)
    return Autoscale.model_validate({"min": 1, "max": 20, "metrics": metrics, "max_step": 100, **fields})


def cpu(*values: float | None, count: int = 0, target: float = 70) -> dict[str, Load]:
    return {"cpu": load_of_instances([Reading(value) for value in values], count or len(values), target)}


def asked(loads: dict[str, Load], count: int, scaling: Autoscale | None = None, **fields: object) -> Advice:
    return advise(scaling or policy(), replace(Situation(count, LONG, loads), **fields))  # type: ignore[arg-type]


# ---------------------------------------------------------------- the formula


@pytest.mark.parametrize(
    ("values", "expected", "why"),
    [
        ([91, 91, 91], 4, "cpu 91 % of 70 %: 3 → 4"),
        ([140, 140, 140], 6, "cpu 140 % of 70 %: 3 → 6"),
        ([70, 70, 70], 3, "cpu 70 % of 70 %: 3 are right"),
        ([76, 76, 76], 3, "cpu 76 % of 70 %: 3 are right"),
        ([210, 0, 0], 3, "cpu 70 % of 70 %: 3 are right"),
        ([64, 64, 64], 3, "cpu 64 % of 70 %: 3 are right"),
        ([20, 20, 20], 1, "cpu 20 % of 70 %: 3 → 1"),
        ([45, 45, 45], 2, "cpu 45 % of 70 %: 3 → 2"),
        ([50, 50, 50], 3, "cpu 50 % of 70 %: 3 are right"),
        ([0, 0, 0], 1, "cpu 0 % of 70 %: 3 → 1"),
    ],
)
def test_the_formula(values: list[float], expected: int, why: str) -> None:
    assert asked(cpu(*values), 3) == Advice(expected, why)


def test_tolerance_is_ten_percent() -> None:
    assert asked(cpu(77.0), 1).count == 1
    assert asked(cpu(77.1), 1).count == 2


def test_of_several_metrics_the_hungriest_decides() -> None:
    scaling = Autoscale.model_validate(
        {"min": 1, "max": 20, "metrics": [{"kind": "cpu", "target": 70}, {"kind": "requests", "target": 10}], "max_step": 100}
    )
    loads = {**cpu(10, 10), "requests": load_of_balancers(45, 0, 10)}
    assert asked(loads, 2, scaling) == Advice(5, "22.5 requests a second of 10: 2 → 5")
    assert asked(cpu(10, 10), 2, scaling) == Advice(2, "requests is not measured: 2 are right"), "what is not measured takes nothing away"


def test_what_was_not_measured_counts_as_nothing_upwards_and_as_its_share_downwards() -> None:
    assert asked(cpu(140, 140, None), 3).count == 4, "(140 + 140 + 0) / 70"
    assert asked(cpu(100, 60, None), 3) == Advice(3, "cpu 53 % of 70 % (1 not measured): 3 are right")
    assert asked(cpu(10, 10, None), 3).count == 2, "(10 + 10 + 70) / 70"
    assert asked(cpu(None, None, None), 3).count == 3
    assert asked(cpu(10, count=3), 3).count == 3, "instances that are nowhere to be seen are unknown"


def test_what_fell_silent_counts_as_it_was() -> None:
    silent = load_of_instances([Reading(None, last=250), Reading(5), Reading(5)], 3, 70)
    assert asked({"cpu": silent}, 3).count == 3


def test_an_instance_that_is_not_ready_asks_for_no_more() -> None:
    starting = load_of_instances([Reading(70), Reading(400, ready=False)], 2, 70)
    assert asked({"cpu": starting}, 2).count == 2
    idle = load_of_instances([Reading(10), Reading(0, ready=False)], 2, 70)
    assert asked({"cpu": idle}, 2).count == 2, "nor does it say that there are too many"


def test_a_load_balancer_that_keeps_silent_takes_nothing_away() -> None:
    assert asked({"requests": load_of_balancers(10, 1, 10)}, 5, policy(10, "requests")).count == 5
    assert asked({"requests": load_of_balancers(10, 0, 10)}, 5, policy(10, "requests")).count == 1
    told = asked({"requests": load_of_balancers(10, 5, 10)}, 5, policy(10, "requests"), silent=[f"n{number}" for number in range(1, 6)])
    assert told.why == (
        "2 requests a second of 10 (nothing is taken away: the load balancer of n1, n2, n3 and 2 more is unknown): 5 are right"
    )
    assert asked({"requests": load_of_balancers(80, 1, 10)}, 5, policy(10, "requests")).count == 8, "what is known may be too much already"


def test_the_window_counts_not_the_moment() -> None:
    samples = [cpu(10.0), cpu(10.0), cpu(300.0), cpu(None)]
    loads = mean_by_kind(samples, ["cpu", "memory"])
    assert loads.keys() == {"cpu"}
    assert loads["cpu"] == Load(320 / 70 / 4, 390 / 70 / 4, 1)
    assert mean([load_of_balancers(5, 0, 1), load_of_balancers(5, 1, 1)]).high == math.inf


# ---------------------------------------------------------------- what holds it back


def test_nothing_is_decided_before_the_window_is_full() -> None:
    assert asked(cpu(500.0), 1, policy(window=60), measured=20.0) == Advice(1, "measures for 40s more before it decides")


def test_what_a_new_leader_measures_says_nothing_of_when_the_last_change_was() -> None:
    scaling = policy(window=60, cool_down_down=300)
    assert asked(cpu(0, 0), 2, scaling, measured=60.0, settled=400.0).count == 1
    assert asked(cpu(0, 0), 2, scaling, measured=60.0, settled=100.0).why.endswith("2 → 1 in 3m20s at the earliest: it was changed lately")


def test_changes_keep_apart() -> None:
    scaling = policy(window=10, cool_down_up=60, cool_down_down=300)
    assert asked(cpu(140.0), 1, scaling, settled=59.0) == Advice(
        1, "cpu 140 % of 70 %: 1 → 2 in 1.0s at the earliest: it was changed lately"
    )
    assert asked(cpu(140.0), 1, scaling, settled=60.0).count == 2
    assert asked(cpu(0, 0), 2, scaling, settled=299.0).count == 2
    assert asked(cpu(0, 0), 2, scaling, settled=300.0).count == 1


@pytest.mark.parametrize(("step", "count", "load", "expected"), [("1", 4, 900, 5), ("50%", 5, 900, 8), ("50%", 5, 0, 2), ("1%", 4, 0, 3)])
def test_steps_are_bounded(step: str, count: int, load: float, expected: int) -> None:
    assert asked(cpu(*[load] * count), count, policy(max_step=step)).count == expected


def test_bounds_are_told() -> None:
    assert asked(cpu(500, 500), 2, policy(max=2)) == Advice(2, "cpu 500 % of 70 %, 2 are the most")
    assert asked(cpu(0, 0), 2, policy(min=2)) == Advice(2, "cpu 0 % of 70 %, 2 are the fewest")
    assert asked({}, 1, policy(min=3)) == Advice(3, "3 are the fewest: 1 → 3")
    assert asked({}, 9, policy(max=3)) == Advice(3, "3 are the most: 9 → 3")


def test_what_holds_is_told() -> None:
    assert asked(cpu(500.0), 1, held="an update is under way") == Advice(1, "nothing is changed: an update is under way")
    crowded = asked(cpu(140, 140), 2, crowded="1 node: too few cores left")
    assert crowded == Advice(2, "cpu 140 % of 70 %: 2 → 4 has to wait, not all of the 2 have a place: 1 node: too few cores left")
    assert asked(cpu(0, 0), 2, crowded="1 node: too few cores left").count == 1


# ---------------------------------------------------------------- whatever is measured

_value = st.floats(0, 1000)
_reading = st.builds(Reading, _value, st.just(True), _value) | st.builds(Reading, st.none() | _value, st.booleans(), _value)
_readings = st.lists(_reading, min_size=1, max_size=12)
_policy = st.builds(
    lambda least, more, target, step: policy(target, min=least, max=least + more, max_step=step),
    st.integers(1, 8),
    st.integers(0, 12),
    st.floats(1, 200),
    st.sampled_from([100, 1, 3, "10%", "50%", "100%"]),
)


def within(readings: list[Reading], scaling: Autoscale) -> int:
    """Return a number of instances that fits the readings and the bounds."""
    return min(max(len(readings), scaling.min), scaling.max)


def decided(readings: list[Reading], scaling: Autoscale, count: int) -> int:
    load = load_of_instances(readings[:count], count, scaling.metrics[0].target)
    return advise(scaling, Situation(count, LONG, {"cpu": load})).count


@settings(max_examples=500)
@given(_readings, _policy, st.integers(1, 20))
def test_it_is_always_within_bounds(readings: list[Reading], scaling: Autoscale, count: int) -> None:
    assert scaling.min <= decided(readings, scaling, count) <= scaling.max


@given(_readings, _policy, st.data())
def test_more_load_never_means_fewer_instances(readings: list[Reading], scaling: Autoscale, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(readings) - 1))
    before = readings[index]
    assume(before.value is not None)
    more = [*readings]
    more[index] = replace(before, value=(before.value or 0.0) + data.draw(_value))
    count = within(readings, scaling)
    assert decided(more, scaling, count) >= decided(readings, scaling, count)


@settings(max_examples=500)
@given(_readings, _policy, st.data())
def test_silence_takes_no_instance_away(readings: list[Reading], scaling: Autoscale, data: st.DataObject) -> None:
    """Whoever falls silent, the number is at least what it would be with them heard, or what it is."""
    silent = [replace(item, value=None, last=item.value or item.last) if data.draw(st.booleans()) else item for item in readings]
    count = within(readings, scaling)
    assert decided(silent, scaling, count) >= min(count, decided(readings, scaling, count))


@given(st.integers(0, 12), _policy, st.integers(1, 12))
def test_nobody_who_hears_nothing_takes_an_instance_away(known: int, scaling: Autoscale, count: int) -> None:
    count = min(max(count, scaling.min), scaling.max)
    assert decided([Reading(None)] * min(known, count), scaling, count) == count


@given(st.floats(0, 30), st.floats(0, 0.9), _policy, st.integers(1, 20))
def test_a_load_that_stays_is_followed_once_and_then_left_alone(work: float, idle: float, scaling: Autoscale, count: int) -> None:
    """The same work, shared evenly, beside what each instance uses anyway: the number goes one way, comes to rest, and stays."""
    target, count, moves = scaling.metrics[0].target, min(max(count, scaling.min), scaling.max), []
    for _ in range(200):
        each = (work / count + idle) * target
        after = decided([Reading(each)] * count, scaling, count)
        if after == count:
            break
        moves.append(after - count)
        count = after
    else:
        pytest.fail(f"it never comes to rest: {moves}")
    assert all(move > 0 for move in moves) or all(move < 0 for move in moves), moves


@given(_value, st.floats(1, 200), st.integers(1, 20))
def test_load_balancers_are_reckoned_alike(total: float, target: float, count: int) -> None:
    """It makes no difference whether each instance is measured, or all together."""
    scaling = Autoscale(min=1, max=20, metrics=(Metric(kind="requests", target=target),), max_step="100")
    together = advise(scaling, Situation(count, LONG, {"requests": load_of_balancers(total, 0, target)})).count
    each = [Reading(total / count)] * count
    by_one = advise(scaling, Situation(count, LONG, {"requests": load_of_instances(each, count, target)})).count
    assert together == by_one
