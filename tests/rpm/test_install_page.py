"""The quick path of `docs/install.md`, word by word, on a fresh node that boots systemd: it ends with an app that answers.

It is followed on a node with dnf, which finds what the packages need in a repository, and on one without, which has that already: of the
two blocks that install, each runs its own.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from textwrap import dedent

import pytest

from tests.cluster.lab.lab import Lab
from tests.cluster.lab.nodes import CHECKOUT, File, Node, can_run

from .conftest import Machine, without_selinux
from .machine import HAS_DNF, PACKAGES, SYSTEM, active, origins

pytestmark = [
    pytest.mark.rpm,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(not can_run(), reason="lab nodes need root, systemd-sysv and busybox-static"),
    pytest.mark.skipif(shutil.which("rpmbuild") is None, reason="rpmbuild is not installed: scripts/install-packages rpm"),
]

PAGE = CHECKOUT / "docs/install.md"
PATH = "## From a bare machine to an app that answers"
FOLDER = "/root/packages"
_BLOCK = re.compile(r"^ *```\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


def blocks(page: str, heading: str) -> list[str]:
    """Return the blocks of commands below a heading, in order."""
    section = page.split(f"\n{heading}\n", 1)[1].split("\n#", 1)[0]
    return [dedent(found[1]) for found in _BLOCK.finditer(section)]


async def follow(node: Node, commands: list[str]) -> list[str]:
    """Run blocks one after the other, as root, in the folder with the packages; return what each printed."""
    return [await node.do("bash", "-e", "-o", "pipefail", "-c", f"cd {FOLDER}\n{block}", limit=200) for block in commands]


async def carry(node: Node, packages: list[Path]) -> None:
    await node.do("mkdir", "-p", FOLDER)
    await node.do("cp", *map(str, packages), FOLDER)


async def walk(node: Node, packages: list[Path], left_out: str) -> None:
    """Follow the path but for the block that begins with a word, and see that an app answers at its end."""
    await carry(node, without_selinux(packages))
    path = blocks(PAGE.read_text(encoding="utf-8"), PATH)
    not_followed = [block for block in path if block.startswith(left_out)]
    assert len(not_followed) == 1
    said = await follow(node, [block for block in path if block not in not_followed])
    (answer,) = [text for text in said if text.startswith("# Every setting of gestalt-agent")]
    assert "\n#cluster_id:" in answer
    shown = json.loads(await node.do("gestaltctl", "ps", "--output", "json"))["instances"]
    assert [(one["app"], one["observed"]["ready"]) for one in shown] == [("/hello/main/prod/web", True)] * 2, shown
    assert await active(node, ["gestalt-coordinator", "gestalt-agent"]) == ["active"] * 2
    await node.do("gestaltctl", "appliance", "destroy", "--yes", limit=90)
    await node.do("rm", "-r", FOLDER)


async def test_the_page_followed_word_by_word_ends_with_an_app_that_answers(machine: Machine, first: list[Path]) -> None:
    """Also where documentation is left out of whatever is installed."""
    node = machine.lab.nodes[0]
    assert not (await node.run("sh", "-c", "command -v dnf")).ok
    await node.put({"/root/.rpmmacros": File(b"%_excludedocs 1\n")})
    try:
        await walk(node, first, "dnf ")
    finally:
        await node.do("rm", "/root/.rpmmacros")
    assert not (await node.run("test", "-e", "/usr/share/doc/gestalt/README.md")).ok


@HAS_DNF
async def test_the_page_followed_with_dnf_brings_what_the_packages_need(dnf_lab: Lab, first: list[Path]) -> None:
    node = dnf_lab.nodes[0]
    assert await origins(node) == {}
    await walk(node, first, "rpm ")
    assert await origins(node) == dict.fromkeys(PACKAGES, "@commandline") | dict.fromkeys(("haproxy", "nftables", "moby-engine"), SYSTEM)
