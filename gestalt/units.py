"""Sizes, durations and cores, as people write them and as programs need them."""

from __future__ import annotations

import math
import re

_SIZES = {
    "": 1, "B": 1,
    "K": 1000, "KB": 1000, "M": 1000**2, "MB": 1000**2, "G": 1000**3, "GB": 1000**3, "T": 1000**4, "TB": 1000**4,
    "KI": 1024, "KIB": 1024, "MI": 1024**2, "MIB": 1024**2, "GI": 1024**3, "GIB": 1024**3, "TI": 1024**4, "TIB": 1024**4,
}  # fmt: skip
_DURATIONS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_CPU = re.compile(r"(\d+(?:\.\d+)?)(m?)")

SIZE_ALLOWED = 'bytes, or a number with a unit: "512MiB", "2G"'
DURATION_ALLOWED = 'seconds, or a number with a unit: "500ms", "30s", "5m", "1h30m"'
CPU_ALLOWED = 'cores, or thousandths of one: 0.5, "250m"'


def parse_size(value: object) -> int:
    """Return bytes; decimal units are powers of 1000, binary ones (`Ki`, `MiB`) of 1024.

    Raises:
        ValueError: with a sentence that says what is allowed.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    factor = _SIZES.get(match[2].upper()) if match else None
    size = float(match[1]) * factor if match and factor else math.inf
    if size == math.inf:
        raise ValueError(f"is not a size; allowed: {SIZE_ALLOWED}")
    return round(size)


def parse_duration(value: object) -> float:
    """Return seconds.

    Raises:
        ValueError: with a sentence that says what is allowed.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf"):
        return float(value)
    if isinstance(value, str):
        text = value.strip()
        seconds = math.inf
        parts = _DURATION_PART.findall(text)
        if parts and "".join(number + unit for number, unit in parts) == text:
            seconds = float(sum(float(number) * _DURATIONS[unit] for number, unit in parts))
        elif re.fullmatch(r"\d+(\.\d+)?", text):
            seconds = float(text)
        if seconds < math.inf:
            return seconds
    raise ValueError(f"is not a duration; allowed: {DURATION_ALLOWED}")


def parse_cpu(value: object) -> float:
    """Return cores.

    Raises:
        ValueError: with a sentence that says what is allowed.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf"):
        return float(value)
    match = _CPU.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"is not a number of cores; allowed: {CPU_ALLOWED}")
    return float(match[1]) * (0.001 if match[2] else 1)


def show_size(size: int) -> str:
    """Return a size for people: `1.5GiB`."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.4g}{unit}"
        value /= 1024
    return f"{value:.4g}TiB"


def show_duration(seconds: float) -> str:
    """Return a duration for people: `350ms`, `12s`, `3m20s`, `2h5m`, `4d3h`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    for unit, size, lower, lower_size in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // lower_size
            return f"{whole // size}{unit}" + (f"{rest}{lower}" if rest else "")
    return f"{whole}s"
