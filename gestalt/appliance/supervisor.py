"""Starts and stops the daemons: through systemd where it runs the machine, else directly."""

from __future__ import annotations

import re
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from gestalt.appliance import processes
from gestalt.appliance.layout import Layout
from gestalt.clock import monotonic
from gestalt.errors import GestaltError, Kind
from gestalt.files import write_atomic
from gestalt.shell import Completed, run, spawn_detached

STOP_GRACE = 40.0
_LOG_KEPT = 10 * 1024**2
_LAST_WORDS = 8
_UNITS = Path("/etc/systemd/system")


@dataclass(frozen=True, slots=True)
class Daemon:
    """One of ours: its program, its settings file, and the units of what it has systemd start."""

    name: str
    settings: Path
    units: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DaemonState:
    """Whether it runs, with which pid (0 = it does not) and for how many seconds. `coming`: it will, without more ado."""

    pid: int = 0
    age: float = 0.0
    coming: bool = False


class Supervisor(ABC):
    """What keeps the daemons of one appliance. All calls are idempotent."""

    words: str

    @abstractmethod
    def log_of(self, daemon: Daemon) -> str:
        """Say where its log is read."""

    @abstractmethod
    async def start(self, daemon: Daemon) -> bool:
        """Start it; false when it ran already. Returns before it is ready.

        Raises:
            GestaltError: it cannot be started.
        """

    @abstractmethod
    async def stop(self, daemon: Daemon) -> bool:
        """Stop it and wait for its end; false when it did not run."""

    @abstractmethod
    async def state(self, daemon: Daemon) -> DaemonState:
        """Look at it."""

    @abstractmethod
    async def last_words(self, daemon: Daemon) -> list[str]:
        """Return the end of its log, a line each, for an error message."""

    @abstractmethod
    async def remove(self) -> None:
        """Remove what the supervisor itself put on the machine. The daemons have stopped."""


def supervisor_of(layout: Layout) -> Supervisor:
    """Return systemd for the machine's own appliance where systemd runs, else the direct way."""
    if layout.is_machine and Path("/run/systemd/system").is_dir():
        return SystemdSupervisor()
    return DirectSupervisor(layout)


def daemons_of(layout: Layout) -> tuple[Daemon, Daemon]:
    """Return the daemons in the order in which they start."""
    agent = Daemon("gestalt-agent", layout.agent_settings, units=("gestalt-haproxy",))
    return (Daemon("gestalt-coordinator", layout.coordinator_settings), agent)


class DirectSupervisor(Supervisor):
    """Detached processes, found again by their command line."""

    words = "started directly, without systemd"

    def __init__(self, layout: Layout) -> None:
        self._logs = layout.logs
        self._started: dict[str, processes.Running] = {}

    async def start(self, daemon: Daemon) -> bool:
        if self._find(daemon):
            return False
        log = self._log(daemon)
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists() and log.stat().st_size > _LOG_KEPT:
            log.replace(log.with_suffix(".log.1"))
        pid = spawn_detached([sys.executable, str(_program(daemon.name)), "--config", str(daemon.settings)], log)
        self._started[daemon.name] = processes.known_by(pid)
        return True

    async def stop(self, daemon: Daemon) -> bool:
        running = self._find(daemon)
        await processes.end(running, STOP_GRACE)
        return bool(running)

    def log_of(self, daemon: Daemon) -> str:
        return str(self._log(daemon))

    async def state(self, daemon: Daemon) -> DaemonState:
        running = self._find(daemon)
        return DaemonState(running[0].pid, running[0].age) if running else DaemonState()

    async def last_words(self, daemon: Daemon) -> list[str]:
        try:
            return self._log(daemon).read_text(errors="replace").splitlines()[-_LAST_WORDS:]
        except OSError as error:
            return [f"its log cannot be read: {error}"]

    async def remove(self) -> None:
        shutil.rmtree(self._logs, ignore_errors=True)

    def _log(self, daemon: Daemon) -> Path:
        return self._logs / f"{daemon.name}.log"

    def _find(self, daemon: Daemon) -> list[processes.Running]:
        """Return what runs. What we started ourselves counts from its first moment on, when the kernel shows no arguments yet."""
        own = self._started.get(daemon.name)
        return processes.find(daemon.name, str(daemon.settings)) or ([own] if own is not None and own.is_alive() else [])


