"""The journal of a machine that systemd runs: what the daemons log is found by its fields, on a lab node with journald."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from ..cluster.lab.nodes import CHECKOUT, File, Node, can_run
from .agent_rig import until

LIMIT = 30.0
CTL = str(CHECKOUT / ".venv/bin/gestaltctl")
ONE, TWO = "/test/journal/fields/one", "/test/journal/fields/two"
DYING = """
import logging, sys
from gestalt.log import setup_logging

setup_logging("info", "dying")
logging.getLogger("gestalt.dying").info("begins")
logging.getLogger("gestalt.dying").error("the last word", extra={"app": "/dying"})
"""
FLOOD = """
import logging, time
from pathlib import Path
from gestalt.log import setup_logging

def wait(name):
    while not Path(name).exists():
        time.sleep(0.05)

setup_logging("info", "flood")
log = logging.getLogger("gestalt.flood")
log.info("begins")
Path("/tmp/begun").touch()
wait("/tmp/hung")
began = time.monotonic()
for number in range(9000):
    log.info("line %d %s", number, "x" * 1000)
Path("/tmp/seconds.new").write_text(str(time.monotonic() - began))
Path("/tmp/seconds.new").rename("/tmp/seconds")
wait("/tmp/goes-on")
log.info("ends")
"""

pytestmark = [pytest.mark.real, pytest.mark.skipif(not can_run(), reason="lab nodes need root, systemd-sysv and busybox-static")]


def app(path: str) -> dict[str, Any]:
    check = {"name": "alive", "kind": "exec", "command": ["/usr/bin/test", "!", "-e", f"/tmp/ill{path.replace('/', '-')}"]}
    limits = {"interval": "1s", "timeout": "1s", "grace": "1s", "failures": 1, "purpose": "readiness"}
    stop = {"grace": "1s", "drain": "0s"}
    return {
        "path": path,
        "runtime": "process",
        "command": ["/usr/bin/sleep", "100000"],
        "instances": 2,
        "stop": stop,
        "checks": [check | limits],
    }


async def entries(node: Node, *matches: str) -> list[dict[str, str]]:
    done = await node.do("journalctl", "--no-pager", "--output=json", *matches)
    return [json.loads(line) for line in done.splitlines()]


async def tells(node: Node, words: str, *matches: str) -> bool:
    return any(words in entry["MESSAGE"] for entry in await entries(node, *matches))


async def is_well_again(node: Node, instance: str) -> bool:
    """Tell whether its check says so last."""
    said = [entry["MESSAGE"] for entry in await entries(node, f"GESTALT_INSTANCE={instance}", "GESTALT_CHECK=alive")]
    return "check alive is healthy" in said[-1]


@pytest.mark.timeout(180)
async def test_what_happens_to_an_app_is_found_by_its_fields(node: Node) -> None:
    await node.do(CTL, "appliance", "init", "--runtime", "process", limit=60)
    await node.do(CTL, "appliance", "up", limit=90)
    for path in (ONE, TWO):
        await node.put({"/tmp/app.json": File(json.dumps(app(path)).encode())})
        await node.do(CTL, "launch", "-f", "/tmp/app.json", limit=90)
    found = await entries(node, f"GESTALT_APP={ONE}")
    assert {entry["_SYSTEMD_UNIT"] for entry in found} == {"gestalt-coordinator.service", "gestalt-agent.service"}
    assert {entry["SYSLOG_IDENTIFIER"] for entry in found} == {"gestalt-coordinator", "gestalt-agent"}
    assert not [entry for entry in found if TWO in entry["MESSAGE"] or entry["GESTALT_APP"] != ONE]
    launched = [entry for entry in found if "was launched" in entry["MESSAGE"]]
    first, second = sorted(entry["GESTALT_INSTANCE"] for entry in launched)
    host = (await node.do("hostname")).strip()
    assert {entry["GESTALT_NODE"] for entry in launched} == {host}
    assert launched[0]["MESSAGE"] == f"agent.hands: attempt 1 was launched app={ONE} instance={launched[0]['GESTALT_INSTANCE']}"
    assert await tells(node, "launched", f"GESTALT_APP={ONE}", "GESTALT_EVENT=app.launched")

    await node.do("touch", f"/tmp/ill{ONE.replace('/', '-')}")
    await until("the illness", partial(tells, node, "check alive is unhealthy", f"GESTALT_INSTANCE={first}", "PRIORITY=4"), LIMIT)
    assert {entry["GESTALT_INSTANCE"] for entry in await entries(node, f"GESTALT_INSTANCE={first}")} == {first}
    assert not await tells(node, "is unhealthy", f"GESTALT_APP={TWO}")

    await node.do("rm", f"/tmp/ill{ONE.replace('/', '-')}")
    await until("its end", partial(is_well_again, node, first), LIMIT)
    await node.do(CTL, "scale", ONE, "1", limit=90)
    gone = await entries(node, f"GESTALT_APP={ONE}")
    stopped = {entry["GESTALT_INSTANCE"] for entry in gone if "is stopped" in entry["MESSAGE"]}
    assert stopped <= {first, second}
    assert len(stopped) == 1
    assert await tells(node, "from 2 to 1", "GESTALT_EVENT=app.scaled", f"GESTALT_APP={ONE}")


async def test_the_last_word_of_one_that_ends_is_its_units(node: Node) -> None:
    await node.put({"/tmp/dying.py": File(DYING.encode())})
    paths = (f"--setenv=PYTHONPATH={CHECKOUT}", "--setenv=PYTHONDONTWRITEBYTECODE=1")
    for number in range(20):
        unit = f"dying-{number}"
        await node.do("systemd-run", "--quiet", "--wait", *paths, f"--unit={unit}", str(CHECKOUT / ".venv/bin/python"), "/tmp/dying.py")
        await node.do("journalctl", "--sync")
        said = await entries(node, f"--unit={unit}", "GESTALT_APP=/dying", "PRIORITY=3")
        assert [entry["MESSAGE"] for entry in said] == ["dying: the last word app=/dying"], f"in try {number}"


async def exists(node: Node, path: str) -> bool:
    return (await node.run("test", "-e", path)).ok


async def test_nobody_waits_for_a_journald_that_hangs_and_what_is_lost_is_counted(node: Node) -> None:
    await node.put({"/tmp/flood.py": File(FLOOD.encode())})
    paths = (f"--setenv=PYTHONPATH={CHECKOUT}", "--setenv=PYTHONDONTWRITEBYTECODE=1")
    await node.do("systemd-run", "--quiet", *paths, "--unit=flood", str(CHECKOUT / ".venv/bin/python"), "/tmp/flood.py")
    await until("its begin", partial(exists, node, "/tmp/begun"), LIMIT)
    await node.do("systemctl", "kill", "--kill-whom=main", "--signal=SIGSTOP", "systemd-journald")
    try:
        await node.do("touch", "/tmp/hung")
        await until("its lines", partial(exists, node, "/tmp/seconds"), LIMIT)
    finally:
        await node.do("systemctl", "kill", "--kill-whom=main", "--signal=SIGCONT", "systemd-journald")
    assert float(await node.do("cat", "/tmp/seconds")) < 10
    await node.do("journalctl", "--sync")
    await node.do("touch", "/tmp/goes-on")
    await until("its end", partial(tells, node, "flood: ends", "SYSLOG_IDENTIFIER=flood"), LIMIT)
    said = [entry["MESSAGE"] for entry in await entries(node, "_SYSTEMD_UNIT=flood.service")]
    lines = [line for line in said if "flood: line" in line]
    assert said[-1] == "flood: ends"
    assert said[-2] == f"log: {9000 - len(lines)} lines were lost, which the journal did not take"
    assert 0 < len(lines) < 9000
