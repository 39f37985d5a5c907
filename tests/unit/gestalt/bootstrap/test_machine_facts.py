"""What a machine says of itself, and what is made of answers that are none."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path

import pytest

from gestalt.bootstrap.facts import PROBE, Engine, numbers, read_facts
from gestalt.bootstrap.zookeeper import HOME
from gestalt.errors import GestaltError

RHEL = """Welcome to this machine
probe=1
uid=0
hostname=one.example.com
architecture=x86_64
distribution=rhel
version=9.4
cpus=4
memory_kib=4000000
var_free_kib=10485760
usr_free_kib=2097152
clock=1795365851
systemd=252
cgroup=2
selinux=Enforcing
python=3.11
no_pidfds=3.9
python=3.9
haproxy=2.4.22
nft=1.0.9
nft_works=yes
java=
dnf=yes
curl=yes
socket=/run/docker.sock
engine=/run/docker.sock {"Components":[{"Name":"Engine"}],"Version":"27.3.1"}
firewalld=yes
unit=gestalt-agent
unit=gestalt-fence
package=gestalt-runtime 0.1.0-1
package=gestalt-agent 0.1.0-1
cluster=11111111-2222
cluster=11111111-2222
cluster=
listening=0016 1CE8
end=1
"""


def test_what_a_machine_says_is_understood() -> None:
    facts = read_facts(RHEL)
    assert (facts.root, facts.hostname, facts.distribution, facts.version, facts.major) == (True, "one.example.com", "rhel", "9.4", 9)
    assert (facts.cpus, facts.memory, facts.usr_free) == (4, 4_096_000_000, 2 * 1024**3)
    assert (facts.pythons, facts.no_pidfds) == (("3.9", "3.11"), ("3.9",))
    assert facts.engine == Engine("/run/docker.sock", "docker", "27.3.1")
    assert facts.listening == {22, 7400}
    assert facts.clusters == {"11111111-2222"}
    assert facts.units == {"gestalt-agent", "gestalt-fence"}
    assert facts.packages == {"gestalt-runtime": "0.1.0-1", "gestalt-agent": "0.1.0-1"}
    assert (facts.java, facts.haproxy, facts.firewalld, facts.selinux) == ("", "2.4.22", True, "Enforcing")


@pytest.mark.parametrize(
    ("line", "engine"),
    [
        ("engine=/run/podman/podman.sock {'", Engine()),
        ("engine=/run/podman/podman.sock ", Engine()),
        ("engine=/run/podman/podman.sock []", Engine()),
        ('engine=/run/podman/podman.sock {"message": "no"}', Engine()),
        (
            'engine=/run/podman/podman.sock {"Components":[{"Name":"Podman Engine"}],"Version":"5.2.2"}',
            Engine("/run/podman/podman.sock", "podman", "5.2.2"),
        ),
    ],
)
def test_an_engine_is_what_answers_as_one(line: str, engine: Engine) -> None:
    lines = [line if old.startswith("engine=") else old for old in RHEL.splitlines()]
    assert read_facts("\n".join(lines)).engine == engine


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "did not say what it is, but: nothing"),
        ("This account is not available.\n", "but: This account is not available."),
        (RHEL.removesuffix("end=1\n"), "was cut off after 'listening=0016 1CE8'"),
        (RHEL.replace("cpus=4", "cpus=many"), "cpus is 'many'"),
        (RHEL.replace("memory_kib=4000000\n", ""), "memory_kib is missing"),
        (RHEL.replace("hostname=one.example.com", "hostname="), "hostname is missing"),
        (RHEL.replace("listening=0016", "listening=oops"), "listening is 'oops 1CE8'"),
    ],
)
def test_an_answer_that_is_none_is_refused_with_what_it_was(text: str, told: str) -> None:
    with pytest.raises(GestaltError, match=r"said of itself|did not say") as refused:
        read_facts(text)
    assert told in refused.value.message
    assert refused.value.hint


def test_every_line_that_is_wrong_is_named_at_once() -> None:
    with pytest.raises(GestaltError) as refused:
        read_facts(RHEL.replace("cpus=4", "cpus=").replace("clock=1795365851", "clock=now"))
    assert [detail.field for detail in refused.value.details] == ["cpus", "clock"]


@pytest.mark.parametrize(("version", "parts"), [("2.6.12", (2, 6, 12)), ("2.4", (2, 4)), ("17.0.15+6-Debian", (17, 0, 15, 6)), ("", ())])
def test_versions_compare_by_their_numbers(version: str, parts: tuple[int, ...]) -> None:
    assert numbers(version) == parts


def test_this_machine_says_what_it_is() -> None:
    done = subprocess.run(("sh", "-s"), input=PROBE, capture_output=True, text=True, timeout=100, check=True)
    facts = read_facts(done.stdout)
    assert done.stderr == ""
    assert "127.0.0.1" in facts.addresses
    assert facts.machine == Path("/etc/machine-id").read_text().strip()
    assert facts.root == (os.geteuid() == 0)
    assert facts.hostname == platform.node()
    assert facts.no_pidfds == ()
    assert facts.architecture == platform.machine()
    assert facts.cpus == os.sysconf("SC_NPROCESSORS_ONLN")
    assert facts.memory == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert abs(facts.clock - time.time()) < 60
    assert facts.var_free > 0


def test_firewalld_is_open_for_what_both_of_its_lists_have(tmp_path: Path) -> None:
    """One is what it does until its next reload, the other what it does from then on."""
    program = tmp_path / "firewall-cmd"
    program.write_text(
        """#!/bin/sh
