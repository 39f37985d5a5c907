"""Packages are built once for all tests here, and one node is there for them, without packages and settings of ours before each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest_asyncio

from tests.cluster.lab.lab import Lab, temporary_lab

from .machine import PACKAGES, build, files, prepare


@dataclass(frozen=True, slots=True)
class Built:
    """The packages of two releases, as names of files that nodes see; that for SELinux, which nodes do not have, by itself."""

    first: list[Path]
    second: list[Path]
    selinux: list[Path]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def first() -> list[Path]:
    """All packages of the first release, for tests that need no other."""
    return await build("twice", 1)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def built(first: list[Path]) -> Built:
    second = await build("rpm", 2)
    return Built(without_selinux(first), without_selinux(second), [path for path in first if path not in without_selinux(first)])


def without_selinux(packages: list[Path]) -> list[Path]:
    return [path for path in packages if not path.name.startswith("gestalt-selinux")]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def prepared_lab() -> AsyncIterator[Lab]:
    async with temporary_lab(1, "rpm") as lab:
        await prepare(lab.nodes[0])
        yield lab


@dataclass(frozen=True, slots=True)
class Machine:
    """A lab of one node, and every path of it as it was."""

    lab: Lab
    before: set[str]


@pytest_asyncio.fixture(loop_scope="session")
async def machine(prepared_lab: Lab) -> AsyncIterator[Machine]:
    node = prepared_lab.nodes[0]
    yield Machine(prepared_lab, await files(node))
    there = (await node.do("rpm", "--query", "--all", "--queryformat", "%{NAME}\\n")).split()
    if installed := [name for name in PACKAGES if name in there]:
        await node.do("rpm", "-e", *installed, limit=120)
    await node.run("systemctl", "stop", "gestalt-haproxy")
    await node.do("sh", "-c", "docker ps -aq | xargs -r docker rm -f; rm -rf /etc/gestalt /var/lib/gestalt /run/gestalt")
