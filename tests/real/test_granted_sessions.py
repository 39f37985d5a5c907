"""ZooKeeper with its own default ticks of 2 s grants sessions of 4 s, whatever is asked for: all reckon with that, and say so."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from gestalt.clock import monotonic
from gestalt.config import TimingSettings
from gestalt.errors import GestaltError
from gestalt.zk.client import Zk
from gestalt.zk.paths import Paths
from tests.real.cluster_rig import Cluster
from tests.real.coordinators_rig import Coordinators
from tests.real.fence_rig import machine
from tests.real.zookeeper_lab import Ensemble, running

pytestmark = pytest.mark.real

GRANTED = 4.0
TOLD = "ZooKeeper grants sessions of 4 s, not of 1 s as timing.session asks"


@pytest.fixture(scope="module")
def ensemble() -> Iterator[Ensemble]:
    with running(tick=2000) as started:
        yield started


async def test_a_standby_names_a_leader_that_stands_still_for_less_than_its_session(ensemble: Ensemble, tmp_path: Path) -> None:
    cluster = Coordinators(tmp_path, ensemble, count=2, session=1.0)
    try:
        leader = await cluster.up()
        cluster.signal(leader, signal.SIGSTOP)
        end = monotonic() + 1.5  # of 3.2 s that its office lasts without a renewal, which came a second before at most
        while monotonic() < end:
            answer = await cluster.ask(1 - leader)
            assert isinstance(answer, GestaltError)
            assert answer.leader == cluster.address(leader)
        cluster.signal(leader, signal.SIGCONT)
        for index in range(2):
            assert cluster.log(index).count(TOLD) == 1
            assert "minSessionTimeout=1000 or tickTime=500" in cluster.log(index)
    finally:
        await cluster.down()


async def test_a_fence_says_so_and_counts_as_cut_off_only_when_its_session_is_over(ensemble: Ensemble) -> None:
    zk = await Zk.connect(ensemble.settings(), session=10.0, name="test")
    timing = TimingSettings(session=1.0, lease=8.0)
    async with machine(ensemble.settings(), zk, timing=timing) as rig:
        rig.start()
        await rig.member()
        agent = await rig.agent()
        state = await agent.until(lambda state: bool(state["member"]))
        assert state["lease"]["settled"] == GRANTED + timing.margin
        assert rig.log.count(TOLD) == 1
        await agent.close()
    await zk.close()


async def test_init_notes_it_and_refuses_where_a_session_would_outlast_a_lease(ensemble: Ensemble, tmp_path: Path) -> None:
    made = await Cluster(tmp_path / "noted", ensemble).init("--session", "1s")
    assert made.code == 0, made.err
    assert TOLD in made.out
    short = Cluster(tmp_path / "short", ensemble)
    refused = await short.init("--session", "1s", "--lease", "3s")
    assert refused.code != 0
    assert TOLD in refused.err
    assert "tickTime=500" in refused.err
    zk = await Zk.connect(ensemble.settings(), session=10.0, name="test")
    assert await zk.exists(Paths(short.root).root) is None
    await zk.close()


@pytest.mark.parametrize(
    ("times", "problem"),
    [
        (("--session", "10s", "--lease", "4s"), "lease (4 s) must be at least session (10 s)"),
        (("--kill", "8s"), "kill + margin (9 s) must not exceed lease (8 s)"),
        (("--margin", "0s"), "session, lease, kill and margin must be above 0"),
    ],
    ids=["lease", "kill", "margin"],
)
async def test_init_with_times_that_do_not_fit_names_them_and_writes_nothing(
    ensemble: Ensemble, tmp_path: Path, times: tuple[str, ...], problem: str
) -> None:
    cluster = Cluster(tmp_path, ensemble)
    refused = await cluster.init(*times)
    assert refused.code != 0
    assert problem in refused.err
    assert list(tmp_path.iterdir()) == []
    zk = await Zk.connect(ensemble.settings(), session=10.0, name="test")
    assert await zk.exists(Paths(cluster.root).root) is None
    await zk.close()
