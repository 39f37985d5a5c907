"""What members, roles and labels may be called."""

from __future__ import annotations

import re

from gestalt.errors import Detail, GestaltError, Kind

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_ROLE = re.compile(r"[a-z][a-z0-9-]{0,30}")
_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?")
LABELS_MAX = 64
LABEL_VALUE_MAX = 256


def check_name(field: str, name: str) -> None:
    """Refuse a name that no member may have.

    Raises:
        GestaltError: INVALID.
    """
    _check(field, name, _NAME.fullmatch(name) is not None, "up to 63 letters, digits, dots, hyphens and underscores")


def check_roles(roles: tuple[str, ...]) -> None:
    """Refuse roles that are no words.

    Raises:
        GestaltError: INVALID.
    """
    for role in roles:
        _check("roles", role, _ROLE.fullmatch(role) is not None, "lower-case words such as edge or dmz")


def check_labels(labels: dict[str, str]) -> None:
    """Refuse labels that are malformed or too many.

    Raises:
        GestaltError: INVALID.
    """
    for key, value in labels.items():
        _check(f"labels.{key[:80]}", key, _KEY.fullmatch(key) is not None, "a key of up to 63 letters, digits and ._-/")
        _check(
            f"labels.{key}", value, len(value) <= LABEL_VALUE_MAX and value.isprintable(), f"up to {LABEL_VALUE_MAX} printable characters"
        )
    _check("labels", f"{len(labels)} labels", len(labels) <= LABELS_MAX, f"up to {LABELS_MAX} labels")


def _check(field: str, value: str, good: bool, allowed: str) -> None:
    if not good:
        shown = value if len(value) <= 80 else value[:80] + "…"
        raise GestaltError(
            Kind.INVALID,
            f"{field}: {shown!r} is not allowed",
            hint=f"allowed: {allowed}",
            details=[Detail(field, "is not allowed", allowed)],
        )
