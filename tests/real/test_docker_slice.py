"""Containers are in a parent of ours, apart from what else the Engine runs; against the real Engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gestalt.config import AgentSettings
from gestalt.plugin.runtime import AttemptState, Launch
from gestalt.plugins.runtime.docker import DockerRuntime
from gestalt.plugins.runtime.docker_cgroups import Confinement
from gestalt.plugins.runtime.docker_options import container_name
from gestalt.spec.schema import AppSpec, Resources

from .docker_lab import IMAGE, docker, launch_of

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("image")]

FOREVER = ("/bin/sh", "-c", "while :; do sleep 0.2; done")
MEMORY = 64 * 1024**2
PARENTS = {"cgroupfs": "/gestalt-docker", "systemd": "gestalt.slice"}


def wanted() -> Launch:
    return launch_of(AppSpec(path="/lab/real/test/slice", image=IMAGE, command=FOREVER, resources=Resources(cpu=0.1, memory=MEMORY)))


def common_parent() -> str:
    return PARENTS[docker("info", "--format", "{{.CgroupDriver}}")]


def cgroups(container: str) -> list[str]:
    pid = json.loads(docker("inspect", container))[0]["State"]["Pid"]
    return Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines()


async def test_a_container_is_below_ours_with_its_limits_and_figures(runtime: DockerRuntime) -> None:
    launch = wanted()
    launched = await runtime.launch(launch)
    found = cgroups(launched.runtime_id)
    assert [line for line in found if launched.runtime_id in line], found
    assert not [line for line in found if launched.runtime_id in line and f"{common_parent().strip('/')}/" not in line]
    document = json.loads(docker("inspect", launched.runtime_id))[0]["HostConfig"]
    assert (document["CgroupParent"], document["Memory"]) == (common_parent(), MEMORY)
    usage = (await runtime.usage([launch.key]))[launch.key]
    assert 0 < usage.memory < MEMORY
    await runtime.stop(launch.key, "SIGKILL", 0)
    await runtime.remove(launch.key)
    assert await runtime.inspect(launch.key) is None


async def test_what_an_older_agent_made_elsewhere_stays(
    runtime: DockerRuntime, settings: AgentSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = wanted()
    with monkeypatch.context() as older:
        older.setattr(Confinement, "parent", _nowhere)
        before = await runtime.launch(launch)
    name = container_name(settings, launch.key)
    pid = docker("inspect", "--format", "{{.State.Pid}} {{.HostConfig.CgroupParent}}", name)
    (status,) = await runtime.list()
    again = await runtime.launch(launch)
    assert (status.runtime_id, again.runtime_id, again.state) == (before.runtime_id, before.runtime_id, AttemptState.RUNNING)
    assert status.template == launch.template
    assert docker("inspect", "--format", "{{.State.Pid}} {{.HostConfig.CgroupParent}}", name) == pid
    assert (await runtime.usage([launch.key]))[launch.key].memory > 0
    await runtime.remove(launch.key)
    assert await runtime.list() == []


async def test_two_share_a_parent_and_one_that_is_removed_leaves_the_other(runtime: DockerRuntime) -> None:
    one, other = wanted(), wanted()
    for launch in (one, other):
        await runtime.launch(launch)
    await runtime.remove(one.key)
    status = await runtime.inspect(other.key)
    assert status is not None
    assert status.state is AttemptState.RUNNING


async def _nowhere(_: Confinement, container: str, *, alone: bool) -> str:
    assert not alone, container
    return ""
