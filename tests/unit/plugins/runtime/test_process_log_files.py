"""What the shim writes to log files is what the driver reads from them, however it was cut."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from gestalt.plugin.runtime import LogLine, LogOptions
from gestalt.plugins.runtime.process_logs import Assembler, Cursor, read_tail
from gestalt.plugins.runtime.process_shim.log import LINE_MAX, Log

TEXT = st.one_of(st.binary(max_size=40), st.just(b"\n"), st.just(b"\r\n"), st.just(b"long" * LINE_MAX))
OUTPUT = st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), TEXT.filter(bool)), max_size=30)


@contextlib.contextmanager
def written(pieces: list[tuple[str, bytes]], max_size: int, max_files: int) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        log = Log(max_size, max_files)
        for stream, data in pieces:
            log.feed(stream, data)
        for stream in log.rest:
            log.feed(stream, b"")
        yield Path(folder)


def read(folder: Path) -> list[LogLine]:
    assembler, cursor = Assembler(LogOptions(), 0.0), Cursor(folder)
    found: list[LogLine] = []
    while pieces := cursor.read():
        for piece in pieces:
            found.extend(assembler.add(piece))
    return [*found, *assembler.flush()]


@settings(max_examples=60)
@given(OUTPUT, st.sampled_from([200, 5000, 10**7]))
def test_each_stream_comes_out_as_it_went_in(pieces: list[tuple[str, bytes]], max_size: int) -> None:
    with written(pieces, max_size, max_files=100_000) as folder:
        lines = read(folder)
    for stream, stderr in (("stdout", False), ("stderr", True)):
        assert b"".join(line.data for line in lines if line.stderr is stderr) == b"".join(data for name, data in pieces if name == stream)
        whole = [line.data for line in lines if line.stderr is stderr]
        assert all(line.endswith(b"\n") for line in whole[:-1])
        assert all(b"\n" not in line[:-1] for line in whole)


@settings(max_examples=40)
@given(OUTPUT, st.integers(1, 12), st.sampled_from([300, 10**7]))
def test_a_tail_is_the_end_of_the_whole(pieces: list[tuple[str, bytes]], count: int, max_size: int) -> None:
    short = [(stream, data[:40]) for stream, data in pieces if b"\n" in data]
    with written([("stdout", data) for _, data in short], max_size, max_files=100_000) as folder:
        everything = read(folder)
        assembler = Assembler(LogOptions(), 0.0)
        tail = [*read_tail(Cursor(folder, count), assembler, count), *assembler.flush()][-count:]
    assert tail == everything[-count:]


def test_rotation_keeps_the_newest_files() -> None:
    with written([("stdout", b"%d\n" % number) for number in range(200)], max_size=500, max_files=3) as folder:
        files = sorted(folder.iterdir())
        assert len(files) == 3
        assert all(path.stat().st_size <= 500 for path in files)
        found = [int(line.data) for line in read(folder)]
    assert found == list(range(found[0], 200))


def test_a_reader_whose_file_was_rotated_away_goes_on_with_the_oldest() -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        log = Log(500, 2)
        log.feed("stdout", b"first\n")
        cursor = Cursor(Path(folder))
        assert [piece.text for piece in cursor.read()] == [b"first"]
        for number in range(100):
            log.feed("stdout", b"%d\n" % number)
        found = []
        while pieces := cursor.read():
            found += [int(piece.text) for piece in pieces]
        assert found == list(range(found[0], 100))
