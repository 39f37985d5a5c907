"""Jobs on a real appliance with Docker: runs that end well, runs that fail in spite of retries, their logs and what is left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.real.appliance_lab import Appliance, wait_for, web_image
from tests.real.docker_lab import docker

pytestmark = pytest.mark.real
PATH = "/test/jobs/real/report"


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    made = Appliance(tmp_path_factory.mktemp("jobs") / "r", runtimes=("docker",))
    made.init()
    made.up()
    made.wait_ready()
    yield made
    made.destroy()


def launched(appliance: Appliance, script: str, **fields: Any) -> None:
    job = {"retries": 2, "parameters": {"NAME": {"default": "nobody"}}, **fields}
    described = {"path": PATH, "kind": "job", "image": web_image(), "command": ["/bin/sh", "-c", script], "restart": {"backoff": "200ms"}}
    appliance.apply(described | {"job": job})


def runs(appliance: Appliance) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = appliance.json("runs", PATH)["runs"]
    return found


def containers(appliance: Appliance) -> list[str]:
    return docker("ps", "-aq", "--filter", f"label=gestalt.cluster={appliance.cluster_id}").split()


def test_a_run_ends_well_and_its_log_and_outcome_are_kept(appliance: Appliance) -> None:
    launched(appliance, 'echo "hello $NAME in $GESTALT_RUN"', completions=3, parallelism=2)
    assert "succeeded" in appliance.ctl("run", PATH, "--set", "NAME=world").stdout
    (run,) = runs(appliance)
    assert (run["state"], run["succeeded"], run["failed"], run["parameters"]) == ("succeeded", 3, 0, {"NAME": "world"})
    assert [result["exit_code"] for result in run["results"]] == [0, 0, 0]
    assert appliance.ctl("logs", PATH, "--run", run["id"]).stdout.count(f"hello world in {run['id']}") == 3


def test_a_run_that_fails_is_tried_again_as_often_as_it_may_and_ends_failed(appliance: Appliance) -> None:
    launched(appliance, "echo trouble; exit 3")
    done = appliance.ctl("run", PATH, check=False)
    assert done.returncode
    told = done.stdout + done.stderr
    assert "an instance failed: exited with code 3, 2 retries are used up" in told
    run = runs(appliance)[0]
    assert (run["state"], run["failed"]) == ("failed", 3)
    assert [result["exit_code"] for result in run["results"]] == [3, 3, 3]
    assert appliance.ctl("logs", PATH, "--run", run["id"]).stdout.count("trouble") == 3


def test_a_run_bears_the_death_of_both_daemons_and_counts_each_end_once(appliance: Appliance) -> None:
    launched(appliance, "sleep 5; echo done", completions=2, parallelism=2, retries=0)
    appliance.ctl("run", PATH, "--detach")
    wait_for("both are at work", lambda: len(appliance.containers()) == 2)
    before = appliance.containers()
    appliance.kill("gestalt-agent")
    appliance.kill("gestalt-coordinator")
    appliance.up()
    appliance.wait_ready()
    wait_for("the run has ended", lambda: runs(appliance)[0]["state"] != "running", state=lambda: runs(appliance)[0])
    run = runs(appliance)[0]
    assert (run["state"], run["succeeded"], run["failed"], run["lost"]) == ("succeeded", 2, 0, 0)
    assert len(before) == len(run["results"]) == 2
    assert appliance.ctl("logs", PATH, "--run", run["id"]).stdout.count("done") == 2


def test_one_run_is_cancelled_and_the_other_goes_on(appliance: Appliance) -> None:
    launched(appliance, "echo begun; sleep 1000", parallelism=2, completions=2)
    for _ in range(2):
        appliance.ctl("run", PATH, "--detach")
    wait_for("both are at work", lambda: [run["running"] for run in runs(appliance)[:2]] == [2, 2])
    other, one = (run["id"] for run in runs(appliance)[:2])
    appliance.ctl("cancel", PATH, "--run", one[:8])
    assert len(appliance.containers()) == 2, "it is followed until nothing of the run is left"
    first = appliance.json("runs", PATH, one)
    assert (first["state"], first["running"]) == ("cancelled", 0)
    assert first["message"] == f"cancelled by {first['cancelled_by']}: 0 of 2 had ended well"
    assert appliance.ctl("logs", PATH, "--run", one).stdout.count("begun") == 2, "what it had at work is kept for its log"
    assert appliance.json("runs", PATH, other)["state"] == "running"
    appliance.ctl("cancel", PATH, "--run", one)
    gone = appliance.ctl("cancel", PATH, "--run", "nothing", check=False)
    assert (gone.returncode, "there is no run nothing" in gone.stderr) == (3, True)
    appliance.ctl("cancel", PATH, "--run", other)
    ended = next(run["id"] for run in runs(appliance) if run["state"] == "succeeded")
    refused = appliance.ctl("cancel", PATH, "--run", ended, check=False)
    assert (refused.returncode, "is over: it succeeded: " in refused.stderr) == (4, True)


def test_deleting_the_job_ends_what_runs_and_leaves_no_container(appliance: Appliance) -> None:
    launched(appliance, "sleep 1000")
    appliance.ctl("run", PATH, "--detach")
    wait_for("the run is at work", lambda: runs(appliance)[0]["running"] == 1)
    appliance.ctl("delete", PATH, "--yes")
    wait_for("no container is left", lambda: not containers(appliance), state=lambda: containers(appliance))
