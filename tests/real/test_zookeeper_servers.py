"""ZooKeeper's servers are replaced one by one under a cluster at work, until none of the first ones is left."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gestalt.cluster.layout import ClusterLayout
from gestalt.config import AgentSettings, ZooKeeperSettings
from gestalt.settings_file import load_settings
from gestalt.zk.client import Zk, ZkUnavailable, ZkUnknown
from gestalt.zk.known import KnownServers
from gestalt.zk.paths import Paths
from tests.real.cluster_rig import Cluster, Ended
from tests.real.test_cluster_steps import daemon
from tests.real.zookeeper_lab import SUPER_SECRET, Ensemble, new_root, until, zookeeper


class Load:
    """Somebody who writes all the time, and goes where the servers go."""

    def __init__(self, zk: Zk, path: str) -> None:
        self.zk = zk
        self._path = path
        self.written = 0

    @classmethod
    @asynccontextmanager
    async def on(cls, settings: ZooKeeperSettings) -> AsyncIterator[Load]:
        zk = await Zk.connect(settings, session=20, name="load")
        path = await zk.create(new_root())
        KnownServers(settings.hosts, None).follow(zk)
        load = cls(zk, path)
        writing = asyncio.create_task(load._write())
        try:
            yield load
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            await zk.close()

    async def _write(self) -> None:
        while True:
            try:
                await self.zk.set(self._path, b"x" * 500)
                self.written += 1
            except (ZkUnavailable, ZkUnknown):
                await asyncio.sleep(0.02)

    async def goes_on(self) -> None:
        before = self.written
        await until("writes go on", lambda: self.written > before + 20)


class Admin:
    """Who replaces the servers, by the commands."""

    def __init__(self, cluster: Cluster, ensemble: Ensemble) -> None:
        self._cluster = cluster
        self._ensemble = ensemble
        self._secret = cluster.folder / "super.secret"
        self._secret.write_text(SUPER_SECRET + "\n")

    async def run(self, *arguments: str, secret: bool = True) -> Ended:
        root = ("--root", str(self._cluster.layout.root))
        return await self._cluster.ctl(
            "cluster", "zookeeper", *arguments, *root, *(("--super-secret-file", str(self._secret)) if secret else ())
        )

    def arguments(self, index: int) -> tuple[str, ...]:
        peer, election = self._ensemble.peers(index)
        host = f"127.0.0.1:{self._ensemble.ports[index]}"
        return ("add", str(index + 1), host, "--peer-port", str(peer), "--election-port", str(election))

    async def add(self) -> None:
        index = await asyncio.to_thread(self._ensemble.grow)
        done = await self.run(*self.arguments(index))
        assert done.code == 0, done.err

    async def remove(self, number: int) -> None:
        done = await self.run("remove", str(number))
        assert done.code == 0, done.err

    async def listed(self) -> list[int]:
        return [item["id"] for item in json.loads((await self.run("list", "-o", "json")).out)["servers"]]


async def fourth_of_three(admin: Admin) -> None:
    """Take in one more: as the administrator only, and once."""
    denied = await admin.run(*admin.arguments(3), secret=False)
    assert (denied.code, "gestaltctl cluster zookeeper digest" in denied.err) == (4, True), denied.err
    for _ in range(2):
        again = await admin.run(*admin.arguments(3))
        assert again.code == 0, again.err
    assert "is one of them already" in again.err
    assert "bear the loss of 1, as 3 do" in again.err


def kept(folder: Path) -> set[str]:
    file = folder / "zookeeper.json"
    return set(json.loads(file.read_text())) if file.exists() else set()


async def test_all_servers_are_replaced_while_the_cluster_goes_on(tmp_path: Path) -> None:
    async with zookeeper(3) as ensemble, contextlib.AsyncExitStack() as stack:
        cluster = Cluster(tmp_path, ensemble)
        made = await cluster.init("--session", "20s", "--lease", "20s")
        assert made.code == 0, made.err
        first, layout, paths = ensemble.hosts, cluster.layout, Paths(cluster.root)
        coordinator = contextlib.AsyncExitStack()
        await coordinator.enter_async_context(daemon("gestalt-coordinator", layout.coordinator_settings))
        stack.push_async_exit(coordinator)
        await stack.enter_async_context(daemon("gestalt-fence", layout.fence_settings))
        load = await stack.enter_async_context(Load.on(ensemble.settings()))
        node = load_settings(layout.agent_settings, AgentSettings).node_id

        async def membership() -> int:
            found = await load.zk.exists(paths.member(node))
            return found.owner if found else 0

        async def epoch() -> int:
            shown = await cluster.ctl("status", "-o", "json")
            return int(json.loads(shown.out)["epoch"]) if shown.out else 0

        await until("the fence is a member", membership)
        await until("a coordinator leads", epoch)
        session, term = await membership(), await epoch()

        admin = Admin(cluster, ensemble)
        await asyncio.to_thread(ensemble.grow)
        await fourth_of_three(admin)
        await admin.add()
        assert await admin.listed() == [1, 2, 3, 4, 5]
        await load.goes_on()

        ensemble.kill(0)
        await admin.add()
        await admin.remove(1)
        await load.goes_on()
        for number in (2, 3):
            await admin.remove(number)
            ensemble.kill(number - 1)
            await load.goes_on()
        assert await admin.listed() == [4, 5, 6]

        now = set(ensemble.hosts[3:])
        assert not now & set(first)
        for folder in (layout.data / "coordinator", layout.data / "fence"):
            await until(f"{folder} knows the servers", lambda folder=folder: kept(folder) == now)
        assert (await membership(), await epoch()) == (session, term), "no session ended"

        await coordinator.aclose()
        await stack.enter_async_context(daemon("gestalt-coordinator", layout.coordinator_settings))
        await until("a coordinator with the old settings finds the servers", epoch)
        assert await epoch() == term + 1
        joined = await cluster.join(await cluster.token(), "two")
        assert joined.code == 0, joined.err
        assert set(ensemble.hosts[3:]) == set(_hosts(ClusterLayout(cluster.folder / "two")))


def _hosts(layout: ClusterLayout) -> list[str]:
    import yaml

    hosts: list[str] = yaml.safe_load(layout.fence_settings.read_text())["zookeeper"]["hosts"]
    return hosts
