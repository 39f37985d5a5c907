"""A watchdog of the kernel: its device, its time-out, and the note on disk that it was left ticking. All of it may block.

The numbers are those of <linux/watchdog.h>, the rules those of Documentation/watchdog/watchdog-api.rst in the kernel: opening starts the
timer, writing anything feeds it, and closing stops it only after a 'V' was written.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
from collections.abc import Callable
from pathlib import Path

from gestalt.clock import boottime
from gestalt.files import write_atomic

log = logging.getLogger(__name__)

SHORTEST = 1
"""Seconds: a watchdog counts whole ones."""

_WRITE, _READ = 1, 2
_MISC, _MISC_WATCHDOG = 10, 130
_MAGICCLOSE = 0x0100
_NO_SUCH_CALL = (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL)
_INT = struct.Struct("i")
_INFO = struct.Struct("II32s")


def _request(direction: int, number: int, size: int) -> int:
    """Return the number of an ioctl as <asm-generic/ioctl.h> makes it, of the family 'W'."""
    return direction << 30 | size << 16 | ord("W") << 8 | number


GETSUPPORT = _request(_READ, 0, _INFO.size)
SETTIMEOUT = _request(_READ | _WRITE, 6, _INT.size)
GETTIMEOUT = _request(_READ, 7, _INT.size)


class Marker:
    """Says on disk, for this boot only, which device ticks because of us."""

    def __init__(self, folder: Path, boot: str) -> None:
        self._path = folder / "watchdog"
        self._boot = boot

    def read(self) -> str:
        """Return the path of the device; nothing: none is ticking because of us."""
        try:
            boot, _, path = self._path.read_text(encoding="utf-8").rstrip("\n").partition("\n")
        except (OSError, ValueError):
            return ""
        return path if boot == self._boot else ""

    def write(self, path: str) -> None:
        """Note it.

        Raises:
            OSError: it is not noted.
        """
        write_atomic(self._path, f"{self._boot}\n{path}\n".encode(), mode=0o600)

    def remove(self) -> None:
        """Forget it.

        Raises:
            OSError: it is there still.
        """
        self._path.unlink(missing_ok=True)


class Device:
    """Opened by the first feed. `timeout`: seconds without a feed after which the machine resets; `note`: what is not as it should be.

    `armed`: it ticks since this life opened it, whether or not it is open now.
    """

    def __init__(self, path: str, marker: Marker, wanted: int) -> None:
        self.path = path
        self._marker = marker
        self._wanted = wanted
        self._file = -1
        self.timeout = float(SHORTEST)
        self.note = ""
        self.armed = False

    @property
    def is_open(self) -> bool:
        return self._file >= 0

    def feed(self, deadline: float) -> float | None:
        """Open it if it is not open, and feed it; return when, in seconds since boot, or None: `deadline` had passed, it was left alone.

        Raises:
            OSError: it was not fed, and why; it is closed then, but goes on ticking if it did.
        """
        now = boottime()
        if now >= deadline:
            return None
        if not self.is_open:
            self._open()
        try:
            os.write(self._file, b".")
        except OSError as error:
            self._close()
            raise OSError(error.errno, f"{self.path} cannot be fed: {error.strerror}") from error
        return now

    def disarm(self) -> None:
        """Have it stop, also one that a former life left ticking; then nothing is noted any more. Idempotent.

        Raises:
            OSError: it ticks still, perhaps.
        """
        if not self.armed and not self._marker.read():
            return
        try:
            if not self.is_open:
                self._file = _opened(self.path)
            os.write(self._file, b"V")
            log.info("the watchdog %s is disarmed", self.path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EBUSY):
                raise
            log.info("the watchdog %s was armed, and is nobody's of ours any more: %s", self.path, error.strerror)
        finally:
            self._close()
        self.armed = False
        self._marker.remove()

    def _open(self) -> None:
        if is_for_ever(self.path):
            raise OSError(errno.EPERM, f"{self.path} is not used: its driver lets nobody disarm it (nowayout)")
        self._file = _opened(self.path)
        self.armed = True
        found = self._set_timeout()
        self.timeout = float(SHORTEST if found is None else found)
        try:
            self._marker.write(self.path)
        except OSError as error:
            self.disarm()
            raise OSError(error.errno, f"{self.path} is not used: the disk does not take that it is: {error.strerror}") from error
        self.note = self._shortcomings(found)
        log.info("the watchdog %s is armed: the machine resets when it is not fed for %s s", self.path, "?" if found is None else found)

    def _close(self) -> None:
        if self.is_open:
            os.close(self._file)
            self._file = -1

    def _set_timeout(self) -> int | None:
        """Have it wait as long as is wanted, or nearly; return how long it waits, None: nobody knows."""
        if (present := self._timeout()) is not None:
            set_nearest(self._wanted, present, lambda length: bool(self._call(SETTIMEOUT, length)))
        return self._timeout()

    def _timeout(self) -> int | None:
        found = self._call(GETTIMEOUT, 0)
        return _INT.unpack(found)[0] if found else None

    def _call(self, request: int, value: int) -> bytes:
        """Return what the driver answers; nothing: it does not do that."""
        try:
            return fcntl.ioctl(self._file, request, _INT.pack(value))
        except OSError as error:
            if error.errno not in _NO_SUCH_CALL:
                log.info("the watchdog %s: ioctl %#x: %s", self.path, request, error)
            return b""

    def _shortcomings(self, timeout: int | None) -> str:
        if timeout is None:
            return f"{self.path} does not say after what time it resets the machine: is it a watchdog?"
        if timeout > self._wanted:
            return f"{self.path} resets the machine after {timeout} s only; {self._wanted} s, lease and kill budget, are too short for it"
        try:
            options = _INFO.unpack(fcntl.ioctl(self._file, GETSUPPORT, bytes(_INFO.size)))[0]
        except OSError:
            return ""
        return "" if options & _MAGICCLOSE else f"{self.path} stops when a fence dies: it guards from one that hangs only"


def is_for_ever(path: str, devices: Path = Path("/sys")) -> bool:
    """Whether the driver goes on after an orderly close (`nowayout`), as sysfs says. `/dev/watchdog` is watchdog0 by its old number."""
    try:
        number = Path(path).stat().st_rdev
        major, minor = os.major(number), os.minor(number)
        old = (major, minor) == (_MISC, _MISC_WATCHDOG)
        place = devices / ("class/watchdog/watchdog0" if old else f"dev/char/{major}:{minor}")
        return (place / "nowayout").read_text(encoding="ascii").strip() == "1"
    except (OSError, ValueError):
        return False


def set_nearest(wanted: int, present: int, takes: Callable[[int], bool]) -> None:
    """Try times from `wanted` on, in direction of what it is at present, until the driver takes one."""
    step = 1 if present > wanted else -1
    next((length for length in range(wanted, present, step) if takes(length)), None)


def _opened(path: str) -> int:
    """Open it for writing; never wait for that.

    Raises:
        OSError: it cannot be opened, and why.
    """
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        busy = "another program has it, systemd's RuntimeWatchdogSec or a watchdog daemon"
        reason = busy if error.errno == errno.EBUSY else error.strerror
        raise OSError(error.errno, f"{path} cannot be used: {reason}") from error
