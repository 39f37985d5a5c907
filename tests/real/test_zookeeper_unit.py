"""A ZooKeeper server of ours on a machine that systemd runs: its files are all that it needs, and it is as closed as it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from gestalt.bootstrap.facts import PROBE, read_facts
from gestalt.bootstrap.zookeeper import HOME, UNIT, USER, Choices, server_files, servers_of
from gestalt.zk.acl import digest_id

from ..cluster.lab.nodes import File, Node, can_run
from .agent_rig import until

JARS = tuple(f"/usr/share/java/{name}.jar" for name in ("zookeeper", "slf4j-log4j12", "log4j-1.2"))
CHOICES = Choices(JARS, heap=128, super_digest=digest_id("super", "secret").removeprefix("digest:"))

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not can_run(), reason="lab nodes need root, systemd-sysv and busybox-static"),
    pytest.mark.skipif(not Path(JARS[0]).exists(), reason="zookeeper is not installed: scripts/install-packages test"),
]


async def set_up(node: Node) -> None:
    """Do what the docstring of `server_files` says."""
    user, *others = server_files(1, servers_of(["127.0.0.1"]), CHOICES)
    await node.put({user.path: File(user.text.encode())})
    await node.do("systemd-sysusers", user.path)
    await node.put({file.path: File(file.text.encode(), file.mode) for file in others})
    await node.do("chown", "-R", f"{USER}:", HOME)
    await node.do("systemctl", "daemon-reload")
    await node.do("systemctl", "start", UNIT)


async def ask(node: Node, word: str) -> str:
    """Return the server's answer to a four-letter word; empty when there is none."""
    script = 'exec 3<>/dev/tcp/127.0.0.1/2181 && printf %s "$1" >&3 && cat <&3'
    return (await node.run("timeout", "5", "bash", "-c", script, "ask", word)).stdout.decode()


async def log(node: Node) -> str:
    return await node.do("journalctl", "--no-pager", "--output=cat", f"--unit={UNIT}")


@pytest.mark.timeout(120)
async def test_it_serves_comes_back_and_ends_in_order(node: Node) -> None:
    await set_up(node)

    async def serves() -> bool:
        return "Mode: " in await ask(node, "srvr")

    await until("ZooKeeper serving", serves, limit=30)
    assert "INFO  QuorumPeerMain: Starting quorum peer" in await log(node)
    facts = read_facts(await node.do("sh", "-s", stdin=PROBE.encode()))
    assert (facts.systemd, facts.units) == (252, {"gestalt-zookeeper"})
    assert {2181, 3888} <= facts.listening
    assert "not executed because it is not in the whitelist" in await ask(node, "wchs")
    (owner,) = set((await node.do("ps", "-o", "user:32=", "-C", "java")).split())
    assert owner == USER
    await node.do("systemctl", "kill", "--signal=KILL", UNIT)
    await until("ZooKeeper serving again", serves, limit=30)
    await node.do("systemd-analyze", "security", "--no-pager", "--threshold=15", UNIT)
    await node.do("systemctl", "stop", UNIT)
    assert await node.do("systemctl", "show", "--property=Result", "--value", UNIT) == "success", await log(node)
