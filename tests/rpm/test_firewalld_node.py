"""A firewalld that runs on a node of the packages: what it lets through, seen from another node, beside Docker; and erasing."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.cluster.lab import nodes
from tests.cluster.lab.engine import WEB_IMAGE, start_engines
from tests.cluster.lab.nodes import File, Node, can_run

from .conftest import Built
from .machine import PACKAGES, clear, prepare, rpm

pytestmark = [
    pytest.mark.rpm,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(not can_run(), reason="lab nodes need root, systemd-sysv and busybox-static"),
    pytest.mark.skipif(shutil.which("rpmbuild") is None, reason="rpmbuild is not installed: scripts/install-packages rpm"),
    pytest.mark.skipif(shutil.which("firewall-cmd") is None, reason="firewalld is not installed: scripts/install-packages rpm"),
]

AGENT, COORDINATOR, LOCAL, CONTAINER = (80, 3000, 4000), (7400, 7401), 7402, 5500
LISTENERS = (*AGENT, *COORDINATOR, LOCAL)
RULE = 'rule family="ipv4" source address="10.0.0.0/8" service name="gestalt-agent" accept'
NAMED = {
    "zone=public": ("--add-service=gestalt-agent", "--add-service=gestalt-coordinator"),
    "zone=internal": ("--add-service=gestalt-coordinator",),
    "zone=work": (f"--add-rich-rule={RULE}",),
    "policy=guests": ("--add-service=gestalt-agent",),
}
"""Where, and how, the permanent configuration of an administrator may name services of ours."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def booted() -> AsyncIterator[tuple[Node, Node]]:
    """A node with a program at each port; and another node."""
    node, other = await nodes.up(2, group="firewalld")
    try:
        await prepare(node)
        await node.do("mkdir", "-p", "/srv/www")
        await node.do("touch", "/srv/www/index.html")
        for port in LISTENERS:
            await node.do("busybox", "httpd", "-p", str(port), "-h", "/srv/www")
        yield node, other
    finally:
        await nodes.down("firewalld")


@pytest_asyncio.fixture(loop_scope="session")
async def guarded(booted: tuple[Node, Node], built: Built) -> AsyncIterator[tuple[Node, Node]]:
    """These with a new firewalld, Docker started after it, a container that publishes a port, and the packages."""
    node, other = booted
    await node.do("systemctl", "start", "firewalld")
    await start_engines([node])
    await node.do("docker", "run", "--detach", "--name=published", f"--publish={CONTAINER}:80", WEB_IMAGE)
    await rpm(node, "-i", *map(str, built.first))
    yield node, other
    await clear(node)
    await node.do("systemctl", "stop", "docker.socket", "docker", "firewalld")
    await node.do("sh", "-c", "rm -rf /etc/firewalld/zones/* /etc/firewalld/policies/*")


async def reached(node: Node, other: Node) -> set[int]:
    """Return the ports of the node at which the other one is answered."""

    async def answers(port: int) -> bool:
        address = f"http://{node.address}:{port}/index.html"
        return (await other.run("curl", "--silent", "--fail", "--max-time", "5", "--output", "/dev/null", address)).ok

    ports = (*LISTENERS, CONTAINER)
    return {port for port, open_ in zip(ports, await asyncio.gather(*map(answers, ports)), strict=True) if open_}


async def settled(node: Node, other: Node, expected: set[int]) -> None:
    """Wait until exactly these ports are reached: after firewalld, Docker makes its own rules anew."""
    found: set[int] = set()
    try:
        async with asyncio.timeout(30):
            while found != expected:
                found = await reached(node, other)
                await asyncio.sleep(0.1)
    except TimeoutError:
        rules = await node.do("firewall-cmd", "--zone=public", "--list-all")
        pytest.fail(f"reached: {sorted(found)}, expected: {sorted(expected)}; {rules}")


async def add(node: Node, *services: str) -> None:
    """Have firewalld let services through, now and from now on, by the commands of docs/install.md."""
    await node.do("firewall-cmd", "--reload")
    await node.do("firewall-cmd", "--permanent", *(f"--add-service={service}" for service in services))
    await node.do("firewall-cmd", "--reload")


async def name_services(node: Node) -> None:
    """Have the configuration of firewalld name services of ours wherever it can."""
    await node.do("firewall-cmd", "--reload")
    await node.do("firewall-cmd", "--permanent", "--new-policy=guests")
    for place, words in NAMED.items():
        for word in words:
            await node.do("firewall-cmd", "--permanent", f"--{place}", word)
    await node.do("firewall-cmd", "--reload")