case "$*" in
  "--permanent --list-services") echo ssh gestalt-agent ;;
  "--permanent --list-ports") echo 2181/tcp 2888/tcp ;;
  "--list-services") echo ssh gestalt-coordinator ;;
  "--list-ports") echo 2181/tcp ;;
esac
"""
    )
    program.chmod(0o755)
    script = PROBE.replace("PATH=/usr/sbin", f"PATH={tmp_path}:/usr/sbin")
    done = subprocess.run(("sh", "-s"), input=script, capture_output=True, text=True, timeout=100, check=True)
    assert read_facts(done.stdout).opened == {"ssh", "2181/tcp"}


def said(function: str, **changed: Path) -> list[str]:
    """Return what one function of the script says, with folders of ours in the place of the machine's."""
    script = PROBE[: PROBE.rindex("probe </dev/null")]
    for folder, ours in {"zookeeper": HOME, "gestalt": "/etc/gestalt"}.items():
        script = script.replace(ours, str(changed[folder])) if folder in changed else script
    done = subprocess.run(("sh", "-s"), input=f"{script}{function} </dev/null\n", capture_output=True, text=True, timeout=30, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_the_servers_that_zookeeper_knows_of_are_those_that_it_agreed_on_last(tmp_path: Path) -> None:
    assert said("zookeeper", zookeeper=tmp_path) == ["server_id="]
    (tmp_path / "myid").write_text("2\n")
    (tmp_path / "zoo.cfg").write_text("tickTime=500\nserver.1=10.0.0.1:2888:3888:participant;10.0.0.1:2181\n")
    assert said("zookeeper", zookeeper=tmp_path) == ["server_id=2", "server=server.1=10.0.0.1:2888:3888:participant;10.0.0.1:2181"]
    for version, number in {"100000000": 2, "200000000": 3, "next": 4}.items():
        (tmp_path / f"zoo.cfg.dynamic.{version}").write_text(f"server.{number}=10.0.0.{number}:2888:3888:participant;10.0.0.2:2181\n")
    os.utime(tmp_path / "zoo.cfg.dynamic.100000000", (1, 1))
    assert said("zookeeper", zookeeper=tmp_path)[1].startswith("server=server.3=")
    (tmp_path / "zoo.cfg").write_text(f"tickTime=500\ndynamicConfigFile={tmp_path}/zoo.cfg.dynamic.100000000\n")
    assert said("zookeeper", zookeeper=tmp_path)[1].startswith("server=server.2=")
    facts = read_facts(RHEL.replace("end=1", "\n".join((*said("zookeeper", zookeeper=tmp_path), "end=1"))))
    assert (facts.server_id, [(server.id, server.host) for server in facts.servers]) == ("2", [(2, "10.0.0.2")])


@pytest.mark.parametrize(("line", "mode"), [("mode: appliance", "appliance"), ('mode: "cluster"', "cluster"), ("model: x", ""), ("", "")])
def test_what_a_coordinator_is_of_is_read(tmp_path: Path, line: str, mode: str) -> None:
    if line:
        (tmp_path / "coordinator.yaml").write_text(f"cluster_id: c-1\n{line}\nlisten: 10.0.0.1:7400\n")
    found = said("ours", gestalt=tmp_path)
    assert f"mode={mode}" in found
    assert [text for text in found if text.startswith(("cluster=", "settings="))] == (
        ["cluster=c-1", "settings=coordinator.yaml"] if line else []
    )
    assert read_facts(RHEL.replace("end=1", f"mode={mode}\nend=1")).mode == mode


def test_half_a_script_does_nothing() -> None:
    """A connection may break while it is sent."""
    half = PROBE[: PROBE.rindex("probe </dev/null")]
    assert subprocess.run(("sh", "-s"), input=half, capture_output=True, text=True, timeout=30, check=True).stdout == ""


def test_it_is_a_script_of_posix() -> None:
    """What is started in it reads nothing of the script that the shell itself still reads."""
    longer = PROBE + "echo after\n"
    done = subprocess.run(("sh", "-s"), input=longer, capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.splitlines()[-2:] == ["end=1", "after"]
