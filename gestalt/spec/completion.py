"""What follows from the rest of a description is filled in, so that a valid one says everything. Copes with any input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gestalt.units import parse_duration

from .conditions import ALIASES
from .part import Part

USUAL_TIMEOUT = 2.0
PORT_KINDS = ("http", "https", "tcp", "grpc")
NEVER_TWO = {"max_surge": "0", "max_unavailable": "1"}
"""How a system app is updated where it does not say: a node never has two instances of it."""
KINDS = (*PORT_KINDS, "exec", "docker")


def complete(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a description with its kind and runtime, its checks with names and ports, and what follows from its kind."""
    filled = dict(data)
    if filled.get("kind", "") == "":
        filled["kind"] = "service"
    if filled["kind"] == "system":
        filled.setdefault("instances", 0)
        filled["update"] = _with_missing(filled.get("update", {}), NEVER_TWO)
    least = _read(filled.get("autoscale"), "min")
    if filled["kind"] == "service" and least != "":
        filled.setdefault("instances", least)
    if filled.get("runtime", "") == "":
        filled["runtime"] = "process" if data.get("command") and not data.get("image") else "docker"
    if filled["kind"] == "job":
        filled.setdefault("instances", 0)
        filled["restart"] = _with_missing(filled.get("restart", {}), {"policy": "never"})
        filled["job"] = {} if data.get("job") is None else data["job"]
    checks = data.get("checks")
    if isinstance(checks, list | tuple):
        filled["checks"] = _complete_checks(checks, _first_port(data.get("ports")))
    return filled


def complete_check(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a check with a timeout that fits into a short interval, where it says none."""
    if "timeout" in data or "interval" not in data:
        return data
    try:
        return {**data, "timeout": min(USUAL_TIMEOUT, parse_duration(data["interval"]))}
    except ValueError:
        return data  # its interval is a mistake that validation tells


def complete_condition(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a constraint or an affinity with its operator in our words, where it is in those of Nomad or Marathon."""
    operator = data.get("operator")
    known = ALIASES.get(operator.lower(), operator.lower()) if isinstance(operator, str) else operator
    return {**data, "operator": known} if known != operator else data


def complete_constraint(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a constraint likewise. `unique` without an attribute means nodes; a `cluster` with a value means that value."""
    filled = dict(complete_condition(data))
    if filled.get("operator") == "unique":
        filled.setdefault("attribute", "node.name")
    if filled.get("operator") == "cluster" and filled.get("value"):
        filled["operator"] = "="
    return filled


def _complete_checks(checks: list[Any] | tuple[Any, ...], first_port: str) -> list[Any]:
    taken = {name for check in checks if isinstance(name := _read(check, "name"), str)}
    completed = []
    for number, check in enumerate(checks, 1):
        kind, missing = _read(check, "kind"), {}
        if isinstance(kind, str) and kind in KINDS and _read(check, "name") == "":
            missing["name"] = _free_name(kind, number, taken)
            taken.add(missing["name"])
        if isinstance(kind, str) and kind in PORT_KINDS and first_port and _read(check, "port") == "":
            missing["port"] = first_port
        completed.append(_with(check, missing))
    return completed


def _with_missing(section: Any, usual: Mapping[str, str]) -> Any:
    """Return a section with what it does not say, if it is one."""
    return {**usual, **section} if isinstance(section, Mapping) else section


def _free_name(kind: str, number: int, taken: set[str]) -> str:
    while f"{kind}-{number}" in taken:
        number += 1
    return f"{kind}-{number}"


def _first_port(ports: Any) -> str:
    for port in ports if isinstance(ports, list | tuple) else ():
        name = _read(port, "name")
        if name and isinstance(name, str) and _read(port, "protocol") != "udp":
            return name
    return ""


def _read(item: Any, name: str) -> Any:
    """Return a field of a section that may be plain data, a section already, or garbage; empty text when it is not there."""
    if isinstance(item, Mapping):
        return item.get(name, "")
    return getattr(item, name, "") if isinstance(item, Part) else ""


def _with(item: Any, missing: Mapping[str, str]) -> Any:
    if not missing:
        return item
    return {**item, **missing} if isinstance(item, Mapping) else item.model_copy(update=missing)
