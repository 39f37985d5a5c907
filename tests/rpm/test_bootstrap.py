"""`gestaltctl bootstrap` on lab nodes with a real sshd: from nothing to a cluster, again without a change, and killed in the middle."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from gestalt import shell
from tests.cluster.lab.cluster import web
from tests.cluster.lab.lab import Lab, temporary_lab
from tests.cluster.lab.nodes import CHECKOUT, File, Node, can_run

from .machine import HAS_DNF, OUT, PACKAGES, SYSTEM, build, origins, prepare

pytestmark = [
    pytest.mark.rpm,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(not can_run(), reason="lab nodes need root, systemd-sysv and busybox-static"),
    pytest.mark.skipif(shutil.which("rpmbuild") is None, reason="rpmbuild is not installed: scripts/install-packages rpm"),
    pytest.mark.skipif(not Path("/usr/sbin/sshd").exists(), reason="sshd is not installed: scripts/install-packages rpm"),
    HAS_DNF,
]

PATIENCE = 400.0
GESTALTCTL = str(CHECKOUT / ".venv/bin/gestaltctl")


@dataclass(frozen=True, slots=True)
class Site:
    """Machines that answer ssh, and an operator who has a key for them, in a folder of his own."""

    lab: Lab
    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "hosts.yaml"

    @property
    def hosts(self) -> list[dict[str, str]]:
        """Return the hosts of hosts.yaml, in the order of the nodes."""
        return [{"name": node.name, "address": node.address} for node in self.lab.nodes]

    def write(self, **fields: Any) -> None:
        """Write hosts.yaml for all nodes."""
        document = {"packages": str(CHECKOUT / OUT), "ssh": {"config": "ssh_config"}, "hosts": self.hosts, **fields}
        self.file.write_text(yaml.safe_dump(document), encoding="utf-8")

    async def bootstrap(self, *words: str) -> shell.Completed:
        """Run the command as an operator does, to its end."""
        argv = (GESTALTCTL, "bootstrap", str(self.file), *words)
        return await shell.run(argv, limit=PATIENCE, env=environment())

    async def killed_when_it_says(self, word: str) -> str:
        """Run it until it has said something, and kill it there; return what it had said."""
        argv = ("env", *(f"{name}={value}" for name, value in environment().items()))
        process = await shell.spawn(
            (*argv, GESTALTCTL, "bootstrap", str(self.file), "--yes", "--accept-warnings"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert process.stdout is not None
        said = ""
        async with asyncio.timeout(PATIENCE):
            while word not in said:
                line = await process.stdout.readline()
                assert line, f"it ended before it said {word!r}:\n{said}"
                said += line.decode()
        process.kill()
        await process.wait()
        return said


def environment() -> dict[str, str]:
    return {"PYTHONPATH": str(CHECKOUT), "NO_COLOR": "1", "HOME": "/nonexistent", "PATH": os.environ["PATH"]}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def reachable_lab() -> AsyncIterator[Lab]:
    """Three nodes without anything of ours, of which the last one has no dnf."""
    await build()
    async with temporary_lab(3, "boot") as lab:
        for node in lab.nodes:
            await prepare(node, has_dnf=node is not lab.nodes[-1])
        yield lab


@pytest_asyncio.fixture(loop_scope="session")
async def site(reachable_lab: Lab, tmp_path: Path) -> AsyncIterator[Site]:
    key = tmp_path / "key"
    made = await shell.run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)), limit=20)
    assert made.ok, made.complaint()
    known = [f"{node.address} {await answer_ssh(node, key.with_suffix('.pub').read_bytes())}" for node in reachable_lab.nodes]
    (tmp_path / "known_hosts").write_text("\n".join(known) + "\n", encoding="ascii")
    settings = ("Host *", "User root", f"IdentityFile {key}", "IdentitiesOnly yes", f"UserKnownHostsFile {tmp_path}/known_hosts")
    (tmp_path / "ssh_config").write_text("\n  ".join(settings) + "\n", encoding="ascii")
    yield Site(reachable_lab, tmp_path)
    for node in reachable_lab.nodes:
        await clear(node)


async def answer_ssh(node: Node, key: bytes) -> str:
    """Have a node let in the owner of a key, by ssh; return its own public key."""
    await node.put({"/root/.ssh/authorized_keys": File(key, 0o600), "/etc/gestalt/fence.d/lab.yaml": File(b'watchdog: ""\n')})
    await node.do("chmod", "0700", "/root", "/root/.ssh")
    await node.do("ssh-keygen", "-A")
    await node.do("systemctl", "restart", "ssh")
    return await node.do("cat", "/etc/ssh/ssh_host_ed25519_key.pub")


async def clear(node: Node) -> None:
    """Take everything of ours from a node, whatever state it is in."""
    there = (await node.do("rpm", "--query", "--all", "--queryformat", "%{NAME}\\n")).split()
    if installed := [name for name in PACKAGES if name in there]:
        await node.do("rpm", "-e", *installed, limit=120)
    await node.run("systemctl", "disable", "--now", "gestalt-zookeeper")
    await node.do("systemctl", "start", "zookeeper")
    await node.run("systemctl", "stop", "gestalt-haproxy")
    await node.do(
        "sh", "-c", "docker ps -aq | xargs -r docker rm -f; rm -rf /etc/gestalt* /var/lib/gestalt* /run/gestalt* /opt/apache-zookeeper*"
    )


def said(done: shell.Completed) -> str:
    return (done.stdout + done.stderr).decode(errors="replace")


async def assert_is_cluster(site: Site) -> None:
    """Three coordinators, three ready nodes, and an app that is launched."""
    first = site.lab.nodes[0]
    listed = json.loads(await first.do("gestaltctl", "coordinator", "list", "--output", "json"))["coordinators"]
    assert sorted(item["state"] for item in listed) == ["leads", "stands by", "stands by"]
    nodes = json.loads(await first.do("gestaltctl", "nodes", "--output", "json"))["nodes"]
    assert {item["name"]: item["state"] for item in nodes} == {node.name: "ready" for node in site.lab.nodes}
    spec = yaml.safe_dump(web("/lab/main/prod/shop", instances=3)).encode()
    await first.do("gestaltctl", "launch", "--file", "-", stdin=spec, limit=90)


async def test_bare_hosts_become_a_cluster_and_a_second_run_changes_nothing(site: Site) -> None:
    site.write(zookeeper={"hosts": list(site.lab.ensemble.hosts), "root": "/boot-whole"})
    planned = await site.bootstrap("--plan", "--output", "json")
    assert planned.code == 0, said(planned)
    assert [step for step in json.loads(planned.stdout)["steps"] if step["done"]] == []
    asked = await site.bootstrap()
    assert asked.code == 4, said(asked)
    assert await site.lab.nodes[0].do("sh", "-c", "rpm --query --all | grep -c gestalt || true") == "0"
    done = await site.bootstrap("--yes", "--accept-warnings")
    assert done.code == 0, said(done)
    await assert_is_cluster(site)
    for node in site.lab.nodes[:-1]:
        brought = dict.fromkeys(("haproxy", "nftables", "moby-engine"), SYSTEM)
        assert await origins(node) == dict.fromkeys(PACKAGES, "@commandline") | brought, "installed by dnf, with what they need"
    assert not (await site.lab.nodes[-1].run("sh", "-c", "command -v dnf")).ok
    again = await site.bootstrap("--yes", "--accept-warnings", "--output", "json")
    assert again.code == 0, said(again)
    answer = json.loads(again.stdout)
    assert (answer["done"], answer["ready"]) == ([], True)
    assert [step for step in answer["steps"] if not step["done"]] == []
    site.write(zookeeper={"hosts": list(site.lab.ensemble.hosts), "root": "/boot-whole"}, hosts=site.hosts[::-1])
    turned = await site.bootstrap("--plan", "--output", "json")
    assert (turned.code, [step for step in json.loads(turned.stdout)["steps"] if not step["done"]]) == (0, []), said(turned)
    for node in site.lab.nodes:
        left = await node.do("sh", "-c", "ls -d /var/cache/gestalt-bootstrap 2>/dev/null; ls /run/gestalt-bootstrap 2>/dev/null || true")
        assert left == ""


@pytest.mark.parametrize("word", ["packages: install", "join-coordinator: join", "join-node: join"])
async def test_what_was_killed_in_the_middle_is_completed_by_the_same_command(site: Site, word: str) -> None:
    root = f"/boot-killed-{word.partition(':')[0]}"
    site.write(zookeeper={"hosts": list(site.lab.ensemble.hosts), "root": root})
    before = await site.killed_when_it_says(word)
    done = await site.bootstrap("--yes", "--accept-warnings")
    assert done.code == 0, f"{before}\n---\n{said(done)}"
    await assert_is_cluster(site)


async def test_a_zookeeper_of_ours_is_made_from_an_archive(site: Site) -> None:
    """The lab's own servers have the ports; ours are told apart from them by being the only ones that run."""
    for node in site.lab.nodes:
        await node.do("systemctl", "stop", "zookeeper")
    archive = await archive_of_debian(site.folder)
    site.write(zookeeper={"archive": archive.name, "root": "/boot-own", "heap": 128})
    done = await site.bootstrap("--yes", "--accept-warnings")
    assert done.code == 0, said(done)
    await assert_is_cluster(site)
    again = await site.bootstrap("--yes", "--accept-warnings", "--output", "json")
    assert json.loads(again.stdout)["done"] == [], said(again)
    names = [node.name for node in site.lab.nodes]
    site.write(zookeeper={"archive": archive.name, "root": "/boot-own", "heap": 128}, hosts=site.hosts[::-1])
    turned = await site.bootstrap("--yes", "--accept-warnings", "--output", "json")
    assert turned.code == 4, said(turned)
    told = [(item["host"], item["what"]) for item in json.loads(turned.stdout)["findings"] if item["level"] == "error"]
    assert [(host, what) for host, what in told if what.startswith("it has ZooKeeper server")] == [
        (names[2], "it has ZooKeeper server 3; hosts.yaml gives it 1"),
        (names[0], "it has ZooKeeper server 1; hosts.yaml gives it 3"),
    ]
    assert [host for host, what in told if what.startswith("its ZooKeeper server knows of")] == names[::-1]


