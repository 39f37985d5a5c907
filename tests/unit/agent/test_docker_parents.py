"""Where containers are found without the Engine, for each of its cgroup drivers and versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from gestalt.plugin.runtime import LaunchRefused
from gestalt.plugins.runtime.docker_cgroups import Confinement, ParentCgroups

NAME = "gestalt-0123abcd-web-0000aa-1-2"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for hierarchy in ("pids", "memory"):
        (tmp_path / hierarchy).mkdir()
        (tmp_path / hierarchy / "cgroup.procs").touch()
    return tmp_path


def test_below_a_folder_of_ours(root: Path) -> None:
    parents = ParentCgroups("cgroupfs", "1", root)
    assert parents.parent(NAME) == f"/gestalt-docker/{NAME}"
    assert parents.folders(NAME) == (f"{root}/pids/gestalt-docker/{NAME}", f"{root}/memory/gestalt-docker/{NAME}")
    assert ParentCgroups("cgroupfs", "2", root).folders(NAME) == (f"{root}/gestalt-docker/{NAME}",)


def test_in_a_slice_of_ours(root: Path) -> None:
    """In the name of a slice each dash is a level, so that there is none but the first."""
    parents = ParentCgroups("systemd", "2", root)
    slice_name = "gestalt-0123abcd_web_0000aa_1_2.slice"
    assert parents.parent(NAME) == slice_name
    assert parents.folders(NAME) == (f"{root}/gestalt.slice/{slice_name}",)
    assert ParentCgroups("systemd", "1", root).folders(NAME)[0] == f"{root}/pids/gestalt.slice/{slice_name}"


async def test_what_is_empty_is_removed(root: Path) -> None:
    parents = ParentCgroups("cgroupfs", "1", root)
    full, *others = map(Path, parents.folders(NAME))
    for folder in (full / "container", *others):
        folder.mkdir(parents=True)
    await parents.remove(NAME)
    assert (full.exists(), any(folder.exists() for folder in others)) == (True, False)


def test_an_engine_without_cgroups_is_no_place_for_it() -> None:
    with pytest.raises(LaunchRefused, match="none"):
        ParentCgroups.of({"CgroupDriver": "none"})
    assert ParentCgroups.of({"CgroupDriver": "cgroupfs", "CgroupVersion": "2"}).parent("x") == "/gestalt-docker/x"


@pytest.mark.parametrize(("driver", "parent"), [("cgroupfs", "/gestalt-docker"), ("systemd", "gestalt.slice")])
async def test_all_others_share_a_parent_that_is_never_removed(driver: str, parent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    removed = []

    async def remove(_: ParentCgroups, container: str) -> None:
        removed.append(container)

    async def info() -> dict[str, str]:
        return {"CgroupDriver": driver}

    monkeypatch.setattr(ParentCgroups, "remove", remove)
    confinement = Confinement(info)
    own = await confinement.parent(NAME, alone=True)
    assert await confinement.parent(NAME, alone=False) == parent
    for found in ("", parent, "elsewhere", own):
        await confinement.remove(NAME, found)
    assert removed == [NAME]


async def test_an_engine_that_may_be_another_is_asked_anew() -> None:
    drivers = iter(["none", "cgroupfs", "systemd"])

    async def info() -> dict[str, str]:
        return {"CgroupDriver": next(drivers)}

    confinement = Confinement(info)
    assert [await confinement.parent(NAME, alone=False) for _ in range(3)] == ["", "/gestalt-docker", "/gestalt-docker"]
    confinement.doubt()
    assert await confinement.parent(NAME, alone=False) == "gestalt.slice"
