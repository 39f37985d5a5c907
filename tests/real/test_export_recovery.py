"""ZooKeeper wiped, or put back to an old copy, under living coordinators and agents: nobody leads until a backup is put back."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gestalt.errors import GestaltError
from gestalt.model import Observed
from gestalt.pki import Role
from gestalt.proto.v1 import api_pb2
from gestalt.wire import spec_to_wire
from gestalt.zk.client import Zk
from gestalt.zk.paths import Paths
from tests.real.agent_rig import until
from tests.real.cluster_rig import Ended, command
from tests.real.coordinator_rig import eventually
from tests.real.coordinators_rig import Coordinators
from tests.real.simulated_agent import SimulatedAgent
from tests.real.zookeeper_lab import Ensemble, running
from tests.unit.coordinator.world import spec

NODE = "11111111-1111-1111-1111-111111111111"
LATER = "/org/ws/env/later"


@pytest.fixture
def ensemble() -> Iterator[Ensemble]:
    with running() as servers:
        yield servers


@pytest.fixture
async def cluster(tmp_path: Path, ensemble: Ensemble) -> AsyncIterator[Coordinators]:
    cluster = Coordinators(tmp_path, ensemble, count=2)
    await cluster.know_node(NODE)
    await cluster.up()
    yield cluster
    await cluster.down()


def wipe(ensemble: Ensemble) -> None:
    """Lose all data of the ensemble, for good."""
    for index in range(len(ensemble.ports)):
        ensemble.kill(index)
        for data in folder_of(ensemble, index).glob("version-2"):
            shutil.rmtree(data)
    ensemble.start_all()


def folder_of(ensemble: Ensemble, index: int) -> Path:
    return ensemble.folder / str(index)


async def ctl(cluster: Coordinators, *arguments: str) -> Ended:
    return await command("gestaltctl", *arguments, env={"GESTALT_CONFIG": str(cluster.context_file())})


async def export(cluster: Coordinators, name: str) -> Path:
    file = cluster.folder / name
    done = await ctl(cluster, "cluster", "export", str(file))
    assert done.code == 0, done.err
    return file


async def import_(cluster: Coordinators, file: Path, *more: str) -> Ended:
    return await command("gestaltctl", "cluster", "import", str(file), "--settings", str(cluster.settings_file(0)), *more)


async def launch(cluster: Coordinators, **fields: object) -> None:
    async with cluster.client() as client:
        reply = await client.call(lambda api: api.apps.Apply, api_pb2.LaunchRequest(apps=[spec_to_wire(spec(**fields))]))  # type: ignore[arg-type]
        outcome = [task async for task in client.follow_task(reply.tasks[0].id)][-1]
    assert outcome.state == "succeeded", outcome.message


async def refusal_of(cluster: Coordinators, words: str) -> None:
    """Wait until no coordinator leads, and all of them say why."""

    async def told() -> bool:
        answers = [await cluster.ask(index) for index in cluster.processes]
        return all(
            isinstance(answer, GestaltError) and words in answer.message and "cluster import" in answer.message for answer in answers
        )

    await until(f"every coordinator to refuse: {words}", told, 40)


@asynccontextmanager
async def agent_of(cluster: Coordinators, leader: int, incarnation: int = 1, **running: Observed) -> AsyncIterator[SimulatedAgent]:
    zk = await Zk.connect(cluster.ensemble.settings(cluster.root), session=10.0, name="fence")
    agent = SimulatedAgent(cluster.ports[leader], cluster.tls(Role.NODE, NODE), cluster.cluster_id, NODE, name="lab")
    agent.running.update(running)
    try:
        await zk.ensure(Paths(cluster.root).node(NODE))
        member = {"incarnation": incarnation, "boot": "b", "agent": "running"}
        await zk.create(Paths(cluster.root).member(NODE), json.dumps(member).encode(), ephemeral=True)
        await agent.start()
        yield agent
    finally:
        await agent.stop()
        await zk.close()


async def test_a_wiped_ensemble_is_not_led_until_a_backup_is_put_back(cluster: Coordinators, ensemble: Ensemble) -> None:
    leader = await cluster.settled()
    async with agent_of(cluster, leader) as agent:
        await launch(cluster)
        file = await export(cluster, "backup")
        await launch(cluster, path=LATER, ports=[], checks=[])
        before = dict(agent.running)
    assert len(before) == 6
    wipe(ensemble)
    await refusal_of(cluster, "holds nothing of this cluster any more")

    done = await import_(cluster, file)
    assert done.code == 0, done.err
    leader = await cluster.settled()
    strange = {name: item for name, item in before.items() if name.startswith("later")}
    async with agent_of(cluster, leader, 2, **before) as agent:
        await eventually(lambda: agent.state.recovering, "the agent is told of the recovery")
        assert len(agent.state.instances) == 3
        status = await recovering(cluster, set(strange))
        assert set(agent.running) == set(before), "nothing is removed, nothing is started"
        assert status.state != "well"
        assert "the state was restored" in status.held
        shown = await ctl(cluster, "cluster", "recover", "-o", "json")
        assert {item["instance"] for item in json.loads(shown.out)["unknown"]} == set(strange)
        plain = await ctl(cluster, "status")
        assert "Unknown since the state was restored" in plain.out
        assert "gestaltctl cluster recover --confirm" in plain.out
        ended = await ctl(cluster, "cluster", "recover", "--confirm")
        assert ended.code == 0, ended.err
        assert "3 unknown instances are removed now" in ended.out
        await eventually(lambda: not agent.state.recovering, "the agent is told of the end of the recovery")
        await eventually(lambda: set(agent.running) == set(before) - set(strange), "what is unknown is gone, the rest goes on")
        assert "was not recovering" in (await ctl(cluster, "cluster", "recover", "--confirm")).out


async def recovering(cluster: Coordinators, unknown: set[str]) -> api_pb2.StatusReply:
    """Wait until the leader shows what is unknown, and return what it says."""

    async def shown() -> api_pb2.StatusReply | None:
        async with cluster.client() as client:
            status = await client.call(lambda api: api.cluster.Status, api_pb2.StatusRequest())
        seen.append(status)
        return status if status.recovering and {item.instance for item in status.unknown} == unknown else None

    seen: list[api_pb2.StatusReply] = []
    try:
        return await until("the leader to show what it does not know", shown, 20)
    except BaseException:
        print(seen[-1:])
        raise


async def test_old_data_of_zookeeper_put_back_is_not_led_from(cluster: Coordinators, ensemble: Ensemble) -> None:
    leader = await cluster.settled()
    old = cluster.folder / "old"
    shutil.copytree(folder_of(ensemble, 0), old)
    async with agent_of(cluster, leader):
        await launch(cluster)
    file = await export(cluster, "backup")
    seen = json.loads(file.read_text().splitlines()[0])["commit"]
    for index in (0, 1):
        memory = cluster.folder / f"seen-{index}/seen.json"
        await until("what was seen to be written down", lambda memory=memory: json.loads(memory.read_text())["commit"] >= seen)
        await cluster.stop(index)
    ensemble.kill(0)
    shutil.rmtree(folder_of(ensemble, 0))
    shutil.copytree(old, folder_of(ensemble, 0))
    ensemble.start_all()
    for index in (0, 1):
        cluster.start(index)
    await refusal_of(cluster, "holds an older state")

    done = await import_(cluster, file)
    assert done.code == 0, done.err
    leader = await cluster.settled()
    async with cluster.client() as client:
        status = await client.call(lambda api: api.cluster.Status, api_pb2.StatusRequest())
        assert (status.recovering, status.apps) == (True, 1)
