"""What keeps instances from being placed, as a value: people read it as a sentence, programs its fields."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

CONSTRAINT, CPU, MEMORY, DISK, PIDS, DEVICE = "constraint", "cpu", "memory", "disk", "pids", "device"
PORT, POOL, RUNTIME, NOT_READY, APART_FROM, MIGRATION = "port", "pool", "runtime", "not-ready", "apart-from", "migration"
WORDS = (NOT_READY, MIGRATION, APART_FROM, POOL, RUNTIME, CONSTRAINT, CPU, MEMORY, DISK, PIDS, DEVICE, PORT)
"""What an obstacle is, for programs: a word never changes what it means. In the order in which obstacles are looked at, but for the last
of all, which are constraints on how instances are distributed."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a node cannot take an instance.

    `kind`: what nodes that are ruled out by the same have in common, in words that follow "2 nodes". `text`: what is so of this node, in
    words that follow its name. `lack`: how far it is from being taken, as a share of what is asked for; infinite when nothing comes near.
    `help`: what could be asked for instead, so that it would fit; empty = nothing.

    For programs: `word`: one of `WORDS`. `subject`: which constraint, device, port, pool, runtime or app it is; empty where there is only
    one. `has`, `asked`: what the node has and what is asked for, numbers without units; empty = that is not a thing one can have.
    `remedy`: what an operator could do to the node; empty = nothing that is known.
    """

    kind: str
    text: str
    lack: float = field(default=float("inf"), compare=False)
    help: str = ""
    word: str = NOT_READY
    subject: str = ""
    has: str = ""
    asked: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What rules out `nodes` nodes, and which of them comes nearest. `obstacle`: that node's."""

    nodes: int
    nearest: str
    obstacle: Obstacle

    @property
    def kind(self) -> str:
        return self.obstacle.kind

    @property
    def text(self) -> str:
        return self.obstacle.text

    @property
    def help(self) -> str:
        """What would help, as a clause; empty when nothing that is known would."""
        return f"{self.obstacle.help} would fit" if self.obstacle.help else self.obstacle.remedy

    @property
    def sentence(self) -> str:
        """What it is, with the nearest node and what would fit instead; to be put after a number of nodes."""
        kind = self.kind if self.text == self.kind else f"{self.kind} ({self.nearest} {self.text})"
        return kind + self.hint

    @property
    def hint(self) -> str:
        return f", {self.help}" if self.obstacle.help else ""


@dataclass(frozen=True, slots=True)
class Shortage:
    """So many instances have no place, and what rules out which nodes: the most common first, each node counted once. False if all have.

    `told`: the sentence, where it says more than what rules nodes out.
    """

    missing: int = 0
    refusals: tuple[Refusal, ...] = ()
    told: str = ""

    def __bool__(self) -> bool:
        return self.missing > 0

    def __str__(self) -> str:
        """Return it as a sentence; empty when nothing is missing."""
        if not self.missing or self.told:
            return self.told
        if not self.refusals:
            return "no node has joined yet"
        first = self.refusals[0]
        if len(self.refusals) == 1 and first.nodes == 1:
            return f"node {first.nearest} {first.text}" + first.hint
        return "; ".join(f"{item.nodes} node{'s' if item.nodes > 1 else ''}: {item.sentence}" for item in self.refusals)


ENOUGH = Shortage()

Why = Shortage | str
"""Why instances are not there: for want of places, or for a reason that no node has anything to do with. Empty or false = they are."""


def counted(found: Iterable[tuple[str, Obstacle]]) -> tuple[Refusal, ...]:
    """Count nodes, by name, by what rules them out: the most common first, with the node of each that comes nearest."""
    kinds: dict[str, list[tuple[str, Obstacle]]] = {}
    for node, obstacle in found:
        kinds.setdefault(obstacle.kind, []).append((node, obstacle))
    result = []
    for items in sorted(kinds.values(), key=lambda items: -len(items)):
        node, nearest = min(items, key=lambda item: (item[1].lack, item[0]))
        result.append(Refusal(len(items), node, nearest))
    return tuple(result)


def together(shortages: Iterable[Shortage]) -> Shortage:
    """Return the shortages of several groups of nodes, of which no two have a node in common, as one."""
    missing, kinds = 0, dict[str, Refusal]()
    for shortage in shortages:
        missing += shortage.missing
        for item in shortage.refusals:
            before = kinds.get(item.kind)
            nearer = item if before is None or item.obstacle.lack < before.obstacle.lack else before
            kinds[item.kind] = replace(nearer, nodes=item.nodes + (before.nodes if before else 0))
    return Shortage(missing, tuple(sorted(kinds.values(), key=lambda item: -item.nodes)))
