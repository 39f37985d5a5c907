"""Finds drivers through the entry points `gestalt.<kind>`; ours are registered the same way as anyone else's."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from gestalt.errors import GestaltError, Kind


def driver_names(kind: str) -> tuple[str, ...]:
    """Return the names of all installed drivers of a kind, sorted."""
    return tuple(sorted({point.name for point in entry_points(group=f"gestalt.{kind}")}))


def find_driver(kind: str, name: str) -> Any:
    """Return the driver class.

    Raises:
        GestaltError: there is no such driver; says which there are.
    """
    for point in entry_points(group=f"gestalt.{kind}", name=name):
        return point.load()
    raise GestaltError(
        Kind.INVALID,
        f"there is no {kind} driver called {name!r}",
        hint=f"installed: {', '.join(driver_names(kind)) or 'none'}",
    )
