"""What containers use, read from their cgroups: the Engine is asked once for each container, and for nothing while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from gestalt.cgroup_usage import Usage, cgroups_of, read_usage
from gestalt.plugin.runtime import AttemptKey

from .docker_containers import Container

ASKED_AT_ONCE = 16
"""So many containers that are not known yet are looked for in one round: after a restart of the agent all are new."""

Find = Callable[[AttemptKey], Awaitable[Container | None]]


class ContainerUsage:
    """Knows where the cgroups of running containers are."""

    def __init__(self, find: Find) -> None:
        self._find = find
        self._places: dict[AttemptKey, tuple[Path, ...]] = {}

    async def read(self, keys: Sequence[AttemptKey]) -> dict[AttemptKey, Usage]:
        """Return what these containers have used, as far as it can be seen; the others are forgotten.

        Raises:
            DriverUnavailable: the Engine does not answer, and some are new.
        """
        self._places = {key: self._places[key] for key in keys if key in self._places}
        unknown = [key for key in keys if key not in self._places]
        for key in unknown[:ASKED_AT_ONCE]:
            if (place := await self._locate(key)) is not None:
                self._places[key] = place
        return await asyncio.to_thread(self._read)

    async def _locate(self, key: AttemptKey) -> tuple[Path, ...] | None:
        """Return nowhere for what is in no cgroups that we see: its Engine is in another machine, say. None: it does not run yet."""
        container = await self._find(key)
        if container is None or not container["State"].get("Pid"):
            return None
        return await asyncio.to_thread(cgroups_of, container["State"]["Pid"], container["Id"])

    def _read(self) -> dict[AttemptKey, Usage]:
        found = {key: read_usage(folders) for key, folders in self._places.items() if folders}
        return {key: usage for key, usage in found.items() if usage is not None}
