"""Packages are built once for all tests here, and nodes are there for them, without packages and settings of ours before each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest_asyncio

from tests.cluster.lab.lab import Lab, temporary_lab

from .machine import build, build_next, clear, files, prepare


@dataclass(frozen=True, slots=True)
class Built:
    """The packages of two versions, as names of files that nodes see; that for SELinux, which nodes do not have, by itself."""

    first: list[Path]
    second: list[Path]
    selinux: list[Path]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def first() -> list[Path]:
    """All packages of the first version, for tests that need no other."""
    return await build("twice")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def built(first: list[Path]) -> Built:
    second = await build_next()
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
    await clear(node)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def prepared_dnf_lab() -> AsyncIterator[Lab]:
    async with temporary_lab(2, "dnf") as lab:
        for node in lab.nodes:
            await prepare(node, has_dnf=True)
        yield lab


@pytest_asyncio.fixture(loop_scope="session")
async def dnf_lab(prepared_dnf_lab: Lab) -> AsyncIterator[Lab]:
    """Two bare machines that have dnf, and a repository each with what a bare one does not have."""
    yield prepared_dnf_lab
    for node in prepared_dnf_lab.nodes:
        await clear(node)
