"""A real agent process is killed at any moment, with real containers and processes: all are adopted, none is restarted or lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from gestalt.model import DesiredInstance
from gestalt.plugins.runtime.process import ProcessRuntime
from gestalt.spec.schema import AppSpec, Check, Port, Stop
from tests.real.agent_rig import AgentProcess, StubCoordinator, desired, remove_all_of, until
from tests.real.docker_lab import docker, in_thread, make_image, remove_leftovers

pytestmark = pytest.mark.real

IMAGE = "gestalt-agent-test/busybox:1"
PORT = 23730
COUNT = 3
CHECK = Check(name="web", kind="http", port="web", interval=0.3, timeout=0.3, grace=10.0)
WEB = AppSpec(
    path="/lab/agent/killed/web", image=IMAGE, ports=(Port(name="web", container_port=80),), checks=(CHECK,), stop=Stop(grace=1, drain=0)
)
FOREVER = ("/bin/sh", "-c", "while :; do sleep 1; done")
JOB = AppSpec(path="/lab/agent/killed/job", runtime="process", command=FOREVER, stop=Stop(grace=1, drain=0))


@pytest.fixture
async def coordinator(tmp_path: Path) -> AsyncIterator[StubCoordinator]:
    remove_all_of(IMAGE)
    make_image(IMAGE)
    stub = StubCoordinator(tmp_path)
    await stub.start()
    yield stub
    await stub.stop()


@pytest.fixture
async def agent(coordinator: StubCoordinator, tmp_path: Path) -> AsyncIterator[AgentProcess]:
    settings = coordinator.agent_settings(tmp_path, orphan_grace=1.0)
    agent = AgentProcess(settings, tmp_path)
    yield agent
    await in_thread(agent.end)
    await in_thread(lambda: remove_leftovers(settings))
    runtime = ProcessRuntime.create(settings)
    for status in await runtime.list():
        await runtime.remove(status.key)
    await runtime.close()


def wanted() -> list[DesiredInstance]:
    webs = [desired(WEB, serial, {"web": PORT + serial}) for serial in range(1, COUNT + 1)]
    return webs + [desired(JOB, serial) for serial in range(1, COUNT + 1)]


def listed(coordinator: StubCoordinator) -> list[str]:
    return docker("ps", "-aq", "--no-trunc", "--filter", f"label=gestalt.cluster={coordinator.cluster_id}").split()


def containers(coordinator: StubCoordinator) -> dict[str, str]:
    """Return id and start time of every container of the test, ended ones included."""
    ids = listed(coordinator)
    return dict(line.split() for line in docker("inspect", "-f", "{{.Id}} {{.State.StartedAt}}", *ids).splitlines()) if ids else {}


def jobs(coordinator: StubCoordinator) -> dict[str, str]:
    return {key: item.runtime_id for key, item in coordinator.observed.items() if key.startswith("job-")}


async def test_killed_in_a_loop_under_way_and_at_rest(coordinator: StubCoordinator, agent: AgentProcess) -> None:
    """First while it launches, then while all runs: every attempt stays the first one."""
    dice = random.Random(7)
    instances = wanted()
    coordinator.want(instances, [WEB, JOB], tell=False)
    for _ in range(4):
        sessions = len(coordinator.hellos)
        await in_thread(agent.start)
        await until("a session", lambda sessions=sessions: len(coordinator.hellos) > sessions, 30)
        enough = dice.randint(0, 4)
        await until("some progress", lambda enough=enough: len(coordinator.observed) >= enough)
        await in_thread(lambda: agent.end(signal.SIGKILL))
    await in_thread(agent.start)
    ids = [item.id for item in instances]
    await until("all to be ready", lambda: coordinator.ready(*ids), 40)
    assert {item.attempt for item in coordinator.observed.values()} == {1}, coordinator.observed
    before, jobs_before = containers(coordinator), jobs(coordinator)
    assert len(before) == len(jobs_before) == COUNT

    for _ in range(3):
        sessions = len(coordinator.hellos)
        await in_thread(lambda: agent.end(signal.SIGKILL))
        coordinator.history.clear()
        await in_thread(agent.start)
        await until("all to be adopted", lambda sessions=sessions: len(coordinator.hellos) > sessions and coordinator.ready(*ids), 40)
        assert containers(coordinator) == before, "a container was restarted"
        assert jobs(coordinator) == jobs_before, "a process was restarted"
        assert all(item.ready for item in coordinator.history), "what ran well was taken out of the routes"
    assert await in_thread_result(agent) == 0, "an orderly stop"
    assert containers(coordinator) == before
    assert "Traceback" not in agent.log(), agent.log()[-3000:]


async def in_thread_result(agent: AgentProcess) -> int:
    codes: list[int] = []
    await in_thread(lambda: codes.append(agent.end()))
    return codes[0]


async def test_what_ended_while_the_agent_was_dead_is_started_again(coordinator: StubCoordinator, agent: AgentProcess) -> None:
    instances = wanted()
    coordinator.want(instances, [WEB, JOB], tell=False)
    await in_thread(agent.start)
    ids = [item.id for item in instances]
    await until("all to be ready", lambda: coordinator.ready(*ids), 40)
    await in_thread(lambda: agent.end(signal.SIGKILL))
    before = containers(coordinator)
    docker("kill", next(iter(before)))
    await in_thread(agent.start)
    await until("one more attempt", lambda: any(item.attempt == 2 and item.ready for item in coordinator.observed.values()), 40)
    await until("all to be ready", lambda: coordinator.ready(*ids))
    assert sorted(item.attempt for item in coordinator.observed.values()) == [1] * (2 * COUNT - 1) + [2]
    await until("the ended one to be removed", lambda: len(listed(coordinator)) == COUNT)
    assert len(before.items() & containers(coordinator).items()) == COUNT - 1

    coordinator.want([desired(WEB, serial, {"web": PORT + serial}, stop=True) for serial in range(1, COUNT + 1)], [WEB])
    await until("everything to be gone", lambda: not coordinator.observed, 40)
    assert containers(coordinator) == {}
    memory = psutil.Process(agent.pid).memory_info().rss
    assert memory < 80 * 1024**2, f"{memory / 1024**2:.0f} MiB"


def test_settings_that_are_wrong_are_told(tmp_path: Path) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text("node_id: a\nruntime: docker\n", encoding="utf-8")
    command = [sys.executable, "-m", "gestalt.agent.main", "--config", str(config), "--check-config"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, env=dict(os.environ))
    assert done.returncode == 78
    assert "did you mean 'runtimes'" in done.stderr
