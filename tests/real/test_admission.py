"""A removed coordinator does not take office, whatever it has seen before: ZooKeeper itself refuses it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gestalt.coordinator.admission import Admission, Bars
from gestalt.coordinator.election import Candidacy, CandidacyLost, Candidate
from gestalt.coordinator.store.zookeeper import ZookeeperStore
from gestalt.coordinator.store.zookeeper_candidacy import Barred
from gestalt.coordinator.store.zookeeper_candidacy import Candidacy as Claim
from gestalt.errors import GestaltError, Kind
from gestalt.zk.client import Zk
from gestalt.zk.paths import Paths
from tests.real.zookeeper_lab import Ensemble, new_root

pytestmark = pytest.mark.real

ONE, TWO = Candidate("one", "a:1", "1.0.0"), Candidate("two", "b:1", "1.0.0")


@pytest.fixture
async def zk(ensemble: Ensemble) -> AsyncIterator[Zk]:
    client = await Zk.connect(ensemble.settings(), session=10, name="test")
    yield client
    await client.close()


async def test_who_is_barred_while_it_stands_takes_no_office(zk: Zk) -> None:
    paths, told = Paths(new_root()), list[str]()
    await zk.ensure(paths.root)
    admission, bars = Admission(zk, paths, TWO, told.append), Bars(zk, paths)
    await admission.wait()
    assert told == [""]
    lines = {candidate.name: Candidacy(zk, paths, candidate) for candidate in (ONE, TWO)}
    for line in lines.values():
        await line.enter()
    claims = {name: Claim(line.path, b"{}", paths.barred(name)) for name, line in lines.items()}
    claim = claims["two"]
    store = ZookeeperStore(zk, paths, "c", candidate=lambda: claim)
    await store.open()
    assert await store.take_office() == 1

    for _ in range(2):
        await bars.bar("two")
    assert await zk.children(paths.election) == [lines["one"].path.rpartition("/")[2]], "only its own candidacy is ended"
    with pytest.raises(CandidacyLost):
        await lines["two"].first()
    claim = Claim(lines["one"].path, b"{}", paths.barred("two"))  # as if it stood all the same
    with pytest.raises(Barred) as refusal:
        await store.take_office()
    assert refusal.value.kind is Kind.REFUSED
    with pytest.raises(GestaltError, match="two was removed"):
        await admission.confirm()

    claim = claims["one"]
    assert await store.take_office() == 2, "the refused one has changed nothing"
    for _ in range(2):
        await bars.lift("two")
    await admission.confirm()
    claim = Claim(lines["one"].path, b"{}", paths.barred("two"))
    assert await store.take_office() == 3
    assert await zk.exists(paths.barred("two")) is None, "the proof leaves nothing behind"
    await store.close()
