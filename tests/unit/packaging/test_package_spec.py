"""What stands in the spec file and elsewhere, too, says the same: versions, units, programs, settings of systemd."""

from __future__ import annotations

import importlib.util
import re
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType

from gestalt import __version__

ROOT = Path(__file__).resolve().parents[3]
PACKAGING = ROOT / "packaging"
SPEC = (PACKAGING / "gestalt.spec").read_text(encoding="utf-8")
SHIPPED = ("gestaltctl", "gestalt-coordinator", "gestalt-agent")
LOCKS = (ROOT / "requirements.lock", PACKAGING / "build.lock")


def wheels() -> ModuleType:
    found = importlib.util.spec_from_file_location("wheels", PACKAGING / "wheels.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def section(name: str) -> str:
    """Return what the spec file lists as the files of a package."""
    return SPEC.split(f"%files -n {name}\n")[1].split("\n%files")[0].split("\n%changelog")[0]


def scripts(stage: str, name: str) -> str:
    return SPEC.split(f"%{stage} -n {name}\n")[1].split("\n\n")[0]


def test_the_version_is_that_of_the_code() -> None:
    assert re.search(r"^Version: +(.+)$", SPEC, re.MULTILINE).group(1) == __version__  # type: ignore[union-attr]


def test_what_the_package_brings_along_is_what_the_lock_holds() -> None:
    named = [line for line in SPEC.splitlines() if "bundled(" in line]
    assert named == wheels().bundled(LOCKS[0])
    assert len(named) > 20


def test_every_wheel_is_known_by_its_hash() -> None:
    for lock in LOCKS:
        entries = re.sub(r"\\\n", "", lock.read_text(encoding="utf-8")).splitlines()
        without = [
            entry for entry in entries if not entry.startswith("#") and not re.search(r"==\S+( +--hash=sha256:[0-9a-f]{64})+$", entry)
        ]
        assert without == []


def test_every_program_belongs_to_a_package() -> None:
    programs = {entry.name for entry in distribution("gestalt").entry_points if entry.group == "console_scripts"}
    assert set(re.findall(r"%\{_bindir\}/(gestalt\S+)$", "\n".join(map(section, SHIPPED)), re.MULTILINE)) == programs


def test_every_unit_is_shipped_switched_off_stopped_and_restarted() -> None:
    for name in ("gestalt-coordinator", "gestalt-agent"):
        units = re.findall(r"%\{_unitdir\}/(\S+\.service)", section(name))
        preset = (PACKAGING / f"80-{name}.preset").read_text(encoding="utf-8")
        for unit in units:
            is_daemon = "[Install]" in (ROOT / "systemd" / unit).read_text(encoding="utf-8")
            assert (f"disable {unit}" in preset) == is_daemon
            # What the agent starts, HAProxy, goes on whatever is done with the packages.
            assert [unit in scripts(stage, name) for stage in ("post", "preun", "postun")] == [is_daemon] * 3
    shipped = re.findall(r"%\{_unitdir\}/(\S+)", SPEC.split("%files", 1)[1])
    assert sorted(shipped) == sorted(unit.name for unit in (ROOT / "systemd").iterdir())


def daemons() -> list[Path]:
    return [unit for unit in (ROOT / "systemd").glob("*.service") if "[Install]" in unit.read_text(encoding="utf-8")]


def test_units_start_what_the_packages_install() -> None:
    for unit in daemons():
        assert f"\nExecStart=/usr/bin/{unit.stem} --config /etc/gestalt/" in unit.read_text(encoding="utf-8")


def test_systemd_ends_every_daemon_that_hangs_without_a_dump_of_its_keys() -> None:
    for unit in daemons():
        text = unit.read_text(encoding="utf-8")
        assert re.search(r"^WatchdogSec=(20|30)s$", text, re.MULTILINE), unit
        assert re.search(r"^LimitCORE=0(:infinity)?$", text, re.MULTILINE), unit


def test_systemd_never_gives_a_daemon_up_but_for_wrong_settings_and_waits_between_two_lives() -> None:
    for unit in daemons():
        lines = unit.read_text(encoding="utf-8").splitlines()
        assert {"Restart=always", "RestartPreventExitStatus=78", "StartLimitIntervalSec=0"} <= set(lines), unit
        assert [line for line in lines if re.match(r"RestartSec=[1-9][0-9]*m?s$", line)], unit


def test_what_runs_outlives_its_daemons_and_begins_after_what_it_needs() -> None:
    texts = {name: (ROOT / f"systemd/gestalt-{name}.service").read_text(encoding="utf-8").splitlines() for name in ("agent", "fence")}
    assert all("KillMode=process" in lines for lines in texts.values())
    (after,) = [line.partition("=")[2].split() for line in texts["agent"] if line.startswith("After=")]
    assert {"network-online.target", "remote-fs.target", "docker.service", "podman.socket", "gestalt-fence.service"} <= set(after)


def test_a_reload_by_systemd_fails_when_the_settings_are_wrong() -> None:
    for unit in daemons():
        lines = unit.read_text(encoding="utf-8").splitlines()
        start = next(line.partition("=")[2] for line in lines if line.startswith("ExecStart="))
        reloads = [line.partition("=")[2] for line in lines if line.startswith("ExecReload=")]
        assert reloads == [f"{start} --check-config --quiet", "/bin/kill -HUP $MAINPID"]


def test_the_fence_is_back_before_the_agent_asks_for_it() -> None:
    started = re.search(r"%restart_on_upgrade (.+)$", scripts("postun", "gestalt-agent"), re.MULTILINE)
    assert started is not None
    assert started.group(1).split() == ["gestalt-fence.service", "gestalt-agent.service"]
