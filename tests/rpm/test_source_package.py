"""The source package: whoever makes it, wherever, gets the same bytes, in a folder that `dnf install ./gestalt*.rpm` does not see."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gestalt import shell
from tests.cluster.lab.nodes import CHECKOUT, can_run

from .machine import copy_checkout

pytestmark = [
    pytest.mark.rpm,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(not can_run(), reason="to be an ordinary user for a while needs root"),
    pytest.mark.skipif(
        any(shutil.which(program) is None for program in ("rpmbuild", "setpriv")),
        reason="rpmbuild or setpriv is not installed: scripts/install-packages rpm",
    ),
]

NOBODY = 65534
SOURCE = "source/gestalt-*.src.rpm"


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder that others may enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="gestalt-source-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


async def output(*argv: str, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = await shell.run(argv, limit=120, cwd=str(cwd), env=env)
    assert done.ok, f"{argv}: {done.complaint()}"
    return done.stdout.decode()


async def give_checkout(folder: Path) -> None:
    """Lay out what lies in this checkout as an ordinary user's own, of the same time, with the wheels that were fetched for it."""
    await copy_checkout(folder)
    for wheels in (CHECKOUT / "build/rpm").glob("wheels-*"):
        shutil.copytree(wheels, folder / "build/rpm" / wheels.name)
    when = (await output("git", "log", "-1", "--format=%cI", cwd=CHECKOUT)).strip()
    who = {f"GIT_{role}_{field}": "nobody" for role in ("AUTHOR", "COMMITTER") for field in ("NAME", "EMAIL")}
    await output("git", "init", "--quiet", cwd=folder)
    settings = {**who, "GIT_COMMITTER_DATE": when}
    await output("git", "commit", "--quiet", "--allow-empty", "--message=as it lies here", cwd=folder, env=settings)
    await output("chown", "--recursive", f"{NOBODY}:{NOBODY}", str(folder), cwd=folder)


async def test_an_ordinary_user_gets_the_same_bytes_as_root_and_nothing_is_left_behind(first: list[Path], elsewhere: Path) -> None:
    await give_checkout(elsewhere)
    as_nobody = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    said = await output(*as_nobody, "scripts/rpm.sh", "srpm", cwd=elsewhere, env={"HOME": str(elsewhere)})
    (made,), (expected,) = elsewhere.glob(f"build/rpm/{SOURCE}"), first[0].parent.glob(SOURCE)
    assert said.splitlines()[-1] == str(made.relative_to(elsewhere))
    assert made.name == expected.name
    assert made.read_bytes() == expected.read_bytes()
    assert sorted(path.name for path in (elsewhere / "build/rpm").iterdir() if not path.name.startswith("wheels-")) == ["lock", "source"]
    assert list(Path("/").glob("*/BUILDROOT")) == []


async def test_it_is_not_among_what_is_installed(first: list[Path]) -> None:
    assert [path.name for path in first if path.name.endswith(".src.rpm")] == []
