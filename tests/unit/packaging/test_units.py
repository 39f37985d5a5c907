"""What systemd says of our units: docs/units.md gives a reason for each line that is open, and the figures that it names are true."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from gestalt import shell
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


@analyzed
@pytest.mark.parametrize(("unit", "title"), [("gestalt-fence", "The fence"), ("gestalt-agent", "The agent")])
async def test_every_line_that_is_open_has_its_reason(unit: str, title: str) -> None:
    part = GUIDE.split(f"### {title}, line by line\n")[1].split("\n#")[0]
    told = set(re.findall(r"`([A-Za-z]+)`", "\n".join(line.split("|")[1] for line in part.splitlines() if line.startswith("| `"))))
    checks: list[dict[str, Any]] = json.loads(await said_of(unit, "--json=short"))
    open_lines = {name for check in checks if check["set"] is False for name in re.findall(r"([A-Z][A-Za-z]+)=", check["name"])}
    assert told == open_lines


@analyzed
@pytest.mark.parametrize("unit", ["gestalt-agent", "gestalt-coordinator", "gestalt-fence"])
async def test_the_exposure_is_what_the_guide_says(unit: str) -> None:
    measured = re.findall(r"exposure level for \S+: ([0-9.]+)", await said_of(unit))
    assert re.findall(rf"^\| `{unit}` \| ([0-9.]+) \|", GUIDE, re.MULTILINE) == measured


def test_the_fence_has_the_capabilities_that_the_guide_names() -> None:
    (line,) = re.findall(
        r"^CapabilityBoundingSet=(.+)$", (ROOT / "systemd/gestalt-fence.service").read_text(encoding="utf-8"), re.MULTILINE
    )
    (row,) = re.findall(r"^\| `CapabilityBoundingSet`: (.+?) \|", GUIDE, re.MULTILINE)
    assert set(line.split()) == set(re.findall(r"`(CAP_[A-Z_]+)`", row))


def test_the_slice_that_is_shipped_is_the_one_that_processes_are_put_into() -> None:
    assert [file.name for file in (ROOT / "systemd").glob("*.slice")] == [SLICE]
    for unit in (ROOT / "systemd").glob("*.service"):
        assert "\nSlice=" not in unit.read_text(encoding="utf-8"), "daemons are in system.slice"
