"""Where the coordinators are, kept on disk: the settings say it as it was when the node joined, each welcome as it is now."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

from gestalt.config import AgentSettings

from .disk import Disk

log = logging.getLogger(__name__)


class KnownCoordinators:
    """The manager of the list. `present` is durable from the next turn on; those of the settings stay behind it, in case all moved."""

    name = "coordinators"

    def __init__(self, settings: AgentSettings, disk: Disk) -> None:
        self._settings = settings
        self._file = settings.data_dir / "coordinators.json"
        self._disk = disk
        self._kept = self._load()
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

    def _load(self) -> tuple[str, ...]:
        try:
            found = json.loads(self._file.read_bytes())
        except FileNotFoundError:
            return ()
        except (OSError, ValueError) as error:
            log.error("%s cannot be read, the settings count: %s", self._file, error)
            return ()
        if not isinstance(found, list) or not all(isinstance(item, str) and item for item in found):
            log.error("%s holds no addresses, the settings count", self._file)
            return ()
        return tuple(found)
