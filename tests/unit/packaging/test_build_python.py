"""Which Python packages are built for: the newest of the system's for which the locks have wheels, and no other."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from gestalt import shell

ROOT = Path(__file__).resolve().parents[3]
KNOWN = re.findall(r"[0-9.]+", re.findall(r"^PYTHONS = (.+)$", (ROOT / "packaging/wheels.py").read_text(encoding="utf-8"), re.MULTILINE)[0])
HERE = sorted(path.name.removeprefix("python") for path in Path("/usr/bin").glob("python3.1[1-9]"))

can_build = pytest.mark.skipif(shutil.which("rpmbuild") is None, reason="rpmbuild is not installed: scripts/install-packages rpm")


async def chosen(tree: Path, pythons: str) -> shell.Completed:
    """Ask a copy of the script, beside which the locks have wheels for other versions."""
    for folder in ("scripts", "packaging"):
        (tree / folder).mkdir()
    shutil.copy(ROOT / "scripts/find-python", tree / "scripts")
    (tree / "packaging/wheels.py").write_text(f"PYTHONS = ({pythons})\n", encoding="utf-8")
    return await shell.run((str(tree / "scripts/find-python"), "package"), limit=30)


async def test_those_that_are_known_are_those_that_the_locks_have_wheels_for() -> None:
    done = await shell.run((str(ROOT / "scripts/find-python"), "known"), limit=30)
    assert done.stdout.decode().split() == [f"/usr/bin/python{version}" for version in reversed(KNOWN)]


@pytest.mark.skipif(not HERE, reason="there is no Python in /usr/bin that packages could be built for")
async def test_it_is_one_that_is_there_and_the_locks_have(tmp_path: Path) -> None:
    done = await chosen(tmp_path, f'"{HERE[0]}", "3.98"')
    assert done.stdout.decode() == f"/usr/bin/python{HERE[0]}\n"


async def test_where_there_is_none_it_says_which_would_do(tmp_path: Path) -> None:
    done = await chosen(tmp_path, '"3.97", "3.98"')
    assert (done.code, done.stdout) == (1, b"")
    assert "none of /usr/bin/python3.98 /usr/bin/python3.97 was found, for which the locks have wheels" in done.stderr.decode()


@can_build
@pytest.mark.parametrize(
    ("says", "told"),
    [
        ("echo 3.99", "is Python 3.99, for which the locks have no wheels; name one of /usr/bin/python3.12 /usr/bin/python3.11"),
        ("exit 1", "does not run"),
    ],
)
async def test_one_that_is_asked_for_and_cannot_be_is_refused_by_name(says: str, told: str, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{says}\n", encoding="ascii")
    python.chmod(0o755)
    done = await shell.run((str(ROOT / "scripts/rpm.sh"), "rpm"), limit=30, env={"RPM_PYTHON": str(python), "RPM_OUT": str(tmp_path)})
    assert not done.ok
    assert f"RPM_PYTHON={python} {told}" in done.stderr.decode()
