"""Settings that are reloaded: the real daemons of an appliance take over what they can, name what waits, and refuse what is wrong."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.appliance_lab import Appliance, wait_for
from tests.real.coordinator_rig import Rig, eventually

pytestmark = pytest.mark.real


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[Appliance]:
    made = Appliance(tmp_path / "r", runtimes=("process",), settings={"agent": {"proxy": {"enabled": False}}})
    made.init()
    made.up()
    yield made
    for daemon in ("agent", "coordinator"):
        drop_in(made, daemon, "")
    made.destroy()


def drop_in(appliance: Appliance, daemon: str, text: str) -> None:
    folder = appliance.root / f"etc/gestalt/{daemon}.d"
    folder.mkdir(exist_ok=True)
    (folder / "10-site.yaml").write_text(text, encoding="utf-8")


def log(appliance: Appliance, daemon: str) -> str:
    return (appliance.root / f"var/log/gestalt/gestalt-{daemon}.log").read_text(encoding="utf-8")


def reloaded(appliance: Appliance, daemon: str, words: str) -> None:
    (process,) = appliance.pids(f"gestalt-{daemon}")
    os.kill(process, signal.SIGHUP)
    wait_for(f"the {daemon} to say {words!r}", lambda: words in log(appliance, daemon), state=appliance.logs)


def reserved(appliance: Appliance) -> float:
    (node,) = appliance.json("nodes")["nodes"]
    found: float = node["facts"].get("reserved", {}).get("cpu", 0.0)
    return found


def test_the_agent_offers_otherwise_at_once_and_names_what_waits(appliance: Appliance) -> None:
    site = appliance.root / "etc/gestalt/agent.d/10-site.yaml"
    drop_in(appliance, "agent", "offer: {reserved: {cpu: 0.25}}\nhealth_port: 1\nlog_level: debug\nresync: 1s\n")
    reloaded(appliance, "agent", f"taken over: offer.reserved.cpu is 0.25, was 0 ({site}:1)")
    assert f"counts after a restart of gestalt-agent: health_port is 1, was {appliance.health_port} ({site}:2)" in log(appliance, "agent")
    wait_for("the coordinator to know", lambda: reserved(appliance) == 0.25, limit=10, state=appliance.logs)
    wait_for("a line of debugging", lambda: " debug " in log(appliance, "agent"), state=appliance.logs)
    drop_in(appliance, "agent", "offer: {reserved: {cpu: none}}\n")
    reloaded(appliance, "agent", "the settings were refused, the old ones stay")
    assert f"{site}:1: offer.reserved.cpu: " in log(appliance, "agent")
    assert reserved(appliance) == 0.25


def test_the_coordinator_names_what_it_takes_over_and_what_waits(appliance: Appliance) -> None:
    drop_in(appliance, "coordinator", "task_retention: 10\nheartbeat: 1s\n")
    reloaded(appliance, "coordinator", "counts after a restart of gestalt-coordinator: heartbeat is 1, was 2")
    assert "taken over: task_retention is 10, was 1000" in log(appliance, "coordinator")


async def test_a_leader_decides_by_its_new_settings(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.up()
    try:
        assert rig.service is not None
        await rig.agent()
        for instances in (1, 2, 3):
            await rig.outcome(await rig.launch(instances))
        leader = rig.service.leader
        assert len(leader.ledger.state.tasks) == 3
        settings = rig.service.settings
        fields = {"task_retention": 1, "hands_off_share": 0.25, "replacements_per_second": 7.0, "request_retention": 0.0}
        await rig.service.reload(settings.model_copy(update=fields))
        await rig.outcome(await rig.launch(4))
        await eventually(lambda: len(leader.ledger.state.tasks) == 1, "tasks beyond the new limit to go")
        assert (leader.decider.brakes.doubt.share, leader.decider.brakes.allowance.rate) == (0.25, 7.0)
        assert len(leader.ledger.state.answers) <= 1, "answers were kept beyond the new time"
    finally:
        await rig.down()
