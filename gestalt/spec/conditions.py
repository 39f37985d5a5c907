"""How the values of conditions are read: lists, bounds of versions, and what is more than what."""

from __future__ import annotations

import re
from typing import Any

from gestalt.units import parse_size

ALIASES = {
    "==": "=",
    "is": "=",
    "not": "!=",
    "like": "matches",
    "regexp": "matches",
    "unlike": "not-matches",
    "set_contains": "contains",
    "is_set": "exists",
    "is_not_set": "missing",
    "max_per": "max-per",
    "group_by": "group-by",
    "distinct_property": "max-per",
    "distinct_hosts": "unique",
}
"""What Nomad's and Marathon's users call our operators, in lower case."""

DISTRIBUTING = ("unique", "max-per", "group-by", "cluster")
"""The operators that look at all instances of an app together, not at one node."""

_BOUND = re.compile(r"(>=|<=|!=|==|=|>|<)?\s*([0-9A-Za-z][0-9A-Za-z.+~_:-]*)")
_PART = re.compile(r"[0-9]+|[A-Za-z]+")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")


def list_of(value: str) -> tuple[str, ...]:
    """Return the items of a list with commas between."""
    return tuple(item for item in (item.strip() for item in value.split(",")) if item)


def bounds_of(value: str) -> tuple[tuple[str, str], ...]:
    """Return the comparisons of `>= 20.10, < 27`, as operator and version.

    Raises:
        ValueError: with what is not one.
    """
    bounds = []
    for item in list_of(value):
        match = _BOUND.fullmatch(item)
        if match is None:
            raise ValueError(f"{item!r} is no comparison")
        bounds.append((match[1] or "=", match[2]))
    if not bounds:
        raise ValueError("there is no comparison")
    return tuple(bounds)


def rank(one: str, other: str) -> tuple[Any, Any]:
    """Return two values that compare as these texts do: as numbers (with or without a unit of size) if both are, else as versions."""
    numbers = _number(one), _number(other)
    return numbers if None not in numbers else (version_rank(one), version_rank(other))


def version_rank(text: str) -> tuple[tuple[int, str], ...]:
    """Return the parts of a version for comparing, digits as numbers of any length; a part more is a later version, as for rpm."""
    return tuple((len(part.lstrip("0")), part.lstrip("0")) if part.isdigit() else (-1, part.lower()) for part in _PART.findall(text))


def _number(text: str) -> float | None:
    if _NUMBER.fullmatch(text):
        return float(text)
    try:
        return float(parse_size(text))
    except (ValueError, OverflowError):
        return None
