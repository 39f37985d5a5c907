"""What `systemctl show` says of HAProxy's unit, and what is made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gestalt.plugins.loadbalancer import haproxy_unit
from gestalt.plugins.loadbalancer.haproxy_unit import SHIPPED_CONFIG, UnitState, complaints, parse_state

CONFIG = Path("/srv/one/haproxy.cfg")


def shown(config: Path = CONFIG, **values: str) -> str:
    said = {
        "Job": "0",
        "ExecStart": f"{{ path=/usr/bin/env ; argv[]=/usr/bin/env haproxy -Ws -f {config} ; ignore_errors=no }}",
        "LimitNOFILE": "1234",
        "LoadState": "loaded",
        "ActiveState": "inactive",
        "InvocationID": "abc",
    }
    return "".join(f"{name}={value}\n" for name, value in (said | values).items())


@pytest.mark.parametrize(
    ("values", "busy"),
    [
        ({}, False),
        ({"ActiveState": "active"}, False),
        ({"ActiveState": "failed"}, False),
        ({"ActiveState": "activating"}, True),
        ({"ActiveState": "deactivating"}, True),
        ({"ActiveState": "inactive", "Job": "317"}, True),
    ],
)
def test_a_unit_is_busy_while_systemd_starts_or_ends_it(values: dict[str, str], busy: bool) -> None:
    assert parse_state(shown(**values), CONFIG) == UnitState(True, busy, 1234, "abc")


def test_a_unit_is_ours_only_if_it_names_our_configuration() -> None:
    assert parse_state(shown(), Path("/srv/another/haproxy.cfg")) == UnitState()
    assert parse_state("LoadState=not-found\nExecStart=\n", CONFIG) == UnitState()
    assert parse_state("", CONFIG) == UnitState()


@pytest.mark.parametrize("state", ["masked", "bad-setting", "error"])
def test_one_that_cannot_be_loaded_is_taken_for_what_was_shipped(state: str) -> None:
    said = f"LoadState={state}\nActiveState=inactive\n"
    assert parse_state(said, SHIPPED_CONFIG).is_ours
    assert not parse_state(said, CONFIG).is_ours


def test_no_limit_of_files_is_none() -> None:
    assert parse_state(shown(LimitNOFILE="infinity"), CONFIG).descriptors == 0


def test_only_alerts_are_complaints() -> None:
    said = "[NOTICE]   (7) : New worker (8) forked\n[ALERT]    (7) : cannot bind socket for [0.0.0.0:80]\n[ALERT] (7) : bad\n"
    assert complaints(said) == "cannot bind socket for [0.0.0.0:80] | bad"
    assert complaints("env: no such file\n") == ""


async def test_a_journal_that_is_stuck_or_missing_tells_nothing_and_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert await haproxy_unit._journal("abc") == ""
    journalctl = tmp_path / "journalctl"
    journalctl.write_text("#!/bin/sh\nexec /bin/sleep 100\n", encoding="utf-8")
    journalctl.chmod(0o755)
    monkeypatch.setattr(haproxy_unit, "_CALL_LIMIT", 0.2)
    assert await haproxy_unit._journal("abc") == ""
    told = [record.getMessage() for record in caplog.records if record.name == haproxy_unit.log.name]
    assert len(told) == 2
    assert all(line.startswith("the journal does not tell why HAProxy does not start: journalctl --sync: ") for line in told), told
