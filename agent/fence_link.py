"""The agent's side of the socket of gestalt-fence: an open connection says that the agent runs, and tells how the node stands."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

from gestalt import __version__
from gestalt.clock import monotonic

from .board import Board

log = logging.getLogger(__name__)

FIRST_ANSWER = 1.0
BEARABLE = 1.0
"""Seconds for which the fence may be away without being told of: so long does a restart of it take."""

BACK_OFF = 0.2
ANSWER_LIMIT = 5.0
SILENT = "the fence does not answer: exclusive instances cannot start"


class FenceLink:
    """Keeps the connection, or keeps trying, and puts the node's incarnation and the fence's problems on the board."""

    name = "fence"

    def __init__(self, path: Path, node_id: str, board: Board) -> None:
        self._path = path
        self._node_id = node_id
        self._board = board
        self._task: asyncio.Task[None] | None = None
        self._heard = asyncio.Event()
        self._since = monotonic()
        self.answers = False

    async def ensure(self) -> None:
        """Have the connection, or be trying; the first time, wait a moment for what the fence says. Idempotent."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="fence link")
            try:
                async with asyncio.timeout(FIRST_ANSWER):
                    await self._heard.wait()
            except TimeoutError:
                log.warning("%s", SILENT)

    async def close(self) -> None:
        """Hang up: to the fence, the agent has ended."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    def summary(self) -> str:
        return f"incarnation {self._board.incarnation}" if self.answers else "no fence"

    async def _run(self) -> None:
        while True:
            try:
                await self._hold()
            except (OSError, ValueError, KeyError, TypeError, AttributeError, TimeoutError) as error:
                log.debug("%s: %r", SILENT, error)
            if self.answers:
                self.answers, self._since = False, monotonic()
                log.warning("the fence hung up")
            if monotonic() - self._since >= BEARABLE:
                self._board.set_problems(self.name, (SILENT,))
            await asyncio.sleep(BACK_OFF)

    async def _hold(self) -> None:
        """Hold one connection to its end.

        Raises:
            OSError, TimeoutError: there is no fence, or it does not answer.
            ValueError, KeyError, TypeError, AttributeError: what it says cannot be understood.
        """
        async with asyncio.timeout(ANSWER_LIMIT):
            reader, writer = await asyncio.open_unix_connection(self._path)
        try:
            writer.write(json.dumps({"hello": {"version": __version__}}).encode() + b"\n")
            async with asyncio.timeout(ANSWER_LIMIT):
                line = await reader.readline()
            while line:
                self._take(json.loads(line))
                line = await reader.readline()
        finally:
            writer.close()

    def _take(self, state: dict[str, Any]) -> None:
        """Take over what the fence says. The incarnation stays what it was while there is none: only another one is news."""
        incarnation, problem = int(state["incarnation"]), str(state["problem"])
        if state["node_id"] != self._node_id:
            problem = f"it is that of another node ({state['node_id']}): compare node_id in agent.yaml and fence.yaml"
        elif incarnation:
            self._board.set_incarnation(incarnation)
        self.answers = True
        self._board.set_problems(self.name, (f"the fence: {problem}",) if problem else ())
        self._heard.set()
