"""What systemd says of our units: docs/units.md gives a reason for each line that is open, and the figures that it names are true."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from gestalt import shell
from gestalt.plugins.loadbalancer.haproxy_process import HaproxyProcess
from gestalt.plugins.loadbalancer.haproxy_unit import SHIPPED_CONFIG, UNIT, parse_state
from gestalt.plugins.runtime.process_systemd import SLICE

ROOT = Path(__file__).resolve().parents[3]
GUIDE = (ROOT / "docs/units.md").read_text(encoding="utf-8")

analyzed = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


async def said_of(unit: str, *options: str) -> str:
    """Return what `systemd-analyze security` says of a unit as it lies here; other versions look at other lines."""
    version = await shell.run(("systemd-analyze", "--version"), limit=30)
    if not version.stdout.startswith(b"systemd 252 "):
        pytest.skip("docs/units.md is about systemd 252")
    argv = ("systemd-analyze", "security", "--offline=true", "--no-pager", *options, str(ROOT / f"systemd/{unit}.service"))
    return (await shell.run(argv, limit=30)).stdout.decode()


def part_about(title: str) -> str:
    """Return what the guide says of one unit's lines."""
    return GUIDE.split(f"### {title}, line by line\n")[1].split("\n#")[0]


@analyzed
@pytest.mark.parametrize(
    ("unit", "title"), [("gestalt-fence", "The fence"), ("gestalt-agent", "The agent"), ("gestalt-haproxy", "HAProxy")]
)
async def test_every_line_that_is_open_has_its_reason(unit: str, title: str) -> None:
    rows = [line.split("|")[1] for line in part_about(title).splitlines() if line.startswith("| `")]
    told = set(re.findall(r"`([A-Za-z]+)`", "\n".join(rows)))
    checks: list[dict[str, Any]] = json.loads(await said_of(unit, "--json=short"))
    open_lines = {name for check in checks if check["set"] is False for name in re.findall(r"([A-Z][A-Za-z]+)=", check["name"])}
    assert told == open_lines


@analyzed
@pytest.mark.parametrize("unit", ["gestalt-agent", "gestalt-coordinator", "gestalt-fence", "gestalt-haproxy"])
async def test_the_exposure_is_what_the_guide_says(unit: str) -> None:
    measured = re.findall(r"exposure level for \S+: ([0-9.]+)", await said_of(unit))
    assert re.findall(rf"^\| `{unit}` \| ([0-9.]+) \|", GUIDE, re.MULTILINE) == measured


@pytest.mark.parametrize(("unit", "title"), [("gestalt-fence", "The fence"), ("gestalt-haproxy", "HAProxy")])
def test_it_has_the_capabilities_that_the_guide_names(unit: str, title: str) -> None:
    (line,) = re.findall(r"^CapabilityBoundingSet=(.+)$", (ROOT / f"systemd/{unit}.service").read_text(encoding="utf-8"), re.MULTILINE)
    (row,) = re.findall(r"^\| `CapabilityBoundingSet`: (.+?) \|", part_about(title), re.MULTILINE)
    assert set(line.split()) == set(re.findall(r"`(CAP_[A-Z_]+)`", row))


@analyzed
@pytest.mark.parametrize(("there", "starts"), [("a file", True), ("a link to what is not mounted", True), ("nothing", False)])
async def test_the_fence_starts_where_it_has_settings_or_will_have(there: str, starts: bool, tmp_path: Path) -> None:
    settings = tmp_path / "fence.yaml"
    if there == "a file":
        settings.touch()
    elif there != "nothing":
        settings.symlink_to(tmp_path / "mount/fence.yaml")
    unit = (ROOT / "systemd/gestalt-fence.service").read_text(encoding="utf-8")
    conditions = re.findall(r"^Condition\w+=.+$", unit.replace("/etc/gestalt/fence.yaml", str(settings)), re.MULTILINE)
    assert (await shell.run(("systemd-analyze", "condition", *conditions), limit=30)).ok is starts


def test_haproxys_unit_names_the_files_that_the_agent_has_by_default() -> None:
    unit = (ROOT / "systemd" / UNIT).read_text(encoding="utf-8")
    (command,) = re.findall(r"^ExecStart=(.+)$", unit, re.MULTILINE)
    shown = f"LoadState=loaded\nExecStart={{ path=/usr/bin/env ; argv[]={command} ; ignore_errors=no }}\n"
    assert parse_state(shown, SHIPPED_CONFIG).is_ours
    assert f"\nBindPaths={SHIPPED_CONFIG.parent}\n" in unit
    process = HaproxyProcess(SHIPPED_CONFIG.parent)
    assert {str(process.config), f"{process.master_socket},mode,600"} < set(command.split())
    process.close()


def test_the_slice_that_is_shipped_is_the_one_that_processes_are_put_into() -> None:
    assert [file.name for file in (ROOT / "systemd").glob("*.slice")] == [SLICE]
    for unit in (ROOT / "systemd").glob("*.service"):
        assert "\nSlice=" not in unit.read_text(encoding="utf-8"), "daemons are in system.slice"
