"""The shim as the main process of a transient unit: systemd makes the cgroup, keeps the limits and can make the root read-only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gestalt import shell
from gestalt.plugin.runtime import DriverUnavailable
from gestalt.spec.schema import AppSpec

from .process_cgroup import ROOT, cpu_shares, cpu_weight
from .process_records import AttemptFolder, Fields
from .process_supervisor import START_LIMIT, Supervisor, shim_command

SLICE = "gestalt.slice"
_CALL_LIMIT = 10.0
_NOT_LOADED = 5
_OOM_POLICY_SINCE = 243
_HIERARCHIES = ("systemd", "unified", "pids", "memory")


def systemd_runs() -> bool:
    """Whether systemd is PID 1."""
    return Path("/run/systemd/system").is_dir()


def unit_name(name: str) -> str:
    return f"{name}.service"


class SystemdSupervisor(Supervisor):
    """A shim in a transient unit `gestalt-<cluster8>-<instance>-<attempt>.service`."""

    name = "systemd"

    def __init__(self, compiled: Callable[[], Path]) -> None:
        self._compiled = compiled
        self._version = 0

    async def facts(self) -> Mapping[str, str]:
        return {"systemd": str(await self._systemd_version()), "cgroup": "systemd", "limits": "cpu,memory,pids"}

    def check(self, spec: AppSpec) -> None:
        """Nothing of a process is beyond systemd."""

    async def fields(self, name: str) -> Fields:
        return [("unit", unit_name(name))]

    async def cgroups(self, name: str) -> Sequence[str]:
        """systemd keeps the tree of units in one hierarchy always, and in those of controllers that it has accounting for."""
        places = [ROOT] if (ROOT / "cgroup.controllers").exists() else [ROOT / hierarchy for hierarchy in _HIERARCHIES]
        return [str(place / SLICE / unit_name(name)) for place in places if (place / "cgroup.procs").exists()]

    async def start(self, folder: AttemptFolder, spec: AppSpec) -> None:
        done = await self._run_unit(folder, spec)
        if _exists_already(done) and await self._is_empty(folder.name):  # its shim came to nothing
            await self.clear(folder.name)
            done = await self._run_unit(folder, spec)
        if not done.ok and not _exists_already(done) and not (folder.path / "started").exists():
            raise DriverUnavailable(f"systemd did not start {unit_name(folder.name)}: {done.complaint()}")

    async def _run_unit(self, folder: AttemptFolder, spec: AppSpec) -> shell.Completed:
        policy = {"OOMPolicy": "continue"} if await self._systemd_version() >= _OOM_POLICY_SINCE else {}
        return await _call(
            "systemd-run",
            "--quiet",
            "--collect",
            "--no-ask-password",
            "--remain-after-exit",
            "--service-type=notify",
            f"--slice={SLICE}",
            f"--unit={unit_name(folder.name)}",
            f"--description=Gestalt: {spec.path}",
            *(f"--property={key}={value}" for key, value in {**unit_properties(spec, folder.path), **policy}.items()),
            *shim_command(self._compiled(), "run", str(folder.path)),
        )

    async def _is_empty(self, name: str) -> bool:
        """Whether the unit has no main process; one that starts up has."""
        return (await _call("systemctl", "show", "--property=MainPID", unit_name(name))).stdout.strip() == b"MainPID=0"

    async def clear(self, name: str) -> None:
        unit = unit_name(name)
        await _call("systemctl", "kill", "--signal=SIGKILL", unit)  # fails when there is nothing to kill
        done = await _call("systemctl", "stop", unit)
        if not done.ok and done.code != _NOT_LOADED:
            raise DriverUnavailable(f"systemd did not stop {unit}: {done.complaint()}")
        await _call("systemctl", "reset-failed", unit)  # fails when it has not failed

    async def _systemd_version(self) -> int:
        """Return the number of the release.

        Raises:
            DriverUnavailable: systemd is not PID 1 here.
        """
        if not systemd_runs():
            raise DriverUnavailable("systemd does not run this machine; set process.supervisor to auto or shim")
        if not self._version:
            words = (await _call("systemctl", "--version")).stdout.split()
            self._version = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
        return self._version


def unit_properties(spec: AppSpec, folder: Path) -> dict[str, str]:
    """Return the unit's properties. User, capabilities and ulimits are not among them: they are for the process, not for the shim."""
    properties = {
        "Restart": "no",
        "NotifyAccess": "main",
        "KillMode": "mixed",
        "KillSignal": "SIGTERM",
        "TimeoutStartSec": f"{START_LIMIT:g}",
        "TimeoutStopSec": f"{spec.stop.grace + 5:g}",
        "StandardInput": "null",
        "StandardOutput": "null",
        "WorkingDirectory": "/",
        "CPUWeight": str(cpu_weight(cpu_shares(spec.resources.cpu))),
    }
    if spec.resources.memory:
        properties |= {"MemoryMax": str(spec.resources.memory), "MemorySwapMax": "0"}
    if spec.resources.pids:
        properties["TasksMax"] = str(spec.resources.pids + 1)  # the shim itself
    if spec.security.read_only_root:
        properties |= {"ProtectSystem": "strict", "ReadWritePaths": " ".join(_writable(spec, folder))}
    return properties


def _writable(spec: AppSpec, folder: Path) -> Sequence[str]:
    paths = [str(folder), *(volume.host_path for volume in spec.volumes if not volume.read_only)]
    return [f'"{path}"' for path in paths]


def _exists_already(done: shell.Completed) -> bool:
    return not done.ok and b"already" in done.stderr


async def _call(*argv: str) -> shell.Completed:
    try:
        return await shell.run(argv, limit=START_LIMIT + _CALL_LIMIT, cwd="/")
    except (shell.CommandTimedOut, OSError) as error:
        raise DriverUnavailable(f"{argv[0]}: {error}") from None
