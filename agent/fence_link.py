"""The agent's side of the socket of gestalt-fence: an open connection says that the agent runs, and tells how the node stands."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gestalt import __version__
from gestalt.clock import boottime, monotonic
from gestalt.model import Grant

from .board import Board
from .exclusive import SILENT, Standing
from .fence_state import LeaseState, parse_lease_state
from .ongoing import Ongoing

log = logging.getLogger(__name__)

FIRST_ANSWER = 1.0
BEARABLE = 1.0
"""Seconds for which the fence may be away without being told of: so long does a restart of it take."""

BACK_OFF = 0.2
ANSWER_LIMIT = 5.0
LINE_LIMIT = 16 * 1024**2
"""Bytes of a line: the fence lists all cgroups of everything that is held, some hundred bytes for each instance."""
NO_FENCE = "the fence does not answer"
MEMBER = "member"


class FenceLink:
    """Keeps the connection, or keeps trying, and puts the node's incarnation and the fence's problems on the board.

    `heard` is called with what the fence says of its lease, each time. `answers`: there is a connection; `member`: the node is one.
    """

    name = "fence"

    def __init__(self, path: Path, node_id: str, board: Board, heard: Callable[[LeaseState], None] = lambda lease: None) -> None:
        self._path = path
        self._node_id = node_id
        self._board = board
        self._told = heard
        self._task = Ongoing("fence link", self._run)
        self._heard = asyncio.Event()
        self._since = monotonic()
        self._writer: asyncio.StreamWriter | None = None
        self._asked = 0
        self._pending: dict[int, asyncio.Future[str]] = {}
        self._listeners: list[Callable[[], None]] = []
        self.answers = False
        self.member = False
        self.lease = LeaseState()

    async def ensure(self) -> None:
        """Have the connection, or be trying; the first time, wait a moment for what the fence says. Idempotent."""
        if self._task.begin():
            try:
                async with asyncio.timeout(FIRST_ANSWER):
                    await self._heard.wait()
            except TimeoutError:
                log.warning("%s", SILENT)

    async def close(self) -> None:
        """Hang up: to the fence, the agent has ended."""
        await self._task.end()

    def summary(self) -> str:
        return f"incarnation {self._board.incarnation}" if self.answers else "no fence"

    # What instances ask (`Exclusive`)

    def needed(self) -> bool:
        return True

    def standing(self, instance: str) -> Standing:
        held = self.lease.held.get(instance)
        fresh = boottime() + self.lease.kill < self.lease.until
        closed = instance in self.lease.closed or (held is not None and held.ending)
        return Standing(self.answers, held.generation if held else 0, fresh, closed)

    def listed(self) -> Sequence[str]:
        return (*self.lease.held, *self.lease.closed) if self.answers else ()

    async def hold(self, instance: str, cgroups: Sequence[str], grant: Grant) -> str:
        what = {"name": instance, "cgroups": list(cgroups), "grant": {"name": grant.name, "generation": grant.generation}}
        return await self._ask({"hold": what})

    async def release(self, instance: str) -> str:
        if instance not in self.lease.held and instance not in self.lease.closed:
            return ""
        return await self._ask({"release": instance})

    def subscribe(self, changed: Callable[[], None]) -> None:
        self._listeners.append(changed)

    async def extend(self, incarnation: int, sent: float) -> str:
        """Tell the fence that all coordinators promised, asked at `sent`, to replace nothing. Return why it does not count, or nothing."""
        return await self._ask({"extend": {"incarnation": incarnation, "sent": sent}})

    async def _ask(self, what: dict[str, Any]) -> str:
        if self._writer is None:
            return NO_FENCE
        self._asked += 1
        number, answer = self._asked, asyncio.get_running_loop().create_future()
        self._pending[number] = answer
        try:
            self._writer.write(json.dumps({"id": number, **what}).encode() + b"\n")
            async with asyncio.timeout(ANSWER_LIMIT):
                return str(await answer)
        except TimeoutError:
            return f"{NO_FENCE} within {ANSWER_LIMIT:g} s"
        finally:
            self._pending.pop(number, None)

    # The connection

    async def _run(self) -> None:
        while True:
            try:
                await self._hold()
            except (OSError, ValueError, KeyError, TypeError, AttributeError, TimeoutError) as error:
                log.debug("%s: %r", SILENT, error)
            if self.answers:
                self.answers, self.member, self._since = False, False, monotonic()
                log.warning("the fence hung up")
                self._tell()
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
            reader, writer = await asyncio.open_unix_connection(self._path, limit=LINE_LIMIT)
        try:
            writer.write(json.dumps({"hello": {"version": __version__}}).encode() + b"\n")
            async with asyncio.timeout(ANSWER_LIMIT):
                line = await reader.readline()
            self._writer = writer
            while line:
                self._take(json.loads(line))
                line = await reader.readline()
        finally:
            self._writer = None
            for answer in self._pending.values():
                with contextlib.suppress(asyncio.InvalidStateError):
                    answer.set_result(NO_FENCE)
            writer.close()

    def _take(self, message: dict[str, Any]) -> None:
        if "id" not in message:
            self._take_state(message)
        elif (answer := self._pending.get(message["id"])) is not None and not answer.done():
            answer.set_result(str(message["problem"]))

    def _take_state(self, state: dict[str, Any]) -> None:
        """Take over what the fence says. The incarnation stays what it was while there is none: only another one is news."""
        incarnation, problem = int(state["incarnation"]), str(state["problem"])
        if state["node_id"] != self._node_id:
            problem = f"it is that of another node ({state['node_id']}): compare node_id in agent.yaml and fence.yaml"
        elif incarnation:
            self._board.set_incarnation(incarnation)
        before = self.answers, self.lease.standing()
        self.answers, self.member = True, state["status"] == MEMBER
        self.lease = parse_lease_state(state["lease"]) if "lease" in state else LeaseState()  # of an older fence: it holds nothing
        self._told(self.lease)
        self._board.set_problems(self.name, (f"the fence: {problem}",) if problem else ())
        self._heard.set()
        if before != (self.answers, self.lease.standing()):
            self._tell()

    def _tell(self) -> None:
        for changed in self._listeners:
            changed()
