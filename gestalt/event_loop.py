"""The event loop of the daemons: asyncio's own, but for how it is told of what gRPC has done.

A thread of gRPC writes a byte into a socket for each event, and the loop takes one byte in a turn, with all events that there are. A loop
that is busy has fewer turns than there are events: bytes pile up until the socket is full, with fewer than three hundred; then that thread
waits in its write, and one event a turn is all that a whole cluster has with its leader. So all bytes but the last are taken out
first: whoever wrote them has put their events in line already.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import socket
import termios
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVarTuple

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

_Given = TypeVarTuple("_Given")
_AT_ONCE = 65536
_GRPC = "PollerCompletionQueue"


class Loop(asyncio.SelectorEventLoop):
    """An event loop that does not fall behind gRPC's events."""

    def add_reader(self, fd: FileDescriptorLike, callback: Callable[[*_Given], Any], *args: *_Given) -> None:
        """Call `callback` whenever there is something to read; gRPC's is called once for all that there is."""
        if isinstance(fd, socket.socket) and _is_of_grpc(callback):
            super().add_reader(fd, partial(_take_all, fd, partial(callback, *args)))
        else:
            super().add_reader(fd, callback, *args)


def _is_of_grpc(callback: Callable[..., Any]) -> bool:
    method = callback.func if isinstance(callback, partial) else callback
    return type(getattr(method, "__self__", None)).__name__ == _GRPC


def _take_all(waker: socket.socket, callback: Callable[[], Any]) -> None:
    """Leave one byte to be read, and have it read."""
    there = array.array("i", [0])
    fcntl.ioctl(waker, termios.FIONREAD, there)
    if there[0] > 1:
        os.read(waker.fileno(), min(there[0] - 1, _AT_ONCE))
    callback()
