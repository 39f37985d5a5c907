"""What a ZooKeeper server of ours consists of."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from gestalt.bootstrap.zookeeper import (
    SETTINGS,
    UNIT,
    Archive,
    Choices,
    connection,
    read_archive_name,
    server_files,
    servers_of,
    settings,
    unit,
)
from gestalt.errors import GestaltError
from gestalt.zk.acl import digest_id

THREE = servers_of(["10.0.0.1", "10.0.0.2", "10.0.0.3"])
DEBIAN = Choices(("/usr/share/java/zookeeper.jar",))


def of(text: str) -> dict[str, str]:
    return {line.partition("=")[0]: line.partition("=")[2] for line in text.splitlines()}


def test_servers_have_what_the_operator_guide_asks_for() -> None:
    found = of(settings(THREE, DEBIAN))
    assert (found["tickTime"], found["initLimit"], found["syncLimit"], found["minSessionTimeout"]) == ("500", "20", "10", "1000")
    assert found["admin.enableServer"] == "false"
    assert found["server.2"] == "10.0.0.2:2888:3888:participant;10.0.0.2:2181"
    assert found["quorumListenOnAllIPs"] == "false"
    assert "srvr" in found["4lw.commands.whitelist"].split(",")
    assert connection(THREE) == "10.0.0.1:2181,10.0.0.2:2181,10.0.0.3:2181"


def test_servers_by_name_listen_everywhere_for_their_name_may_mean_loopback_at_home() -> None:
    found = of(settings(servers_of(["zk1.example.com"]), DEBIAN))
    assert found["server.1"] == "zk1.example.com:2888:3888:participant;0.0.0.0:2181"
    assert found["quorumListenOnAllIPs"] == "true"


def test_addresses_of_version_6_are_in_brackets() -> None:
    servers = servers_of(["fd00::1"])
    assert of(settings(servers, DEBIAN))["server.1"] == "[fd00::1]:2888:3888:participant;[fd00::1]:2181"
    assert connection(servers) == "[fd00::1]:2181"


@pytest.mark.parametrize(
    ("hosts", "told"),
    [
        ([], "0 ZooKeeper servers"),
        (["a", "b"], "2 ZooKeeper servers"),
        (["a", "b", "a"], "two of the ZooKeeper servers are on the same machine"),
        (["a;reboot"], "'a;reboot' is neither an address nor a name"),
        (["a\nadmin.enableServer=true"], "neither an address nor a name"),
        (["-a"], "neither an address nor a name"),
    ],
)
def test_hosts_that_cannot_be_servers_are_refused(hosts: list[str], told: str) -> None:
    with pytest.raises(GestaltError) as refused:
        servers_of(hosts)
    assert told in refused.value.message


def test_the_administrator_is_in_a_file_that_nobody_else_reads() -> None:
    digest = digest_id("super", "secret").removeprefix("digest:")
    files = server_files(2, THREE, replace(DEBIAN, super_digest=digest))
    holding = [file for file in files if digest in file.text]
    assert [(file.path, file.mode, file.owner, file.once) for file in holding] == [(SETTINGS, 0o600, "gestalt-zookeeper", True)]
    assert "superDigest" not in settings(THREE, DEBIAN)
    assert [file.text for file in files if file.path.endswith("/myid")] == ["2\n"]


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        (replace(DEBIAN, heap=64), "a heap of 64 MiB"),
        (replace(DEBIAN, heap=64 * 1024), "128 to 31744 are allowed"),
        (replace(DEBIAN, java="java"), "'java' cannot be written into a unit"),
        (replace(DEBIAN, java="/usr/bin/java\nUser=root"), "cannot be written into a unit"),
        (replace(DEBIAN, jars=()), "no jars"),
        (replace(DEBIAN, jars=("/opt/%h/lib/*",)), "cannot be written into a unit"),
        (replace(DEBIAN, jars=("/opt/../lib/*",)), "cannot be written into a unit"),
        (replace(DEBIAN, super_digest="super:secret"), "is not of the form"),
    ],
)
def test_choices_that_would_break_a_unit_are_refused(choices: Choices, told: str) -> None:
    with pytest.raises(GestaltError) as refused:
        server_files(1, THREE, choices)
    assert told in refused.value.message
    assert "secret" not in refused.value.message


def test_a_number_that_no_server_has_is_refused() -> None:
    with pytest.raises(GestaltError, match="no server 4 among 1, 2, 3"):
        server_files(4, THREE, DEBIAN)


def test_an_archive_is_known_by_its_name() -> None:
    found = read_archive_name("/root/apache-zookeeper-3.9.3-bin.tar.gz")
    assert found == Archive("apache-zookeeper-3.9.3-bin", "3.9.3")
    assert found.jars() == ("/opt/apache-zookeeper-3.9.3-bin/lib/*",)
    assert "-cp /etc/gestalt-zookeeper:/opt/apache-zookeeper-3.9.3-bin/lib/* " in unit(Choices(found.jars()))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("apache-zookeeper-3.9.3.tar.gz", "the archive with the source"),
        ("apache-zookeeper-3.7.2-bin.tar.gz", "3.7.2 is too old"),
        ("zookeeper.zip", "is not the name of an archive"),
        ("apache-zookeeper-3.9.3-bin.tar.gz.asc", "is not the name of an archive"),
    ],
)
def test_other_archives_are_refused_with_the_right_one(name: str, told: str) -> None:
    with pytest.raises(GestaltError) as refused:
        read_archive_name(name)
    assert told in refused.value.message
    assert "-bin.tar.gz" in refused.value.hint


@pytest.mark.skipif(shutil.which("systemd-analyze") is None or not Path("/usr/bin/java").exists(), reason="needs systemd and Java")
def test_systemd_has_nothing_to_say_about_the_unit(tmp_path: Path) -> None:
    file = tmp_path / UNIT
    file.write_text(unit(DEBIAN))
    verify = ("systemd-analyze", "verify", "--man=no", "--recursive-errors=one", str(file))
    done = subprocess.run(verify, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if UNIT in line]) == (0, [])
    secure = ("systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold=20", str(file))
    done = subprocess.run(secure, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout[-200:]
