"""Why a node cannot take an instance, and what to tell of many such nodes. Pure functions."""

from __future__ import annotations

from collections.abc import Container, Iterable

from gestalt.spec.conditions import DISTRIBUTING
from gestalt.spec.schema import AppSpec, Constraint, Port
from gestalt.units import show_size

from .attributes import holds
from .values import DEFAULT_POOL, DEVICE, DISK, Capacity, Obstacle, Refusal, demands

SLACK = 1e-9
"""Cores that count as none: sums of shares are not exact."""

_UNARY = {"exists": "any {}", "missing": "no {}"}


def standing_obstacle(spec: AppSpec, node: Capacity) -> Obstacle | None:
    """Return why a node cannot take an instance of this description, however empty it is; None when it can."""
    if not node.ready:
        why = node.why_not or "is not ready"
        return Obstacle(why, why)
    pool = spec.placement.pool or DEFAULT_POOL
    if node.pool != pool:
        return Obstacle(f"not in pool {pool}", f"is in pool {node.pool}, not {pool}")
    if spec.runtime not in node.runtimes:
        why = f"has no working {spec.runtime} runtime"
        return Obstacle(why, why)
    broken = [item for item in spec.placement.constraints if not holds(item, node.attributes)]
    return _unfulfilled(broken, node, len(spec.placement.constraints)) if broken else None


def room_obstacle(spec: AppSpec, node: Capacity) -> Obstacle | None:
    """Return what a node has too little of for one instance more; None when it has enough of everything."""
    cpu, memory = spec.resources.cpu, spec.resources.memory
    left = max(node.cpu - node.cpu_reserved, 0.0)
    if cpu > left + SLACK:
        text = f"has {left:.3g} of {node.cpu:.3g} cores left, {cpu:.3g} are asked for"
        return Obstacle("too few cores left", text, (cpu - left) / cpu, f"resources.cpu of at most {left:.3g}" if left else "")
    free = max(node.memory - node.memory_reserved, 0)
    if node.memory and memory > free:
        text = f"has {show_size(free)} of memory left, {show_size(memory)} are asked for"
        return Obstacle("too little memory left", text, (memory - free) / memory, f"resources.memory of at most {show_size(free)}")
    for name, asked in demands(spec.resources).items():
        if asked > (there := node.left_of(name)):
            return _too_little(name, asked, there)
    taken = [port.host_port for port in spec.ports if port.host_port and port.host_port in node.ports]
    if taken:
        return Obstacle(
            f"have host port {taken[0]} in use", f"has host port {taken[0]} in use by another instance", 1.0, "another host_port, or none"
        )
    if host_ports(spec.ports, node) is None:
        return Obstacle("no free host port", f"has no free host port in {node.port_first}-{node.port_last}")
    return None


def _too_little(name: str, asked: int, left: int) -> Obstacle:
    what, shown_ = name.removeprefix(DEVICE), show_size if name == DISK else str
    text = f"has {shown_(left)} of {what} left, {shown_(asked)} are asked for"
    return Obstacle(
        f"too little of {what} left", text, (asked - left) / asked, f"resources.{name} of at most {shown_(left)}" if left else ""
    )


def host_ports(ports: tuple[Port, ...], node: Capacity) -> tuple[int, ...] | None:
    """Return a host port for each port: the fixed one, or the next free one from the node's cursor on, going around."""
    return free_ports(tuple(port.host_port for port in ports), node.ports, (node.port_first, node.port_last), node.port_cursor)


def free_ports(asked: tuple[int, ...], taken: Container[int], between: tuple[int, int], cursor: int) -> tuple[int, ...] | None:
    """Return what is asked for, with a free number of a range in the place of each 0; None when there are too few.

    Args:
        asked: fixed numbers, 0 = any.
        taken: what is in use.
        between: the first and the last of the range.
        cursor: where to begin, 0 = at the first.
    """
    first, last = between
    size = last - first + 1
    at, tried, chosen = min(max(cursor - first, 0), size - 1) if cursor else 0, 0, list[int]()
    if asked == (0,) and size > 0 and first + at not in taken:  # as nearly always
        return (first + at,)
    for fixed in asked:
        number = fixed
        while not number:
            if tried == size:
                return None
            candidate = first + at
            at, tried = (at + 1) % size, tried + 1
            if candidate not in taken and candidate not in asked:
                number = candidate
        chosen.append(number)
    return tuple(chosen)


def room(spec: AppSpec, node: Capacity, most: int) -> int:
    """Return how many instances fit on a node, counted up to `most`."""
    if most <= 0 or room_obstacle(spec, node) is not None:
        return 0
    asked = [port.host_port for port in spec.ports]
    if any(asked):
        return 1
    fits = most
    if cpu := spec.resources.cpu:
        fits = min(fits, int((max(node.cpu - node.cpu_reserved, 0.0) + SLACK) / cpu))
    if node.memory and spec.resources.memory:
        fits = min(fits, max(node.memory - node.memory_reserved, 0) // spec.resources.memory)
    for name, number in demands(spec.resources).items():
        fits = min(fits, node.left_of(name) // number)
    if asked:
        used = sum(node.port_first <= number <= node.port_last for number in node.ports)
        fits = min(fits, (node.port_last - node.port_first + 1 - used) // len(asked))
    return fits


def refusals(found: Iterable[tuple[Capacity, Obstacle]]) -> tuple[Refusal, ...]:
    """Count nodes by what rules them out, the most common first, with the node of each that comes nearest."""
    kinds: dict[str, list[tuple[Capacity, Obstacle]]] = {}
    for node, obstacle in found:
        kinds.setdefault(obstacle.kind, []).append((node, obstacle))
    result = []
    for kind, items in sorted(kinds.items(), key=lambda pair: -len(pair[1])):
        node, nearest = min(items, key=lambda item: (item[1].lack, item[0].name))
        result.append(Refusal(kind, len(items), node.name, nearest.text, nearest.help))
    return tuple(result)


def told(found: tuple[Refusal, ...]) -> str:
    """Return what keeps instances away as a sentence."""
    if not found:
        return "no node has joined yet"
    if len(found) == 1 and found[0].nodes == 1:
        return f"node {found[0].nearest} {found[0].text}" + _hint(found[0])
    return "; ".join(_counted(item) for item in found)


def _counted(refusal: Refusal) -> str:
    number = f"{refusal.nodes} node{'s' if refusal.nodes > 1 else ''}: "
    if refusal.text == refusal.kind:
        return number + refusal.kind
    return f"{number}{refusal.kind} ({refusal.nearest} {refusal.text}){_hint(refusal)}"


def _hint(refusal: Refusal) -> str:
    return f", {refusal.help} would fit" if refusal.help else ""


def _unfulfilled(broken: list[Constraint], node: Capacity, constraints: int) -> Obstacle:
    first = broken[0]
    wanted = shown(first)
    there = node.attributes.get(first.attribute)
    text = f"has {first.attribute} {there}, not {wanted}" if there is not None else f"has no {first.attribute}, {wanted} is asked for"
    return Obstacle(f"not {wanted}", text, lack=10 + len(broken) / constraints)


def shown(condition: Constraint) -> str:
    """Return a condition as people read it."""
    if condition.operator in _UNARY:
        return _UNARY[condition.operator].format(condition.attribute)
    if condition.operator in DISTRIBUTING:
        return f"a {condition.attribute}, for {condition.operator}"
    return f"{condition.attribute} {condition.operator} {condition.value}"