class SystemdSupervisor(Supervisor):
    """Units: those of a package where one is installed, else ours in /etc/systemd/system."""

    words = "run by systemd"

    def log_of(self, daemon: Daemon) -> str:
        return f"journalctl -u {daemon.name}"

    async def start(self, daemon: Daemon) -> bool:
        if (await self.state(daemon)).pid:
            return False
        for name in (daemon.name, *daemon.units):
            await self._install(name, daemon)
        done = await _systemctl("enable", "--now", "--no-block", daemon.name)
        if not done.ok:
            raise GestaltError(
                Kind.FAILED, f"systemd does not start {daemon.name}: {done.complaint()}", hint=f"journalctl -u {daemon.name}"
            )
        return True

    async def stop(self, daemon: Daemon) -> bool:
        ran = bool((await self.state(daemon)).pid)
        done = await _systemctl("disable", "--now", daemon.name)
        if ran and not done.ok:
            raise GestaltError(Kind.FAILED, f"systemd does not stop {daemon.name}: {done.complaint()}", hint=f"journalctl -u {daemon.name}")
        return ran

    async def state(self, daemon: Daemon) -> DaemonState:
        shown = await _systemctl("show", "--property", "MainPID,ActiveState,Job,ExecMainStartTimestampMonotonic", daemon.name)
        values = _properties(shown.stdout.decode(errors="replace"))
        pid = int(values.get("MainPID", "0"))
        coming = values.get("ActiveState") in {"activating", "reloading"} or values.get("Job", "") not in {"", "0"}
        age = monotonic() - int(values["ExecMainStartTimestampMonotonic"]) / 1e6 if pid else 0.0
        return DaemonState(pid, age, coming)

    async def last_words(self, daemon: Daemon) -> list[str]:
        shown = await run(["journalctl", "--unit", daemon.name, "--lines", str(_LAST_WORDS), "--output", "cat", "--no-pager"], limit=10)
        return shown.stdout.decode(errors="replace").splitlines()

    async def remove(self) -> None:
        for unit in _UNITS.glob("gestalt-*.service"):
            if _OURS in unit.read_text(encoding="utf-8"):
                unit.unlink()
        await _systemctl("daemon-reload")

    async def _install(self, name: str, daemon: Daemon) -> None:
        """Put a unit of ours in place, unless a package brought one or an administrator has another, or has masked it."""
        unit = _UNITS / f"{name}.service"
        if is_anothers(unit):
            return
        known = await _systemctl("cat", unit.name)
        if known.ok and not unit.exists():
            return
        text = as_root((files("gestalt") / "systemd" / unit.name).read_text(encoding="utf-8"))
        text = f"{_OURS}\n" + text.replace(f"/usr/bin/{daemon.name}", f"{sys.executable} {_program(daemon.name)}")
        if _program(daemon.name).is_relative_to("/tmp"):  # noqa: S108 - a checkout there would be hidden from its own daemon
            text = text.replace("PrivateTmp=yes\n", "")
        if not unit.exists() or unit.read_text(encoding="utf-8") != text:
            write_atomic(unit, text)
            await _systemctl("daemon-reload")


def is_anothers(unit: Path) -> bool:
    """Tell whether a unit's place is taken by what is not ours: a file of somebody else's, or a link, by which it is masked."""
    return unit.is_symlink() or (unit.exists() and _OURS not in unit.read_text(encoding="utf-8"))


def as_root(unit: str) -> str:
    """Return a unit without its user, whom only a package makes."""
    return re.sub(r"^(User|Group)=.*\n", "", unit, flags=re.MULTILINE)


_OURS = "# Written by `gestaltctl appliance up`; removed by `gestaltctl appliance destroy`."


async def _systemctl(*words: str) -> Completed:
    return await run(["systemctl", *words], limit=STOP_GRACE + 20)


def _properties(text: str) -> Mapping[str, str]:
    pairs = (line.partition("=") for line in text.splitlines())
    return {name: value for name, _, value in pairs}


def _program(name: str) -> Path:
    """Return the console script `name` of this installation."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise GestaltError(Kind.FAILED, f"the program {name} is not installed", hint="install Gestalt anew: scripts/setup.sh")
    return Path(found)
