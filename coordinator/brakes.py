"""What keeps the leader from replacing too much: pure values that are told the time.

Three brakes: an operator's pause, the leader's doubt in itself when most nodes vanish at once, and a limit on replacements a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, field

FEW = 3
"""With fewer nodes than this, losing most of them proves nothing."""
WINDOW = 60.0
"""Seconds within which nodes vanish "at once"."""
UNLIMITED = 1_000_000


@dataclass(slots=True)
class Doubt:
    """The leader's doubt in itself: begins when more than `share` of the nodes that were there within the last minute are gone.

    It ends when so many are back that it would not have begun, or when an operator confirms the losses. `base`: the nodes
    that were there when it began, empty = there is no doubt. `noted`: it is durable.
    """

    share: float = 0.5
    base: frozenset[str] = frozenset()
    noted: bool = False
    _seen: dict[str, float] = field(default_factory=dict)

    def remember(self, nodes: Iterable[str], now: float) -> None:
        """Count these nodes as there until now, as a new leader does with those whose loss nobody noted."""
        self._seen.update(dict.fromkeys(nodes, now))

    def assess(self, known: Set[str], present: Set[str], now: float) -> bool:
        """Take in which of the known nodes are members now; return whether there is doubt."""
        self._seen = {node: now if node in present else at for node, at in self._seen.items() if node in known}
        self._seen |= dict.fromkeys(present, now)
        recent = frozenset(node for node, at in self._seen.items() if at > now - WINDOW)
        base = self.base & known if self.base else recent
        self.base = base if self._is_much(base, present) else frozenset()
        return bool(self.base)

    def _is_much(self, base: Set[str], present: Set[str]) -> bool:
        return len(base) >= FEW and len(base - present) > self.share * len(base)

    def committed(self, noted: bool, ours: bool) -> bool:
        """Take note of a commit; return whether an operator confirmed the losses by it: only one that takes a noted doubt away does.

        Args:
            noted: whether the doubt is durable after that commit.
            ours: whether the leader wrote it, which knows better by now.
        """
        was_noted, self.noted = self.noted, noted
        return was_noted and not noted and not ours and bool(self.base)

    def confirm(self, present: Set[str]) -> None:
        """Believe in the losses: what is gone was not there a minute ago."""
        self.base = frozenset()
        self._seen = {node: at for node, at in self._seen.items() if node in present}

    def sentence(self, present: Set[str]) -> str:
        """Say what is doubted; empty when nothing is."""
        if not self.base:
            return ""
        gone = len(self.base - present)
        return (
            f"{gone} of {len(self.base)} nodes vanished at once: nothing is replaced until they are back,"
            " or an operator confirms it: gestaltctl cluster resume"
        )


@dataclass(slots=True)
class Allowance:
    """How many replacements may begin: `rate` a second, saved up for one second at most. 0 = no limit."""

    rate: float = 50.0
    _left: float = -1.0
    _at: float = 0.0

    def left(self, now: float) -> int:
        """Return how many may begin now."""
        if not self.rate:
            return UNLIMITED
        full = max(self.rate, 1.0)
        self._left = full if self._left < 0 else min(full, self._left + (now - self._at) * self.rate)
        self._at = now
        return int(self._left)

    def take(self, count: int) -> None:
        self._left = max(0.0, self._left - count) if self.rate else self._left

    @property
    def wait(self) -> float:
        """Seconds until one more may begin."""
        return max(0.01, (1.0 - self._left) / self.rate) if self.rate else 0.0


@dataclass(slots=True)
class Brakes:
    """All brakes of a leader. `cut_off`: why it believes that it is itself cut off, empty = it does not.

    `recovering`: why it must not judge what is lost, since its state was restored; empty = it may. `refresh` takes in what was told
    of nodes but not judged yet: to be called right before anybody acts on losses.
    """

    doubt: Doubt = field(default_factory=Doubt)
    allowance: Allowance = field(default_factory=Allowance)
    held: str = ""
    cut_off: str = ""
    recovering: str = ""
    refresh: Callable[[], None] = lambda: None

    def why_not(self, paused: str) -> str:
        """Return why nothing is replaced now; empty when it is."""
        return f"replacement is paused {paused}" if paused else self.cut_off or self.held or self.recovering


def cut_off(members: int, unreachable: int) -> str:
    """Return why the leader must be the one that is cut off; empty when it is not.

    Args:
        members: nodes whose membership stands and whose agents run.
        unreachable: those of them whose stream is missing for too long.
    """
    if members < FEW or unreachable * 2 <= members:
        return ""
    return f"{unreachable} of {members} nodes are alive, but do not reach this coordinator: it is the one that is cut off"
