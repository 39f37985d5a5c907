"""hosts.yaml: three hosts are enough, mistakes are told with file and line, and nothing in it can become an option or a command."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from gestalt.bootstrap.hosts_file import HostsFile, load_hosts
from gestalt.errors import GestaltError, Kind

ARCHIVE = "apache-zookeeper-3.8.4-bin.tar.gz"
SMALL = """
    packages: rpms
    zookeeper:
      hosts: ["10.0.0.1:2181"]
    hosts:
      - {name: one, address: 10.0.0.1}
      - {name: two, address: 10.0.0.2}
      - {name: three, address: 10.0.0.3}
"""


def load(folder: Path, text: str) -> HostsFile:
    file = folder / "hosts.yaml"
    file.write_text(textwrap.dedent(text), encoding="utf-8")
    return load_hosts(file)


def refused(folder: Path, text: str) -> str:
    with pytest.raises(GestaltError) as caught:
        load(folder, text)
    assert caught.value.kind is Kind.INVALID
    return caught.value.message


def test_three_hosts_are_three_coordinators_reached_as_ssh_does_it(tmp_path: Path) -> None:
    hosts = load(tmp_path, SMALL)
    assert [host.name for host in hosts.coordinators] == ["one", "two", "three"]
    assert hosts.first.name == "one"
    assert [host.destination for host in hosts.hosts] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert hosts.ssh.model_dump() == {"user": None, "port": None, "identity": None, "config": None}
    assert hosts.servers == ()


def test_paths_are_meant_from_the_folder_of_the_file(tmp_path: Path) -> None:
    text = SMALL.replace('hosts: ["10.0.0.1:2181"]', f"archive: {ARCHIVE}") + "    ssh: {identity: keys/id, config: /etc/other}\n"
    hosts = load(tmp_path, text)
    assert hosts.packages == (tmp_path / "rpms",)
    assert hosts.zookeeper.archive == tmp_path / ARCHIVE
    assert hosts.ssh.identity == tmp_path / "keys/id"
    assert hosts.ssh.config == Path("/etc/other")
    assert [host.name for host in hosts.servers] == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("coordinators", "expected"),
    [
        ((None, None, None, None), "abc"),
        ((None, None), "a"),
        ((None, True, None), "b"),
        ((False, None, None), ""),
        ((True, True, True, None), "abc"),
    ],
)
def test_who_has_a_coordinator(coordinators: tuple[bool | None, ...], expected: str) -> None:
    hosts = [
        {"name": name, "address": f"10.0.0.{number}", "coordinator": wanted}
        for number, (name, wanted) in enumerate(zip("abcd", coordinators, strict=False), 1)
    ]
    document = {"packages": "p", "zookeeper": {"hosts": ["z:1"]}, "hosts": hosts}
    if not expected:
        with pytest.raises(ValueError, match="no host has a coordinator"):
            HostsFile.model_validate(document)
        return
    assert "".join(host.name for host in HostsFile.model_validate(document).coordinators) == expected


@pytest.mark.parametrize(
    ("change", "line", "said"),
    [
        (("{name: two,", "{nmae: two,"), 7, "hosts.1.nmae: is not a setting; did you mean 'name'?"),
        (("10.0.0.2", "two.example.com"), 7, "hosts.1.address: 'two.example.com' is not allowed; allowed: an IP address"),
        (("10.0.0.2", "10.0.0.1"), 2, "two hosts have the same address: 10.0.0.1"),
        (('["10.0.0.1:2181"]', "[zk1]"), 4, "allowed: address:port"),
        (('hosts: ["10.0.0.1:2181"]', "root: /x"), 3, "exactly one of hosts, archive and package"),
        (
            ('hosts: ["10.0.0.1:2181"]', f"archive: {ARCHIVE}\n      servers: [four]"),
            2,
            "zookeeper.servers names four",
        ),
        (("name: two,", "name: two, ssh: -oProxyCommand=x,"), 7, "hosts.1.ssh: '-oProxyCommand=x' is not allowed"),
        (('hosts: ["10.0.0.1:2181"]', "archive: zookeeper.zip"), 3, "is not the name of an archive of Apache ZooKeeper"),
        (("packages: rpms", "packages: []"), 2, "packages: "),
        (("name: two,", "name: two, labels: {a b: c},"), 7, "hosts.1.labels: 'a b' is not allowed"),
    ],
)
def test_mistakes_are_told_with_file_and_line(tmp_path: Path, change: tuple[str, str], line: int, said: str) -> None:
    assert change[0] in SMALL
    message = refused(tmp_path, SMALL.replace(*change))
    assert said in message
    assert f"{tmp_path / 'hosts.yaml'}:{line}: " in message


def test_the_example_of_the_docs_is_valid(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[4] / "docs/bootstrap.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        assert len(load(tmp_path, block).coordinators) == 3
