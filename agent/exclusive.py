"""What must never run twice: when an instance of it may start, and when it must end at once. Pure, but for the interface of the fence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gestalt.model import Grant

NO_GRANT = "waits for its grant from the coordinator: it must never run twice"
SILENT = "the fence does not answer: exclusive instances cannot start"
NOT_HELD = "the fence holds no grant for it any more"
OVER = "was killed: its lease or its grant was over"
OUTDATED = "a newer grant than the one it runs under was given"


@dataclass(frozen=True, slots=True)
class Standing:
    """What the fence says of one instance. `answers`: it says it now; `held`: the generation that it holds for it, 0 = nothing.

    `fresh`: its lease leaves time to end again what is started now. `closed`: it has killed it, or is killing it.
    """

    answers: bool = False
    held: int = 0
    fresh: bool = False
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """How an instance stands with the right to run.

    `needed`: it must run under a grant that the fence holds; all else counts only then. `grant`: the generation that the coordinator gave,
    0 = none. `attempt`: for which one that was taken, 0 = for none that we know of. `refusal`: why it was not taken the last time;
    `retry_at`: when to ask again, in seconds since boot.
    """

    needed: bool = False
    grant: int = 0
    standing: Standing = Standing()
    attempt: int = 0
    refusal: str = ""
    retry_at: float = 0.0

    def covers(self, attempt: int) -> bool:
        """Whether this attempt may be started now."""
        if not self.needed:
            return True
        standing = self.standing
        return standing.answers and standing.fresh and self.attempt == attempt and 0 < self.grant == standing.held

    def obstacle(self) -> str:
        """Return why it cannot be started now, as far as is known; nothing when nobody has said no."""
        if not self.needed:
            return ""
        if not self.grant:
            return NO_GRANT
        return self.refusal if self.standing.answers else SILENT

    def void(self) -> str:
        """Return why a running attempt must end at once; nothing when it need not.

        While the fence does not answer nobody knows: then it goes on until its lease would end, which the guard sees to.
        """
        if not self.needed or not self.standing.answers:
            return ""
        if not self.standing.held:
            return NOT_HELD
        return OUTDATED if self.grant > self.standing.held else ""


class Exclusive(Protocol):
    """The fence, as far as instances need it. `FenceLink` is one."""

    def needed(self) -> bool:
        """Whether there is a fence to hold by: there is none in an appliance."""

    def standing(self, instance: str) -> Standing: ...

    def listed(self) -> Sequence[str]:
        """Return the instances that the fence holds something for, or has killed and not been handed back."""

    async def hold(self, instance: str, cgroups: Sequence[str], grant: Grant) -> str:
        """Have the fence take the grant, before anything is started in these cgroups. Return why not, or nothing. Idempotent."""

    async def release(self, instance: str) -> str:
        """Hand back what the fence holds, when nothing is left and nothing more is started. Return why not, or nothing. Idempotent."""

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Have `changed` called when any of the above may say something else."""


class NoFence:
    """Of an appliance: it is one node, so that one copy here is one copy altogether."""

    def needed(self) -> bool:
        return False

    def standing(self, instance: str) -> Standing:
        del instance
        return Standing()

    def listed(self) -> Sequence[str]:
        return ()

    async def hold(self, instance: str, cgroups: Sequence[str], grant: Grant) -> str:
        del instance, cgroups, grant
        return ""

    async def release(self, instance: str) -> str:
        del instance
        return ""

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Nothing changes."""
