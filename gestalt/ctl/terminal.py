"""The person's terminal while a command runs elsewhere: raw mode that is always undone, its size, what is typed."""

from __future__ import annotations

import asyncio
import os
import signal
import termios
import tty
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

_CHUNK = 64 * 1024


@contextmanager
def raw_mode(descriptor: int) -> Iterator[None]:
    """Hand every key to the other side; the mode of before is back afterwards, whatever happened."""
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)


def size(descriptor: int) -> tuple[int, int]:
    """Return rows and columns."""
    columns, rows = os.get_terminal_size(descriptor)
    return rows, columns


@contextmanager
def on_signals(handlers: dict[signal.Signals, Callable[[], object]]) -> Iterator[None]:
    """Have signals call these functions in the running loop for a while."""
    loop = asyncio.get_running_loop()
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


async def read_chunks(descriptor: int) -> AsyncIterator[bytes]:
    """Yield what comes in, until its end. The descriptor's own mode is not touched: others may share it."""
    while True:
        await _readable(descriptor)
        try:
            data = os.read(descriptor, _CHUNK)
        except OSError:  # the terminal is gone
            data = b""
        if not data:
            return
        yield data


async def _readable(descriptor: int) -> None:
    """Return when a read will not block."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    try:
        loop.add_reader(descriptor, lambda: None if ready.done() else ready.set_result(None))
    except PermissionError:  # a plain file, which is always readable
        return
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)
