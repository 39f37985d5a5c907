"""What the fence's unit leaves to it is enough for its work: its own code, run by systemd as the unit says, on a lab node."""

from __future__ import annotations

import pytest

from ..cluster.lab.nodes import CHECKOUT, File, Node, can_run
from .agent_rig import until

UNIT = "gestalt-fence.service"
VICTIM = "victim.service"
KILLER = f"""
import pathlib, sys
from gestalt.agent.fence.cgroups import check_path, kill_cgroup, pids_in, shut_cgroup
from gestalt.clock import boottime

for place in ("", "systemd", "pids", "unified"):
    path = check_path(f"/sys/fs/cgroup/{{place}}/system.slice/{VICTIM}".replace("//", "/"))
    if pids_in(path):
        shut_cgroup(path)
        sys.exit(0 if kill_cgroup(path, boottime() + 5) else "something is left")
sys.exit("there is no such cgroup")
"""
DROP_IN = f"""
[Unit]
ConditionPathExists=
[Service]
Type=oneshot
Restart=no
WatchdogSec=0
Environment=PYTHONPATH={CHECKOUT} PYTHONDONTWRITEBYTECODE=1
ExecStart=
ExecStart={CHECKOUT}/.venv/bin/python /tmp/killer.py
"""

pytestmark = [pytest.mark.real, pytest.mark.skipif(not can_run(), reason="lab nodes need root, systemd-sysv and busybox-static")]


async def ended(node: Node) -> bool:
    return (await node.run("systemctl", "is-active", VICTIM)).stdout.decode().strip() != "active"


@pytest.mark.timeout(90)
async def test_it_can_end_what_runs_as_somebody_else(node: Node) -> None:
    unit = (CHECKOUT / "systemd" / UNIT).read_bytes()
    files = {f"/etc/systemd/system/{UNIT}": unit, f"/etc/systemd/system/{UNIT}.d/once.conf": DROP_IN.encode()}
    await node.put({path: File(content) for path, content in (files | {"/tmp/killer.py": KILLER.encode()}).items()})
    await node.do("systemctl", "daemon-reload")
    await node.do("systemd-run", "--quiet", f"--unit={VICTIM}", "--uid=65534", "/bin/sh", "-c", "trap : TERM; while :; do sleep 1; done")
    assert not await ended(node)
    done = await node.run("systemctl", "start", UNIT)
    assert done.ok, await node.do("journalctl", "--no-pager", "--output=cat", f"--unit={UNIT}")
    await until("the end of what the fence says has ended", lambda: ended(node))
