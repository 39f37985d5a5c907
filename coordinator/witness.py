"""What this coordinator has itself seen of the cluster's state, on its own disk: the store must never say less.

ZooKeeper may be wiped, or put back to an old copy of its data. Who would lead from that would undo what was acknowledged, and have nodes
remove what they run. So nobody stands for leadership on a state that is older than what it remembers, or of another history, unless that
state was restored on purpose: a restore makes a new history with an epoch above all that were seen.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from gestalt.config import CoordinatorSettings
from gestalt.errors import GestaltError, Kind
from gestalt.files import write_atomic
from gestalt.zk.client import Zk, ZkError
from gestalt.zk.paths import Paths

from .store.zookeeper_znodes import Layout

log = logging.getLogger(__name__)

FILE = "seen.json"
PERIOD = 2.0
"""Seconds between two looks, each a few small reads; a change of the epoch is looked at at once."""

_HINT = "on one coordinator's machine: `gestaltctl cluster import BACKUP`, then `gestaltctl cluster recover --confirm`"


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a state is: commit `commit` of epoch `epoch`, in a history."""

    history_id: str
    epoch: int
    commit: int

    def __str__(self) -> str:
        return f"commit {self.commit} of epoch {self.epoch}, history {self.history_id[:8]}"


@dataclass(frozen=True, slots=True)
class Found:
    """What a store says of itself. `restored`: its history began with a restore."""

    mark: Mark
    restored: bool = False


def check_found(seen: Mark | None, found: Found | None) -> None:
    """Refuse a state that is not the one that we have seen, or is behind it.

    Raises:
        GestaltError: REFUSED, with the way out.
    """
    if seen is None:
        return
    if found is None:
        problem = f"ZooKeeper holds nothing of this cluster any more, which was at {seen}: it was wiped, or it is another ZooKeeper"
    elif found.mark.history_id == seen.history_id:
        if found.mark.epoch >= seen.epoch and found.mark.commit >= seen.commit:
            return
        problem = f"ZooKeeper holds an older state ({found.mark}) than this coordinator has seen ({seen}): old data was put back"
    elif found.restored and found.mark.epoch > seen.epoch:
        return
    else:
        problem = f"ZooKeeper holds another state ({found.mark}) than the one that this coordinator knows ({seen})"
    raise GestaltError(Kind.REFUSED, problem, hint=_HINT)


async def look(zk: Zk, paths: Paths) -> Found | None:
    """Return what the store in ZooKeeper says of itself; None when there is none, or only parts of one.

    Raises:
        ZkError: ZooKeeper cannot be asked.
    """
    await zk.sync(paths.root)
    epoch, head, identity = [await zk.get(path) for path in (paths.epoch, Layout(paths).head, paths.cluster)]
    if epoch is None or head is None or identity is None:
        return None
    try:
        fields = json.loads(identity[0])
        return Found(Mark(str(fields["history_id"]), int(epoch[0]), int(head[0])), bool(fields.get("restored", False)))
    except (ValueError, TypeError, KeyError):
        return None


class Witness:
    """Remembers the highest mark on disk. Without a folder it remembers nothing, and refuses nothing."""

    def __init__(self, folder: Path | None) -> None:
        """Read what an earlier life has seen.

        Raises:
            GestaltError: FAILED, when that cannot be read: what was seen must not be forgotten in silence.
        """
        self._file = folder / FILE if folder is not None else None
        self.seen = _read(self._file) if self._file is not None else None
        self._complaint = ""

    @classmethod
    def of(cls, settings: CoordinatorSettings) -> Self:
        """Return the witness of a coordinator with these settings."""
        return cls(settings.data_dir)

    async def examine(self, zk: Zk, paths: Paths) -> None:
        """Look at the store, and remember it if it may be led.

        Raises:
            GestaltError: REFUSED, when it must not be.
            ZkError: ZooKeeper cannot be asked.
        """
        if self._file is None:
            return
        found = await look(zk, paths)
        check_found(self.seen, found)
        if found is not None:
            await self._note(found.mark)

    async def follow(self, zk: Zk, paths: Paths) -> None:
        """Look again now and then, and whenever somebody takes office, as long as the session lasts."""
        changed = asyncio.Event()
        watch = zk.watch(paths.epoch, lambda _: changed.set())
        try:
            while True:
                try:
                    async with asyncio.timeout(PERIOD):
                        await changed.wait()
                except TimeoutError:
                    pass
                changed.clear()
                try:
                    await self.examine(zk, paths)
                except (GestaltError, ZkError) as error:
                    self._complain(str(error))
        finally:
            watch.close()

    def _complain(self, complaint: str) -> None:
        if complaint != self._complaint:
            log.error("what ZooKeeper holds is not remembered: %s", complaint)
        self._complaint = complaint

    async def _note(self, mark: Mark) -> None:
        assert self._file is not None
        if mark == self.seen:
            return
        try:
            await asyncio.to_thread(_write, self._file, mark)
        except OSError as error:
            self._complain(f"{self._file}: {error.strerror}")
        else:
            self.seen, self._complaint = mark, ""


def _write(file: Path, mark: Mark) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(file, json.dumps(asdict(mark), indent=2) + "\n", mode=0o600)


def _read(file: Path) -> Mark | None:
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
        return Mark(str(fields["history_id"]), int(fields["epoch"]), int(fields["commit"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise GestaltError(
            Kind.FAILED,
            f"{file} cannot be read: {error}",
            hint="if ZooKeeper holds the right state, remove the file: it is made anew then",
        ) from error
