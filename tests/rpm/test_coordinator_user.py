"""The coordinator of the packages runs as a user of its own, which reads what it needs, renews its certificate, and has nothing else."""

from __future__ import annotations

import asyncio
import json

import pytest

from gestalt.clock import monotonic
from tests.cluster.lab.nodes import File, Node

from .conftest import Built, Machine
from .machine import active, rpm
from .test_package_life import UNITS, found_cluster, install, names, pytestmark

__all__ = ["pytestmark"]

COORDINATOR = "gestalt-coordinator"
OWNERS = {
    "/etc/gestalt/pki": "root:gestalt 1770",
    "/etc/gestalt/pki/ca.key": "gestalt:gestalt 600",
    "/etc/gestalt/pki/ca.crt": "root:root 644",
    "/etc/gestalt/pki/coordinator.key": "gestalt:gestalt 600",
    "/etc/gestalt/pki/coordinator.crt": "gestalt:gestalt 644",
    "/etc/gestalt/pki/node.key": "root:root 600",
    "/etc/gestalt/pki/admin.key": "root:root 600",
    "/etc/gestalt/zookeeper-coordinator.secret": "gestalt:gestalt 600",
    "/etc/gestalt/zookeeper-node.secret": "root:root 600",
    "/etc/gestalt/authority.passphrase": "gestalt:gestalt 600",
    "/var/lib/gestalt": "root:root 755",
    "/var/lib/gestalt/coordinator": "gestalt:gestalt 700",
}
FRESH = ("openssl", "x509", "-noout", "-in", "/etc/gestalt/pki/coordinator.crt", "-checkend", "7200")
WEAR_OUT = """
from datetime import timedelta
from pathlib import Path
from gestalt.cluster.issuing import coordinator_names, load_authority
from gestalt.config import CoordinatorSettings
from gestalt.pki import Identity, Role, signing_request
from gestalt.settings_file import load_settings
settings = load_settings(Path("/etc/gestalt/coordinator.yaml"), CoordinatorSettings)
names = coordinator_names(settings.advertise.rpartition(":")[0])
request = signing_request(settings.tls.key, settings.name)
identity = Identity(settings.cluster_id, Role.COORDINATOR, settings.name)
worn = load_authority(settings).sign(request, identity, dns=names.dns, addresses=names.addresses, life=timedelta(hours=1))
settings.tls.certificate.write_text(worn)
"""


async def owners(node: Node) -> dict[str, str]:
    listing = await node.do("stat", "--format=%n %U:%G %a", *OWNERS)
    return dict(line.split(" ", 1) for line in listing.splitlines())


async def users(node: Node) -> dict[str, str]:
    """Return as whom each daemon runs."""
    pids = {unit: (await node.do("systemctl", "show", "--property=MainPID", "--value", unit)).strip() for unit in UNITS}
    return {unit: (await node.do("ps", "--no-headers", "--format=user", "--pid", pid)).strip() for unit, pid in pids.items()}


async def nodes(node: Node) -> list[str]:
    return [item["state"] for item in json.loads(await node.do("gestaltctl", "nodes", "--output", "json"))["nodes"]]


async def until_renewed(node: Node) -> None:
    deadline = monotonic() + 20
    while not (await node.run(*FRESH)).ok:
        if monotonic() > deadline:
            pytest.fail(await node.do("journalctl", "--no-pager", "--output=cat", "--lines=20", f"--unit={COORDINATOR}"))
        await asyncio.sleep(0.2)


@pytest.mark.timeout(400)
async def test_it_has_what_it_needs_renews_its_certificate_reloads_and_exports(machine: Machine, built: Built) -> None:
    node = machine.lab.nodes[0]
    await install(node, built.first)
    await found_cluster(machine, "/user")
    assert await users(node) == {"gestalt-coordinator": "gestalt", "gestalt-fence": "root", "gestalt-agent": "root"}
    assert await owners(node) == OWNERS
    for path in ("/etc/gestalt/pki/node.key", "/etc/gestalt/pki/admin.key", "/etc/gestalt/zookeeper-node.secret"):
        assert not (await node.run("runuser", "-u", "gestalt", "--", "cat", path)).ok
        assert not (await node.run("runuser", "-u", "gestalt", "--", "rm", "--force", path)).ok

    python = (await node.do("sh", "-c", "echo /usr/lib/gestalt/*/bin/python")).strip()
    await node.do("runuser", "-u", "gestalt", "--", python, "-I", "-", stdin=WEAR_OUT.encode())
    assert not (await node.run(*FRESH)).ok
    await node.do("systemctl", "restart", COORDINATOR)
    await until_renewed(node)
    assert await owners(node) == OWNERS

    drop_in = "/etc/gestalt/coordinator.d/10-site.yaml"
    await node.put({drop_in: File(b"log_level: debug\n", 0o600)})
    refused = await node.run(COORDINATOR, "--check-config")
    assert refused.code == 66, "root is told what the coordinator would meet"
    assert f"{drop_in} cannot be read" in refused.stderr.decode()
    assert "looked at as the user gestalt" in refused.stderr.decode()
    assert not (await node.run("systemctl", "reload", COORDINATOR)).ok
    await node.do("chmod", "644", drop_in)
    assert "can be read by the user gestalt" in await node.do(COORDINATOR, "--check-config")
    await node.do("systemctl", "reload", COORDINATOR)

    await node.do("gestaltctl", "cluster", "export", "/root/gestalt.export")
    await node.do("systemctl", "stop", COORDINATOR)
    await node.do("gestaltctl", "cluster", "import", "--replace", "/root/gestalt.export")
    await node.do("systemctl", "start", COORDINATOR)
    assert await active(node, UNITS) == ["active"] * 3
    assert await nodes(node)


