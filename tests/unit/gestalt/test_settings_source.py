"""When drop-ins are to be read anew: after they have changed, and come to rest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gestalt.agent.fence.settings import FenceSettings, load_fence_settings
from gestalt.errors import GestaltError
from gestalt.settings_source import Source

LEAST = "node_id: n\nnode_name: one\ncluster_id: c\nzookeeper: {hosts: [a:1]}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "x.yaml").write_text(LEAST, encoding="utf-8")
    folder = tmp_path / "x.d"
    folder.mkdir()
    return folder


def source_of(folder: Path) -> Source[FenceSettings]:
    path = folder.parent / "x.yaml"
    return Source(path, lambda: load_fence_settings(path))


def looks(source: Source[FenceSettings], times: int = 3) -> list[bool]:
    return [source.is_due() for _ in range(times)]


@pytest.mark.parametrize("change", ["comes", "changes", "keeps its size", "goes", "is another", "links elsewhere"])
def test_what_changed_is_due_when_it_rests(folder: Path, change: str) -> None:
    file = folder / "1.yaml"
    (folder.parent / "elsewhere").write_text("failsafe: true\n", encoding="utf-8")
    if change != "comes":
        file.write_text("agent_grace: 1\n", encoding="utf-8")
    source = source_of(folder)
    assert not any(looks(source)), "what was read is not due"
    match change:
        case "comes" | "changes":
            file.write_text("agent_grace: 22\n", encoding="utf-8")
        case "keeps its size":
            file.write_text("agent_grace: 2\n", encoding="utf-8")
        case "goes":
            file.unlink()
        case "is another":
            status = file.stat()
            (folder / ".new").write_text("agent_grace: 2\n", encoding="utf-8")
            os.utime(folder / ".new", ns=(status.st_atime_ns, status.st_mtime_ns))
            (folder / ".new").replace(file)
        case _:
            file.unlink()
            file.symlink_to(folder.parent / "elsewhere")
    assert looks(source) == [False, True, True]
    source.renew()
    assert not any(looks(source))


def test_who_still_writes_is_let_finish(folder: Path) -> None:
    source = source_of(folder)
    for size in range(1, 5):
        (folder / "1.yaml").write_text("#" * size, encoding="utf-8")
        assert not source.is_due()
    assert source.is_due()


def test_what_was_refused_is_due_again_only_when_it_changes(folder: Path) -> None:
    source = source_of(folder)
    (folder / "1.yaml").write_text("agent_grace: soon\n", encoding="utf-8")
    assert looks(source, 2) == [False, True]
    with pytest.raises(GestaltError, match="agent_grace: is not a duration"):
        source.renew()
    assert not any(looks(source))
    (folder / "1.yaml").write_text("agent_grace: 5\n", encoding="utf-8")
    assert looks(source, 2) == [False, True]
    assert source.renew().settings.agent_grace == 5.0


def test_a_change_while_it_is_read_is_not_missed(folder: Path) -> None:
    """What comes between the look and the reading is read twice, rather than never."""
    path = folder.parent / "x.yaml"

    def read() -> FenceSettings:
        settings = load_fence_settings(path)
        (folder / "1.yaml").write_text("agent_grace: 5\n", encoding="utf-8")
        return settings

    assert looks(Source(path, read), 2) == [False, True]


def test_what_is_no_drop_in_is_not_looked_at(folder: Path) -> None:
    source = source_of(folder)
    (folder / "1.yml").write_text("agent_grace: 5\n", encoding="utf-8")
    (folder / ".2.yaml.swp").write_text("agent_grace: 5\n", encoding="utf-8")
    (folder.parent / "x.yaml").write_text(LEAST + "agent_grace: 5\n", encoding="utf-8")
    assert not any(looks(source))


def test_a_drop_in_that_cannot_be_looked_at_is_no_end_of_looking(folder: Path) -> None:
    source = source_of(folder)
    (folder / "1.yaml").symlink_to(folder / "nowhere")
    assert looks(source) == [False, True, True]
