"""The settings of a daemon that runs: what it runs with, where new ones come from, and what is said of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from gestalt.settings_change import Change, take_over
from gestalt.settings_document import read_document, stamp_of
from gestalt.settings_shown import named

log = logging.getLogger(__name__)

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Renewal(Generic[S]):
    """What a daemon is to run with from now on, and each change with file and line of its source."""

    settings: S
    changes: list[tuple[Change, str]]


class Source(Generic[S]):
    """Settings, and the file with its drop-ins that they are from. `settings`: those that the daemon runs with."""

    def __init__(self, path: Path, read: Callable[[], S]) -> None:
        """Read them.

        Raises:
            GestaltError: they are not good, or cannot be read.
        """
        self.path = path
        self._read = read
        self._read_of = self._seen = stamp_of(path)
        self.settings = read()

    def renew(self) -> Renewal[S]:
        """Read them anew, and say what the daemon is to run with now.

        Raises:
            GestaltError: they are not good, or cannot be read, or cannot be taken over in part.
        """
        self._read_of = self._seen = stamp_of(self.path)
        document = read_document(self.path, "")
        settings, changes = take_over(self.settings, self._read())
        return Renewal(settings, [(change, document.source(change.place) or "default") for change in changes])

    def is_due(self) -> bool:
        """Whether drop-ins are not those any more that were read last, and have rested since the last look.

        To be asked again and again: who writes several of them, or one in parts, is let finish. What was refused is not due again
        before it changes.
        """
        before, self._seen = self._seen, stamp_of(self.path)
        return self._seen == before != self._read_of

    def taken(self, name: str, renewal: Renewal[S]) -> str:
        """Take note of what the daemon `name` has taken over, and tell it; return what waits for a restart, in a sentence."""
        self.settings = renewal.settings
        for change, source in renewal.changes:
            if change.live:
                log.info("taken over: %s (%s)", change, source)
            else:
                log.warning("counts after a restart of %s: %s (%s)", name, change, source)
        log.info("the settings were reloaded%s", "" if renewal.changes else ", nothing in them has changed")
        waiting = [named(change.place) for change, _ in renewal.changes if not change.live]
        return f"a restart is needed for changed settings: {', '.join(waiting)}" if waiting else ""
