"""An appliance becomes the first machine of a cluster while its containers go on and requests are answered, and may become one again."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.real.appliance_lab import BIN, Appliance, Traffic, free_port, wait_for, web, web_image
from tests.real.docker_lab import docker
from tests.real.zookeeper_lab import Ensemble, new_root, running

NODE_ADDRESS = "127.0.0.2"
DAEMONS = ("coordinator", "fence", "agent")
PATH = "/test/e2e/live/web"
PATIENT = {"kind": "http", "path": "/index.html", "interval": "1s", "timeout": "1s", "failures": 12}
"""A check that bears a busy machine, and finds a wrong address all the same: that is refused at once."""


@pytest.fixture
def ensemble() -> Iterator[Ensemble]:
    with running() as servers:
        yield servers


class Machine:
    """An appliance, and the daemons of a cluster below the same root."""

    def __init__(self, appliance: Appliance) -> None:
        self.appliance = appliance
        self.etc = appliance.root / "etc/gestalt"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *daemons: str) -> None:
        logs = self.appliance.root / "var/log/gestalt"
        for name in daemons:
            with (logs / f"cluster-{name}.log").open("ab") as log:
                command = [BIN / f"gestalt-{name}", "--config", self.etc / f"{name}.yaml"]
                self._daemons[name] = subprocess.Popen(command, stdout=log, stderr=log)

    def stop(self) -> None:
        for name in reversed(list(self._daemons)):
            process = self._daemons.pop(name)
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def status(self) -> dict[str, Any]:
        done = self.appliance.ctl("status", "-o", "json", check=False)
        found: dict[str, Any] = json.loads(done.stdout) if done.stdout.startswith("{") else {}
        return found

    def import_(self, file: Path) -> dict[str, Any]:
        settings = self.etc / "coordinator.yaml"
        done = self.appliance.ctl("cluster", "import", file, "--settings", settings, "-o", "json")
        outcome: dict[str, Any] = json.loads(done.stdout)
        return outcome

    def healthy(self, count: int) -> None:
        wait_for(f"{count} healthy instances", lambda: self.status().get("healthy") == count, state=self.words)

    def words(self) -> object:
        return self.status(), self.appliance.logs()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    web_image()
    appliance = Appliance(tmp_path / "m", runtimes=("docker",))
    appliance.init()
    machine = Machine(appliance)
    try:
        yield machine
    finally:
        machine.stop()
        appliance.destroy()


def refusals(traffic: Traffic) -> list[str]:
    """Return how requests failed; those that a busy machine was merely too slow for are left out."""
    return [why for _, why in traffic.counts["GET"].failures if not why.startswith("TimeoutError")]


def published(containers: dict[str, str]) -> set[str]:
    """Return the addresses on which containers are published."""
    form = "{{range $port, $bound := .HostConfig.PortBindings}}{{range $bound}}{{.HostIp}} {{end}}{{end}}"
    return set(docker("inspect", "-f", form, *(item.split()[0] for item in containers.values())).split())


@pytest.mark.timeout(240)
def test_an_appliance_becomes_a_cluster_and_nothing_of_what_it_runs_notices(machine: Machine, ensemble: Ensemble) -> None:
    appliance, root, file = machine.appliance, new_root(), machine.appliance.root / "state.export"
    appliance.up()
    appliance.apply(web(instances=2, checks=[PATIENT]))
    before = appliance.containers()
    assert len(before) == 2
    ids = yaml.safe_load((machine.etc / "agent.yaml").read_text())
    with Traffic(appliance.http_port, rate=10) as traffic:
        appliance.ctl("cluster", "export", file)
        words = ("--root", appliance.root, "--zookeeper", ",".join(ensemble.hosts), "--zookeeper-root", root, "--address", NODE_ADDRESS)
        init = ("cluster", "init", "--from-appliance", *words, "--api-port", free_port(), "--join-port", free_port())
        early = appliance.ctl(*init, check=False)
        assert (early.returncode, "still runs" in early.stderr) == (4, True), early.stderr
        appliance.down()
        appliance.ctl(*init)
        assert "keeps" not in appliance.ctl(*init).stdout, "a second call finds everything made"
        machine.import_(file)
        machine.start(*DAEMONS)
        machine.healthy(2)
        wait_for("the node to be ready", lambda: machine.status().get("nodes_ready") == 1, state=machine.words)
        assert machine.status()["recovering"]
        appliance.ctl("cluster", "recover", "--confirm")
        wait_for("all to be well", lambda: machine.status()["state"] == "well", state=machine.words)
        assert appliance.containers() == before, "the same containers, none restarted"
    assert not refusals(traffic)
    after = yaml.safe_load((machine.etc / "agent.yaml").read_text())
    assert (after["node_id"], after["cluster_id"], after["address"]) == (ids["node_id"], ids["cluster_id"], NODE_ADDRESS)
    assert "ENCRYPTED" in (machine.etc / "pki/ca.key").read_text()

    appliance.ctl("scale", PATH, 3)
    grown = appliance.containers()
    assert before.items() <= grown.items()
    assert published(grown) == {"127.0.0.1", NODE_ADDRESS}, "old ones stay where they were published, new ones are reached by other nodes"

    survives_the_loss_of_zookeeper(machine, ensemble)
    goes_back(machine)


def survives_the_loss_of_zookeeper(machine: Machine, ensemble: Ensemble) -> None:
    """All data of ZooKeeper are lost under real daemons; what was started after the backup goes on until an operator says otherwise."""
    appliance, file = machine.appliance, machine.appliance.root / "backup.export"
    appliance.ctl("cluster", "export", file)
    appliance.ctl("scale", PATH, 4)
    before = appliance.containers()
    assert len(before) == 4
    ensemble.kill(0)
    shutil.rmtree(ensemble.folder / "0" / "version-2")
    ensemble.start_all()

    def refused() -> bool:
        told = appliance.ctl("status", check=False).stderr
        return "holds nothing of this cluster any more" in told and "gestaltctl cluster import BACKUP" in told

    wait_for("the coordinator to refuse to lead", refused, state=machine.words)
    with Traffic(appliance.http_port, rate=10) as traffic:
        machine.import_(file)
        machine.healthy(3)
        wait_for("the node to be ready", lambda: machine.status().get("nodes_ready") == 1, state=machine.words)
        unknown = wait_for("what is unknown", lambda: machine.status()["unknown"], state=machine.words)
        assert appliance.containers() == before
    assert not refusals(traffic)
    assert [item["app"] for item in unknown] == [PATH]
    appliance.ctl("cluster", "recover", "--confirm")
    wait_for("the unknown one to be gone", lambda: len(appliance.containers()) == 3, state=machine.words)
    assert appliance.containers().items() <= before.items()
    wait_for("all to be well", lambda: machine.status()["state"] == "well", state=machine.words)


def goes_back(machine: Machine) -> None:
    """The cluster of one node becomes an appliance again, with the same containers."""
    appliance, file = machine.appliance, machine.appliance.root / "back.export"
    before = appliance.containers()
    appliance.ctl("cluster", "export", file)
    machine.stop()
    for name in ("coordinator", "client"):
        (machine.etc / f"{name}.yaml.appliance").replace(machine.etc / f"{name}.yaml")
    (machine.etc / "agent.yaml.appliance").replace(machine.etc / "agent.yaml")
    appliance.ctl("cluster", "import", file, "--settings", machine.etc / "coordinator.yaml", "--replace")
    appliance.up()
    appliance.ctl("cluster", "recover", "--confirm")
    wait_for("all to be well again", lambda: machine.status().get("state") == "well", state=machine.words)
    assert appliance.containers() == before
    assert machine.status()["mode"] == "appliance"
