"""HAProxy in a unit of its own: systemd starts it apart from the agent, and keeps it from what it has no business with.

A unit is for the configuration that it names. HAProxy with another one, or without systemd, is started by the agent itself. Either way
it is the agent alone that has it started: systemd never does by itself.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from gestalt import shell
from gestalt.config import AgentSettings
from gestalt.plugin.runtime import DriverUnavailable

from ..runtime.process_systemd import systemd_runs

log = logging.getLogger(__name__)

UNIT = "gestalt-haproxy.service"
SHIPPED_CONFIG = Path(AgentSettings.model_fields["run_dir"].default) / "haproxy/haproxy.cfg"
"""What the unit names as it is shipped."""
_CALL_LIMIT = 20.0
_SHOWN = ("LoadState", "ActiveState", "Job", "ExecStart", "LimitNOFILE", "InvocationID")
_BROKEN = {"masked", "bad-setting", "error"}
_ON_ITS_WAY = {"activating", "deactivating"}


class SystemdUnavailable(DriverUnavailable):
    """systemd does not do what it was asked for: that says nothing about HAProxy and its configuration."""


@dataclass(frozen=True, slots=True)
class UnitState:
    """How the unit stands. `is_ours`: it is for our configuration. `is_busy`: systemd is about to start or end it.

    `descriptors`: how many files may be open in it; 0 = as many as one likes, or it is not ours. `life` tells one start from the next.
    """

    is_ours: bool = False
    is_busy: bool = False
    descriptors: int = 0
    life: str = ""


def parse_state(shown: str, config: Path) -> UnitState:
    """Read what `systemctl show` says.

    A unit that cannot be loaded names nothing: it is taken for what was shipped, so that an administrator who masks it is obeyed.
    """
    values = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    state = values.get("LoadState", "")
    if not ((state == "loaded" and str(config) in values.get("ExecStart", "").split()) or (state in _BROKEN and config == SHIPPED_CONFIG)):
        return UnitState()
    limit = values.get("LimitNOFILE", "")
    return UnitState(
        True,
        values.get("ActiveState") in _ON_ITS_WAY or values.get("Job", "0") not in {"", "0"},
        int(limit) if limit.isdecimal() else 0,
        values.get("InvocationID", ""),
    )


class HaproxyUnit:
    """The unit for one configuration, if there is one."""

    def __init__(self, config: Path) -> None:
        self._config = config

    async def look(self) -> UnitState:
        """Return how it stands.

        Raises:
            SystemdUnavailable: nobody knows.
        """
        if not systemd_runs() or os.geteuid() != 0:
            return UnitState()
        shown = await _call("systemctl", "show", f"--property={','.join(_SHOWN)}", UNIT)
        if not shown.ok:
            raise SystemdUnavailable(f"systemd does not say how {UNIT} stands: {shown.complaint()}")
        return parse_state(shown.stdout.decode(errors="replace"), self._config)

    async def start(self) -> None:
        """Start it, and return when HAProxy says that it is ready; it is ours, and has been stopped.

        Raises:
            DriverUnavailable: it did not start, with HAProxy's own words if it said any.
            SystemdUnavailable: it was not started, or nobody knows.
        """
        before = await self.look()
        done = await _call("systemctl", "start", "--no-ask-password", UNIT)
        if not done.ok:
            life = (await self.look()).life
            if life == before.life:
                raise SystemdUnavailable(f"systemd does not start {UNIT}: {done.complaint()}")
            raise DriverUnavailable(f"HAProxy does not start: {complaints(await _journal(life)) or done.complaint()}")

    async def stop(self) -> None:
        """End all of it, and return when it has ended. Idempotent; nothing happens where there is no unit of ours.

        Raises:
            SystemdUnavailable: it did not end, or nobody knows.
        """
        if not (await self.look()).is_ours:
            return
        done = await _call("systemctl", "stop", "--no-ask-password", UNIT)
        if not done.ok:
            raise SystemdUnavailable(f"systemd does not stop {UNIT}: {done.complaint()}")
        await _call("systemctl", "reset-failed", UNIT)  # fails when it has not failed


def complaints(said: str) -> str:
    """Return what HAProxy complained about, of all that it said."""
    alerts = [line.split(" : ", 1)[-1].strip() for line in said.splitlines() if line.startswith("[ALERT]")]
    return " | ".join(alerts)[:1500]


async def _journal(life: str) -> str:
    """Return what was said in one life of the unit; empty where the journal does not tell."""
    try:
        await _call("journalctl", "--sync")
        shown = await _call("journalctl", "--no-pager", "--output=cat", f"_SYSTEMD_INVOCATION_ID={life}")
    except SystemdUnavailable as error:  # HAProxy was started and failed: that is what is to be told
        log.warning("the journal does not tell why HAProxy does not start: %s", error)
        return ""
    if not shown.ok:
        log.warning("the journal does not tell why HAProxy does not start: %s", shown.complaint())
    return shown.stdout.decode(errors="replace")


async def _call(*argv: str) -> shell.Completed:
    try:
        return await shell.run(argv, limit=_CALL_LIMIT, cwd="/")
    except (shell.CommandTimedOut, OSError) as error:
        raise SystemdUnavailable(f"{' '.join(argv[:2])}: {error}") from None
