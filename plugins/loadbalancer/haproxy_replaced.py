"""Workers that a reload has replaced.

They are told to stop listening, and do so in their own time; the sockets on which they listen are those of the new worker. Until
then they take requests, which go by the old configuration, and commands that are meant for the new one.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Collection
from functools import partial
from pathlib import Path

from gestalt.clock import monotonic
from gestalt.plugin.runtime import DriverUnavailable

from .haproxy_pids import end_process, uses_config
from .haproxy_servers import is_listening
from .haproxy_socket import ask, parse_processes

log = logging.getLogger(__name__)

_LIMIT = 10.0
_POLL = 0.005
_LATE_POLL = 0.5


class ReplacedWorkers:
    """Knows whether there may be some that still listen: at first, since nobody knows what was before, and after every reload."""

    def __init__(self, master_socket: Path, config: Path) -> None:
        self._master_socket = master_socket
        self._config = config
        self._is_settled = False
        self._stopped: set[int] = set()

    def expect(self, replaced_before: Collection[int]) -> None:
        """Note that a reload is about to be asked for, however that ends. Whoever is not among those replaced before is not known:
        its number may have been another's."""
        self._is_settled = False
        self._stopped.intersection_update(replaced_before)

    async def settle(self) -> None:
        """Return when none of them listens any more. One that goes on with it, or does not answer, is ended.

        That takes two looks in a row that both began after the limit: if this process was held up, the limit passes while an answer
        lies there unread; if the whole machine was, the worker has to come to it first.

        Raises:
            DriverUnavailable: the master does not answer.
        """
        end = monotonic() + _LIMIT
        suspects: set[int] = set()
        while not self._is_settled:
            is_late = monotonic() > end
            listening = {pid for pid in await self._pids() if await self._listens(pid)}
            for pid in listening & suspects:
                await self._end(pid)
            if listening <= suspects:
                self._is_settled = True
            else:
                suspects = listening if is_late else set()
                await asyncio.sleep(_LATE_POLL if is_late else _POLL)

    async def _end(self, pid: int) -> None:
        log.warning("HAProxy's worker %d was replaced and does not stop listening within %g s, so it is ended", pid, _LIMIT)
        await end_process(pid, signal.SIGKILL, partial(uses_config, pid, self._config))
        self._stopped.add(pid)

    async def _pids(self) -> tuple[int, ...]:
        try:
            return parse_processes(await ask(self._master_socket, ["show proc"])).old_workers
        except ValueError as error:
            raise DriverUnavailable(str(error)) from error

    async def _listens(self, pid: int) -> bool:
        """Ask it, unless it said once that it does not: none begins again. Silence is no proof."""
        if pid in self._stopped:
            return False
        try:
            answer = await ask(self._master_socket, [f"@!{pid} show info"])
        except DriverUnavailable as error:
            log.debug("the replaced worker %d does not say whether it listens: %s", pid, error)
            return True
        if is_listening(answer):
            return True
        if answer:
            self._stopped.add(pid)
        return False