@pytest.mark.timeout(400)
async def test_files_that_are_roots_are_given_back_by_init_and_by_an_upgrade(machine: Machine, built: Built) -> None:
    node = machine.lab.nodes[0]
    await install(node, built.first)
    await found_cluster(machine, "/taken")
    to_root = "chown -R root:root /etc/gestalt /var/lib/gestalt/coordinator && chmod 700 /etc/gestalt/pki"
    await node.do("sh", "-c", to_root)
    hosts = ",".join(machine.lab.ensemble.hosts)
    init = ("gestaltctl", "cluster", "init", "--zookeeper", hosts, "--zookeeper-root", "/taken", "--address", node.address)
    await node.do(*init)
    await node.do("systemctl", "restart", COORDINATOR)
    assert await owners(node) == OWNERS
    await node.do("sh", "-c", to_root)
    await rpm(node, "-U", *names(built.second))
    assert await active(node, UNITS) == ["active"] * 3
    assert await owners(node) == OWNERS


@pytest.mark.timeout(400)
async def test_where_its_user_cannot_be_made_the_installation_says_why_and_what_to_do(machine: Machine, built: Built) -> None:
    node = machine.lab.nodes[0]
    await node.run("userdel", "gestalt")
    override = "/etc/sysusers.d/gestalt-coordinator.conf"
    await node.put({override: File(b"nonsense gestalt\n")})
    try:
        said = await node.run("rpm", "-i", *names(built.first), limit=300)
    finally:
        await node.do("rm", override)
    assert said.ok, said.complaint()
    complaint, advice = (line for line in said.stderr.decode().splitlines() if not line.startswith("rpm: "))
    assert complaint.startswith(f"{override}:1: ")
    assert advice.startswith("gestalt-coordinator: there is no user gestalt, as whom the coordinator runs.")
    await node.do("sh", "-c", advice.partition("run: ")[2])
    await found_cluster(machine, "/late")
    assert (await users(node))[COORDINATOR] == "gestalt"


GIVEN = """[Service]
LoadCredential=zookeeper:/etc/gestalt/zookeeper-coordinator.secret
LoadCredentialEncrypted=phrase:/etc/gestalt/authority.sealed
"""
NAMED = b"zookeeper: {secret_file: credential:zookeeper}\nauthority_passphrase: credential:phrase\n"


@pytest.mark.timeout(400)
async def test_its_secrets_may_be_credentials_of_systemd_one_of_them_sealed(machine: Machine, built: Built) -> None:
    node = machine.lab.nodes[0]
    await install(node, built.first)
    await found_cluster(machine, "/sealed")
    phrase, sealed = "/etc/gestalt/authority.passphrase", "/etc/gestalt/authority.sealed"
    await node.do("systemd-creds", "encrypt", "--with-key=host", "--name=phrase", phrase, sealed)
    await node.do("rm", phrase)
    await node.do("chown", "root:root", "/etc/gestalt/zookeeper-coordinator.secret")
    await node.put({"/etc/gestalt/coordinator.d/20-secrets.yaml": File(NAMED)})
    await node.do("systemctl", "stop", COORDINATOR)
    await node.run("systemctl", "start", COORDINATOR)
    said = await node.do("journalctl", "--no-pager", "--output=cat", "--lines=20", f"--unit={COORDINATOR}")
    assert "the credential zookeeper of gestalt-coordinator.service" in said, said

    await node.put({"/run/systemd/system/gestalt-coordinator.service.d/given.conf": File(GIVEN.encode())})
    await node.do("systemctl", "daemon-reload")
    await node.do("systemctl", "restart", COORDINATOR)
    await node.do("systemctl", "reload", COORDINATOR)
    shown = await node.do(COORDINATOR, "--check-config")
    assert "given by systemd while gestalt-coordinator.service runs: authority_passphrase, by LoadCredential=phrase in that unit" in shown
    assert await nodes(node)
    await node.do("gestaltctl", "cluster", "certificate", "somebody")
    hosts = ",".join(machine.lab.ensemble.hosts)
    await node.do("gestaltctl", "cluster", "init", "--zookeeper", hosts, "--zookeeper-root", "/sealed", "--address", node.address)
    assert not (await node.run("test", "-e", phrase)).ok, "what is a credential is not made a second time"
    await node.do("rm", "-r", "/run/systemd/system/gestalt-coordinator.service.d")
