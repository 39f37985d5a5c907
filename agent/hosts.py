"""Keeps the names and addresses of the cluster's nodes in a block of ours in /etc/hosts, so that they resolve before any DNS does.

What is outside of the block is the operator's: it stays byte for byte as it is, and what stands above the block wins.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from gestalt.model import Peer

from .board import Board
from .desired import Desired
from .disk import Disk

log = logging.getLogger(__name__)

BEGIN = b"# >>> nodes of the Gestalt cluster; gestalt-agent keeps the lines down to the next mark"
END = b"# <<< nodes of the Gestalt cluster"

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NAME_MAX = 253
_LOCAL = re.compile(r"(?:.*\.)?(?:localhost|localdomain|broadcasthost)|ip6-.*|[0-9.]+", re.IGNORECASE)


def with_block(content: bytes, peers: Iterable[Peer]) -> bytes:
    """Return the content of a hosts file with these peers in the one block, and the rest as it is; without peers there is no block.

    A block stays where it is; a new one comes last. Names that are none, or that mean this machine everywhere, are left out.
    Marks without their partner are removed, the lines around them are not.
    """
    lines = content.split(b"\n")
    lines = [*(line + b"\n" for line in lines[:-1]), *lines[-1:]]
    begins, ours = _blocks(lines)
    block = _block(peers)
    rest = [b"" if number in ours else line for number, line in enumerate(lines)]
    if not begins:
        gap = b"\n" if block and rest[-1] else b""  # the last line lacks its end
        return b"".join(rest) + gap + block
    return b"".join(rest[: begins[0]]) + block + b"".join(rest[begins[0] :])


def _blocks(lines: list[bytes]) -> tuple[list[int], set[int]]:
    """Return the numbers of the lines at which whole blocks begin, and of all lines that are ours."""
    begins: list[int] = []
    ours: set[int] = set()
    begin: int | None = None
    for number, line in enumerate(lines):
        match line.strip():
            case mark if mark == BEGIN:
                begin = number
                ours.add(number)
            case mark if mark == END:
                ours.update(range(number if begin is None else begin, number + 1))
                begins += [begin] if begin is not None else []
                begin = None
    return begins, ours


def _block(peers: Iterable[Peer]) -> bytes:
    lines = sorted({(peer.name, peer.address) for peer in peers if is_usable(peer.name)})
    if not lines:
        return b""
    return b"\n".join((BEGIN, *(f"{address}\t{name}".encode("ascii") for name, address in lines), END)) + b"\n"


def is_usable(name: str) -> bool:
    """Whether a name is a host name of one machine; "localhost" and its like are nobody's."""
    return len(name) <= _NAME_MAX and _NAME.fullmatch(name) is not None and _LOCAL.fullmatch(name) is None


class Hosts:
    """Owns the block. Nothing is taken out of it before the first full state of the current epoch, nor while its leader is recovering.

    Args:
        path: of the hosts file, which has to be there.
        node: the id of this node, which is no peer of its own.
        disk: does the work.
        board: told when it cannot be done.
    """

    name = "hosts"

    def __init__(self, path: Path, node: str, disk: Disk, board: Board) -> None:
        self._path = path
        self._node = node
        self._disk = disk
        self._board = board
        self._peers: Mapping[str, Peer] = {}
        self._is_final = False
        self._work: set[asyncio.Task[None]] = set()

    def set_desired(self, desired: Desired) -> None:
        """Take over what is wanted. Returns at once."""
        before = (self._peers, self._is_final)
        self._is_final = desired.complete and not desired.state.recovering
        self._peers = desired.state.peers if self._is_final else {**self._peers, **desired.state.peers}
        if before != (self._peers, self._is_final):
            task = asyncio.create_task(self.ensure(), name="hosts")
            self._work.add(task)
            task.add_done_callback(self._work.discard)

    async def ensure(self) -> None:
        """Have the block list the peers. Idempotent; what cannot be done is told on the board, and tried again in the next round."""
        peers = [peer for node, peer in self._peers.items() if node != self._node]
        if not peers and not self._is_final:
            return
        try:
            if await self._disk.edit(self._path, lambda content: with_block(content, peers)):
                log.info("%s lists %d nodes of the cluster", self._path, len(peers))
            self._board.set_problems(self.name, ())
        except OSError as error:
            self._board.set_problems(self.name, (f"the names of the nodes cannot be written to {self._path}: {error.strerror}",))

    async def close(self) -> None:
        """Let go; the block stays."""
        await asyncio.gather(*self._work, return_exceptions=True)
