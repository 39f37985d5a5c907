"""The attempts of this node: their folders, read and judged; what a dead shim left behind is cleared up on sight."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gestalt.clock import boot_id
from gestalt.config import AgentSettings
from gestalt.plugin.runtime import AttemptKey, AttemptStatus, DriverUnavailable, LaunchRefused

from .process_cgroup import kill_session
from .process_records import AttemptFolder, Fields, Labels, Records, folders, is_left_behind, judge, sweep
from .process_supervisor import Supervisor, compile_shim
from .process_threads import Threads

log = logging.getLogger(__name__)

END_LIMIT = 5.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt, as it was when it was read."""

    folder: AttemptFolder
    records: Records
    status: AttemptStatus

    @property
    def name(self) -> str:
        return self.folder.name


class AttemptStore:
    """Everything under `<data_dir>/process`. Other clusters' and nodes' folders there do not exist for it."""

    def __init__(self, settings: AgentSettings, supervisors: Mapping[str, Supervisor], threads: Threads) -> None:
        self._root = settings.data_dir / "process"
        self._cluster, self._node = settings.cluster_id, settings.node_id
        self._supervisors, self._threads = supervisors, threads
        self._boot = boot_id()

    def prepare(self) -> Path:
        """Make the place, clear up after an agent that died, compile the shim; return the compiled shim. Blocks."""
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        sweep(self._root)
        return compile_shim(self._root)

    def folder(self, key: AttemptKey) -> AttemptFolder:
        """Return where an attempt lies or would lie.

        Raises:
            LaunchRefused: the name could lead elsewhere.
        """
        if not _NAME.fullmatch(key.instance):
            raise LaunchRefused(f"{key.instance!r} cannot be the name of an instance")
        return AttemptFolder(self._root / f"gestalt-{self._cluster[:8]}-{key.instance}-{key.attempt}")

    async def all(self) -> list[Attempt]:
        found = [await self._settle(folder, records) for folder, records in await self._threads(self._read_all)]
        return [attempt for attempt in found if attempt is not None]

    async def find(self, key: AttemptKey) -> Attempt | None:
        folder = self.folder(key)
        return await self._settle(folder, await self._threads(self._read, folder))

    async def create(self, key: AttemptKey, app: str, template: str, supervisor: Supervisor, request: Fields) -> AttemptFolder:
        """Put an attempt on record, unless it is.

        Raises:
            DriverUnavailable: the disk does not take it.
        """
        labels = Labels(self._cluster, self._node, key.instance, key.attempt, app, template, supervisor.name)
        folder = self.folder(key)
        try:
            await self._threads(folder.create, labels, request)
        except OSError as error:
            raise DriverUnavailable(f"{folder.path} could not be written: {error.strerror}") from None
        return folder

    async def remove(self, attempt: Attempt) -> None:
        """Remove an attempt whose process has ended or never ran.

        Raises:
            DriverUnavailable: its shim is still at work.
        """
        await self._supervisors[attempt.records.labels.supervisor].clear(attempt.name)
        await self._threads(_delete, attempt.folder)

    def _read_all(self) -> list[tuple[AttemptFolder, Records | None]]:
        return [(folder, self._read(folder)) for folder in folders(self._root)]

    def _read(self, folder: AttemptFolder) -> Records | None:
        records = folder.read(self._boot)
        if records is None or (records.labels.cluster, records.labels.node) != (self._cluster, self._node):
            return None
        return records

    async def _settle(self, folder: AttemptFolder, records: Records | None) -> Attempt | None:
        if records is not None and is_left_behind(records, self._boot):
            await self._supervisors[records.labels.supervisor].clear(folder.name)
            await self._threads(_bury, folder, records)
        if records is None:
            return None
        return Attempt(folder, records, judge(folder.name, records, self._boot))


def _bury(folder: AttemptFolder, records: Records) -> None:
    assert records.started is not None
    kill_session(records.started.main.pid, f"GESTALT_INSTANCE={records.labels.instance}")
    try:
        folder.bury(END_LIMIT)
    except (OSError, DriverUnavailable) as error:  # removed meanwhile, or a full disk: it is judged alike without the record
        log.warning("the end of %s could not be recorded: %s", folder.name, error)


def _delete(folder: AttemptFolder) -> None:
    try:
        with folder.unsupervised(END_LIMIT):
            folder.delete()
    except FileNotFoundError:  # removed meanwhile
        return
