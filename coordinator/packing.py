"""Many alike records as JSON in columns: of a thousand instances, most say the same in most of their fields."""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from dataclasses import MISSING, fields
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter

T = TypeVar("T")

Column = dict[str, Any]
"""One field of all records: `same`, the value of all; or `values`, those that occur, with `at`, which of them each has; or `each`."""


def to_columns(records: Sequence[Any]) -> dict[str, Column]:
    """Return the fields of records of one dataclass; those that are as by default in all of them are left out."""
    return {
        field.name: column
        for field in (fields(records[0]) if records else ())
        if (column := _column(list(map(attrgetter(field.name), records)))) != {"same": _default(field.default)}
    }


def from_columns(kind: type[T], columns: dict[str, Column], count: int) -> tuple[T, ...]:
    """Return so many records of a dataclass.

    Raises:
        ValueError: a column is of another length, or has a value that its field must not have, or one is missing.
    """
    hints, required = _hints(cast(Any, kind)), {field.name for field in fields(cast(Any, kind)) if field.default is MISSING}
    unfit = columns.keys() - hints.keys()
    missing = required - columns.keys()
    if unfit or (missing and count):
        raise ValueError(f"columns of {kind.__name__}: {sorted(unfit)} are not known, {sorted(missing)} are missing")
    values = {name: _values(column, hints[name], count) for name, column in columns.items()}
    if not values:
        return tuple(kind() for _ in range(count))
    return tuple(kind(**dict(zip(values, row, strict=True))) for row in zip(*values.values(), strict=True))


def _column(values: list[Any]) -> Column:
    known = dict.fromkeys(values)
    if len(known) == 1:
        return {"same": values[0]}
    if 2 * len(known) > len(values):
        return {"each": values}
    number = {value: at for at, value in enumerate(known)}
    return {"values": list(known), "at": [number[value] for value in values]}


def _values(column: Column, adapter: TypeAdapter[tuple[Any, ...]], count: int) -> Sequence[Any]:
    if "same" in column:
        return adapter.validate_python((column["same"],)) * count
    if "each" in column:
        found: Sequence[Any] = adapter.validate_python(column["each"])
    else:
        known = adapter.validate_python(column["values"])
        if not all(0 <= number < len(known) for number in column["at"]):
            raise ValueError("a column names a value that it does not have")
        found = [known[number] for number in column["at"]]
    if len(found) != count:
        raise ValueError(f"a column has {len(found)} values, not {count}")
    return found


def _default(value: Any) -> Any:
    return value if value is not MISSING else object()


@cache
def _hints(kind: Any) -> dict[str, TypeAdapter[tuple[Any, ...]]]:
    return {name: TypeAdapter(cast(Any, types.GenericAlias(tuple, (hint, ...)))) for name, hint in typing.get_type_hints(kind).items()}
