"""Where the coordinators are, kept on disk: the settings say it as it was when the node joined, each welcome as it is now."""

from __future__ import annotations

import json
from collections.abc import Sequence

from gestalt.addresses import load_addresses
from gestalt.config import AgentSettings

from .disk import Disk


class KnownCoordinators:
    """The manager of the list. `present` is durable from the next turn on; those of the settings stay behind it, in case all moved."""

    name = "coordinators"

    def __init__(self, settings: AgentSettings, disk: Disk) -> None:
        self._settings = settings
        self._file = settings.data_dir / "coordinators.json"
        self._disk = disk
        self._kept = load_addresses(self._file)
        self.present = self._kept

    @property
    def addresses(self) -> tuple[str, ...]:
        """All that are known, the likeliest first."""
        return tuple(dict.fromkeys((*self.present, *self._settings.coordinators)))

    @property
    def configured(self) -> tuple[str, ...]:
        """All that the cluster has: as a leader said last, else as the settings say."""
        return self.present or tuple(self._settings.coordinators)

    def learn(self, addresses: Sequence[str]) -> None:
        """Take over what a leader says; a leader that says nothing changes nothing."""
        self.present = tuple(addresses) or self.present

    async def ensure(self) -> None:
        """Have it on disk.

        Raises:
            OSError: it cannot be written; what was there before is.
        """
        if self.present != self._kept:
            present = self.present
            await self._disk.write(self._file, json.dumps(present).encode())
            self._kept = present

    async def close(self) -> None:
        """Nothing to let go of."""
