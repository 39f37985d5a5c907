"""What constraints and affinities look at: the attributes of a node, and whether a condition on one of them holds. Pure functions."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from gestalt.spec.conditions import bounds_of, list_of, rank, version_rank
from gestalt.spec.schema import Affinity, Constraint

_SEARCH_LIMIT = 0.01
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip


def attributes(id_: str, name: str, roles: Iterable[str], labels: Mapping[str, str], facts: Mapping[str, str]) -> dict[str, str]:
    """Return all attributes of a node. What an operator says of it in labels counts more than what it says of itself."""
    return {**facts, **labels, "node.id": id_, "node.name": name, "role": ",".join(roles)}


def holds(condition: Constraint | Affinity, found: Mapping[str, str]) -> bool:
    """Tell whether a node with these attributes fulfils a condition, as far as one node alone does: those that distribute ask for a value.

    Where the attribute is missing, only `!=`, `not-in`, `not-matches` and `missing` hold.
    """
    there = found.get(condition.attribute)
    match condition.operator:
        case "exists" | "unique" | "max-per" | "group-by" | "cluster":
            return there is not None
        case "missing":
            return there is None
        case "=":
            return there == condition.value
        case "!=":
            return there != condition.value
        case "in":
            return there in list_of(condition.value)
        case "not-in":
            return there not in list_of(condition.value)
        case "not-matches":
            return there is None or not _matches(condition.value, there)
    return there is not None and _compares(condition, there)


@lru_cache(maxsize=10_000)
def _matches(expression: str, text: str) -> bool:
    """Tell whether an expression describes a whole text. One that takes too long to tell does not: it must not hold the leader up."""
    import regex  # late: few descriptions have an expression

    try:
        return regex.fullmatch(expression, text, timeout=_SEARCH_LIMIT) is not None
    except TimeoutError:
        return False


def _compares(condition: Constraint | Affinity, there: str) -> bool:
    match condition.operator:
        case "matches":
            return _matches(condition.value, there)
        case "contains":
            return set(list_of(condition.value)) <= set(list_of(there))
        case "version":
            found = version_rank(there)
            return all(_ORDER[sign](found, version_rank(bound)) for sign, bound in bounds_of(condition.value))
    return _ORDER[condition.operator](*rank(there, condition.value))
