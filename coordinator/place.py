"""Which node takes an instance, and on which host ports: pure functions over values.

The rule for now: of the nodes that fit, the one with the fewest instances of the same app, then the one with the smallest
allocated share, then by name. Every instance that fits nowhere says why, node by node counted.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, replace

from gestalt.spec.schema import AppSpec, Port
from gestalt.units import show_size


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a node offers and what is reserved of it. `cpu` in cores, sizes in bytes; 0 memory = unknown.

    `incarnation`: of its membership, 0 = it has none.
    """

    id: str
    name: str
    ready: bool
    why_not: str = ""
    runtimes: frozenset[str] = frozenset()
    cpu: float = 0.0
    memory: int = 0
    cpu_reserved: float = 0.0
    memory_reserved: int = 0
    port_first: int = 3000
    port_last: int = 4000
    ports: frozenset[int] = frozenset()
    port_cursor: int = 0
    same_app: int = 0
    incarnation: int = 0

    @property
    def load(self) -> float:
        """The larger allocated share of its resources."""
        cpu = self.cpu_reserved / self.cpu if self.cpu else 0.0
        memory = self.memory_reserved / self.memory if self.memory else 0.0
        return max(cpu, memory)


@dataclass(frozen=True, slots=True)
class Choice:
    """A node and the host ports, in the order of the description's ports."""

    node: str
    ports: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Placing:
    """The outcome for a number of identical instances: choices, and why the rest is not placed (empty = all are)."""

    choices: tuple[Choice, ...]
    missing: int = 0
    reason: str = ""


def place(spec: AppSpec, count: int, nodes: tuple[Capacity, ...]) -> Placing:
    """Choose nodes for `count` instances of one description, one after the other.

    Args:
        spec: what to place.
        count: how many.
        nodes: all nodes with what is reserved on them already.
    """
    if count <= 0:
        return Placing(())
    current = {node.id: node for node in nodes}
    obstacles = {node.id: obstacle(spec, node) for node in nodes}
    fitting = [_rank(node) for node in nodes if not obstacles[node.id]]
    heapq.heapify(fitting)
    choices: list[Choice] = []
    while fitting and len(choices) < count:
        best = current[heapq.heappop(fitting)[-1]]
        ports = _host_ports(spec.ports, best)
        assert ports is not None, "obstacle() said that the ports fit"
        choices.append(Choice(best.id, ports))
        left = current[best.id] = _reserve(best, spec, ports)
        obstacles[best.id] = obstacle(spec, left)
        if not obstacles[best.id]:
            heapq.heappush(fitting, _rank(left))
    missing = count - len(choices)
    return Placing(tuple(choices), missing, _explain(obstacles, current) if missing else "")


def _rank(node: Capacity) -> tuple[int, float, str, str]:
    """Return what the best of the nodes that fit has the least of, and its id."""
    return node.same_app, node.load, node.name, node.id


def obstacle(spec: AppSpec, node: Capacity) -> str:
    """Return why a node cannot take an instance of this description; empty when it can."""
    if not node.ready:
        return node.why_not or "is not ready"
    if spec.runtime not in node.runtimes:
        return f"has no working {spec.runtime} runtime"
    if spec.resources.cpu > node.cpu - node.cpu_reserved + 1e-9:
        return f"has {max(node.cpu - node.cpu_reserved, 0):.3g} of {node.cpu:.3g} cores left, {spec.resources.cpu:.3g} are asked for"
    if node.memory and spec.resources.memory > node.memory - node.memory_reserved:
        left = show_size(max(node.memory - node.memory_reserved, 0))
        return f"has {left} of memory left, {show_size(spec.resources.memory)} are asked for"
    taken = [port.host_port for port in spec.ports if port.host_port and port.host_port in node.ports]
    if taken:
        return f"has host port {taken[0]} in use by another instance"
    if _host_ports(spec.ports, node) is None:
        return f"has no free host port in {node.port_first}-{node.port_last}"
    return ""


def _explain(obstacles: dict[str, str], nodes: dict[str, Capacity]) -> str:
    if not nodes:
        return "no node has joined yet"
    if len(nodes) == 1:
        (node,) = nodes.values()
        return f"node {node.name} {obstacles[node.id]}"
    counted = Counter(obstacles.values()).most_common()
    return "; ".join(f"{number} node{'s' if number > 1 else ''}: {reason}" for reason, number in counted)


def _host_ports(ports: tuple[Port, ...], node: Capacity) -> tuple[int, ...] | None:
    """Return a host port for each port: the fixed one, or the next free one from the node's cursor on, going around."""
    fixed = {port.host_port for port in ports if port.host_port}
    size = node.port_last - node.port_first + 1
    start = min(max(node.port_cursor - node.port_first, 0), size - 1) if node.port_cursor else 0
    candidates = (node.port_first + (start + step) % size for step in range(size))
    free = (number for number in candidates if number not in node.ports and number not in fixed)
    chosen = [port.host_port or next(free, 0) for port in ports]
    return tuple(chosen) if all(chosen) else None


def _reserve(node: Capacity, spec: AppSpec, ports: tuple[int, ...]) -> Capacity:
    dynamic = [number for port, number in zip(spec.ports, ports, strict=True) if not port.host_port]
    return replace(
        node,
        cpu_reserved=node.cpu_reserved + spec.resources.cpu,
        memory_reserved=node.memory_reserved + spec.resources.memory,
        ports=node.ports | set(ports),
        port_cursor=dynamic[-1] + 1 if dynamic else node.port_cursor,
        same_app=node.same_app + 1,
    )
