"""How good a node is for an instance: the formulas, one by one, and how they are added up.

Everything here is checked with tables in `tests/unit/coordinator/test_score.py`; `docs/placement.md` explains it to operators.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gestalt.spec.schema import Affinity

from .attributes import holds
from .values import Capacity

OWN_POINTS = 10.0
"""What it costs to put all instances of an app on one node. More than `fit` can give, so that small apps spread whatever the load."""

WEIGHT_POINTS = 0.1
"""Points of a weight of one: a preference of the usual weight, 50, counts as much as five times the fit."""

GRID = 1e9
"""Points are whole multiples of a billionth, so that what is equal on paper is equal, and whoever computes them finds the same."""


def fit(free_cpu: float, free_memory: float, *, binpack: bool) -> float:
    """Return how well a node fits by what would be left of it, from 0 to 1.

    It is version 3 of Google's best fit, as Nomad documents it: 20 - (10^cpu + 10^memory) for packing, and (10^cpu + 10^memory) - 2 for
    spreading, over the range of both, 18.

    Args:
        free_cpu: share of the node's cores that would be free with the instance, 0 to 1.
        free_memory: the same of its memory.
        binpack: fuller nodes are better; else emptier ones.
    """
    total = 10 ** min(max(free_cpu, 0.0), 1.0) + 10 ** min(max(free_memory, 0.0), 1.0)
    return (20 - total if binpack else total - 2) / 18


def free_shares(node: Capacity, cpu: float, memory: int) -> tuple[float, float]:
    """Return which shares of a node's cores and memory would be left. What is not known counts as the other."""
    free_cpu = 1 - (node.cpu_reserved + cpu) / node.cpu if node.cpu else None
    free_memory = 1 - (node.memory_reserved + memory) / node.memory if node.memory else None
    known = [share for share in (free_cpu, free_memory) if share is not None] or [0.0]
    return (known[0] if free_cpu is None else free_cpu), (known[0] if free_memory is None else free_memory)


def own(there: int, wanted: int) -> float:
    """Return what instances of the same app on a node cost it, from 0 to -1: their share of all that are wanted."""
    return -there / max(wanted, 1)


def affinity(affinities: Iterable[Affinity], attributes: Mapping[str, str]) -> float:
    """Return the sum of the weights of all affinities that a node fulfils."""
    return float(sum(item.weight for item in affinities if holds(item, attributes)))


def boost(desired: float, used: int) -> float:
    """Return how far a value of a spread attribute is below its target once it has one instance more, from 1 down to -1.

    Args:
        desired: how many instances the target asks for, which need not be whole.
        used: how many there are.
    """
    return max((desired - used - 1) / desired, -1.0) if desired > 0 else -1.0


def total(*points: float) -> float:
    """Add points up, from left to right and on the grid."""
    added = 0.0
    for item in points:
        added += item
    return round(added * GRID) / GRID
