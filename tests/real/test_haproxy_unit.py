"""HAProxy in its unit, on a lab node that systemd runs: kept apart from the agent, and always back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from functools import partial

import pytest

from gestalt.plugins.loadbalancer.haproxy_unit import UNIT

from ..cluster.lab.nodes import CHECKOUT, File, Node, can_run, down, up
from .agent_rig import until
from .haproxy_lab import OpenLoop

LIMIT = 30.0
PYTHON = str(CHECKOUT / ".venv/bin/python")
GESTALTCTL = str(CHECKOUT / ".venv/bin/gestaltctl")
AGENT = "gestalt-agent.service"
APP = "/test/haproxy/unit/web"
WEB = {
    "path": APP,
    "runtime": "process",
    "command": ["/usr/bin/python3", str(CHECKOUT / "demo/app.py"), "127.0.0.1"],
    "ports": [{"name": "http", "http": {}}],
    "instances": 2,
    "stop": {"grace": "1s", "drain": "0s"},
}
FOR_EITHER = (
    "tests/contracts/test_loadbalancer_haproxy.py",
    "tests/real/test_haproxy_life.py",
    "tests/real/test_haproxy_manager.py",
    "tests/real/test_haproxy_pending.py",
)
BUSY_PORT = "import socket, time; held = socket.create_server(('', 80)); time.sleep(1000)"

pytestmark = [pytest.mark.real, pytest.mark.skipif(not can_run(), reason="lab nodes need root, systemd-sysv and busybox-static")]


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    """One lab node with an address, so that requests come from another machine."""
    (started,) = await up(1, group="haproxy-unit")
    yield started
    await down("haproxy-unit")


async def ctl(node: Node, *words: str) -> str:
    return await node.do(GESTALTCTL, *words, limit=90)


async def appliance(node: Node) -> None:
    """Have an appliance with an app, which answers requests."""
    await ctl(node, "appliance", "init", "--runtime", "process")
    await ctl(node, "appliance", "up")
    await node.put({"/tmp/web.json": File(json.dumps(WEB).encode())})
    await ctl(node, "launch", "-f", "/tmp/web.json")
    await until("an answer", partial(answers, node), LIMIT)


async def answers(node: Node) -> bool:
    return (await node.run("curl", "--silent", "--fail", "--max-time", "1", "http://127.0.0.1/")).ok


async def main_of(node: Node, unit: str) -> str:
    """Return the main process of a unit; "0" when there is none."""
    return await node.do("systemctl", "show", "--property=MainPID", "--value", unit)


async def inside(node: Node, unit: str) -> list[str]:
    """Return what runs in a unit's cgroup, as systemd says it."""
    shown = await node.do("ps", "-eo", "unit=,comm=")
    return sorted(line.split()[1] for line in shown.splitlines() if line.split()[0] == unit)


async def problems(node: Node) -> str:
    (shown,) = json.loads(await ctl(node, "nodes", "-o", "json"))["nodes"]
    return "; ".join(shown["problems"])


async def is_another(node: Node, before: str) -> bool:
    return await main_of(node, UNIT) not in {"0", before} and await answers(node)


@pytest.mark.timeout(300)
async def test_all_that_holds_for_one_without_a_unit_holds_in_it(node: Node) -> None:
    """The same tests, on a machine that systemd runs."""
    command = ("env", "-C", str(CHECKOUT), "PYTHONDONTWRITEBYTECODE=1", "GESTALT_TEST_HAPROXY_UNIT=1", PYTHON, "-m", "pytest")
    done = await node.run(*command, "-q", "-p", "no:cacheprovider", *FOR_EITHER, limit=280)
    assert done.ok, done.stdout.decode()[-5000:]
    lives = (await node.do("journalctl", "--no-pager", "--output=cat", f"--unit={UNIT}")).count("Started ")
    assert lives > 30, "it was systemd that ran it"


@pytest.mark.timeout(180)
async def test_it_is_apart_from_the_agent_and_no_end_of_the_agent_costs_a_request(node: Node) -> None:
    await appliance(node)
    master = await main_of(node, UNIT)
    assert set(await inside(node, UNIT)) == {"haproxy"}
    assert "haproxy" not in await inside(node, AGENT)
    async with OpenLoop(80, rate=50, address=node.address) as traffic:
        await traffic.answered(20)
        for words in (("kill", "--kill-who=main", "--signal=KILL"), ("restart",), ("stop",), ("start",)):
            await node.do("systemctl", *words, AGENT)
            if words == ("stop",):
                assert await inside(node, AGENT) == [], "nothing is left over"
            await traffic.answered(50)
        await until("the node to be well", partial(is_well, node), LIMIT)
        await ctl(node, "scale", APP, "3")
        await until("all three to answer", lambda: len(traffic.answers) >= 3, LIMIT)
        await traffic.answered(50)
    assert traffic.failures == []
    assert await main_of(node, UNIT) == master
    await ctl(node, "appliance", "destroy", "--yes")
    assert await main_of(node, UNIT) == "0"
    left = await node.run("sh", "-c", "ls -d /run/gestalt /etc/systemd/system/gestalt-* 2>/dev/null")
    assert left.stdout.decode() == ""


