"""Clocks by purpose. Wall-clock time is for people alone."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path


def monotonic() -> float:
    """Seconds for deadlines, back-off and ages within one process."""
    return time.monotonic()


def boottime() -> float:
    """Seconds since boot, suspend included: for leases and leadership."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wall() -> datetime:
    """The time for people: logs, tables, certificates."""
    return datetime.now(UTC)


def boot_id() -> str:
    """The kernel's id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
