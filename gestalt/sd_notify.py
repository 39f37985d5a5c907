"""What a daemon tells systemd, where it runs under systemd; elsewhere every call does nothing."""

from __future__ import annotations

import logging
import os
import socket
import time

log = logging.getLogger(__name__)


def notify(*lines: str) -> bool:
    """Send lines such as `READY=1` to the service manager, if there is one, without waiting; return whether it took them. Never fails."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return True
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.setblocking(False)
            channel.sendto("\n".join(lines).encode(), address)
    except OSError as error:
        log.warning("the service manager was not told %s: %s", lines[0], error)
        return False
    return True


def reloading() -> None:
    """Announce a reload; systemd insists on the monotonic time of it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_interval() -> float:
    """Return how often systemd wants a sign of life, in seconds; 0 = it does not."""
    for_us = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if for_us and microseconds.isdigit() else 0.0
