"""What ZooKeeper's servers say of themselves is understood, and when it is believed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from gestalt.cluster.servers import check_new, check_old, note_on
from gestalt.errors import GestaltError, Kind
from gestalt.zk.ensemble import Ensemble, Server, hosts_of, parse_ensemble
from gestalt.zk.known import KnownServers

TEXT = b"""server.1=10.0.0.1:2888:3888:participant;0.0.0.0:2181
server.2=zk2:2888:3888;2182
server.3=[fd00::3]:2888:3888:participant;[::]:2181
server.4=10.0.0.4:2888:3888|10.1.0.4:2889:3889:participant;10.2.0.4:2181
server.5=10.0.0.5:2888:3888:observer
server.x=nonsense
version=100000003"""
ENSEMBLE = Ensemble(tuple(Server(number, f"10.0.0.{number}", 2888, 3888, f"10.0.0.{number}:2181") for number in (1, 2, 3)), 7)


def test_the_dynamic_configuration_is_understood() -> None:
    found = parse_ensemble(TEXT)
    assert found.version == 0x100000003
    assert [(server.id, server.client, server.votes) for server in found.servers] == [
        (1, "10.0.0.1:2181", True),
        (2, "zk2:2182", True),
        (3, "[fd00::3]:2181", True),
        (4, "10.2.0.4:2181", True),
        (5, "", False),
    ]
    assert parse_ensemble("\n".join(server.line() for server in found.servers).encode()).servers == found.servers


@pytest.mark.parametrize("value", [b"", b"version=0", b"\xff\xfe", b"server.1=;;", b"version=zz"])
def test_nonsense_is_nothing(value: bytes) -> None:
    assert parse_ensemble(value) == Ensemble((), 0)


def test_servers_that_were_reconfigured_are_believed() -> None:
    assert hosts_of(ENSEMBLE, ("10.0.0.9:2181",)) == ("10.0.0.1:2181", "10.0.0.2:2181", "10.0.0.3:2181")
    assert hosts_of(Ensemble(ENSEMBLE.servers, 0), ("10.0.0.9:2181",)) == (), "the settings know better"
    assert hosts_of(Ensemble((), 7), ("10.0.0.9:2181",)) == ()


def test_a_port_that_is_not_told_is_the_one_that_all_have() -> None:
    silent = Ensemble((Server(1, "10.0.0.1", 2888, 3888), Server(2, "10.0.0.2", 2888, 3888)), 7)
    assert hosts_of(silent, ("a:2281", "b:2281")) == ("10.0.0.1:2281", "10.0.0.2:2281")
    assert hosts_of(silent, ("a:2281", "b:2282")) == (), "nobody knows"


def test_what_was_learned_is_asked_first_and_then_in_turn_with_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "zookeeper.json"
    file.write_text(json.dumps(["new:1"]))
    known = KnownServers(("old:1",), file)
    asked = []
    for _ in range(4):
        asked.append(known.hosts)
        known.failed()
    assert asked == [("new:1",), ("old:1",), ("new:1",), ("old:1",)]


@pytest.mark.parametrize("content", ["", "{}", "[]", "[1]", "\x00", '["a:1", ""]'])
def test_a_file_that_says_nothing_leaves_the_settings(content: str, tmp_path: Path) -> None:
    file = tmp_path / "zookeeper.json"
    file.write_text(content)
    known = KnownServers(("old:1",), file)
    assert known.hosts == ("old:1",)
    known.failed()
    assert known.hosts == ("old:1",)


async def test_what_is_learned_outlives_the_process(tmp_path: Path) -> None:
    file = tmp_path / "folder/zookeeper.json"
    KnownServers(("old:1",), file)._learn(("new:1", "new:2"))
    await asyncio.get_running_loop().shutdown_default_executor()
    assert KnownServers(("old:1",), file).hosts == ("new:1", "new:2")


def test_servers_come_once_and_under_their_own_number() -> None:
    assert check_new(ENSEMBLE, Server(4, "10.0.0.4", 2888, 3888))
    assert not check_new(ENSEMBLE, Server(3, "10.0.0.3", 2888, 3888))
    for server, kind in (
        (Server(3, "10.0.0.4", 2888, 3888), Kind.EXISTS),
        (Server(4, "10.0.0.3", 2888, 3888), Kind.EXISTS),
        (Server(256, "10.0.0.4", 2888, 3888), Kind.INVALID),
    ):
        with pytest.raises(GestaltError) as told:
            check_new(ENSEMBLE, server)
        assert told.value.kind is kind


def test_the_last_server_stays() -> None:
    assert check_old(ENSEMBLE, 2)
    assert not check_old(ENSEMBLE, 9)
    alone = Ensemble((ENSEMBLE.servers[0], Server(2, "10.0.0.2", 2888, 3888, votes=False)), 7)
    assert check_old(alone, 2)
    with pytest.raises(GestaltError, match="is the last one"):
        check_old(alone, 1)


@pytest.mark.parametrize(("count", "said"), [(1, "stops the cluster"), (2, "stops the cluster"), (3, ""), (4, "as 3 do"), (5, "")])
def test_what_a_number_of_servers_bears_is_said(count: int, said: str) -> None:
    note = note_on(Ensemble(tuple(Server(number, f"h{number}", 2888, 3888) for number in range(count)), 7))
    assert said in note
    assert bool(note) == bool(said)
