"""The quick path of `docs/install.md`, word by word, on a fresh node that boots systemd: it ends with an app that answers.

Lab nodes have rpm and no dnf. So they are what the page calls a machine without dnf: the block that calls it is left out, and the next one
is run.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from textwrap import dedent

import pytest

from tests.cluster.lab.nodes import CHECKOUT, Node, can_run

from .conftest import Machine, without_selinux
from .machine import active

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


def blocks(page: str) -> list[str]:
    """Return the blocks of commands of the quick path, in order."""
    section = page.split(f"{PATH}\n", 1)[1].split("\n## ", 1)[0]
    return [dedent(found[1]) for found in _BLOCK.finditer(section)]


async def follow(node: Node, commands: list[str]) -> list[str]:
    """Run blocks one after the other, as root, in the folder with the packages; return what each printed."""
    return [await node.do("bash", "-e", "-o", "pipefail", "-c", f"cd {FOLDER}\n{block}", limit=200) for block in commands]


async def carry(node: Node, packages: list[Path]) -> None:
    await node.do("mkdir", "-p", FOLDER)
    await node.do("cp", *map(str, packages), FOLDER)


async def test_the_page_followed_word_by_word_ends_with_an_app_that_answers(machine: Machine, first: list[Path]) -> None:
    node = machine.lab.nodes[0]
    await carry(node, without_selinux(first))
    path = blocks(PAGE.read_text(encoding="utf-8"))
    by_dnf = [block for block in path if block.startswith("dnf ")]
    assert len(by_dnf) == 1
    assert path[path.index(by_dnf[0]) + 1].startswith("rpm ")
    assert not (await node.run("sh", "-c", "command -v dnf")).ok
    said = await follow(node, [block for block in path if block not in by_dnf])
    (answer,) = [text for text in said if text.startswith("# Gestalt\n")]
    assert "## Read on" in answer
    shown = json.loads(await node.do("gestaltctl", "ps", "--output", "json"))["instances"]
    assert [(one["app"], one["observed"]["ready"]) for one in shown] == [("/hello/main/prod/web", True)] * 2, shown
    assert await active(node, ["gestalt-coordinator", "gestalt-agent"]) == ["active"] * 2
    await node.do("gestaltctl", "appliance", "destroy", "--yes", limit=90)
    await node.do("rm", "-r", FOLDER)
