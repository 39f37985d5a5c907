"""A node that was away is not the first to know what it is to run: others may have been given its instances meanwhile.

After a boot, and with each new membership, nothing is started, nor started again, before the coordinator has said what is wanted. What runs
goes on. The time is bounded: a cluster that lost its power as a whole comes up without ZooKeeper and coordinators, too.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gestalt.clock import boottime

from .disk import Disk

log = logging.getLogger(__name__)

LIMIT = 15.0
"""Seconds for which the coordinator's word is waited for: leaders are elected, and agents find them, in a part of that."""

WAITS = "waits for the coordinator to say what is wanted: this node was away"


class Patience(Protocol):
    """Until when nothing is to be started, in seconds since boot; 0 = it may be. `changed` of a subscriber is called when that changes."""

    def until(self) -> float: ...

    def heard(self) -> None:
        """The coordinator said what is wanted."""

    def subscribe(self, changed: Callable[[], None]) -> None: ...


class NeverAway:
    """The patience of a node that nobody replaces: that of an appliance."""

    def until(self) -> float:
        return 0.0

    def heard(self) -> None:
        """Nothing waits for it."""

    def subscribe(self, changed: Callable[[], None]) -> None:
        """It never does."""


@dataclass(frozen=True, slots=True)
class Presence:
    """Which stay of the node in the cluster it is: of which boot, and of which membership; incarnation 0 = of none that is known."""

    boot: str
    incarnation: int = 0

    def follows(self, before: Presence | None) -> bool:
        """Tell whether the node may have been away in between."""
        if before is None:
            return False
        return self.boot != before.boot or 0 != before.incarnation != self.incarnation != 0


class Returning:
    """The manager of a node of a cluster. It keeps on disk which stay the coordinator's word was heard in last."""

    name = "returning"

    def __init__(self, file: Path, disk: Disk, boot: str, now: Callable[[], float] = boottime) -> None:
        self._file = file
        self._disk = disk
        self._now = now
        self._kept = _read(file)
        self._heard = self._kept
        self._present = Presence(boot)
        self._until = 0.0
        self._listeners: list[Callable[[], None]] = []
        self._look("it has booted")

    def until(self) -> float:
        return self._until

    def subscribe(self, changed: Callable[[], None]) -> None:
        self._listeners.append(changed)

    def member(self, incarnation: int) -> None:
        """Take note of the node's membership."""
        unknown, self._present = Presence(self._present.boot), Presence(self._present.boot, incarnation)
        if self._heard == unknown:
            self._heard = self._present
        self._look(f"it is a member anew, as incarnation {incarnation}")

    def heard(self) -> None:
        self._heard = self._present
        if self._until:
            self._until = 0.0
            self._tell()

    async def ensure(self) -> None:
        """Have it on disk.

        Raises:
            OSError: it cannot be written; what was there before is.
        """
        if self._heard is not None and self._heard != self._kept:
            kept = self._heard
            await self._disk.write(self._file, json.dumps({"boot": kept.boot, "incarnation": kept.incarnation}).encode())
            self._kept = kept

    async def close(self) -> None:
        """Nothing to let go of."""

    def _look(self, why: str) -> None:
        if self._present.follows(self._heard):
            log.warning("nothing is started until the coordinator is heard, for %g s at most: %s", LIMIT, why)
            self._until = self._now() + LIMIT
            self._tell()

    def _tell(self) -> None:
        for changed in self._listeners:
            changed()


def _read(file: Path) -> Presence | None:
    """Return what was kept; what cannot be read is as if there had been nothing: the coordinator is waited for only with a reason."""
    try:
        found = json.loads(file.read_bytes())
        return Presence(str(found["boot"]), int(found["incarnation"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.error("%s cannot be read: %s", file, error)
        return None
