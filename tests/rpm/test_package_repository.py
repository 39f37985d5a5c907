"""A repository of a site's own, made and used word by word as `docs/install.md` says: by createrepo_c and a real dnf, with signed packages.

One node signs and serves the packages, the other one takes them.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from tests.cluster.lab.lab import Lab
from tests.cluster.lab.nodes import LabError, Node, can_run

from .conftest import Built
from .machine import HAS_DNF, NEW, OLD, PACKAGES, SYSTEM, dnf, files, origins
from .test_install_page import FOLDER, PAGE, PATH, blocks, carry, follow

pytestmark = [
    pytest.mark.rpm,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(not can_run(), reason="lab nodes need root, systemd-sysv and busybox-static"),
    pytest.mark.skipif(shutil.which("rpmsign") is None, reason="rpmsign is not installed: scripts/install-packages rpm"),
    HAS_DNF,
]

SECTION = "## A repository of your own"
REMOVAL = "## Remove"
HOST = "packages.example.com"
KEY = "/etc/pki/rpm-gpg/RPM-GPG-KEY-gestalt"
NAME = "Packages of a site"
BROUGHT = dict.fromkeys(("haproxy", "nftables", "moby-engine"), SYSTEM)
DAEMONS = ("gestalt-coordinator", "gestalt-agent")

_MAKE_KEY = ("gpg", "--batch", "--pinentry-mode", "loopback", "--passphrase", "", "--quick-generate-key", NAME, "rsa2048", "sign", "never")


@dataclass(frozen=True, slots=True)
class Site:
    """The machine that serves packages, and one that takes them."""

    server: Node
    node: Node

    async def publish(self, packages: Sequence[Path], *, signed: bool = True) -> None:
        """Have packages in the repository, beside those that are there."""
        await self.server.do("rm", "-rf", FOLDER)
        await carry(self.server, list(packages))
        if signed:
            sign = f"rpmsign --define '_gpg_name {NAME}' --define '__gpg /usr/bin/gpg' --addsign {FOLDER}/*.rpm"
            await self.server.do("sh", "-c", sign)
        await follow(self.server, said("createrepo_c"))

    async def do(self, word: str) -> None:
        """Run, on the machine that takes packages, the block of the page that has a word."""
        await self.node.do("bash", "-e", "-c", *said(word), limit=200)


def said(word: str) -> list[str]:
    """Return the one block of the page's section that has a word."""
    (found,) = [block for block in blocks(PAGE.read_text(encoding="utf-8"), SECTION) if word in block]
    return [found]


@pytest_asyncio.fixture(loop_scope="session")
async def site(dnf_lab: Lab) -> AsyncIterator[Site]:
    """A site with a key and a web server, and nothing in its repository yet."""
    node, server = dnf_lab.nodes
    if not (await server.run("gpg", "--batch", "--list-secret-keys", NAME)).ok:
        await server.do(*_MAKE_KEY)
    public = await server.do("gpg", "--batch", "--armor", "--export", NAME)
    await node.do("sh", "-c", f"mkdir -p {Path(KEY).parent} && cat >{KEY}", stdin=public.encode())
    await node.do("sh", "-c", f"grep -q {HOST} /etc/hosts || echo {server.address} {HOST} >>/etc/hosts")
    await server.do("mkdir", "-p", "/srv")
    await server.do("systemd-run", "--unit=packages", "/usr/bin/python3", "-m", "http.server", "--directory", "/srv", "80")
    await node.do("curl", "--silent", "--fail", "--retry", "20", "--retry-connrefused", "--retry-delay", "1", f"http://{HOST}/")
    yield Site(server, node)
    await server.do("systemctl", "stop", "packages")
    await server.do("rm", "-rf", "/srv/gestalt", FOLDER)
    await node.do("rm", "-rf", "/etc/yum.repos.d/gestalt.repo", KEY, "/var/cache/dnf")


async def running(node: Node) -> set[str]:
    """Return of which releases the daemons of an appliance are that run."""
    pids = (await node.do("systemctl", "show", "--property=MainPID", "--value", *DAEMONS)).split()
    lines = (await node.do("ps", "-o", "args=", "--pid", ",".join(pids))).splitlines()
    assert len(lines) == len(DAEMONS), lines
    return {line.removeprefix("/usr/lib/gestalt/").partition("/")[0] for line in lines}


async def at_work(node: Node) -> str:
    """Return the numbers of the processes of apps, and of HAProxy's master."""
    proxy = await node.do("systemctl", "show", "--property=MainPID,ActiveState", "gestalt-haproxy")
    assert "ActiveState=active" in proxy
    return proxy + await node.do("pgrep", "--full", "http.server --bind")


async def test_the_agent_alone_brings_what_it_needs_and_takes_it_away_again(site: Site, built: Built) -> None:
    await site.publish(built.first)
    before = await files(site.node)
    await site.do("dnf install")
    assert await origins(site.node) == {"gestalt-agent": "gestalt", "gestalt-runtime": "gestalt"} | BROUGHT
    await dnf(site.node, "remove", "gestalt-agent")
    assert await origins(site.node) == {}
    assert await files(site.node) - before == {"/etc/yum.repos.d/gestalt.repo"}


async def test_releases_are_followed_and_taken_back_beside_an_app_that_runs(site: Site, built: Built) -> None:
    node = site.node
    await site.publish(built.first)
    await site.do("dnf install")
    await dnf(node, "install", "gestalt-coordinator")
    await node.do("mkdir", "-p", FOLDER)
    by_hand = blocks(PAGE.read_text(encoding="utf-8"), PATH)
    await follow(node, [block for block in by_hand if block.startswith(("gestaltctl appliance", "cat >hello.yaml"))])
    before = await at_work(node)
    assert await running(node) == {OLD}
    await site.publish(built.second)
    await site.do("dnf upgrade")
    assert await running(node) == {NEW}
    assert await node.do("ls", "/usr/lib/gestalt") == NEW
    await site.do("dnf downgrade")
    assert await running(node) == {OLD}
    assert await node.do("ls", "/usr/lib/gestalt") == OLD
    assert set(await origins(node)) == {*PACKAGES, *BROUGHT}
    (removal,) = [block for block in blocks(PAGE.read_text(encoding="utf-8"), REMOVAL) if block.startswith("dnf remove")]
    await node.do("bash", "-e", "-c", removal, limit=200)
    assert await origins(node) == BROUGHT, "what runs needs HAProxy, and the engine"
    assert await at_work(node) == before
    await node.do("pkill", "--full", "http.server --bind")


async def test_what_the_key_has_not_signed_is_refused(site: Site, built: Built) -> None:
    await site.publish(built.first, signed=False)
    with pytest.raises(LabError, match="is not signed"):
        await site.do("dnf install")
    assert await origins(site.node) == {}
