"""The first steps of a cluster as an operator takes them: nothing but commands and daemons, each a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gestalt.cluster.layout import ClusterLayout
from gestalt.config import AgentSettings
from gestalt.settings_file import load_settings
from tests.real.cluster_rig import Cluster
from tests.real.zookeeper_lab import free_ports, zookeeper

PATIENCE = 40.0


@asynccontextmanager
async def daemon(name: str, settings: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a daemon for the length of a block; its log is beside its settings."""
    log = settings.with_suffix(".log")
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name(name)), "--config", str(settings), stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), 20)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise AssertionError(f"{name} does not stop: {log.read_text()[-2000:]}") from None


async def until(cluster: Cluster, arguments: tuple[str, ...], fits: Callable[[Any], object], what: str) -> Any:
    """Ask gestaltctl until its answer fits."""
    said = ""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while True:
                answer = await cluster.ctl(*arguments, "-o", "json")
                said = answer.out or answer.err
                if answer.out and fits(shown := json.loads(answer.out)):
                    return shown
                await asyncio.sleep(0.1)
    logs = "\n".join(f"{log}: {log.read_text()[-1500:]}" for log in cluster.folder.rglob("*.log"))
    raise AssertionError(f"{what} within {PATIENCE:g} s: {said}\n{logs}")


async def nodes_in_state(cluster: Cluster, **states: str) -> None:
    def fits(shown: Any) -> bool:
        return {node["name"]: node["state"] for node in shown["nodes"]} == states

    await until(cluster, ("nodes",), fits, f"nodes {states}")


async def started(stack: contextlib.AsyncExitStack, layout: ClusterLayout, *names: str) -> None:
    files = {"coordinator": layout.coordinator_settings, "fence": layout.fence_settings, "agent": layout.agent_settings}
    for name in names:
        await stack.enter_async_context(daemon(f"gestalt-{name}", files[name]))


def without_proxy(layout: ClusterLayout) -> None:
    """No HAProxy on the ports of this machine."""
    text = layout.agent_settings.read_text()
    layout.agent_settings.write_text(text.replace("proxy:\n", "proxy:\n  enabled: false\n"))
    assert not load_settings(layout.agent_settings, AgentSettings).proxy.enabled


async def test_from_nothing_to_two_nodes_and_two_coordinators(tmp_path: Path) -> None:
    async with zookeeper() as ensemble, contextlib.AsyncExitStack() as stack:
        cluster = Cluster(tmp_path, ensemble)
        health, other_health, api, join = free_ports(4)
        made = await cluster.init("--health-port", str(health), "--runtime", "process", "--session", "4s")
        assert made.code == 0, made.err
        without_proxy(cluster.layout)
        await started(stack, cluster.layout, "coordinator", "fence", "agent")
        await nodes_in_state(cluster, one="ready")

        await _checked(cluster.join(await cluster.token(), "two", "--health-port", str(other_health), "--runtime", "process"))
        second = ClusterLayout(cluster.folder / "two")
        without_proxy(second)
        await started(stack, second, "fence", "agent")
        await nodes_in_state(cluster, one="ready", two="ready")

        ports = ("--api-port", str(api), "--join-port", str(join))
        await _checked(cluster.join(await cluster.token("--coordinator"), "two", *ports, program="gestalt-coordinator"))
        await started(stack, second, "coordinator")
        await until(cluster, ("status",), lambda shown: len(shown["coordinators"]) == 2, "two coordinators")

        await _checked(cluster.ctl("node", "cordon", "two"))
        await nodes_in_state(cluster, one="ready", two="cordoned")
        await _checked(cluster.ctl("node", "remove", "two"))
        await nodes_in_state(cluster, one="ready")


async def _checked(command: Awaitable[Any]) -> None:
    ended = await command
    assert ended.code == 0, ended.err
