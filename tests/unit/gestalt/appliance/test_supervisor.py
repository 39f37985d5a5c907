"""Units that `appliance up` leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from gestalt.appliance import supervisor
from gestalt.appliance.supervisor import _OURS, Daemon, SystemdSupervisor, is_anothers


def test_what_an_administrator_masked_or_wrote_is_not_ours(tmp_path: Path) -> None:
    unit = tmp_path / "gestalt-haproxy.service"
    assert not is_anothers(unit)
    unit.write_text(f"{_OURS}\n[Service]\n", encoding="utf-8")
    assert not is_anothers(unit)
    unit.write_text("[Service]\n", encoding="utf-8")
    assert is_anothers(unit)
    unit.unlink()
    unit.symlink_to("/dev/null")
    assert is_anothers(unit), "masked"
    unit.unlink()
    unit.symlink_to(tmp_path / "nothing")
    assert is_anothers(unit)


async def test_a_masked_unit_stays_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_UNITS", tmp_path)
    unit = tmp_path / "gestalt-haproxy.service"
    unit.symlink_to("/dev/null")
    await SystemdSupervisor()._install("gestalt-haproxy", Daemon("gestalt-agent", tmp_path / "agent.yaml"))
    assert unit.readlink() == Path("/dev/null")
