"""gestalt-fence with a real ZooKeeper: its membership through kills, hangs, an agent that goes, a second claimant, and its own size."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gestalt.clock import monotonic
from gestalt.config import TimingSettings, ZooKeeperSettings
from gestalt.zk.client import Create, Zk
from gestalt.zk.paths import Paths
from tests.real.fence_rig import NODE, SESSION, History, Rig, machine
from tests.real.zookeeper_lab import Ensemble

AT_REST = 5.0

pytestmark = pytest.mark.real


@pytest.fixture
def servers(ensemble: Ensemble) -> ZooKeeperSettings:
    return ensemble.settings()


@pytest.fixture
async def zk(servers: ZooKeeperSettings) -> AsyncIterator[Zk]:
    zk = await Zk.connect(servers, session=10.0, name="test")
    yield zk
    await zk.close()


async def test_a_node_becomes_a_member_and_its_agent_hears_of_it(servers: ZooKeeperSettings, zk: Zk) -> None:
    async with machine(servers, zk) as rig:
        rig.start()
        value, stat = await rig.member()
        assert value["incarnation"] == 1
        assert stat.owner
        agent = await rig.agent()
        state = await agent.until(lambda state: bool(state["member"]))
        assert (state["node_id"], state["incarnation"], state["status"], state["problem"]) == (NODE, 1, "member", "")
        assert (await rig.member(lambda value, _: value["agent"] == "running"))[0]["boot"]
        await agent.close()


async def test_the_end_of_the_agent_is_told_at_once(servers: ZooKeeperSettings, zk: Zk) -> None:
    async with machine(servers, zk) as rig:
        rig.start()
        agent = await rig.agent()
        _, before = await rig.member(lambda value, _: value["agent"] == "running")
        await agent.close()
        value, after = await rig.member(lambda value, _: value["agent"] == "down")
        assert (value["incarnation"], after.created) == (1, before.created)
        agent = await rig.agent()
        await rig.member(lambda value, _: value["agent"] == "running")
        await agent.close()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
async def test_a_restart_of_the_fence_is_no_loss(how: signal.Signals, servers: ZooKeeperSettings, zk: Zk) -> None:
    async with machine(servers, zk) as rig:
        rig.start()
        agent = await rig.agent()
        before = await rig.member(lambda value, _: value["agent"] == "running")
        history = History(zk, rig)
        rig.send(how)
        assert rig.wait() == (0 if how is signal.SIGTERM else -signal.SIGKILL)
        rig.start()
        agent = await rig.agent()
        assert (await agent.until(lambda state: bool(state["member"])))["incarnation"] == 1
        ended = monotonic() + SESSION * 1.5
        while monotonic() < ended:  # longer than the session: the znode lives on in the hands of the new process
            assert (await rig.member()) == before
            await asyncio.sleep(0.1)
        history.close()
        assert history.seen == [before[0]]
        await agent.close()


async def test_a_restart_with_other_times_is_no_loss_and_tells_them(servers: ZooKeeperSettings, zk: Zk) -> None:
    async with machine(servers, zk) as rig:
        rig.start()
        agent = await rig.agent()
        before, stat = await rig.member(lambda value, _: value["agent"] == "running")
        assert (before["lease"], before["kill"]) == (8.0, 2.0)
        rig.kill()
        rig.change(timing=TimingSettings(session=SESSION, lease=5.0, kill=1.0))
        rig.start()
        agent = await rig.agent()
        after, found = await rig.member(lambda value, _: value["lease"] == 5.0)
        assert (after["kill"], after["agent"], after["incarnation"], found.owner) == (1.0, "running", 1, stat.owner)
        await agent.close()


async def test_a_fence_that_hung_for_longer_than_its_session_comes_back_as_another_incarnation(servers: ZooKeeperSettings, zk: Zk) -> None:
    async with machine(servers, zk) as rig:
        rig.start()
        agent = await rig.agent()
        await agent.until(lambda state: bool(state["member"]))
        _, before = await rig.member()
        rig.send(signal.SIGSTOP)
        await rig.gone()
        rig.send(signal.SIGCONT)
        value, after = await rig.member()
        assert value["incarnation"] == 2
        assert after.owner != before.owner
        assert (await agent.until(lambda state: state["incarnation"] == 2))["member"]
        await agent.close()


async def agent_that_goes(rig: Rig) -> None:
    """Start the fence, and have an agent come and go."""
    rig.start()
    agent = await rig.agent()
    await rig.member(lambda value, _: value["agent"] == "running")
    await agent.close()
    await rig.member(lambda value, _: value["agent"] == "down")


async def test_without_an_agent_the_node_gives_itself_up(servers: ZooKeeperSettings, zk: Zk) -> None:
    async with machine(servers, zk, agent_grace=3.0) as rig:
        await agent_that_goes(rig)
        await rig.gone()
        rig.kill()
        rig.start()
        agent = await rig.agent()
        value, _ = await rig.member()
        assert (value["incarnation"], value["agent"]) == (2, "running")
        await agent.close()


async def test_how_long_the_agent_may_be_away_can_change(servers: ZooKeeperSettings, zk: Zk) -> None:
    async with machine(servers, zk, agent_grace=3600.0) as rig:
        await agent_that_goes(rig)
        rig.change(agent_grace=0.5)
        rig.send(signal.SIGHUP)
        await rig.gone()


async def test_a_second_claimant_stays_out(servers: ZooKeeperSettings, zk: Zk) -> None:
    """Whoever holds the id is never touched; when he is gone, the other comes in with a number of its own."""
    other = await Zk.connect(servers, session=SESSION, name="clone")
    async with machine(servers, zk, timing=TimingSettings(session=1.0)) as rig:
        path = Paths(servers.root).member(NODE)
        await other.multi([Create(path, b'{"incarnation": 7, "agent": "running"}', ephemeral=True)])
        rig.start()
        agent = await rig.agent()
        state = await agent.until(lambda state: state["status"] == "refused")
        assert (state["member"], state["incarnation"]) == (False, 0)
        assert "another machine" in state["problem"]
        found = await rig.look()
        assert found is not None
        assert found[1].owner == other.session.id
        await other.close()
        value, _ = await rig.member()
        assert value["incarnation"] == 8
        await agent.close()


async def test_a_node_that_the_cluster_does_not_know_says_so(servers: ZooKeeperSettings, zk: Zk) -> None:
    async with machine(servers, zk) as rig:
        await zk.delete(Paths(servers.root).node(NODE))
        rig.start()
        agent = await rig.agent()
        await agent.until(lambda state: "does not know this node" in state["problem"])
        await agent.close()


async def test_a_second_fence_in_the_same_folder_is_refused(servers: ZooKeeperSettings, zk: Zk) -> None:
    async with machine(servers, zk) as rig:
        rig.start()
        await rig.member()
        first, rig.process = rig.process, None
        rig.start()
        assert rig.wait() == 1
        assert "another gestalt-fence is at work" in rig.log
        rig.process = first
        assert await rig.look() is not None


async def test_zookeeper_restarts(ensemble: Ensemble, servers: ZooKeeperSettings, zk: Zk) -> None:
    """The session lives on in ZooKeeper's own data, and the node in it."""
    async with machine(servers, zk) as rig:
        rig.start()
        agent = await rig.agent()
        await agent.until(lambda state: bool(state["member"]))
        _, before = await rig.member(lambda value, _: value["agent"] == "running")
        ensemble.kill(0)
        agent.state = {}
        await agent.until(lambda state: state["status"] == "suspended")
        ensemble.start(0)
        await asyncio.to_thread(ensemble.wait, 0)
        state = await agent.until(lambda state: state["status"] == "member")
        reader = await Zk.connect(servers, session=10.0, name="reader")
        found = await reader.get(Paths(servers.root).member(NODE))
        await reader.close()
        assert found is not None
        assert state["incarnation"] in (1, 2)
        assert (found[1].created == before.created) is (state["incarnation"] == 1)
        await agent.close()


async def test_it_is_small_and_quiet_at_rest(servers: ZooKeeperSettings, zk: Zk) -> None:
    """Below 30 MB, and a fraction of a percent of a core: processor time, so that a busy machine does not count."""
    async with machine(servers, zk) as rig:
        rig.start()
        agent = await rig.agent()
        await agent.until(lambda state: bool(state["member"]))
        assert rig.process is not None
        process = Path(f"/proc/{rig.process.pid}")
        used = ticks(process)
        await asyncio.sleep(AT_REST)
        used = ticks(process) - used
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        assert int(status["VmRSS"].split()[0]) < 30_000, status["VmRSS"]
        assert used <= AT_REST, f"{used} hundredths of a second in {AT_REST:g} s"
        await agent.close()


def ticks(process: Path) -> int:
    """Return the hundredths of a second of processor time that a process has used."""
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
