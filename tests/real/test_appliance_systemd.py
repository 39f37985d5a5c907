"""The appliance of a machine that systemd runs: on a lab node with systemd as PID 1."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

import pytest

from gestalt.clock import monotonic
from gestalt.plugins.runtime.process_systemd import SLICE

from ..cluster.lab.nodes import CHECKOUT, File, Node, can_run
from .agent_rig import until

LIMIT = 30.0
SHORT = "3s"
GESTALTCTL = str(CHECKOUT / ".venv/bin/gestaltctl")
APP = "/test/appliance/systemd/sleeper"
SLEEPER = {
    "path": APP,
    "runtime": "process",
    "command": ["/usr/bin/sleep", "100000"],
    "instances": 2,
    "stop": {"grace": "1s", "drain": "0s"},
}
UNITS = ("gestalt-coordinator", "gestalt-agent")

pytestmark = [pytest.mark.real, pytest.mark.skipif(not can_run(), reason="lab nodes need root, systemd-sysv and busybox-static")]


async def ctl(node: Node, *words: str, expect: int = 0) -> str:
    done = await node.run(GESTALTCTL, *words, limit=90)
    said = done.stdout.decode() + done.stderr.decode()
    if done.code != expect:
        journal = await node.run("journalctl", "--no-pager", "--lines", "30", "--output", "cat")
        pytest.fail(f"gestaltctl {' '.join(words)}: exit {done.code}\n{said}\n{journal.stdout.decode()}")
    return said


async def show(node: Node, unit: str) -> dict[str, str]:
    done = await node.run("systemctl", "show", "--property", "ActiveState,UnitFileState,MainPID,NRestarts", unit)
    return dict(line.split("=", 1) for line in done.stdout.decode().splitlines())


async def workers(node: Node) -> set[str]:
    done = await node.run("pgrep", "--full", "--exact", "/usr/bin/sleep 100000")
    return set(done.stdout.decode().split())


async def slice_of(node: Node, pid: str) -> str:
    """Return the slice that a process is in: the daemons are apart from what they run."""
    return (await node.do("ps", "--no-headers", "--format=slice", "--pid", pid)).strip()


async def tells(node: Node, unit: str, words: str) -> bool:
    """Look for words in the log of a unit."""
    return words in (await node.run("journalctl", "--no-pager", "--unit", unit, "--output", "cat")).stdout.decode()


async def test_a_reload_is_refused_or_taken_over_and_systemd_knows(node: Node) -> None:
    await ctl(node, "appliance", "init", "--runtime", "process")
    await ctl(node, "appliance", "up")
    for daemon, text in (("agent", "resync: {value}\n"), ("coordinator", "heartbeat: {value}\n")):
        unit, drop_in = f"gestalt-{daemon}", f"/etc/gestalt/{daemon}.d/10-site.yaml"
        before = await show(node, unit)
        await node.do("mkdir", "-p", f"/etc/gestalt/{daemon}.d")
        await node.do("sh", "-c", f"echo '{text.format(value='soon')}' >{drop_in}")
        assert (await node.run("systemctl", "reload", unit)).code != 0
        assert (await show(node, unit))["MainPID"] == before["MainPID"]
        await node.do("sh", "-c", f"echo '{text.format(value='2500ms')}' >{drop_in}")
        await node.do("systemctl", "reload", unit)
        said = f"{text.split(':', maxsplit=1)[0]} is 2.5, was "
        await until(f"the log to say: {said}", partial(tells, node, unit, said), LIMIT)
        assert (await show(node, unit))["MainPID"] == before["MainPID"]
        status = (await node.run("systemctl", "status", "--no-pager", unit)).stdout.decode()
        assert ("a restart is needed for changed settings: heartbeat" in status) == (daemon == "coordinator")


async def parts(node: Node) -> dict[str, dict[str, Any]]:
    done = await node.run(GESTALTCTL, "appliance", "status", "-o", "json", limit=60)
    return {part["part"]: part for part in json.loads(done.stdout)}


async def until_well(node: Node) -> None:
    deadline = monotonic() + LIMIT
    while bad := [part for part in (await parts(node)).values() if not part["ok"]]:
        assert monotonic() < deadline, f"the appliance does not get well: {bad}"
        await asyncio.sleep(0.2)


async def restarted(node: Node, unit: str, before: dict[str, str]) -> None:
    deadline = monotonic() + LIMIT
    while (now := await show(node, unit))["MainPID"] in {before["MainPID"], "0"} or now["ActiveState"] != "active":
        assert monotonic() < deadline, f"{unit} stands still, and systemd does not start it anew: {now}"
        await asyncio.sleep(0.2)
    assert int(now["NRestarts"]) == int(before["NRestarts"]) + 1


@pytest.mark.timeout(180)
async def test_systemd_starts_daemons_anew_that_stand_still(node: Node) -> None:
    await ctl(node, "appliance", "init", "--runtime", "process")
    await ctl(node, "appliance", "up")
    await node.put({"/tmp/sleeper.json": File(json.dumps(SLEEPER).encode())})
    await ctl(node, "launch", "-f", "/tmp/sleeper.json")
    running = await workers(node)
    short = File(f"[Service]\nWatchdogSec={SHORT}\n".encode())
    await node.put({f"/run/systemd/system/{unit}.service.d/short.conf": short for unit in UNITS})
    await node.do("systemctl", "daemon-reload")
    await node.do("systemctl", "restart", *UNITS)
    await until_well(node)
    for unit in UNITS:
        before = await show(node, unit)
        await node.do("systemctl", "kill", "--kill-who=main", "--signal=STOP", unit)
        await restarted(node, unit, before)
        said = await node.do("journalctl", "--no-pager", "--output=cat", f"--unit={unit}")
        assert f"Watchdog timeout (limit {SHORT})" in said
        assert "most recent call first" in said, "where it stood"
        await until_well(node)
    assert await workers(node) == running
    for unit in UNITS:
        assert (await show(node, unit))["NRestarts"] == "1", "those that work are left alone"


@pytest.mark.timeout(180)
async def test_systemd_runs_the_appliance(node: Node) -> None:
    for unit in UNITS:
        verified = await node.run("systemd-analyze", "verify", "--recursive-errors=no", str(CHECKOUT / f"systemd/{unit}.service"))
        assert "Unknown" not in verified.stderr.decode(), verified.stderr.decode()
    await ctl(node, "appliance", "init", "--runtime", "process")
    assert "run by systemd" in await ctl(node, "appliance", "up")
    states = {unit: await show(node, unit) for unit in UNITS}
    assert all(state["ActiveState"] == "active" and state["UnitFileState"] == "enabled" for state in states.values()), states
    await until_well(node)

    await node.run("/bin/sh", "-c", f"cat >/tmp/sleeper.json <<'END'\n{json.dumps(SLEEPER)}\nEND")
    await ctl(node, "launch", "-f", "/tmp/sleeper.json")
    running = await workers(node)
    assert len(running) == 2
    assert {await slice_of(node, pid) for pid in running} == {SLICE}
    assert {await slice_of(node, states[unit]["MainPID"]) for unit in UNITS} == {"system.slice"}

    for unit in UNITS:
        await node.run("systemctl", "kill", "--kill-who=main", "--signal=KILL", unit)
    await ctl(node, "appliance", "up")
    await until_well(node)
    after = {unit: await show(node, unit) for unit in UNITS}
    assert all(after[unit]["MainPID"] != states[unit]["MainPID"] for unit in UNITS)
    await node.run("systemctl", "restart", "gestalt-agent")
    await until_well(node)
    assert await workers(node) == running, "neither kill -9 nor a restart of the daemons touched what runs"

    await ctl(node, "appliance", "down")
    assert await workers(node) == running
    assert (await show(node, "gestalt-agent"))["UnitFileState"] == "disabled", "down holds over a reboot"
    await ctl(node, "appliance", "up")
    await ctl(node, "appliance", "destroy", "--yes")
    assert await workers(node) == set()
    left = await node.run(
        "/bin/sh", "-c", "ls -d /etc/gestalt /var/lib/gestalt /var/log/gestalt /run/gestalt /etc/systemd/system/gestalt-* 2>/dev/null"
    )
    assert left.stdout.decode() == ""
