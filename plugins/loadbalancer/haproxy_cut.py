"""Ends connections to machines that do not answer any more, in the kernel.

HAProxy repeats a request whose connection broke on another server, but one that it is told to end by `shutdown sessions` it gives
up; and a peer that vanished breaks nothing. So the break is made here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from gestalt import shell

from .haproxy_servers import Endpoint, Key
from .haproxy_socket import ask, batches

log = logging.getLogger(__name__)

_AT_ONCE = 100
_LIMIT = 5.0


class DeadEnds:
    """Remembers what was ended, so that each loss is dealt with once. `socket`: of HAProxy's worker."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._ended: dict[Key, Endpoint] = {}

    async def end(self, dead: Mapping[Key, Endpoint]) -> None:
        """End what waits for these servers; those that are not among them any more are forgotten.

        Raises:
            DriverUnavailable: HAProxy does not answer; call again.
        """
        new = {key: endpoint for key, endpoint in dead.items() if self._ended.get(key) != endpoint}
        if new and not await cut_connections(new.values()):
            for batch in batches([f"shutdown sessions server {backend}/{server}" for backend, server in sorted(new)]):
                await ask(self._socket, batch)
        if new:
            log.info("connections to %s were ended: nobody is there any more", ", ".join(sorted(server for _, server in new)))
        self._ended = dict(dead)


async def cut_connections(endpoints: Iterable[Endpoint]) -> bool:
    """Abort all TCP connections of this machine to these endpoints, whoever has them; say whether none is left.

    Idempotent. False where the kernel cannot do it (CONFIG_INET_DIAG_DESTROY) or we are not root.
    """
    ordered = sorted(set(endpoints))
    for first in range(0, len(ordered), _AT_ONCE):
        choice = list(_choice(ordered[first : first + _AT_ONCE]))
        await _sockets("-K", choice)
        left = await _sockets("-O", choice)
        if left is None or left:
            log.warning("connections to machines that are gone could not be aborted: %s", left or "ss does not work")
            return False
    return True


def _choice(endpoints: Iterable[Endpoint]) -> Iterator[str]:
    """Yield the words by which `ss` finds connections to any of them."""
    for number, (address, port) in enumerate(endpoints):
        if number:
            yield "or"
        yield "dst"
        yield f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


async def _sockets(action: str, choice: list[str]) -> str | None:
    """Have `ss` show or end them; None when it does not work."""
    try:
        done = await shell.run(("ss", "-t", "-n", "-H", action, *choice), limit=_LIMIT)
    except (OSError, shell.CommandTimedOut) as error:
        log.warning("ss: %s", error)
        return None
    return done.stdout.decode().strip() if done.ok else None
