"""Where ZooKeeper's servers are, as they said last, kept on disk: the settings say it as it was at the beginning."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gestalt.addresses import load_addresses
from gestalt.files import write_atomic

from .client import Watch, Zk, set_hosts
from .ensemble import CONFIG, hosts_of, parse_ensemble

if TYPE_CHECKING:
    from .ops import Stat

log = logging.getLogger(__name__)


def kept_in(folder: Path | None) -> Path | None:
    """Return the file in a daemon's folder that keeps them."""
    return folder / "zookeeper.json" if folder is not None else None


class KnownServers:
    """The servers to connect to: those that ZooKeeper named last, and in turn with them, while they do not answer, those of the settings.

    `file`: where they are kept; None = nowhere.
    """

    def __init__(self, configured: Sequence[str], file: Path | None) -> None:
        self._configured = tuple(configured)
        self._file = file
        self._learned = load_addresses(file) if file is not None else ()
        self._ask_configured = False

    @property
    def hosts(self) -> tuple[str, ...]:
        """Where to connect to now."""
        return self._configured if self._ask_configured or not self._learned else self._learned

    def failed(self) -> None:
        """None of `hosts` answered: try the others the next time."""
        self._ask_configured = not self._ask_configured

    def follow(self, zk: Zk) -> Watch:
        """From now on, and as long as the session lasts, go where ZooKeeper's servers go."""

        def told(found: tuple[bytes, Stat] | None) -> None:
            if found is not None and (hosts := hosts_of(parse_ensemble(found[0]), self._configured)):
                set_hosts(zk, hosts)
                self._learn(hosts)

        return zk.watch(CONFIG, told)

    def _learn(self, hosts: tuple[str, ...]) -> None:
        self._ask_configured = False
        if hosts == self._learned:
            return
        log.info("ZooKeeper's servers are now %s", ", ".join(hosts))
        self._learned = hosts
        asyncio.get_running_loop().run_in_executor(None, self._keep)

    def _keep(self) -> None:
        """Have them on disk, which may take a while; what cannot be kept is known while we run, and learned again after."""
        if self._file is None:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._file, json.dumps(self._learned) + "\n")
        except OSError as error:
            log.error("%s cannot be written: %s", self._file, error)
