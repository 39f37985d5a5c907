"""Keeps the packets of lost nodes out of this one, as the leader wants it, and tells whom it refuses once the kernel has confirmed.

The rules lie in the kernel: they stay while the agent is away. What the desired state on disk lists is put in place before anything
starts; what it does not list is removed only after the first full state of the current epoch, and not while its leader is recovering.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress

from gestalt.model import Refused
from gestalt.shell import CommandTimedOut, run

from ..board import Board
from ..desired import Desired
from ..ongoing import Ongoing
from .ruleset import FAMILY, TABLE, judge, render

log = logging.getLogger(__name__)

LIMIT = 10.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0


class NetfilterFailed(Exception):
    """nft is not there, or did not do what it was asked; the sentence says which."""


class Netfilter:
    """The program nft. `inside` comes before its command line (`ip netns exec …`)."""

    def __init__(self, inside: Sequence[str] = ()) -> None:
        self._command = (*inside, "nft")

    async def apply(self, commands: str) -> None:
        """Carry out commands, all or none.

        Raises:
            NetfilterFailed: nothing changed, or that is not known.
        """
        code, _, complaint = await self._run("-f", "-", stdin=commands.encode())
        if code:
            raise NetfilterFailed(f"nft refuses the rules: {complaint}")

    async def listing(self) -> str:
        """Return the table as it is now, without counts; empty when there is none.

        Raises:
            NetfilterFailed: that cannot be told.
        """
        code, listing, complaint = await self._run("-s", "list", "table", FAMILY, TABLE)
        if code and "No such file or directory" not in complaint:
            raise NetfilterFailed(f"nft does not list the rules: {complaint}")
        return "" if code else listing

    async def _run(self, *arguments: str, stdin: bytes | None = None) -> tuple[int, str, str]:
        try:
            done = await run((*self._command, *arguments), limit=LIMIT, stdin=stdin, env={"LC_ALL": "C"})
        except FileNotFoundError:
            raise NetfilterFailed("there is no nft: install the package nftables") from None
        except (OSError, CommandTimedOut) as error:
            raise NetfilterFailed(f"nft: {error}") from error
        return done.code, done.stdout.decode(errors="replace"), done.complaint()


class Refusing:
    """The one task that owns the table. Inputs only wake it.

    Args:
        board: told of whom this node refuses, and of problems.
        own: the address of this node, which is never refused.
        netfilter: carries it out.
    """

    name = "refusing"

    def __init__(self, board: Board, own: str, netfilter: Netfilter | None = None) -> None:
        self._board = board
        self._own = own
        self._netfilter = netfilter or Netfilter()
        self._refused: Mapping[str, Refused] = {}
        self._is_final = False
        self._confirmed: tuple[str, str] | None = None
        self._asked = 0
        self._looked = 0
        self._failures = 0
        self._wake = asyncio.Event()
        self._progress = asyncio.Condition()
        self._task = Ongoing("refusing", self._run)

    def set_desired(self, desired: Desired) -> None:
        """Take over what is wanted. Returns at once."""
        before = (self._refused, self._is_final)
        self._is_final = desired.complete and not desired.state.recovering
        self._refused = desired.state.refused if self._is_final else {**self._refused, **desired.state.refused}
        if before != (self._refused, self._is_final):
            self._ask()

    async def ensure(self) -> None:
        """Compare what is in the kernel with what is wanted, and repair it. A failure is told on the board, and tried again soon."""
        self._task.begin()
        asked = self._ask()
        async with self._progress:
            await self._progress.wait_for(lambda: self._looked >= asked)

    async def close(self) -> None:
        """Let go; the rules stay."""
        await self._task.end()

    def _ask(self) -> int:
        self._asked += 1
        self._wake.set()
        return self._asked

    async def _run(self) -> None:
        while True:
            pause: float | None = LONGEST_PAUSE
            try:
                pause = await self._look()
            except Exception:  # a fault of ours must not leave the table without its keeper
                log.exception("the refusal of lost nodes failed")
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    async def _look(self) -> float | None:
        """Bring the kernel to what is wanted now; return after how many seconds to try again, None = when woken."""
        self._wake.clear()
        asked = self._asked
        wanted, objections = judge(self._refused, self._own)
        problems = [f"node {node} is not refused: {why}" for node, why in objections.items()]
        try:
            if wanted or self._is_final:
                await self._have(wanted)
            self._failures = 0
        except NetfilterFailed as error:
            self._fail(wanted, error, problems)
        finally:
            async with self._progress:
                self._looked = asked
                self._progress.notify_all()
        self._board.set_problems(self.name, problems)
        return min(FIRST_PAUSE * 2 ** (self._failures - 1), LONGEST_PAUSE) if self._failures else None

    async def _have(self, wanted: Mapping[str, Refused]) -> None:
        """Have the kernel refuse exactly these nodes, and say so on the board."""
        commands = render(wanted)
        if self._confirmed == (commands, "") and not wanted:
            return  # nobody is refused, and nothing of ours is there
        listing = await self._netfilter.listing()
        if self._confirmed != (commands, listing) and (wanted or listing):
            await self._netfilter.apply(commands)
            listing = await self._netfilter.listing()
            if bool(listing) != bool(wanted):
                raise NetfilterFailed("the rules were put in place and are gone already: what else manages them here?")
            log.info("refusing the packets of %s", ", ".join(f"{wanted[node].address} ({node})" for node in wanted) or "nobody")
        self._confirmed = (commands, listing)
        self._board.set_refusing({node: item.incarnation for node, item in wanted.items()})

    def _fail(self, wanted: Mapping[str, Refused], error: NetfilterFailed, problems: list[str]) -> None:
        """Claim nothing. Where nothing is to be refused, nobody needs nft."""
        self._failures += 1
        self._confirmed = None
        self._board.set_refusing({})
        if wanted:
            problems.append(f"lost nodes cannot be refused: {error}")
        log.log(logging.ERROR if wanted else logging.DEBUG, "%s", error)
