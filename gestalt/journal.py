"""What the journal takes, sent at once and without waiting: entries of named fields, and lines.

The format is journald's own, a datagram for each entry: https://systemd.io/JOURNAL_NATIVE_PROTOCOL
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterable
from pathlib import Path

SOCKET = Path("/run/systemd/journal/socket")


class Journal:
    """A way to journald, which may come and go meanwhile."""

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)

    def send(self, fields: Iterable[tuple[str, str]]) -> None:
        """Have an entry written.

        Raises:
            OSError: it was not taken: nobody listens, or too much waits there already.
        """
        entry = encode(fields)
        try:
            self._socket.sendto(entry, self._path)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._send_file(entry)

    def _send_file(self, entry: bytes) -> None:
        """Hand over what is too long for a datagram as a file that nobody can change any more."""
        file = os.memfd_create("journal-entry", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        try:
            with open(file, "wb", buffering=0, closefd=False) as writer:
                rest = memoryview(entry)
                while rest:
                    rest = rest[writer.write(rest) :]
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, file.to_bytes(4, "little"))
            self._socket.sendmsg([b""], [rights], 0, self._path)
        finally:
            os.close(file)

    def fileno(self) -> int:
        """Return the descriptor that entries are sent by."""
        return self._socket.fileno()

    def close(self) -> None:
        """Send nothing any more."""
        self._socket.close()


class Stream:
    """Standard error, where that is a stream to journald. Nobody is kept waiting by it, whatever journald does."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=os.dup(descriptor))
        self._is_torn = False

    def write(self, lines: str) -> bool:
        """Write whole lines; return whether all of it was taken. What was taken of a part is ended before the next lines."""
        data = b"\n" * self._is_torn + lines.encode(errors="backslashreplace")
        try:
            taken = self._socket.send(data, socket.MSG_DONTWAIT)
        except OSError:
            return False
        self._is_torn = not data[:taken].endswith(b"\n")
        return taken == len(data)

    def fileno(self) -> int:
        """Return the descriptor that lines are written to."""
        return self._socket.fileno()

    def close(self) -> None:
        """Write nothing any more; standard error itself stays."""
        self._socket.close()


def encode(fields: Iterable[tuple[str, str]]) -> bytes:
    """Return an entry. A value cannot begin a field of its own, whatever is in it."""
    return b"".join(_field(name, value.encode(errors="backslashreplace")) for name, value in fields)


def _field(name: str, value: bytes) -> bytes:
    if b"\n" not in value:
        return b"%s=%s\n" % (name.encode(), value)
    return b"%s\n%s%s\n" % (name.encode(), len(value).to_bytes(8, "little"), value)