async def archive_of_debian(folder: Path) -> Path:
    """Make an archive like Apache's of the jars that Debian has."""
    name = "apache-zookeeper-3.8.0-bin"
    jars = Path("/usr/share/java")
    with zipfile.ZipFile(jars / "zookeeper.jar") as jar:
        manifest = jar.read("META-INF/MANIFEST.MF").decode().replace("\r\n", "\n").replace("\n ", "")
    listed = next(line for line in manifest.splitlines() if line.startswith("Class-Path:")).split()[1:]
    with tarfile.open(folder / f"{name}.tar.gz", "w:gz", dereference=True) as tar:
        for file in {"zookeeper.jar", *(Path(item).name for item in listed)}:
            if (jars / file).exists():
                tar.add(jars / file, arcname=f"{name}/lib/{file}")
    return folder / f"{name}.tar.gz"


@pytest_asyncio.fixture(loop_scope="session")
async def guarded_site(site: Site) -> AsyncIterator[Site]:
    """These machines with a firewalld that runs, as it is after its installation. The lab's ZooKeeper servers do not."""
    for node in site.lab.nodes:
        await node.do("systemctl", "stop", "zookeeper")
        await node.do("systemctl", "start", "firewalld")
        await node.do("systemctl", "restart", "docker")
    yield site
    for node in site.lab.nodes:
        await node.do("systemctl", "stop", "firewalld")
        await node.do("sh", "-c", "rm -rf /etc/firewalld/zones/*")
        await node.do("systemctl", "restart", "docker")


