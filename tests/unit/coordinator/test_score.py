"""The formulas of the score, with tables that can be checked by hand."""

from __future__ import annotations

import pytest

from gestalt.coordinator.scheduler.score import affinity, boost, fit, free_shares, own
from gestalt.spec.schema import Affinity
from tests.unit.coordinator.world import node

GIB = 1024**3


@pytest.mark.parametrize(
    ("free_cpu", "free_memory", "binpack", "spread"),
    [
        (1.0, 1.0, 0.0, 1.0),  # 10 + 10
        (0.0, 0.0, 1.0, 0.0),  # 1 + 1
        (0.5, 0.5, 0.7598, 0.2402),  # 3.1623 + 3.1623
        (0.5, 0.25, 0.8366, 0.1634),  # 3.1623 + 1.7783
        (0.2, 0.8, 0.6725, 0.3275),  # 1.5849 + 6.3096
        (-0.5, 0.0, 1.0, 0.0),  # more is reserved than there is
    ],
)
def test_the_fit_is_that_of_version_3_of_the_best_fit(free_cpu: float, free_memory: float, binpack: float, spread: float) -> None:
    assert fit(free_cpu, free_memory, binpack=True) == pytest.approx(binpack, abs=1e-4)
    assert fit(free_cpu, free_memory, binpack=False) == pytest.approx(spread, abs=1e-4)


def test_shares_are_those_that_would_be_left() -> None:
    assert free_shares(node(cpu=8, memory=16 * GIB, cpu_reserved=2, memory_reserved=4 * GIB), 2, 4 * GIB) == (0.5, 0.5)
    assert free_shares(node(cpu=8, memory=0), 2, 4 * GIB) == (0.75, 0.75), "what is not known counts as the other"
    assert free_shares(node(cpu=0, memory=0), 2, 0) == (0.0, 0.0)


@pytest.mark.parametrize(("there", "wanted", "points"), [(0, 4, 0.0), (1, 4, -0.25), (4, 4, -1.0), (1, 0, -1.0)])
def test_instances_of_the_same_app_cost_their_share(there: int, wanted: int, points: float) -> None:
    assert own(there, wanted) == points


@pytest.mark.parametrize(
    ("desired", "used", "points"),
    [(7, 0, 0.8571), (7, 3, 0.4286), (7, 6, 0.0), (7, 7, -0.1429), (3, 9, -1.0), (0, 0, -1.0), (2.5, 0, 0.6)],
)
def test_a_value_is_worth_what_it_lacks(desired: float, used: int, points: float) -> None:
    """Ten instances, 70 and 30 percent: desired are 7 and 3."""
    assert boost(desired, used) == pytest.approx(points, abs=1e-4)


def test_affinities_add_up() -> None:
    liked = [
        Affinity(attribute="disk", value="ssd", weight=80),
        Affinity(attribute="rack", operator="in", value="a,b", weight=-30),
        Affinity(attribute="gpu", operator="exists", weight=100),
    ]
    assert affinity(liked, {"disk": "ssd", "rack": "a"}) == 50
    assert affinity(liked, {"disk": "hdd", "rack": "c"}) == 0
