"""Entries of the journal: what is sent, and what becomes of lines that are not taken."""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gestalt.journal import Journal, Stream, encode
from gestalt.log import FIELDS, JournalHandler, _lost, about, descriptors, tell_what_about

HERE = Path(__file__).resolve().parents[3]


class Peer:
    """Listens in journald's place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(5)

    def entry(self) -> dict[str, str]:
        """Return the fields of the next entry."""
        data, files, _, _ = socket.recv_fds(self.socket, 1 << 20, 1)
        for file in files:
            with mmap.mmap(file, 0, prot=mmap.PROT_READ) as memory:
                data = memory[:]
            with pytest.raises(PermissionError):
                os.pwrite(file, b"x", 0)
            os.close(file)
        return decoded(data)


def decoded(data: bytes) -> dict[str, str]:
    found = {}
    while data:
        line, _, data = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            length = int.from_bytes(data[:8], "little")
            value, data = data[8 : 8 + length], data[9 + length :]
        found[name.decode()] = value.decode()
    return found


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    made = Peer(tmp_path / "socket")
    yield made
    made.socket.close()


class Listener:
    """Has what goes to standard error instead, when it looks; `ours` is that."""

    def __init__(self) -> None:
        self.ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)

    def heard(self) -> str:
        """Return what came since the last call."""
        found = b""
        try:
            while part := self._theirs.recv(1 << 16, socket.MSG_DONTWAIT):
                found += part
        except BlockingIOError:
            pass
        return found.decode()

    def close(self) -> None:
        self.ours.close()
        self._theirs.close()


@pytest.fixture
def said() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


@pytest.fixture
def handler(tmp_path: Path, said: Listener) -> Iterator[JournalHandler]:
    fixed = {"SYSLOG_IDENTIFIER": "gestalt-agent", "GESTALT_NODE": "one"}
    made = JournalHandler(Journal(tmp_path / "socket"), Stream(said.ours.fileno()), fixed)
    made.addFilter(tell_what_about)
    yield made
    made.close()


@pytest.fixture
def log(handler: JournalHandler) -> Iterator[logging.Logger]:
    logger = logging.getLogger("gestalt.agent.hands")
    logger.addHandler(handler)
    level, logger.level = logger.level, logging.DEBUG
    yield logger
    logger.level = level
    logger.removeHandler(handler)


def test_an_entry_has_fields_and_reads_as_before(peer: Peer, log: logging.Logger) -> None:
    log.warning("attempt %d ended", 2, extra={"app": "/shop/prod/web", "instance": "web-1", "bytes": 5})
    entry = peer.entry()
    assert entry["MESSAGE"] == "agent.hands: attempt 2 ended app=/shop/prod/web instance=web-1 bytes=5"
    assert (entry["PRIORITY"], entry["SYSLOG_IDENTIFIER"], entry["LOGGER"]) == ("4", "gestalt-agent", "gestalt.agent.hands")
    assert (entry["GESTALT_APP"], entry["GESTALT_INSTANCE"], entry["GESTALT_NODE"]) == ("/shop/prod/web", "web-1", "one")
    assert (entry["CODE_FILE"], entry["CODE_FUNC"]) == (__file__, "test_an_entry_has_fields_and_reads_as_before")
    assert entry.keys() & {"GESTALT_BYTES", "BYTES"} == set()


def test_a_value_begins_no_field_of_its_own(peer: Peer, log: logging.Logger) -> None:
    log.info("one\nGESTALT_APP=/forged", extra={"node": "two\nPRIORITY=0"})
    entry = peer.entry()
    assert entry["GESTALT_NODE"] == "two\nPRIORITY=0", "a line about another node"
    assert (entry["PRIORITY"], entry.get("GESTALT_APP")) == ("6", None)
    assert entry["MESSAGE"].startswith("agent.hands: one\nGESTALT_APP=/forged ")


def test_what_cannot_be_text_is_told_all_the_same() -> None:
    assert encode([("MESSAGE", "a\udcffb")]) == b"MESSAGE=a\\udcffb\n"


def test_a_line_that_is_too_long_for_a_datagram_arrives(peer: Peer, log: logging.Logger) -> None:
    log.error("x" * 5_000_000)
    entry = peer.entry()
    assert len(entry["MESSAGE"]) > 5_000_000
    assert entry["PRIORITY"] == "3"


@pytest.mark.timeout(20)
def test_a_line_that_is_not_taken_goes_to_standard_error_and_nobody_waits_there_either(
    peer: Peer, log: logging.Logger, handler: JournalHandler, said: Listener
) -> None:
    for number in range(2000):
        log.info("line %d", number)
    peer.socket.setblocking(False)
    entries = []
    while True:
        try:
            entries.append(peer.entry()["MESSAGE"])
        except BlockingIOError:
            break
    lines = [line.removeprefix("<6>") for line in said.heard().splitlines()]
    assert lines
    assert entries + lines == [f"agent.hands: line {number}" for number in range(2000 - handler.lost)]
    assert handler.lost > 0
    lost = handler.lost
    log.info("again")
    log.info("and again")
    told = [peer.entry() for _ in range(3)]
    assert [entry["MESSAGE"] for entry in told] == [
        f"log: {lost} lines were lost, which the journal did not take",
        "agent.hands: again",
        "agent.hands: and again",
    ]
    assert (told[0]["PRIORITY"], told[0]["GESTALT_NODE"], handler.lost) == ("4", "one", 0)


def test_what_was_lost_is_told_by_standard_error_too_and_after_a_reload(
    log: logging.Logger, handler: JournalHandler, said: Listener
) -> None:
    handler.lost = 1
    log.error("one\ntwo")
    assert said.heard() == "<4>log: 1 line was lost, which the journal did not take\n<3>agent.hands: one\n<3>two\n"
    root = logging.getLogger()
    root.addHandler(handler)
    handler.lost = 7
    assert _lost() == 7
    root.removeHandler(handler)
    assert _lost() == 0


@pytest.mark.timeout(20)
def test_a_line_of_which_a_part_was_taken_does_not_run_into_the_next(said: Listener) -> None:
    stream = Stream(said.ours.fileno())
    assert not stream.write("<6>" + "x" * 1_000_000 + "\n")
    assert not stream.write("<6>nothing has room\n")
    assert set(said.heard().removeprefix("<6>")) == {"x"}
    assert stream.write("<6>next\n")
    assert stream.write("<6>last\n")
    assert said.heard() == "\n<6>next\n<6>last\n"
    stream.close()
    assert said.ours.send(b"standard error stays open")


def test_who_lets_go_of_all_else_logs_on_by_both_ways(log: logging.Logger, handler: JournalHandler, said: Listener, peer: Peer) -> None:
    """As `gestalt.agent.fence.rearguard` does, in a process of its own."""
    root = logging.getLogger()
    root.addHandler(handler)
    kept = {0, 1, 2} | descriptors()
    root.removeHandler(handler)
    child = os.fork()
    if child == 0:
        try:
            null = os.open(os.devnull, os.O_RDWR)
            for number in {int(path.name) for path in Path("/proc/self/fd").iterdir()} - kept - {null}:
                os.dup2(null, number)
            handler.emit(logging.makeLogRecord({"name": "left", "levelno": 20, "msg": "an entry"}))
            peer.path.unlink()
            handler.emit(logging.makeLogRecord({"name": "left", "levelno": 20, "msg": "a line"}))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert peer.entry()["MESSAGE"].endswith("an entry")
    assert said.heard().endswith("a line\n")


def test_without_anybody_there_lines_are_lost_and_nothing_fails(log: logging.Logger, handler: JournalHandler, said: Listener) -> None:
    said.close()
    log.error("one")
    log.error("two")
    assert handler.lost == 2


async def test_what_work_is_about_is_in_all_its_lines(peer: Peer, log: logging.Logger) -> None:
    async def later() -> None:
        await asyncio.sleep(0)
        log.info("later")

    with about(app="/shop/prod/web", instance="web-1"):
        task = asyncio.create_task(later())
        log.info("now, of web-1")
    await task
    log.info("of nothing")
    now, then, nothing = peer.entry(), peer.entry(), peer.entry()
    assert now["MESSAGE"] == "agent.hands: now, of web-1 app=/shop/prod/web", "what a line names is not repeated"
    assert then["MESSAGE"] == "agent.hands: later app=/shop/prod/web instance=web-1"
    assert [(entry.get("GESTALT_APP"), entry.get("GESTALT_INSTANCE")) for entry in (now, then, nothing)] == [
        ("/shop/prod/web", "web-1"),
        ("/shop/prod/web", "web-1"),
        (None, None),
    ]


def test_a_line_that_names_another_has_nothing_of_what_the_work_is_about(peer: Peer, log: logging.Logger) -> None:
    with about(app="/shop/web", instance="web-1", node="two"):
        log.info("said", extra={"instance": "api-1"})
        log.info("said", extra={"app": "/shop/api"})
        log.info("said", extra={"instance": "web-1"})
    found = [peer.entry() for _ in range(3)]
    names = [tuple(entry.get(f"GESTALT_{name}") for name in ("APP", "INSTANCE", "NODE")) for entry in found]
    assert names == [(None, "api-1", "one"), ("/shop/api", None, "one"), ("/shop/web", "web-1", "two")]


def test_a_name_within_another_is_not_taken_for_it(peer: Peer, log: logging.Logger) -> None:
    log.info("web-12 waits, beside /shop/web/more", extra={"instance": "web-1", "app": "/shop/web"})
    assert peer.entry()["MESSAGE"].endswith("more instance=web-1 app=/shop/web")


def test_every_field_is_documented() -> None:
    text = (HERE / "docs/units.md").read_text(encoding="utf-8")
    assert [name for name in FIELDS.values() if f"`{name}`" not in text] == []