@pytest.mark.skipif(shutil.which("firewall-cmd") is None, reason="firewalld is not installed: scripts/install-packages rpm")
async def test_a_firewalld_that_runs_is_told_of_opened_and_judged_by_what_it_does(guarded_site: Site) -> None:
    """The machines reach each other's ZooKeeper and coordinators through nothing else than what is opened."""
    site, archive = guarded_site, await archive_of_debian(guarded_site.folder)
    first, other, *_ = site.lab.nodes
    zookeeper = {"archive": archive.name, "root": "/boot-guarded", "heap": 128}

    async def looked_at(*, firewall: bool) -> tuple[dict[str, str], set[str]]:
        """Return the hints about firewalld, and the hosts on which it is to be opened, by host."""
        site.write(zookeeper=zookeeper, firewall=firewall)
        planned = await site.bootstrap("--plan", "--output", "json")
        assert planned.code == 0, said(planned)
        answer = json.loads(planned.stdout)
        hints = {item["host"]: item["hint"] for item in answer["findings"] if item["what"].startswith("firewalld runs")}
        return hints, {step["host"] for step in answer["steps"] if step["step"] == "firewall" and not step["done"]}

    async def is_reached(port: int) -> bool:
        return (await other.run("bash", "-c", f"timeout 3 bash -c 'exec 3<>/dev/tcp/{first.address}/{port}'")).ok

    names = {node.name for node in site.lab.nodes}
    hints, to_open = await looked_at(firewall=False)
    assert (set(hints), to_open) == (names, set())
    assert await looked_at(firewall=True) == ({}, names)
    done = await site.bootstrap("--yes", "--accept-warnings")
    assert done.code == 0, said(done)
    await assert_is_cluster(site)
    assert [await is_reached(port) for port in (7400, 7401, 2181)] == [True] * 3
    assert (await looked_at(firewall=True), await looked_at(firewall=False)) == (({}, set()), ({}, set()))
    for lists in ((), ("--permanent",)):
        await first.do("firewall-cmd", *lists, "--remove-service=gestalt-coordinator")
        await first.do("firewall-cmd", *lists, "--remove-port=2181/tcp")
    assert [await is_reached(port) for port in (7400, 7401, 2181)] == [False] * 3
    assert await looked_at(firewall=True) == ({}, {first.name})
    hints, _ = await looked_at(firewall=False)
    command = hints[first.name].partition("are installed: ")[2]
    assert set(hints) == {first.name}, "the commands of the hint open it"
    await first.do("sh", "-ec", command)
    assert [await is_reached(port) for port in (7400, 7401, 2181)] == [True] * 3
    assert await looked_at(firewall=False) == ({}, set())


async def test_a_host_that_does_not_answer_is_named_and_nothing_is_changed_on_any(site: Site) -> None:
    site.write(zookeeper={"hosts": list(site.lab.ensemble.hosts), "root": "/boot-silent"})
    silent = site.lab.nodes[1]
    await silent.do("systemctl", "stop", "ssh")
    done = await site.bootstrap("--yes", "--accept-warnings")
    assert done.code == 6, said(done)
    assert f"{silent.name}: {silent.address} cannot be used by ssh" in done.stderr.decode()
    assert "Connection refused" in done.stderr.decode()
    for node in site.lab.nodes:
        assert await node.do("sh", "-c", "rpm --query --all | grep -c gestalt || true") == "0"
