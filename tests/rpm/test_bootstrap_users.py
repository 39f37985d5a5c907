"""`gestaltctl bootstrap` by somebody who is root neither where he sits nor where he goes, but may be it there by sudo."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.cluster.lab.lab import temporary_lab
from tests.cluster.lab.nodes import File, Node, can_run

from .machine import build
from .operators import HOME, MAY_ALL, USER, Operator, allow, employ
from .test_bootstrap import clear, said

pytestmark = [
    pytest.mark.rpm,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(not can_run(), reason="lab nodes need root, systemd-sysv and busybox-static"),
    pytest.mark.skipif(shutil.which("rpmbuild") is None, reason="rpmbuild is not installed: scripts/install-packages rpm"),
    pytest.mark.skipif(not Path("/usr/sbin/sshd").exists(), reason="sshd is not installed: scripts/install-packages rpm"),
    pytest.mark.skipif(shutil.which("sudo") is None, reason="sudo is not installed: scripts/install-packages rpm"),
]

YES = ("--yes", "--accept-warnings")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def employed() -> AsyncIterator[Operator]:
    packages = await build()
    async with temporary_lab(3, "users") as lab:
        yield await employ(lab, [path for path in packages if not path.name.startswith("gestalt-selinux")])


@pytest_asyncio.fixture(loop_scope="session")
async def operator(employed: Operator) -> AsyncIterator[Operator]:
    """Hosts on which nothing is, and an operator who may do all."""
    await allow(employed.hosts, MAY_ALL)
    yield employed
    for host in employed.hosts:
        await clear(host)
        await host.put({"/etc/gestalt/fence.d/lab.yaml": File(b'watchdog: ""\n')})


async def assert_is_cluster(first: Node, hosts: list[Node]) -> None:
    nodes = json.loads(await first.do("gestaltctl", "nodes", "--output", "json"))["nodes"]
    assert {item["name"]: item["state"] for item in nodes} == {host.name: "ready" for host in hosts}


async def assert_untouched(hosts: list[Node]) -> None:
    for host in hosts:
        assert await host.do("sh", "-c", "rpm --query --all | grep -c gestalt || true") == "0"
        assert await host.do("sh", "-c", "ls -d /var/cache/gestalt-bootstrap 2>/dev/null || true") == ""


async def test_one_who_is_root_by_sudo_alone_makes_a_cluster(operator: Operator) -> None:
    """And what he sends is root's there: no secret is in what sudo logs, none in a file that others may read."""
    hosts = list(operator.hosts)
    await operator.write("hosts.yaml", hosts, ssh={"user": USER}, zookeeper={**operator.zookeeper, "root": "/users-whole"})
    done = await operator.bootstrap("hosts.yaml", *YES)
    assert done.code == 0, said(done)
    await assert_is_cluster(hosts[0], hosts)
    again = await operator.bootstrap("hosts.yaml", *YES, "--output", "json")
    assert (again.code, json.loads(again.stdout)["done"]) == (0, []), said(again)
    for host in hosts:
        logged = await host.do("sh", "-c", "journalctl --output=cat _COMM=sudo")
        assert "gestalt-agent join --token-file -" in logged or host is hosts[0], logged[-2000:]
        assert re.findall(r"gestalt1\.\w", logged) == []
        assert await host.do("find", "/etc/gestalt", "-name", "*.key", "-perm", "/007") == ""
        assert await host.do("find", "/etc/gestalt", "/run/gestalt-bootstrap.lock", "-user", USER) == ""
        left = await host.do("sh", "-c", "ls -d /var/cache/gestalt-bootstrap 2>/dev/null; ls /run/gestalt-bootstrap 2>/dev/null || true")
        assert left == ""


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ("", "sudo: a password is required"),
        (f"{USER} ALL=(root) NOPASSWD: /usr/bin/id\n", "sudo: a password is required"),
        (f"Defaults:{USER} !authenticate\n{USER} ALL=(root) /usr/bin/id\n", f"Sorry, user {USER} is not allowed to execute"),
    ],
)
async def test_one_whom_sudo_refuses_is_told_what_it_says_and_nothing_is_changed(operator: Operator, rules: str, words: str) -> None:
    hosts = list(operator.hosts)
    await operator.write("hosts.yaml", hosts)
    await allow(hosts[1:], rules)
    done = await operator.bootstrap("hosts.yaml", *YES)
    assert done.code == 6, said(done)
    told = done.stderr.decode()
    assert "1 of 2 hosts cannot be used; nothing was changed on any" in told
    assert (
        f"{hosts[1].name}: {hosts[1].address} is reached by ssh, and its user is not root and does not become root by `sudo -n`: " in told
    )
    assert words in told
    assert "let this user run every command there by sudo, and without a password" in told
    await assert_untouched(hosts)


async def test_a_host_without_sudo_is_told(operator: Operator) -> None:
    hosts = list(operator.hosts)
    await operator.write("hosts.yaml", hosts)
    await hosts[0].do("mv", "/usr/bin/sudo", "/usr/bin/no-sudo")
    try:
        done = await operator.bootstrap("hosts.yaml", *YES)
    finally:
        await hosts[0].do("mv", "/usr/bin/no-sudo", "/usr/bin/sudo")
    assert done.code == 6, said(done)
    assert "sudo: command not found (install sudo there; or connect as root" in done.stderr.decode()


async def test_an_archive_that_is_not_there_is_an_error_of_the_plan(operator: Operator) -> None:
    hosts = list(operator.hosts)
    name = "apache-zookeeper-3.8.4-bin.tar.gz"
    await operator.write("hosts.yaml", hosts, zookeeper={"archive": name})
    for words in (("--plan",), YES):
        done = await operator.bootstrap("hosts.yaml", *words)
        assert done.code == 4, said(done)
        assert f"zookeeper.archive: {HOME}/{name} cannot be read: No such file or directory" in done.stderr.decode()
    await assert_untouched(hosts)


async def test_a_second_operator_is_refused_until_the_first_is_gone_even_if_killed(operator: Operator) -> None:
    """Their files begin with different hosts, of which each would make a cluster of its own. Killed is gestaltctl alone, not its ssh."""
    hosts = list(operator.hosts)
    zookeeper = {**operator.zookeeper, "root": "/users-two"}
    await operator.write("first.yaml", hosts, zookeeper=zookeeper)
    await operator.write("second.yaml", hosts[::-1], zookeeper=zookeeper)
    await operator.begin("first-operator", "first.yaml", "packages: install")
    await operator.signalled("first-operator", "STOP")
    refused = await operator.bootstrap("second.yaml", *YES)
    assert refused.code == 5, said(refused)
    told = refused.stderr.decode()
    assert "another operator bootstraps these hosts; nothing was changed on any" in told
    assert f"{hosts[0].name}: {USER} on {operator.desk.name} (process " in told
    assert "when that machine is gone for good, end what holds it there: kill " in told
    planned = await operator.bootstrap("second.yaml", "--plan")
    assert planned.code == 0, said(planned)
    await operator.signalled("first-operator", "KILL")
    done = await operator.bootstrap("second.yaml", *YES)
    assert done.code == 0, said(done)
    await assert_is_cluster(hosts[1], hosts)
    held = await hosts[0].run("flock", "--nonblock", "/run/gestalt-bootstrap.operator", "true")
    assert held.ok, f"the lock is still held: {await hosts[0].do('cat', '/run/gestalt-bootstrap.operator')}"
