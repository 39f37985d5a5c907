"""What differs between two descriptions, field by field."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from gestalt.spec.schema import AppSpec


@dataclass(frozen=True, slots=True)
class FieldChange:
    """`before` and `after` are JSON; empty = not there."""

    field: str
    before: str
    after: str


def compare(before: AppSpec | None, after: AppSpec) -> tuple[FieldChange, ...]:
    """Return the fields that differ, by path, in the order of the description."""
    old = _flat(before.model_dump(mode="json")) if before is not None else {}
    new = _flat(after.model_dump(mode="json"))
    names = [*new, *(name for name in old if name not in new)]
    pairs = ((name, old.get(name, ""), new.get(name, "")) for name in names)
    return tuple(FieldChange(name, was, now) for name, was, now in pairs if was != now)


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        items = [(f"{prefix}.{key}" if prefix else str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        items = [(f"{prefix}[{_name(item, index)}]", item) for index, item in enumerate(value)]
    else:
        return {prefix: json.dumps(value)} if value not in (None, [], {}, "") else {}
    flat: dict[str, str] = {}
    for name, item in items:
        flat.update(_flat(item, name))
    return flat


def _name(item: Any, index: int) -> str:
    return str(item.get("name") or index) if isinstance(item, dict) else str(index)
