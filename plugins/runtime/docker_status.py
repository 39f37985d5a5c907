"""What the Engine says of containers, as statuses of attempts. Pure."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

from gestalt.plugin.runtime import AttemptKey, AttemptState, AttemptStatus

from .docker_options import LABEL_APP, LABEL_ATTEMPT, LABEL_INSTANCE, LABEL_TEMPLATE

log = logging.getLogger(__name__)

_STATES = {
    "created": AttemptState.CREATED,
    "running": AttemptState.RUNNING,
    "paused": AttemptState.RUNNING,
    "restarting": AttemptState.RUNNING,
    "removing": AttemptState.EXITED,
    "exited": AttemptState.EXITED,
    "stopped": AttemptState.EXITED,
    "dead": AttemptState.EXITED,
}
_HEALTH = re.compile(r"\((?:health: )?(starting|healthy|unhealthy)\)")


def key_of(labels: Mapping[str, str]) -> AttemptKey | None:
    """Return whose container it is, or None when our labels are missing or make no sense."""
    instance, attempt = labels.get(LABEL_INSTANCE, ""), labels.get(LABEL_ATTEMPT, "")
    return AttemptKey(instance, int(attempt)) if instance and attempt.isdecimal() else None


def from_summary(summary: Mapping[str, Any]) -> AttemptStatus | None:
    """Return the status from an entry of the Engine's list.

    It knows neither pid, exit code nor the reason of an end: ended ones are to be inspected.
    """
    labels = summary.get("Labels") or {}
    key = key_of(labels)
    if key is None:
        log.warning("container %s has our labels but no instance and attempt; left alone", summary.get("Id"))
        return None
    health = _HEALTH.search(summary.get("Status") or "")
    return AttemptStatus(
        key=key,
        state=_STATES.get(summary.get("State") or "", AttemptState.EXITED),
        runtime_id=summary["Id"],
        app=labels.get(LABEL_APP, ""),
        template=labels.get(LABEL_TEMPLATE, ""),
        health=health[1] if health else "",
        address=_address((summary.get("NetworkSettings") or {}).get("Networks")),
        host=_one(port.get("IP") for port in summary.get("Ports") or ()),
    )


def from_inspect(container: Mapping[str, Any]) -> AttemptStatus | None:
    """Return the status from the Engine's inspect document, or None when it is not an attempt's."""
    labels = container["Config"].get("Labels") or {}
    key = key_of(labels)
    if key is None:
        return None
    raw = container["State"]
    state = _STATES.get(raw.get("Status") or "", AttemptState.EXITED)
    return AttemptStatus(
        key=key,
        state=state,
        runtime_id=container["Id"],
        app=labels.get(LABEL_APP, ""),
        template=labels.get(LABEL_TEMPLATE, ""),
        exit_code=raw.get("ExitCode") if state is AttemptState.EXITED else None,
        oom_killed=bool(raw.get("OOMKilled")) and state is AttemptState.EXITED,
        error=raw.get("Error") or "",
        health=_health(raw.get("Health")),
        address=_address((container.get("NetworkSettings") or {}).get("Networks")),
        pid=raw.get("Pid") or 0,
        host=_one(bound.get("HostIp") for item in _bindings(container).values() for bound in item or ()),
    )


def _bindings(container: Mapping[str, Any]) -> Mapping[str, Any]:
    return (container.get("HostConfig") or {}).get("PortBindings") or {}


def _one(addresses: Iterable[str | None]) -> str:
    """Return the address on which ports are published, if there is one of its own: ours all have the same."""
    return next((address for address in addresses if address and address not in ("0.0.0.0", "::")), "")


def _health(health: Mapping[str, Any] | None) -> str:
    status = str((health or {}).get("Status") or "")
    return "" if status == "none" else status


def _address(networks: Mapping[str, Any] | None) -> str:
    return next((str(network["IPAddress"]) for network in (networks or {}).values() if network and network.get("IPAddress")), "")
