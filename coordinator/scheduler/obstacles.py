"""Why a node cannot take an instance. Pure functions."""

from __future__ import annotations

import shlex
from collections.abc import Container

from gestalt.spec.conditions import DISTRIBUTING
from gestalt.spec.schema import AppSpec, Constraint, Port
from gestalt.units import show_size

from . import shortage
from .attributes import holds
from .shortage import Obstacle
from .tally import Limit
from .values import DEFAULT_POOL, DEVICE, DISK, Capacity, demands

SLACK = 1e-9
"""Cores that count as none: sums of shares are not exact."""

_OF_THE_NODE = ("node.", "runtime.", "agent.")
"""What attributes begin with that no label is meant to say."""

_UNARY = {"exists": "any {}", "missing": "no {}"}


def standing_obstacle(spec: AppSpec, node: Capacity) -> Obstacle | None:
    """Return why a node cannot take an instance of this description, however empty it is; None when it can."""
    if not node.ready:
        why = node.why_not or "is not ready"
        word, subject = node.barred
        return Obstacle(why, why, word=word, subject=subject)
    pool = spec.placement.pool or DEFAULT_POOL
    if node.pool != pool:
        remedy = f"`gestaltctl node label {node.name} {f'pool={pool}' if pool != DEFAULT_POOL else 'pool-'}` puts it there"
        text = f"is in pool {node.pool}, not {pool}"
        return Obstacle(f"not in pool {pool}", text, word=shortage.POOL, subject=pool, has=node.pool, asked=pool, remedy=remedy)
    if spec.runtime not in node.runtimes:
        why = f"has no working {spec.runtime} runtime"
        has = ",".join(sorted(node.runtimes))
        return Obstacle(why, why, word=shortage.RUNTIME, subject=spec.runtime, has=has, asked=spec.runtime)
    broken = [item for item in spec.placement.constraints if not holds(item, node.attributes)]
    return _unfulfilled(broken, node, len(spec.placement.constraints)) if broken else None


def room_obstacle(spec: AppSpec, node: Capacity) -> Obstacle | None:
    """Return what a node has too little of for one instance more; None when it has enough of everything."""
    cpu, memory = spec.resources.cpu, spec.resources.memory
    left = max(node.cpu - node.cpu_reserved, 0.0)
    if cpu > left + SLACK:
        text = f"has {left:.3g} of {node.cpu:.3g} cores left, {cpu:.3g} are asked for"
        about = {"word": shortage.CPU, "has": f"{left:.6g}", "asked": f"{cpu:.6g}"}
        return Obstacle("too few cores left", text, (cpu - left) / cpu, f"resources.cpu of at most {left:.3g}" if left else "", **about)
    free = max(node.memory - node.memory_reserved, 0)
    if node.memory and memory > free:
        text = f"has {show_size(free)} of memory left, {show_size(memory)} are asked for"
        help_ = f"resources.memory of at most {show_size(free)}" if free else ""
        about = {"word": shortage.MEMORY, "has": str(free), "asked": str(memory)}
        return Obstacle("too little memory left", text, (memory - free) / memory, help_, **about)
    for name, asked in demands(spec.resources).items():
        if asked > (there := node.left_of(name)):
            return _too_little(name, asked, there)
    return _port_obstacle(spec, node)


def _port_obstacle(spec: AppSpec, node: Capacity) -> Obstacle | None:
    taken = next((port.host_port for port in spec.ports if port.host_port and port.host_port in node.ports), 0)
    if taken:
        text, about = f"has host port {taken} in use by another instance", {"word": shortage.PORT, "subject": str(taken)}
        return Obstacle(f"have host port {taken} in use", text, 1.0, "another host_port, or none", **about)
    if host_ports(spec.ports, node) is None:
        used = sum(node.port_first <= number <= node.port_last for number in node.ports)
        free, asked = node.port_last - node.port_first + 1 - used, sum(not port.host_port for port in spec.ports)
        text = f"has no free host port in {node.port_first}-{node.port_last}"
        return Obstacle("no free host port", text, word=shortage.PORT, has=str(max(free, 0)), asked=str(asked))
    return None


def _too_little(name: str, asked: int, left: int) -> Obstacle:
    what, shown_ = name.removeprefix(DEVICE), show_size if name == DISK else str
    kind, text = f"too little of {what} left", f"has {shown_(left)} of {what} left, {shown_(asked)} are asked for"
    help_ = f"resources.{name} of at most {shown_(left)}" if left else ""
    word, subject = (shortage.DEVICE, what) if name.startswith(DEVICE) else (name, "")
    return Obstacle(kind, text, (asked - left) / asked, help_, word=word, subject=subject, has=str(left), asked=str(asked))


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


def _unfulfilled(broken: list[Constraint], node: Capacity, constraints: int) -> Obstacle:
    first = broken[0]
    wanted = shown(first)
    there = node.attributes.get(first.attribute)
    text = f"has {first.attribute} {there}, not {wanted}" if there is not None else f"has no {first.attribute}, {wanted} is asked for"
    about = {"word": shortage.CONSTRAINT, "subject": wanted, "has": there or "", "asked": first.value, "remedy": _labelling(first, node)}
    return Obstacle(f"not {wanted}", text, lack=10 + len(broken) / constraints, **about)


def _labelling(condition: Constraint, node: Capacity) -> str:
    """Return how a label that nobody has put on a node would make a condition hold; empty where it is no matter of that."""
    attribute = condition.attribute
    if condition.operator != "=" or attribute in node.attributes or attribute.startswith(_OF_THE_NODE):
        return ""
    return f"`gestaltctl node label {node.name} {shlex.quote(f'{attribute}={condition.value}')}` says that it is so"


def distribution_obstacle(limit: Limit, node: Capacity) -> Obstacle | None:
    """Return how a constraint on the distribution of the instances rules out a node; None when it does not."""
    value = node.attributes[limit.attribute]
    if not (why := limit.refuses(value)):
        return None
    rule = f"{limit.operator} {limit.attribute}"
    return Obstacle(f"ruled out by {rule}", why, lack=5.0, word=shortage.CONSTRAINT, subject=rule, has=value)


def shown(condition: Constraint) -> str:
    """Return a condition as people read it."""
    if condition.operator in _UNARY:
        return _UNARY[condition.operator].format(condition.attribute)
    if condition.operator in DISTRIBUTING:
        return f"a {condition.attribute}, for {condition.operator}"
    return f"{condition.attribute} {condition.operator} {condition.value}"
