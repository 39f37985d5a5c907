"""Which versions of Gestalt work together: those of the same major version whose minor versions are neighbours. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gestalt.errors import GestaltError, Kind

_FORM = re.compile(r"(\d{1,6})\.(\d{1,6})(?:\.\d+)?(?:[-+.]?[A-Za-z0-9.+-]*)?")


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """What counts of a version; patches are always compatible."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


def parse_version(text: str) -> Version | None:
    """Return the version that "1.4.2", "1.4" or "1.4.2rc1" means; None for what is none."""
    found = _FORM.fullmatch(text)
    return Version(int(found[1]), int(found[2])) if found else None


def are_compatible(one: str, other: str) -> bool:
    """Tell whether two versions work together. What is no version works with nothing."""
    first, second = parse_version(one), parse_version(other)
    return first is not None and second is not None and first.major == second.major and abs(first.minor - second.minor) <= 1


def is_older(one: str, other: str) -> bool:
    """Tell whether a version is older than another, patches aside. What is no version counts as older."""
    first, second = parse_version(one), parse_version(other)
    return second is not None and (first is None or first < second)


def check_compatible(who: str, version: str, other: str, other_version: str) -> None:
    """Refuse two that do not work together, with which of them to upgrade. `who` is the one that asks.

    Raises:
        GestaltError: REFUSED.
    """
    if are_compatible(version, other_version):
        return
    older, newer = (
        ((who, version), (other, other_version)) if is_older(version, other_version) else ((other, other_version), (who, version))
    )
    raise GestaltError(
        Kind.REFUSED,
        f"{who} has version {version[:40] or 'unknown'}, {other} has {other_version[:40] or 'unknown'}: "
        "only neighbouring minor versions work together",
        hint=f"upgrade {older[0]}, one minor version after the other, until it is next to {newer[1][:40]}",
    )
