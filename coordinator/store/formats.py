"""The formats of the store: which this version of Gestalt reads, and which it may write. Pure.

A store keeps the format that it was made with until an operator finalizes an upgrade. Until then nothing is written that the version
before does not understand: a field of a record that came with format N says so (`since`), and is left out of older stores.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field
from functools import cache
from typing import Any

from gestalt.errors import Kind

from .base import WrongFormat


@dataclass(frozen=True, slots=True)
class Formats:
    """The formats that a version of Gestalt reads; it writes the one that the store has."""

    oldest: int
    newest: int


SUPPORTED = Formats(oldest=1, newest=1)
"""What this version reads. A version reads the newest format of the one before, so that neighbours can work side by side."""

_SINCE = "format"


def newest() -> int:
    """Return the newest format that this version reads and writes: that of new stores."""
    return SUPPORTED.newest


def since(number: int, default: Any) -> Any:
    """Return a record's field that came with a format, and its value in older stores."""
    return field(default=default, metadata={_SINCE: number})


def check_format(written: int, where: str) -> None:
    """Refuse a store that this version does not understand.

    Raises:
        WrongFormat: the sentence says which of the two is too old.
    """
    if written > SUPPORTED.newest:
        raise WrongFormat(
            f"{where} has format {written}; this version of Gestalt understands formats up to {SUPPORTED.newest}",
            kind=Kind.REFUSED,
            hint="upgrade this coordinator: after `gestaltctl cluster finalize-upgrade` there is no way back to an older version",
        )
    if written < SUPPORTED.oldest:
        raise WrongFormat(
            f"{where} has format {written}; this version of Gestalt understands formats from {SUPPORTED.oldest} on",
            kind=Kind.REFUSED,
            hint="run the version before this one first, and finalize its upgrade: gestaltctl cluster finalize-upgrade",
        )


@cache
def later_fields(kind: type[Any], format_number: int) -> frozenset[str]:
    """Return the names of a record's fields that a store of this format must not hold."""
    fields: dict[str, Field[Any]] = kind.__dataclass_fields__
    return frozenset(name for name, item in fields.items() if item.metadata.get(_SINCE, 0) > format_number)
