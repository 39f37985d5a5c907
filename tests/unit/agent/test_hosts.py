"""The block in /etc/hosts: it holds the peers, and nothing outside of it ever changes."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gestalt.agent.board import Board
from gestalt.agent.desired import Desired
from gestalt.agent.disk import Disk
from gestalt.agent.hosts import BEGIN, END, Hosts, is_usable, with_block
from gestalt.files import rewrite
from gestalt.model import NodeState, Peer

A, B = Peer("a.example", "10.0.0.1"), Peer("b", "fd00::2")
OTHERS = b"127.0.0.1\tlocalhost\n\n# ours \xff\r\n10.0.0.9 printer"

LINES = st.lists(st.one_of(st.sampled_from([BEGIN, END, b"", b"127.0.0.1 localhost", b"\t" + BEGIN + b" "]), st.binary(max_size=20)))
CONTENTS = LINES.map(b"\n".join)
PEERS = st.lists(
    st.builds(Peer, st.from_regex(r"[a-z][a-z0-9-]{0,5}", fullmatch=True), st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::7"])), max_size=4
)


def outside(content: bytes) -> bytes:
    """Return what is not ours, as an operator sees it: without the lines between our marks, and without the marks."""
    kept: list[bytes] = []
    held: list[bytes] | None = None
    for line in content.split(b"\n"):
        if line.strip() == BEGIN:
            kept += held or []
            held = []
        elif line.strip() == END:
            held = None
        elif held is None:
            kept.append(line)
        else:
            held.append(line)
    return b"\n".join(kept + (held or []))


@given(CONTENTS, PEERS)
def test_what_is_outside_stays_byte_for_byte(content: bytes, peers: list[Peer]) -> None:
    assert outside(with_block(content, peers)).rstrip(b"\n") == outside(content).rstrip(b"\n")


@given(CONTENTS, PEERS)
def test_a_second_time_changes_nothing(content: bytes, peers: list[Peer]) -> None:
    once = with_block(content, peers)
    assert with_block(once, peers) == once


@given(CONTENTS, PEERS)
def test_the_peers_are_there_once_and_all(content: bytes, peers: list[Peer]) -> None:
    usable = {(peer.address, peer.name) for peer in peers if is_usable(peer.name)}
    after = with_block(content, peers)
    assert after.count(BEGIN) == after.count(END) == (1 if usable else 0)
    block = after.partition(BEGIN + b"\n")[2].partition(END)[0].decode()
    assert {tuple(line.split("\t")) for line in block.splitlines()} == usable


@given(st.binary(max_size=60).filter(lambda content: BEGIN not in content and END not in content), PEERS.filter(bool))
def test_a_block_that_goes_leaves_what_was_there(content: bytes, peers: list[Peer]) -> None:
    """But for the end of the last line, should it have had none."""
    left = with_block(with_block(content, peers), ())
    assert left in (content, content + b"\n")
    assert left == content or not content.endswith(b"\n")


def test_a_block_stays_where_it_is() -> None:
    before = OTHERS + b"\n" + with_block(b"", [A]) + b"10.0.0.8 after\n"
    assert with_block(before, [B]) == OTHERS + b"\n" + BEGIN + b"\nfd00::2\tb\n" + END + b"\n10.0.0.8 after\n"


@pytest.mark.parametrize("name", ["localhost", "LocalHost", "x.localhost", "localhost.localdomain", "ip6-loopback", "1.2.3.4", "12"])
def test_names_that_mean_this_machine_or_none_are_left_out(name: str) -> None:
    assert with_block(OTHERS, [Peer(name, "10.0.0.7")]) == OTHERS


@pytest.mark.parametrize("name", ["", "*.example", "a b", "a\tb", "a\nb", "-a", "a_b", "a.", "a" * 64, ".".join(["abc"] * 64), "ä"])
def test_names_that_are_none_are_left_out(name: str) -> None:
    assert with_block(OTHERS, [Peer(name, "10.0.0.7")]) == OTHERS


def wanted(*peers: Peer, complete: bool = True) -> Desired:
    return Desired(NodeState(1, 1, peers={peer.name: peer for peer in peers}), complete=complete)


async def test_the_block_follows_the_peers_and_stays_while_nobody_tells(tmp_path: Path) -> None:
    path, board, disk = tmp_path / "hosts", Board(), Disk()
    path.write_bytes(OTHERS)
    path.chmod(0o640)
    hosts = Hosts(path, "me", disk, board)
    hosts.set_desired(Desired(NodeState(1, 1, peers={"me": B, "other": A}), complete=True))
    await hosts.ensure()
    assert path.read_bytes() == with_block(OTHERS, [A])
    assert path.stat().st_mode & 0o777 == 0o640
    await hosts.close()  # nothing is under way any more that might read what is half written here
    path.write_bytes(OTHERS)
    await hosts.ensure()
    assert path.read_bytes() == with_block(OTHERS, [A])  # what somebody took out is put back

    restarted = Hosts(path, "me", disk, board)  # with a desired state that cannot be read
    restarted.set_desired(wanted(complete=False))
    await restarted.ensure()
    assert path.read_bytes() == with_block(OTHERS, [A])
    restarted.set_desired(wanted())
    await restarted.close()
    assert path.read_bytes() == OTHERS + b"\n"
    await disk.close()


async def test_a_file_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    board, disk = Board(), Disk()
    hosts = Hosts(tmp_path / "none", "me", disk, board)
    hosts.set_desired(wanted(A))
    await hosts.ensure()
    await hosts.close()
    [problem] = board.problems()
    assert "No such file" in problem
    await disk.close()


async def test_a_link_is_followed_and_labels_stay(tmp_path: Path) -> None:
    path, link = tmp_path / "real", tmp_path / "hosts"
    path.write_bytes(b"x")
    link.symlink_to(path)
    os.setxattr(path, "user.label", b"theirs")
    inode = path.stat().st_ino
    await asyncio.to_thread(rewrite, link, b"y")
    assert (link.is_symlink(), path.read_bytes(), os.getxattr(path, "user.label")) == (True, b"y", b"theirs")
    assert path.stat().st_ino != inode  # as a whole, not in place
    assert [item.name for item in tmp_path.iterdir() if item.name.startswith(".")] == []
