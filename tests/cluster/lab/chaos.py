"""Random trouble that can be had again: the same seed gives the same steps. Pure: who carries them out is `chaos_run`.

The plan knows what it has hurt, and never hurts more at once than what the cluster promises to bear: one of ZooKeeper's servers and
coordinators, and fewer than half of the nodes. A wild plan does: then nothing is promised but safety, until it has mended enough.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

DECIDING = 3
"""The first nodes have ZooKeeper's servers and the coordinators."""

_PARTS = ("agent", "fence", "coordinator", "zookeeper", "docker", "haproxy")
_NODE_FAULTS = {"kill": "boot", "pause": "unpause"}
_LINK_FAULTS = ("isolate", "cut", "cut_one_way", "refuse", "lose")
_APPS = tuple(f"/lab/main/chaos/app{number}" for number in range(4))
_LONGEST = 10
"""Steps after which a fault ends at the latest."""
_WILD = 0.25


@dataclass(frozen=True, slots=True)
class Step:
    """One step, `after` seconds after the one before. `node`, `other`: numbers from 1 on. `promised`: the cluster must still work."""

    after: float
    verb: str
    node: int = 0
    other: int = 0
    part: str = ""
    app: str = ""
    count: int = 0
    promised: bool = True

    def __str__(self) -> str:
        target = self.app.rpartition("/")[2] or " ".join(str(word) for word in (self.node, self.other, self.part) if word)
        number = f" {self.count}" if self.verb in ("launch", "scale", "update") else ""
        return f"{self.verb} {target}{number}".rstrip() + ("" if self.promised else "  (nothing is promised)")


@dataclass
class Plan:
    """An endless sequence of steps for a cluster of `nodes` nodes."""

    seed: int
    nodes: int
    wild: bool = False
    _hurt: dict[int, tuple[str, str, int]] = field(default_factory=dict)  # node: fault, part, steps that it has lasted
    _apps: dict[str, int] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Step]:
        chance = random.Random(self.seed)
        while True:
            step = self._next(chance)
            for node, (fault, part, age) in self._hurt.items():
                self._hurt[node] = (fault, part, age + 1)
            yield step

    @property
    def promised(self) -> bool:
        """Whether no more is hurt than the cluster promises to bear."""
        return sum(node <= DECIDING for node in self._hurt) <= 1 and len(self._hurt) * 2 < self.nodes

    def _next(self, chance: random.Random) -> Step:
        after = round(chance.uniform(0.1, 1.5), 2)
        kind = chance.random()
        oldest = max(self._hurt, key=lambda node: self._hurt[node][2], default=0)
        if oldest and (self._hurt[oldest][2] >= _LONGEST or kind < 0.12):
            return self._mend(after, oldest)
        if kind < 0.5:
            wounds = self._wounds(chance)
            if wounds:
                return self._hurt_it(after, chance, chance.choice(wounds))
        return self._change(after, chance)

    def _wounds(self, chance: random.Random) -> list[int]:
        """Return the nodes that may be hurt now."""
        whole = [node for node in range(1, self.nodes + 1) if node not in self._hurt]
        if self.wild and chance.random() < _WILD:
            return whole
        if (len(self._hurt) + 1) * 2 >= self.nodes:
            return []
        deciding = any(node <= DECIDING for node in self._hurt)
        return [node for node in whole if node > DECIDING or not deciding]

    def _hurt_it(self, after: float, chance: random.Random, node: int) -> Step:
        kind = chance.choice(("node", "link", "freeze", "crash", "crash", "restart"))
        part = chance.choice(_PARTS[:3] if kind == "restart" or node > DECIDING else _PARTS)
        if part in ("coordinator", "zookeeper") and node > DECIDING:
            part = "agent"
        if kind in ("crash", "restart"):
            return Step(after, kind, node, part=part, promised=self.promised)
        verb, other = "freeze", 0
        if kind == "node":
            verb, part = chance.choice(tuple(_NODE_FAULTS)), ""
        elif kind == "link":
            verb, part = chance.choice(_LINK_FAULTS), ""
            other = chance.choice([each for each in range(1, self.nodes + 1) if each != node]) if verb != "isolate" else 0
        self._hurt[node] = (verb, part, 0)
        return Step(after, verb, node, other, part, promised=self.promised)

    def _mend(self, after: float, node: int) -> Step:
        """End a fault; links are all made whole at once."""
        fault, part, _ = self._hurt.pop(node)
        if fault in _LINK_FAULTS:
            self._hurt = {each: hurt for each, hurt in self._hurt.items() if hurt[0] not in _LINK_FAULTS}
            return Step(after, "heal", promised=self.promised)
        return Step(after, _NODE_FAULTS.get(fault, "thaw"), node, part=part, promised=self.promised)

    def _change(self, after: float, chance: random.Random) -> Step:
        app = chance.choice(_APPS)
        if app not in self._apps:
            self._apps[app] = chance.randint(1, 3)
            return Step(after, "launch", app=app, count=self._apps[app], promised=self.promised)
        verb = chance.choice(("scale", "scale", "update", "delete"))
        if verb == "delete":
            del self._apps[app]
            return Step(after, verb, app=app, promised=self.promised)
        if verb == "scale":
            self._apps[app] = chance.randint(0, 4)
        return Step(after, verb, app=app, count=self._apps[app], promised=self.promised)
