"""What happened, in a bounded ring that watchers follow and resume by token."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from itertools import islice, takewhile

from gestalt.errors import Detail, GestaltError, Kind

from .records import Event

log = logging.getLogger(__name__)

LOGGED = 20
"""Of one commit so many events are in the log; who watches is told of all."""

_SUBJECTS = {"instance": "instance", "node": "node", "task": "task"}


class EventRing:
    """The newest events. A watcher that fell behind is told of the gap, never blocked for and never silently skipped."""

    def __init__(self, size: int) -> None:
        self._events: deque[Event] = deque(maxlen=size)
        self._dropped: tuple[int, int] = (0, 0)
        self._changed = asyncio.Event()

    def append(self, events: Iterable[Event]) -> None:
        """Add events in order and wake all watchers."""
        for event in events:
            if len(self._events) == self._events.maxlen:
                self._dropped = _position(self._events[0])
            self._events.append(event)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    @property
    def last(self) -> str:
        return self._events[-1].token if self._events else "0"

    async def changed(self, limit: float) -> None:
        """Return at the next event, at the latest after `limit` seconds."""
        try:
            async with asyncio.timeout(limit):
                await self._changed.wait()
        except TimeoutError:
            return

    def after(self, token: str) -> tuple[list[Event], bool]:
        """Return the kept events after a token, and whether some between are no longer kept.

        Raises:
            GestaltError: the token is malformed.
        """
        position = parse_token(token)
        newest_first = takewhile(lambda event: _position(event) > position, reversed(self._events))
        return [*newest_first][::-1], position < self._dropped

    async def watch(self, token: str, *, follow: bool) -> AsyncGenerator[tuple[list[Event], bool], None]:
        """Yield batches of events after a token, and whether there is a gap before the batch; for ever with `follow`."""
        while True:
            changed = self._changed
            events, gap = self.after(token)
            if events or gap:
                token = events[-1].token if events else token
                yield events, gap
            if not follow:
                return
            if self._changed is changed:
                await changed.wait()


def parse_token(token: str) -> tuple[int, int]:
    """Return (epoch, sequence) of a token; "0" is before everything.

    Raises:
        GestaltError: it is not a token.
    """
    epoch, dot, sequence = token.partition(".")
    if token == "0":  # noqa: S105 - a position, not a secret
        return 0, 0
    if not (dot and epoch.isascii() and epoch.isdigit() and sequence.isascii() and sequence.isdigit()):
        detail = Detail("after", f"{token!r} is not an event token", 'a token that an event carried, such as "3.117", or "0"')
        raise GestaltError(Kind.INVALID, f"after: {detail.problem}; allowed: {detail.allowed}", details=[detail])
    return int(epoch), int(sequence)


def _position(event: Event) -> tuple[int, int]:
    return event.epoch, event.sequence


def log_events(actor: str, events: Sequence[Event]) -> None:
    """Log what was changed by one commit, each event with the names of what it is about."""
    for event in islice(events, LOGGED):
        subject = _SUBJECTS.get(event.kind.partition(".")[0])
        names = {"app": event.app} | ({subject: event.subject} if subject else {})
        said = {key: name for key, name in names.items() if name}
        log.info("%s", event.message, extra={**said, "event": event.kind, "actor": actor})
    if len(events) > LOGGED:
        log.info("%d more events of the same commit are told by gestaltctl events", len(events) - LOGGED, extra={"actor": actor})
