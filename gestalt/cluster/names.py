"""What members, roles and labels may be called, and which addresses can be used."""

from __future__ import annotations

import ipaddress
import re

from gestalt.errors import Detail, GestaltError, Kind

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_ROLE = re.compile(r"[a-z][a-z0-9-]{0,30}")
_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?")
LABELS_MAX = 64
LABEL_KEY_MAX = 63
LABEL_VALUE_MAX = 256
_SHOWN = 80


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
        field = f"labels.{key if len(key) <= _SHOWN else key[:_SHOWN] + '…'}"
        _check_length(field, "a key", key, LABEL_KEY_MAX)
        _check(field, key, _KEY.fullmatch(key) is not None, f"a key of up to {LABEL_KEY_MAX} letters, digits and ._-/")
        _check_length(field, "a value", value, LABEL_VALUE_MAX)
        _check(field, value, value.isprintable(), f"up to {LABEL_VALUE_MAX} printable characters")
    _check("labels", f"{len(labels)} labels", len(labels) <= LABELS_MAX, f"up to {LABELS_MAX} labels")


def check_address(field: str, text: str) -> None:
    """Refuse an address that others cannot reach a machine at.

    Raises:
        GestaltError: INVALID.
    """
    try:
        address = ipaddress.ip_address(text)
        usable = not (address.is_unspecified or address.is_multicast)
    except ValueError:
        usable = False
    _check(field, text, usable, "an IP address of the machine, such as 10.0.0.1")


def split_address(field: str, text: str) -> tuple[str, int]:
    """Return the parts of "10.0.0.1:7400" or "[fd00::1]:7400".

    Raises:
        GestaltError: INVALID.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    check_address(field, host)
    _check(field, text, port.isascii() and port.isdigit() and 0 < int(port) < 65536, "an IP address and a port, such as 10.0.0.1:7400")
    return host, int(port)


def _check_length(field: str, what: str, text: str, most: int) -> None:
    if len(text) > most:
        problem, allowed = f"has {what} of {len(text)} characters", f"at most {most}"
        raise GestaltError(Kind.INVALID, f"{field}: {problem}", hint=f"allowed: {allowed}", details=[Detail(field, problem, allowed)])


def _check(field: str, value: str, good: bool, allowed: str) -> None:
    if not good:
        shown = value if len(value) <= _SHOWN else value[:_SHOWN] + "…"
        raise GestaltError(
            Kind.INVALID,
            f"{field}: {shown!r} is not allowed",
            hint=f"allowed: {allowed}",
            details=[Detail(field, "is not allowed", allowed)],
        )
