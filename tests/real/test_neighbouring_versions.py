"""Versions side by side: who is refused and told what to upgrade, and what an upgrade changes when it is finalized. Real leaders."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gestalt import __version__
from gestalt.client import Client, Target
from gestalt.cluster.join import JoinOptions, join
from gestalt.cluster.layout import ClusterLayout
from gestalt.cluster.token import decode_token
from gestalt.coordinator import state
from gestalt.coordinator.records import Switches
from gestalt.coordinator.store import formats
from gestalt.coordinator.store.formats import Formats, since
from gestalt.errors import GestaltError, Kind
from gestalt.pki import Role
from gestalt.proto.v1 import api_pb2, api_pb2_grpc
from gestalt.rpc import decode_error
from tests.real.cluster_rig import Cluster
from tests.real.coordinator_rig import eventually, refused
from tests.real.members_rig import Members
from tests.real.zookeeper_lab import Ensemble

pytestmark = pytest.mark.real


@pytest.fixture
async def members(tmp_path: Path, ensemble: Ensemble) -> AsyncIterator[Members]:
    rig = Members(tmp_path, ensemble=ensemble)
    await rig.up()
    yield rig
    await rig.down()


@dataclass(frozen=True, slots=True)
class NewSwitches(Switches):
    """A record as the next version may have it."""

    colour: str = since(2, "none")


@pytest.fixture
def next_version(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be a version that understands one format more, with one field more."""
    monkeypatch.setattr(formats, "SUPPORTED", Formats(1, 2))
    monkeypatch.setitem(state.KINDS, "switches", NewSwitches)
    monkeypatch.setitem(state._NAMES, NewSwitches, "switches")
    state._adapter.cache_clear()
    yield
    state._adapter.cache_clear()


async def finalize(rig: Members) -> api_pb2.FinalizeReply:
    stub = api_pb2_grpc.ControlPlaneStub(rig.channel())
    reply: api_pb2.FinalizeReply = await stub.FinalizeUpgrade(api_pb2.FinalizeRequest(request=api_pb2.Request(id="one")), timeout=10)
    return reply


def version_of(rig: Members, name: str) -> str:
    assert rig.leader is not None
    return rig.leader.tracker.nodes[rig.ids[name]].agent_version


async def written(rig: Members) -> bytes:
    """Write a record of the kind that has one field more; return it as it lies in the store."""
    assert rig.leader is not None
    async with rig.leader.ledger.draft("test", "paint") as draft:
        draft.put(NewSwitches(colour="red"))
    snapshot = await rig.leader._seat.store.load()
    return next(item.value for item in snapshot.documents if item.kind == "switches")


async def test_what_is_new_is_written_after_the_upgrade_is_finalized_only(members: Members, request: pytest.FixtureRequest) -> None:
    await members.node("a", version="0.0.9")
    request.getfixturevalue("next_version")
    status = await members.status()
    assert (status.format, status.newest_format) == (1, 2)
    assert b"colour" not in await written(members), "the version before can go on from here"

    error = await refused(finalize(members))
    assert error.kind is Kind.REFUSED
    assert "node a has version 0.0.9" in error.message
    await members.disconnect("a")
    await members.connect("a")
    await members.until(lambda: version_of(members, "a") == __version__, "the agent is upgraded")

    first = await finalize(members)
    assert (first.changed, first.format) == (True, 2)
    assert await finalize(members) == first, "the same request is answered alike"
    assert (await members.status()).format == 2
    assert b'"colour":"red"' in await written(members)
    assert members.events("cluster.finalized")

    await members.leave_office()
    formats.SUPPORTED = Formats(1, 1)  # restored by the fixture
    with pytest.raises(GestaltError, match="has format 2") as told:
        await members.take_office()
    assert "upgrade this coordinator" in told.value.hint
    await members.zk.close()
    formats.SUPPORTED = Formats(1, 2)
    await members.take_office()
    assert (await members.status()).format == 2


async def test_an_agent_of_a_distant_version_is_refused_and_told_what_to_upgrade(members: Members) -> None:
    await members.admit("a")
    await members.connect("a", version="0.9.0")
    agent = members.by_name["a"]
    await eventually(lambda: agent.error, "it is refused")
    assert agent.error is not None
    told = decode_error(agent.error)
    assert (told.kind, "the agent of node a has version 0.9.0" in told.message) == (Kind.REFUSED, True)
    assert "upgrade the coordinator" in told.hint


async def test_a_client_of_a_distant_version_is_warned(members: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    tls, notices = members.tls(Role.USER, "alice"), list[str]()
    for version, warned in (("0.2.7", False), ("0.9.0", True)):
        monkeypatch.setattr("gestalt.coordinator.api.guard.__version__", version)
        target = Target([f"127.0.0.1:{members.port}"], tls.ca, tls.certificate, tls.key)
        async with Client(target, on_notice=notices.append) as client:
            for _ in range(2):
                await client.call(lambda api: api.cluster.Status, api_pb2.StatusRequest())
        assert len(notices) == int(warned)
    assert "install version 0.9.0" in notices[0]


async def test_a_machine_of_a_distant_version_does_not_join(tmp_path: Path, ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(tmp_path, ensemble)
    made = await cluster.init()
    assert made.code == 0, made.err
    await cluster.up()
    try:
        token = decode_token(await cluster.token())
        monkeypatch.setattr("gestalt.cluster.join.__version__", "0.9.0")
        with pytest.raises(GestaltError, match=r"node two has version 0\.9\.0") as told:
            await join(ClusterLayout(tmp_path / "two"), "node", token, JoinOptions("two", "127.0.0.1"))
        assert told.value.kind is Kind.REFUSED
        assert cluster.leader is not None
        assert len(cluster.leader.ledger.state.nodes) == 1
    finally:
        await cluster.down()
