"""The compiled shim: without it no process of a node starts, whatever a disk or a power cut has left of it."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gestalt.plugins.runtime.process_supervisor import compile_shim, shim_command

LEFT: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _: b"",
    "a part": lambda whole: whole[: len(whole) // 2],
    "a part of its head": lambda whole: whole[:10],
    "zeros": lambda whole: bytes(len(whole)),
    "zeros at its end": lambda whole: whole[:-200] + bytes(200),
    "another code": lambda whole: whole.replace(b"oom_score_adj", b"oom_score_bad"),
}


def answer(compiled: Path, folder: Path) -> str:
    """Return what the shim says of a folder in which nothing is."""
    done = subprocess.run(shim_command(compiled, "start", str(folder)), capture_output=True, text=True, timeout=20, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize("left", LEFT)
def test_what_is_not_whole_is_made_anew(left: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    compiled = compile_shim(tmp_path)
    part = compiled.with_name("shim.pyc")
    spoiled = LEFT[left](part.read_bytes())
    part.write_bytes(spoiled)
    assert compile_shim(tmp_path) == compiled
    assert part.read_bytes() != spoiled
    assert answer(compiled, empty) == "died", "it should look into the folder, and find nothing there"


def test_what_is_whole_is_left_alone(tmp_path: Path) -> None:
    package = compile_shim(tmp_path).parent
    before = {path.name: path.stat().st_ino for path in package.iterdir()}
    compile_shim(tmp_path)
    assert {path.name: path.stat().st_ino for path in package.iterdir()} == before
    assert {"__init__.pyc", "__main__.pyc", "shim.pyc"} <= before.keys()


def test_a_disk_that_takes_a_part_only_is_told(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            compile_shim(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert answer(compile_shim(tmp_path), tmp_path) == "died"
