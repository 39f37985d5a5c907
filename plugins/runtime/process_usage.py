"""What processes use, read from their cgroups, and where there are none from the processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gestalt.cgroup_usage import Usage, read_usage
from gestalt.plugin.runtime import AttemptKey, AttemptState, LaunchRefused

from .process_store import AttemptStore
from .process_supervisor import Supervisor
from .process_threads import Threads


@dataclass(frozen=True, slots=True)
class _Place:
    folders: tuple[Path, ...]
    main: int


class ProcessUsage:
    """Knows where the cgroups and main processes of running attempts are."""

    def __init__(self, store: AttemptStore, supervisor: Callable[[str], Supervisor], threads: Threads) -> None:
        self._store, self._supervisor, self._threads = store, supervisor, threads
        self._places: dict[AttemptKey, _Place] = {}

    async def read(self, keys: Sequence[AttemptKey]) -> dict[AttemptKey, Usage]:
        """Return what these attempts have used, as far as they run; the others are forgotten."""
        self._places = {key: self._places[key] for key in keys if key in self._places}
        for key in keys:
            if key not in self._places and (place := await self._locate(key)) is not None:
                self._places[key] = place
        return await self._threads(self._read)

    async def _locate(self, key: AttemptKey) -> _Place | None:
        try:
            attempt = await self._store.find(key)
        except LaunchRefused:
            return None
        if attempt is None or attempt.records.started is None or attempt.status.state is not AttemptState.RUNNING:
            return None
        folders = await self._supervisor(attempt.records.labels.supervisor).cgroups(attempt.name)
        return _Place(tuple(map(Path, folders)), attempt.records.started.main.pid)

    def _read(self) -> dict[AttemptKey, Usage]:
        found = {key: read_usage(place.folders, place.main) for key, place in self._places.items()}
        return {key: usage for key, usage in found.items() if usage is not None}
