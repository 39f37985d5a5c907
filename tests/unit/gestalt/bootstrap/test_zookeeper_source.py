"""What hosts.yaml names for ZooKeeper is looked at before anything is changed, and told with the field that names it."""

from __future__ import annotations

import io
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from gestalt.bootstrap.hosts_file import ZooKeeperChoice
from gestalt.bootstrap.plan import Action, make_plan
from gestalt.bootstrap.requirements import Finding, Level
from gestalt.bootstrap.source import source_finding
from tests.unit.gestalt.bootstrap.test_bootstrap_packages import package
from tests.unit.gestalt.bootstrap.test_bootstrap_plan import PACKAGES, bare, site

NAME = "apache-zookeeper-3.8.4-bin"
WHOLE = {f"{NAME}/bin/zkServer.sh": b"#!/bin/sh\n", f"{NAME}/lib/zookeeper-3.8.4.jar": os.urandom(4000), f"{NAME}/lib/other.jar": b"x"}


def archive(folder: Path, entries: dict[str, bytes]) -> Path:
    path = folder / f"{NAME}.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in entries.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def said(path: Path) -> str:
    """Return what is said of an archive; nothing when nothing is wrong."""
    found = source_finding(ZooKeeperChoice(archive=path))
    if found is None:
        return ""
    assert (found.level, bool(found.hint)) == (Level.ERROR, True)
    assert found.what.startswith(f"zookeeper.archive: {path} ")
    return found.what.partition(f"{path} ")[2]


@pytest.mark.parametrize("prefix", ["", "./"])
def test_nothing_is_said_of_an_archive_that_is_whole(tmp_path: Path, prefix: str) -> None:
    assert said(archive(tmp_path, {f"{prefix}{name}": content for name, content in WHOLE.items()})) == ""


def test_an_archive_that_is_cut_off_or_damaged_anywhere_is_refused(tmp_path: Path) -> None:
    content = archive(tmp_path, WHOLE).read_bytes()
    path = tmp_path / "other" / f"{NAME}.tar.gz"
    path.parent.mkdir()
    for size in (*range(0, len(content), 97), len(content) - 1):
        path.write_bytes(content[:size])
        assert said(path).startswith("is not an archive of ZooKeeper: "), size
    for at in (0, len(content) // 2, len(content) - 6):  # the last is the sum
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
        assert said(path).startswith("is not an archive of ZooKeeper: "), at


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ({f"{NAME}/bin/zkServer.sh": b""}, f"there is no {NAME}/lib/zookeeper-VERSION.jar in it"),
        ({f"{NAME}/lib/zookeeper-jute-3.8.4.jar": b""}, f"there is no {NAME}/lib/zookeeper-VERSION.jar in it"),
        ({**WHOLE, "README": b""}, f"'README' is in it, beside the folder {NAME}"),
        ({**WHOLE, f"{NAME}/../x": b""}, f"'{NAME}/../x' is in it, beside the folder {NAME}"),
        ({**WHOLE, "/etc/passwd": b""}, f"'/etc/passwd' is in it, beside the folder {NAME}"),
    ],
)
def test_an_archive_of_something_else_is_refused(tmp_path: Path, entries: dict[str, bytes], problem: str) -> None:
    assert said(archive(tmp_path, entries)) == f"is not an archive of ZooKeeper: {problem}"


def test_what_is_not_there_or_is_a_folder_is_told_with_its_field(tmp_path: Path) -> None:
    path = tmp_path / f"{NAME}.tar.gz"
    assert said(path) == "cannot be read: No such file or directory"
    path.mkdir()
    assert said(path) == "cannot be read: Is a directory"


def test_a_package_has_to_be_one(tmp_path: Path) -> None:
    path = tmp_path / "zookeeper.rpm"
    choice = ZooKeeperChoice(package=path, jars=("/usr/share/java/zookeeper.jar",))
    for content, problem in (
        (None, "cannot be read: No such file or directory"),
        (b"PK", "is not a package: it does not begin as one"),
        (package("zookeeper"), ""),
    ):
        if content is not None:
            path.write_bytes(content)
        found = source_finding(choice)
        assert (found.what if found else "") == (problem and f"zookeeper.package: {path} {problem}")


def test_an_ensemble_of_ones_own_needs_no_file() -> None:
    assert source_finding(ZooKeeperChoice(hosts=("10.0.0.1:2181",))) is None


def test_what_is_wrong_with_it_stops_only_what_needs_it() -> None:
    hosts, wrong = site(), Finding(Level.ERROR, "zookeeper.archive: a cannot be read: No such file or directory", "correct it")
    world = bare(hosts)
    clocks = dict.fromkeys(world, 0.0)
    assert [(doubt.host, doubt.what) for doubt in make_plan(hosts, PACKAGES, world, clocks, wrong).errors] == [("", wrong.what)]
    runs = {name: replace(facts, units=frozenset({"gestalt-zookeeper"})) for name, facts in world.items()}
    plan = make_plan(hosts, PACKAGES, runs, clocks, wrong)
    assert [step for step in plan.steps if step.action is Action.ZOOKEEPER and not step.done] == []
    assert plan.errors == []
