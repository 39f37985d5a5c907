"""What each node is to a system app: pure functions from the nodes, and what they have of it, to a spot for each."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from enum import Enum

from gestalt.spec.schema import AppSpec, Resources

from .records import Placed
from .scheduler.fleet import Ground, Nodes, released
from .scheduler.obstacles import room_obstacle, standing_obstacle
from .scheduler.shortage import Obstacle
from .scheduler.values import Capacity


class Role(Enum):
    """What a node is to a system app."""

    WANTED = "wanted"
    """It is to have an instance of the wanted version."""
    KEPT = "kept"
    """It keeps the instance that it has, and gets none."""
    LEFT = "left"
    """It is to have none."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A node as a system app sees it. `why`: of a wanted one, why nothing can start there, empty = it can; of a kept one, why it is.

    `obstacle`: the same of a wanted one, for programs.
    """

    node: str
    name: str
    role: Role
    why: str = ""
    is_drained: bool = False
    obstacle: Obstacle | None = None


@dataclass(frozen=True, slots=True)
class There:
    """What nodes have of a system app, and what else is on those that are being emptied.

    `old`: by node, the instance that is to be replaced, which leaves its room to its successor, and what it asked for. `current`: the nodes
    that have an instance as it is wanted: whether one more had room is not asked. `busy`: the nodes that are being emptied, and whether
    other things than system apps are still there.
    """

    old: Mapping[str, tuple[Placed, Resources]]
    busy: Mapping[str, bool]
    current: Set[str] = frozenset()


def spots(spec: AppSpec, nodes: Nodes, there: There) -> list[Spot]:
    """Say of each node what it is to a system app.

    Args:
        spec: the template of the wanted version.
        nodes: all nodes with what is reserved on them.
        there: what they have of it.
    """
    if isinstance(nodes, Ground) and nodes.fleet.is_large:
        from .spots_by_columns import spots_by_columns  # late: NumPy is large

        return spots_by_columns(spec, nodes, there)
    return [spot(spec, node, there) for node in nodes]


def spot(spec: AppSpec, node: Capacity, there: There) -> Spot:
    """Say of one node what it is."""
    if (busy := there.busy.get(node.id)) is not None:
        return Spot(
            node.id, node.name, Role.KEPT if busy else Role.LEFT, "is being drained: system apps leave it last" if busy else "", True
        )
    if not node.ready:
        return Spot(node.id, node.name, Role.KEPT, node.why_not or "is not ready")
    if spec.runtime not in node.runtimes:
        return Spot(node.id, node.name, Role.KEPT, f"has no working {spec.runtime} runtime")
    if standing_obstacle(spec, node) is not None:
        return Spot(node.id, node.name, Role.LEFT)
    if node.id in there.current:
        return Spot(node.id, node.name, Role.WANTED)
    old = there.old.get(node.id)
    obstacle = room_obstacle(spec, released(node, old[0].ports, old[1]) if old is not None else node)
    return Spot(node.id, node.name, Role.WANTED, obstacle.text if obstacle is not None else "", obstacle=obstacle)