async def is_well(node: Node) -> bool:
    return (await node.run(GESTALTCTL, "appliance", "status")).ok


@pytest.mark.timeout(180)
async def test_the_agent_alone_starts_it_again_whoever_ended_it(node: Node) -> None:
    await appliance(node)
    for words in (("kill", "--kill-who=main", "--signal=KILL"), ("stop",), ("restart",)):
        before = await main_of(node, UNIT)
        await node.do("systemctl", *words, UNIT)
        await until(f"another after systemctl {words[0]}", partial(is_another, node, before), LIMIT)
        await until("the node to be well", partial(is_well, node), LIMIT)
    await node.do("systemctl", "stop", AGENT)
    await node.do("systemctl", "stop", UNIT)
    assert await main_of(node, UNIT) == "0", "nobody starts it while the agent is away"
    await node.do("systemctl", "start", AGENT)
    await until("another, with the last configuration", partial(is_another, node, "0"), LIMIT)


@pytest.mark.timeout(180)
async def test_what_keeps_it_from_starting_is_told_as_without_a_unit(node: Node) -> None:
    shipped = (CHECKOUT / "systemd" / UNIT).read_bytes()
    await node.put({f"/usr/lib/systemd/system/{UNIT}": File(shipped)})  # as a package does
    await node.do("systemctl", "daemon-reload")
    await node.do("systemd-run", "--quiet", "--unit=holder", "/usr/bin/python3", "-c", BUSY_PORT)
    await ctl(node, "appliance", "init", "--runtime", "process")
    await ctl(node, "appliance", "up")
    await until("the port to be named", partial(tells, node, "port 80 (the http services) is taken by python3 (process "), LIMIT)
    await node.do("systemctl", "stop", "holder")
    await node.do("systemctl", "mask", UNIT)
    await node.do("systemctl", "kill", "--kill-who=main", "--signal=KILL", UNIT)
    await until("the mask to be named", partial(tells, node, f"Unit {UNIT} is masked"), LIMIT)
    assert (await node.run("pgrep", "--exact", "haproxy")).stdout == b"", "nothing was started in spite of it"
    await node.do("systemctl", "unmask", UNIT)
    command = next(line for line in shipped.decode().splitlines() if line.startswith("ExecStart="))
    broken = f"[Service]\nExecStart=\n{command} -f /nowhere.cfg\n"
    await node.put({f"/run/systemd/system/{UNIT}.d/broken.conf": File(broken.encode())})
    await node.do("systemctl", "daemon-reload")
    await node.run("systemctl", "stop", UNIT)
    await until("HAProxy's own words", partial(tells, node, "Cannot open configuration file/directory /nowhere.cfg"), LIMIT)


async def tells(node: Node, words: str) -> bool:
    return words in await problems(node)


@pytest.mark.timeout(180)
async def test_one_that_an_agent_started_without_the_unit_is_adopted_and_no_second_one_begins(node: Node) -> None:
    """As after an upgrade from a version that knew of no unit."""
    await ctl(node, "appliance", "init", "--runtime", "process")
    other = File(b"[Service]\nExecStart=\nExecStart=/usr/bin/env haproxy -Ws -f /another.cfg\n")
    await node.put({f"/run/systemd/system/{UNIT}.d/other.conf": other})
    await appliance(node)
    assert await main_of(node, UNIT) == "0"
    assert "haproxy" in await inside(node, AGENT)
    masters = await node.do("cat", "/run/gestalt/agent/haproxy/pid")
    await node.do("rm", f"/run/systemd/system/{UNIT}.d/other.conf")
    await node.do("systemctl", "daemon-reload")
    async with OpenLoop(80, rate=50, address=node.address) as traffic:
        await node.do("systemctl", "restart", AGENT)
        await until("the node to be well", partial(is_well, node), LIMIT)
        await traffic.answered(50)
    assert traffic.failures == []
    assert await node.do("cat", "/run/gestalt/agent/haproxy/pid") == masters
    assert await main_of(node, UNIT) == "0"
    await node.do("kill", "-9", masters)
    await until("the next one, in its unit", partial(is_another, node, "0"), LIMIT)
    assert "haproxy" not in await inside(node, AGENT)
