"""Coordinators come and go: the real commands and daemons, a process each, with a real ZooKeeper."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from gestalt.client import Client, Target
from gestalt.cluster.layout import ClusterLayout
from gestalt.config import AgentSettings, CoordinatorSettings
from gestalt.errors import GestaltError
from gestalt.proto.v1 import api_pb2
from gestalt.settings_file import load_settings
from tests.real.cluster_rig import Cluster, Ended
from tests.real.test_cluster_steps import daemon, without_proxy
from tests.real.zookeeper_lab import Ensemble, free_ports, until

pytestmark = pytest.mark.real


class Machines:
    """Coordinators by name: each a machine of its own, which can be switched off and on."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._running: dict[str, AsyncExitStack] = {}

    def layout(self, name: str) -> ClusterLayout:
        return ClusterLayout(self.cluster.folder / name)

    def log(self, name: str) -> str:
        return self.layout(name).coordinator_settings.with_suffix(".log").read_text()

    async def join(self, name: str, *more: str) -> Ended:
        api, join = free_ports(2)
        token = await self.cluster.token("--coordinator")
        return await self.cluster.join(token, name, "--api-port", str(api), "--join-port", str(join), *more, program="gestalt-coordinator")

    async def on(self, name: str) -> None:
        stack = self._running[name] = AsyncExitStack()
        await stack.enter_async_context(daemon("gestalt-coordinator", self.layout(name).coordinator_settings))

    async def off(self, name: str) -> None:
        await self._running.pop(name).aclose()

    async def all_off(self) -> None:
        for name in list(self._running):
            await self.off(name)

    async def states(self) -> dict[str, str]:
        """Return how the coordinators stand, as any of them says; nothing while none leads."""
        tls = load_settings(self.cluster.layout.agent_settings, AgentSettings).tls
        user = [tls.ca.with_name(name) for name in ("admin.crt", "admin.key")]
        async with Client(Target([self.address(name) for name in self._running], tls.ca, *user), patience=0.5) as client:
            try:
                reply = await client.call(lambda api: api.cluster.Status, api_pb2.StatusRequest())
            except GestaltError:
                return {}
            return {item.name: item.state for item in reply.coordinators}

    async def until_states(self, **states: str) -> None:
        async def so() -> bool:
            return await self.states() == states

        await until(f"coordinators {states}", so)

    def address(self, name: str) -> str:
        return load_settings(self.layout(name).coordinator_settings, CoordinatorSettings).advertise


@asynccontextmanager
async def machines(folder: Path, ensemble: Ensemble) -> AsyncIterator[Machines]:
    """Three coordinators, of which "one" leads."""
    cluster = Cluster(folder, ensemble)
    health, *_ = free_ports(1)
    made = await cluster.init("--health-port", str(health), "--runtime", "process", "--session", "20s", "--lease", "20s")
    assert made.code == 0, made.err
    without_proxy(cluster.layout)
    with cluster.layout.agent_settings.open("a") as settings:
        settings.write("resync: 0.2s\n")
    found = Machines(cluster)
    try:
        await found.on("one")
        await found.until_states(one="leads")
        for name in ("two", "three"):
            joined = await found.join(name)
            assert joined.code == 0, joined.err
            await found.on(name)
            states = {"one": "leads", "two": "stands by", "three": "stands by"}
            await found.until_states(**{key: state for key, state in states.items() if key != "three" or name == "three"})
        yield found
    finally:
        await found.all_off()


async def test_a_removed_coordinator_leads_no_more_until_it_joins_again(tmp_path: Path, ensemble: Ensemble) -> None:
    async with machines(tmp_path, ensemble) as found, contextlib.AsyncExitStack() as stack:
        cluster = found.cluster
        await stack.enter_async_context(daemon("gestalt-agent", cluster.layout.agent_settings))
        learned = cluster.layout.data / "agent/coordinators.json"

        def knows(*names: str) -> bool:
            return learned.exists() and set(json.loads(learned.read_text())) == set(map(found.address, names))

        await until("the agent knows all three", lambda: knows("one", "two", "three"))
        refusal = await cluster.ctl("coordinator", "remove", "one")
        assert (refusal.code, "step-down" in refusal.err) == (4, True), refusal.err
        request = str(uuid.uuid4())
        for _ in range(2):
            removed = await cluster.ctl("coordinator", "remove", "two", "--request-id", request)
            assert removed.code == 0, removed.err
        listed = await cluster.ctl("coordinator", "list", "--save", "-o", "json")
        assert [item["name"] for item in json.loads(listed.out)["coordinators"]] == ["one", "three"]
        assert found.address("three") in cluster.layout.client_settings.read_text()
        await until("the agent has heard", lambda: knows("one", "three"))

        await found.off("one")
        await found.until_states(one="away", three="leads")
        await found.off("three")
        await until("it says why it does not lead", lambda: "coordinator two was removed from the cluster" in found.log("two"))
        assert not await found.states()

        await found.on("three")
        await found.until_states(one="away", three="leads")
        again = await found.join("two", "--again")
        assert again.code == 0, again.err
        await found.until_states(one="away", three="leads", two="stands by")
