"""The process runtime under a real systemd: a lab node runs the driver's contract and the tests of `TestUnits` below."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gestalt import shell
from gestalt.clock import boot_id
from gestalt.config import AgentSettings
from gestalt.plugin.runtime import AttemptKey, AttemptState
from gestalt.plugins.runtime.process import ProcessRuntime
from gestalt.plugins.runtime.process_records import AttemptFolder
from gestalt.plugins.runtime.process_systemd import systemd_runs
from gestalt.spec.schema import Resources, Security, Stop, Volume

from ..cluster.lab.nodes import can_run, down, up
from .process_lab import clean_driver, ended, exists, first_line, lines, order, output_of, settings_for, until

GROUP = "process"


@pytest.mark.real
@pytest.mark.skipif(systemd_runs(), reason="this is such a node already")
@pytest.mark.skipif(not can_run(), reason="lab nodes need root, systemd-sysv and busybox-static")
async def test_on_a_node_with_systemd_the_contract_is_kept() -> None:
    (node,) = await up(1, group=GROUP, network=False)
    try:
        where = ("tests/contracts/test_runtime_process.py::TestProcessRuntimeUnderSystemd", "tests/real/test_process_systemd.py::TestUnits")
        done = await node.python("-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=5", *where, limit=100)
        print(done.stdout.decode())
        assert done.ok, done.stdout.decode()[-6000:] + done.stderr.decode()[-1000:]
    finally:
        await down(GROUP)


@pytest.fixture
def settings(tmp_path: Path) -> AgentSettings:
    return settings_for(tmp_path, supervisor="auto")


@pytest.fixture
async def runtime(settings: AgentSettings) -> AsyncIterator[ProcessRuntime]:
    async with clean_driver(settings) as runtime:
        yield runtime


async def show(unit: str, *properties: str) -> dict[str, str]:
    done = await shell.run(("systemctl", "show", *(f"--property={name}" for name in properties), f"{unit}.service"), limit=10)
    return dict(line.split("=", 1) for line in done.stdout.decode().splitlines())


class TestUnits:
    __test__ = systemd_runs()  # on a lab node, then

    async def test_auto_takes_systemd(self, runtime: ProcessRuntime) -> None:
        facts = await runtime.probe()
        assert facts["supervisor"] == "systemd"
        assert int(facts["systemd"]) > 200

    async def test_the_unit_has_the_limits_and_goes_with_the_attempt(self, runtime: ProcessRuntime) -> None:
        resources = Resources(cpu=0.5, memory=64 * 1024**2, pids=30)
        status = await runtime.launch(order("sleep 1001 & exec sleep 1000", resources=resources, stop=Stop(grace=3)))
        names = ("ActiveState", "Slice", "CPUWeight", "MemoryMax", "TasksMax", "KillMode", "Restart", "TimeoutStopUSec")
        assert await show(status.runtime_id, *names) == {
            "ActiveState": "active",
            "Slice": "gestalt.slice",
            "CPUWeight": "20",
            "MemoryMax": str(64 * 1024**2),
            "TasksMax": "31",
            "KillMode": "mixed",
            "Restart": "no",
            "TimeoutStopUSec": "8s",
        }
        await runtime.remove(status.key)
        assert await show(status.runtime_id, "LoadState") == {"LoadState": "not-found"}

    async def test_an_ended_attempt_keeps_its_unit_until_it_is_removed(self, runtime: ProcessRuntime) -> None:
        status = await runtime.launch(order("exit 3"))
        assert (await ended(runtime, status.key)).exit_code == 3

        async def exited() -> bool:
            return await show(status.runtime_id, "ActiveState", "SubState") == {"ActiveState": "active", "SubState": "exited"}

        await until("the unit to have exited", exited)

    async def test_a_read_only_root_is_kept_but_for_volumes(self, runtime: ProcessRuntime, tmp_path: Path) -> None:
        place = tmp_path / "data"
        place.mkdir()
        script = f"touch /etc/x 2>/dev/null || echo closed; touch {tmp_path}/x 2>/dev/null || echo closed; touch {place}/x && echo open"
        sections = {"security": Security(read_only_root=True), "volumes": (Volume(host_path=str(place), target=str(place)),)}
        assert await output_of(runtime, script, **sections) == [b"closed\n", b"closed\n", b"open\n"]

    async def test_stopping_the_unit_by_hand_is_a_graceful_stop(self, runtime: ProcessRuntime) -> None:
        script = "trap 'echo bye; exit 0' USR1; echo up; while :; do sleep 0.02; done"
        status = await runtime.launch(order(script, stop=Stop(signal="SIGUSR1")))
        await first_line(runtime, status.key)
        assert (await shell.run(("systemctl", "stop", f"{status.runtime_id}.service"), limit=20)).ok
        assert (await ended(runtime, status.key)).exit_code == 0
        assert await lines(runtime, status.key) == [b"up\n", b"bye\n"]

    async def test_a_killed_shim_takes_its_unit_along(self, settings: AgentSettings, runtime: ProcessRuntime) -> None:
        status = await runtime.launch(order("setsid sleep 1000 & echo $!; exec sleep 1001"))
        child = int(await first_line(runtime, status.key))
        records = AttemptFolder(settings.data_dir / "process" / status.runtime_id).read(boot_id())
        assert records is not None
        assert records.started is not None
        os.kill(records.started.shim.pid, signal.SIGKILL)
        assert "its supervisor was killed" in (await ended(runtime, status.key)).error
        assert not exists(child)
        assert not exists(status.pid)

    async def test_a_unit_whose_shim_never_came_up_is_no_obstacle(self, settings: AgentSettings, runtime: ProcessRuntime) -> None:
        """As after a kill of agent and shim between the unit's start and the first record."""
        key = AttemptKey("app-stale-1", 1)
        unit = f"gestalt-{settings.cluster_id[:8]}-{key.instance}-{key.attempt}"
        assert (await shell.run(("systemd-run", "-q", "--remain-after-exit", f"--unit={unit}", "true"), limit=10)).ok
        status = await runtime.launch(order("exec sleep 1000", key))
        assert status.state is AttemptState.RUNNING
