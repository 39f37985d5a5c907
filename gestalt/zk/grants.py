"""What coordinators and fences tell each other in ZooKeeper about exclusive things.

A coordinator writes `GrantMark`, fenced by its epoch. The fence named there takes the grant with one transaction that checks the epoch, the
version of the grant's znode and its own membership, and writes `LeaseMark`, which lists what it has taken. Each renewal does the same. So
after a coordinator has written the grant anew no holder of an earlier one can take or renew it; and what the lease of a node does not list,
read after that, the node does not hold.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class GrantMark:
    """The content of a grant's znode. `node`: the only one that may take it, as member `incarnation`; empty = nobody may.

    `former_node`, `former_incarnation`: who might before, where nothing else keeps that; empty = look at the record.
    """

    app: str
    generation: int
    instance: str = ""
    node: str = ""
    incarnation: int = 0
    former_node: str = ""
    former_incarnation: int = 0

    def encode(self) -> bytes:
        more = ("former_node", "former_incarnation") if self.former_node else ()
        document = {name: getattr(self, name) for name in ("app", "generation", "instance", "node", "incarnation", *more)}
        return json.dumps(document, sort_keys=True).encode()


@dataclass(frozen=True, slots=True)
class LeaseMark:
    """The content of a node's lease znode. `length`: seconds, 0 = nothing is held. `grants`: generation by name of what it has taken.

    `kill`: seconds after the end of the lease within which it has ended what it held; None = it does not say. Both are the fence's own
    settings, so that who waits for their end needs no settings that are the same.
    """

    incarnation: int
    length: float = 0.0
    grants: Mapping[str, int] = field(default_factory=dict)
    kill: float | None = None

    def encode(self) -> bytes:
        document = {"incarnation": self.incarnation, "length": self.length, "grants": dict(self.grants), "kill": self.kill}
        return json.dumps(document, sort_keys=True).encode()


def parse_grant(value: bytes) -> GrantMark | None:
    """Return what a coordinator wrote; None when it does not say what it should: then nobody may take it."""
    try:
        found = json.loads(value)
        holder = str(found["instance"]), str(found["node"]), int(found["incarnation"])
        former = str(found.get("former_node", "")), int(found.get("former_incarnation", 0))
        return GrantMark(str(found["app"]), int(found["generation"]), *holder, *former)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def parse_lease(value: bytes) -> LeaseMark | None:
    """Return what a fence wrote; None when it does not say what it should: then nothing is known of what it holds."""
    try:
        found = json.loads(value)
        grants = {str(name): int(number) for name, number in found.get("grants", {}).items()}
        kill = None if found.get("kill") is None else float(found["kill"])
        mark = LeaseMark(int(found["incarnation"]), float(found.get("length", 0.0)), grants, kill)
        return mark if math.isfinite(mark.length + (kill or 0.0)) else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
