"""What `docs/support.md` says is what is checked."""

from __future__ import annotations

import re
from pathlib import Path

from gestalt.bootstrap.requirements import (
    CLOCKS_MAX,
    CLOCKS_TOLD,
    HAPROXY,
    JAVA,
    MEMORY_BASE,
    MEMORY_COORDINATOR,
    MEMORY_NODE,
    MEMORY_ZOOKEEPER,
    MIB,
    PYTHONS,
    SYSTEMD,
    USR,
    VAR_COORDINATOR,
    VAR_NODE,
    VAR_ZOOKEEPER,
)
from gestalt.bootstrap.zookeeper import HEAP

PAGE = (Path(__file__).resolve().parents[4] / "docs/support.md").read_text(encoding="utf-8")


def row(first: str) -> list[str]:
    """Return the cells of a row of a table, by how its first one begins."""
    (line,) = re.findall(rf"^\| {re.escape(first)}.*$", PAGE, re.MULTILINE)
    return [cell.strip() for cell in line.strip("|").split("|")]


def size(number: int) -> str:
    return f"{number // MIB // 1024} GiB" if number % (1024 * MIB) == 0 else f"{number // MIB:,} MiB"


def test_minimum_sizes_are_those_of_the_page() -> None:
    assert row("the system")[1] == size(MEMORY_BASE)
    assert row("node |")[1:3] == [size(MEMORY_NODE), size(VAR_NODE)]
    assert row("coordinator |")[1:3] == [size(MEMORY_COORDINATOR), size(VAR_COORDINATOR)]
    assert row("ZooKeeper |")[1:3] == [f"{size(MEMORY_ZOOKEEPER)} and its heap ({HEAP} MiB)", size(VAR_ZOOKEEPER)]
    assert row("all of them")[1] == size(MEMORY_BASE + MEMORY_NODE + MEMORY_COORDINATOR + MEMORY_ZOOKEEPER + HEAP * MIB)
    assert f"{size(USR)} have to be free below `/usr`" in PAGE
    assert f"more than {CLOCKS_TOLD} s of difference" in PAGE
    assert CLOCKS_MAX == 60
    assert "more than a minute is refused" in PAGE


def test_versions_are_those_of_the_page() -> None:
    for column, release in enumerate((8, 9, 10), 1):
        assert re.findall(r"`python([\d.]+)`", row("Python of the packages")[column]) == list(PYTHONS[release])
    assert [row("Java")[1].strip("`"), row("Java")[3].strip("`")] == [JAVA[8], JAVA[10]]
    assert JAVA[9] == JAVA[8]
    assert f"{'.'.join(map(str, HAPROXY))} or newer" in row("[HAProxy]")[0]
    assert row("[systemd]")[1] == str(SYSTEMD)
