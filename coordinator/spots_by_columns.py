"""What each node of a large fleet is to a system app: over columns where nothing stands in its way, one by one where something does."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np

from gestalt.spec.schema import AppSpec

from .scheduler.columns import Columns, Mask, Rows
from .scheduler.fleet import Ground
from .scheduler.obstacles import SLACK
from .scheduler.values import demands
from .spots import Role, Spot, There, spot

_BY_ROLE: WeakKeyDictionary[Columns, dict[Role, list[Spot]]] = WeakKeyDictionary()
"""The nodes that are wanted or left without a reason, by row: they are the same from look to look."""


def spots_by_columns(spec: AppSpec, ground: Ground, there: There) -> list[Spot]:
    """Say of each node what it is to a system app: the same as `spot` does of each."""
    columns = ground.fleet.columns()
    by_role = _BY_ROLE.get(columns)
    if by_role is None:
        roles = (Role.WANTED, Role.LEFT)
        by_role = _BY_ROLE[columns] = {role: [Spot(item.id, item.name, role) for item in columns.offers] for role in roles}
    able = columns.able(spec).mask
    is_open: Mask = columns.ready & columns.running(spec.runtime)
    clear: Mask = ~is_open | ~able | _has_room(spec, columns, there)
    clear[_rows(columns, there.current)] = True
    clear &= is_open
    for some in (there.busy, ground.avoided, ground.left, ground.instead):
        clear[_rows(columns, some)] = False
    if ground.target:
        clear[:] = False
    found = by_role[Role.WANTED].copy()
    for row in np.flatnonzero(clear & ~able).tolist():
        found[row] = by_role[Role.LEFT][row]
    for row in np.flatnonzero(~clear).tolist():
        found[row] = spot(spec, ground.node(columns.offers[row].id), there)
    return found


def _rows(columns: Columns, nodes: object) -> Rows:
    return np.array([columns.rows[node] for node in nodes if node in columns.rows], dtype=np.intp)  # type: ignore[attr-defined]


def _has_room(spec: AppSpec, columns: Columns, there: There) -> Mask:
    """Return the nodes that certainly have room for one instance more, once the old one has left."""
    old = [(columns.rows[node], placed, asked) for node, (placed, asked) in there.old.items() if node in columns.rows]
    rows = np.array([row for row, _, _ in old], dtype=np.intp)
    cpu, memory, ports = columns.cpu_reserved.copy(), columns.memory_reserved.copy(), columns.ports_used.copy()
    cpu[rows] -= np.array([asked.cpu for _, _, asked in old])
    memory[rows] -= np.array([asked.memory for _, _, asked in old], dtype=np.int64)
    ports[rows] -= np.array([len(placed.ports) for _, placed, _ in old], dtype=np.int64)
    found: Mask = spec.resources.cpu <= np.maximum(columns.cpu - cpu, 0.0) + SLACK
    found &= (columns.memory == 0) | (spec.resources.memory <= np.maximum(columns.memory - memory, 0))
    for name, number in demands(spec.resources).items():
        supply, reserved = columns.supply(name)
        reserved = reserved.copy()
        reserved[rows] -= np.array([demands(asked).get(name, 0) for _, _, asked in old], dtype=np.int64)
        found &= number <= np.maximum(supply - reserved, 0)
    asked_ports = [port.host_port for port in spec.ports]
    for number in filter(None, asked_ports):
        taken = columns.taken(number).copy()
        taken[[row for row, placed, _ in old if number in placed.ports]] = False
        found &= ~taken
    if not all(asked_ports):
        found &= columns.ports - ports >= len(asked_ports)
    return found