async def configuration(node: Node) -> str:
    """Return all of what an administrator has told firewalld."""
    return await node.do("grep", "--recursive", "--include=*.xml", "", "/etc/firewalld")


async def test_services_open_what_they_name_and_containers_ports_are_dockers(guarded: tuple[Node, Node]) -> None:
    node, other = guarded
    await settled(node, other, {CONTAINER})
    await add(node, "gestalt-agent")
    await settled(node, other, {*AGENT, CONTAINER})
    await add(node, "gestalt-coordinator")
    await settled(node, other, {*AGENT, *COORDINATOR, CONTAINER})
    await node.do("systemctl", "restart", "firewalld")
    await settled(node, other, {*AGENT, *COORDINATOR, CONTAINER})


async def test_a_firewalld_that_starts_after_docker_takes_its_rules_until_docker_starts_anew(guarded: tuple[Node, Node]) -> None:
    """As docs/install.md says; the unit of Docker itself comes after that of firewalld where both are enabled."""
    node, other = guarded
    assert "firewalld.service" in await node.do("systemctl", "show", "--property=After", "--value", "docker")
    await node.do("systemctl", "stop", "firewalld")
    await node.do("systemctl", "restart", "docker")
    await settled(node, other, {*LISTENERS, CONTAINER})
    await node.do("systemctl", "start", "firewalld")
    await settled(node, other, set())
    await node.do("systemctl", "restart", "docker")
    await settled(node, other, {CONTAINER})
    await node.do("firewall-cmd", "--reload")
    await settled(node, other, {CONTAINER})


async def test_an_upgrade_and_a_step_back_leave_firewalld_as_it_is(guarded: tuple[Node, Node], built: Built) -> None:
    node, other = guarded
    await name_services(node)
    before = await configuration(node)
    for packages in (built.second, built.first):
        await rpm(node, "-U", "--oldpackage", *map(str, packages))
        assert await configuration(node) == before
    await node.do("firewall-cmd", "--reload")
    await settled(node, other, {*AGENT, *COORDINATOR, CONTAINER})


@pytest.mark.parametrize("runs", [True, False])
async def test_erasing_takes_the_services_out_so_that_firewalld_reloads_and_starts(guarded: tuple[Node, Node], runs: bool) -> None:
    node, other = guarded
    await name_services(node)
    if not runs:
        await node.do("systemctl", "stop", "firewalld")
    told = await node.do("rpm", "-e", *PACKAGES, limit=120)
    for place, words in NAMED.items():
        services = [service for service in ("gestalt-agent", "gestalt-coordinator") if any(service in word for word in words)]
        assert all(f"firewalld: {service} is taken out of {place}," in told for service in services), told
    left = await configuration(node)
    assert "gestalt" not in left
    assert left.count('<service name="ssh"/>') == 3, "what else is in these zones stays"
    if not runs:
        await node.do("systemctl", "start", "firewalld")
        await node.do("systemctl", "restart", "docker")
    await node.do("firewall-cmd", "--reload")
    await node.do("firewall-cmd", "--check-config")
    await settled(node, other, {CONTAINER})


async def test_erasing_says_what_is_left_where_firewalld_refuses_its_configuration_already(guarded: tuple[Node, Node]) -> None:
    node, _ = guarded
    await name_services(node)
    await node.do("systemctl", "stop", "firewalld")
    await node.put({"/etc/firewalld/zones/dmz.xml": File(b'<?xml version="1.0" encoding="utf-8"?><zone><service name="nowhere"/></zone>')})
    said = await node.run("rpm", "-e", *PACKAGES, limit=120)
    assert said.ok, said.complaint()
    told = said.stderr.decode()
    for service, zone in (("gestalt-agent", "public"), ("gestalt-coordinator", "internal")):
        assert re.search(rf"firewalld: {service} is named in .*/etc/firewalld/zones/{zone}\.xml .*still", told), told


async def test_erasing_leaves_a_service_alone_of_which_the_site_has_a_file_of_its_own(guarded: tuple[Node, Node]) -> None:
    node, other = guarded
    await add(node, "gestalt-agent", "gestalt-coordinator")
    await node.do("cp", "/usr/lib/firewalld/services/gestalt-agent.xml", "/etc/firewalld/services/")
    await rpm(node, "-e", *PACKAGES)
    await node.do("firewall-cmd", "--reload")
    await settled(node, other, {*AGENT, CONTAINER})
    await node.do("rm", "/etc/firewalld/services/gestalt-agent.xml")
